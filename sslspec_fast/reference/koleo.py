"""KoLeo in plain torch: minus the mean log distance of each unit row to its nearest others."""

import torch
import torch.nn.functional as F
from torch import Tensor


def koleo(
    z: Tensor,
    *,
    k: int = 1,
    ids: Tensor | None = None,
    group_size: int | None = None,
    eps: float = 1e-8,
    reduction: str = "mean",
) -> Tensor:
    """A row without a neighbour has no part in the mean; "none": (n,), 0 for such a row."""
    u = F.normalize(z, dim=1, eps=eps)
    index = torch.arange(len(u), device=u.device)
    near = index[:, None] != index
    if group_size is not None:
        near = near & (index[:, None] // group_size == index // group_size)
    if ids is not None:
        near = near & (ids[:, None] != ids)
    products = (u @ u.T).detach().masked_fill(~near, -torch.inf)
    best = products.topk(k, dim=1)
    found = best.values > -torch.inf
    difference = u[:, None] - u[best.indices] + eps
    logs = (torch.linalg.vector_norm(difference, dim=2) + eps).log()
    rows = -(logs * found).sum(1) / found.sum(1).clamp(min=1)
    if reduction == "mean":
        return rows.sum() / found.any(1).sum().clamp(min=1)
    return rows.sum() if reduction == "sum" else rows

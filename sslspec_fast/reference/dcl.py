"""Decoupled contrastive loss in plain torch: the positive pair left out of the denominator."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ._reduce import reduce_rows


def dcl(
    z1: Tensor,
    z2: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    weight_fn: Callable[[Tensor, Tensor], Tensor] | None = None,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
) -> Tensor:
    n = z1.shape[0]
    u1, u2 = F.normalize(z1, dim=1), F.normalize(z2, dim=1)
    u = torch.cat([u1, u2])
    t = torch.as_tensor(temperature, dtype=u.dtype, device=u.device)
    if t.dim() == 1:
        t = t.repeat(2 * n // t.shape[0])  # one per anchor row
    sample = torch.arange(n, device=u.device).repeat(2)
    pos = (u1 * u2).sum(1).repeat(2) / t
    if weight_fn is not None:
        pos = pos * torch.cat([weight_fn(u1, u2), weight_fn(u2, u1)])
    same = sample[:, None] == sample
    rows = (u @ u.T / t.reshape(-1, 1)).masked_fill(same, -math.inf).logsumexp(1) - pos

    w = None if sample_weight is None else sample_weight.repeat(2)
    return reduce_rows(rows, reduction, w)

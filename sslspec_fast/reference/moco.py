"""MoCo in plain torch: cross-entropy over the positive and the rows of the queue."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ._hard_negatives import reweighted
from ._reduce import reduce_rows


def moco(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    *,
    temperature: float | Tensor = 0.2,
    margin: float = 0.0,
    ids: Tensor | None = None,
    column_ids: Tensor | None = None,
    threshold: Tensor | None = None,
    log_weight: Tensor | None = None,
    hardness: float = 0.0,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
) -> Tensor:
    """queue: (m, d) unit rows, m >= 0."""
    u, v = F.normalize(query, dim=1), F.normalize(key, dim=1)
    cosines = u @ queue.T
    false = torch.zeros_like(cosines, dtype=torch.bool)
    if ids is not None and column_ids is not None:
        false |= ids[:, None] == column_ids
    if threshold is not None:
        false |= cosines > threshold.reshape(-1, 1)
    positive = (u * v).sum(1, keepdim=True) - margin
    scale = torch.as_tensor(1.0 / temperature, dtype=u.dtype, device=u.device).reshape(-1, 1)
    negative = (scale * cosines).masked_fill(false, -math.inf)
    logits = torch.cat([scale * positive, reweighted(negative, log_weight, hardness)], 1)
    first = torch.zeros(len(u), dtype=torch.int64, device=u.device)
    rows = F.cross_entropy(logits, first, reduction="none")
    return reduce_rows(rows, reduction, sample_weight)

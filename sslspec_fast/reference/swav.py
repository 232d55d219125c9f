"""SwAV's loss in plain torch: balanced codes of large crops, a cross-entropy for every pair."""

from __future__ import annotations

import torch
from torch import Tensor

from ._codes import balanced, log_codes, logits


def swav(
    crops: Tensor,
    prototypes: Tensor | None,
    high: int,
    queue: Tensor | None,
    *,
    temperature: Tensor,
    sinkhorn_temperature: float,
    iterations: int,
    normalize: bool = True,
) -> Tensor:
    """crops: (crops, n, d), the first `high` of them large; queue: (high, q, d)."""
    log_p = [log_codes(x, prototypes, temperature, normalize) for x in crops]
    losses = []
    for i, x in enumerate(crops[:high]):
        with torch.no_grad():
            rows = x if queue is None else torch.cat([x, queue[i]])
            each = logits(rows, prototypes, sinkhorn_temperature, normalize)
            q = balanced((each - each.max()).exp(), iterations)[: len(x)]
        losses += [-(q * log_p[v]).sum(1).mean() for v in range(len(crops)) if v != i]
    return torch.stack(losses).mean()

"""X-CLR's loss in plain torch: both (n, n) matrices of similarities, without their diagonals."""

from __future__ import annotations

import torch
from torch import Tensor

from ._codes import logits
from ._reduce import reduce_rows


def x_clr(
    z: Tensor,
    targets: Tensor,
    *,
    temperature: Tensor,
    target_temperature: Tensor,
    normalize: bool = True,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
) -> Tensor:
    own = torch.eye(len(z), dtype=torch.bool, device=z.device)
    with torch.no_grad():
        similarity = logits(targets, targets, target_temperature)
        q = similarity.masked_fill(own, -torch.inf).softmax(1)
    s = logits(z, z, temperature, normalize).masked_fill(own, -torch.inf)
    log_p = s.log_softmax(1).masked_fill(own, 0.0)
    return reduce_rows(-(q * log_p).sum(1), reduction, sample_weight)

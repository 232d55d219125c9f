"""ProtoNCE in plain torch: cross-entropy over all prototypes, each at its own temperature."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ._reduce import reduce_rows


def proto_nce(
    z: Tensor,
    prototypes: Tensor,
    assignment: Tensor,
    *,
    concentration: Tensor,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
) -> Tensor:
    """concentration: of all prototypes or (k,)."""
    logits = F.normalize(z, dim=1) @ F.normalize(prototypes, dim=1).T / concentration
    rows = F.cross_entropy(logits, assignment, reduction="none")
    return reduce_rows(rows, reduction, sample_weight)

"""Negative cosine similarity (Chen, He 2020) in plain torch."""

import torch.nn.functional as F
from torch import Tensor

from ._reduce import reduce_rows


def negative_cosine(
    p: Tensor,
    z: Tensor,
    *,
    eps: float = 1e-8,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
) -> Tensor:
    u, v = F.normalize(p, dim=1, eps=eps), F.normalize(z, dim=1, eps=eps)
    return reduce_rows(-(u * v).sum(1), reduction, sample_weight)

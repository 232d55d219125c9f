"""Matryoshka in plain torch: a weighted sum of one loss over prefixes of the features."""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor


def matryoshka(
    loss: Callable[..., Tensor],
    z1: Tensor,
    z2: Tensor,
    *,
    dims: Sequence[int],
    weights: Sequence[float],
    renormalize: bool,
    **hyper: object,
) -> Tensor:
    total = z1.new_zeros(())
    for m, weight in zip(dims, weights, strict=True):
        a, b = z1[:, :m], z2[:, :m]
        if renormalize:
            a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
        total = total + weight * loss(a, b, **hyper)
    return total

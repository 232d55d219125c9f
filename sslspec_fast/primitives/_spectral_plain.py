"""``spectral_views`` composed of other primitives: for few rows on the CPU, and what a double
backward differentiates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._checks import computed_dtype
from . import gram
from .unit_rows import paired_rows

__all__ = ["composed", "loss"]


def composed(
    z1: Tensor, z2: Tensor, *, longest: float, attraction: float, repulsion: float
) -> tuple[Tensor, Tensor]:
    """Loss and the two sums, those without gradient; rows of float32 or float64."""
    x, y, similarity = paired_rows(z1, z2, longest)
    pairs = similarity.sum()
    others = gram.sqnorm(x.T, y.T, off_diagonal=True)
    return attraction * pairs + repulsion * others, torch.stack((pairs, others)).detach()


def loss(z1: Tensor, z2: Tensor, **numbers: float) -> Tensor:
    """The loss alone; rows of half precision are widened."""
    kind = computed_dtype(z1)
    return composed(z1.to(kind), z2.to(kind), **numbers)[0]

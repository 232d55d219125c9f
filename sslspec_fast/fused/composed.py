"""``spectral_contrastive`` composed of other primitives: for few rows on the CPU, and what a double
backward differentiates.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..primitives import gram
from ..primitives.rows.unit_rows import paired_rows

__all__ = ["composed", "loss", "weights"]


def weights(n: int, factor: float, mean: bool) -> tuple[float, float]:
    """The factors of the sum over pairs and of the sum over i != j."""
    weight = factor / n if mean else factor
    return -2 * weight, weight / max(n - 1, 1)


def composed(
    z1: Tensor, z2: Tensor, *, longest: float, factor: float, mean: bool, half: bool = False
) -> tuple[Tensor, Tensor]:
    """Loss and the two sums, those without gradient; rows of float32 or float64."""
    attraction, repulsion = weights(z1.shape[0], factor, mean)
    x, y, similarity = paired_rows(z1, z2, longest)
    pairs = similarity.sum()
    others = gram.sqnorm(x.T, y.T, off_diagonal=True, half=half)
    return attraction * pairs + repulsion * others, torch.stack((pairs, others)).detach()


def loss(z1: Tensor, z2: Tensor, **numbers: Any) -> Tensor:
    """The loss alone."""
    return composed(z1, z2, **numbers)[0]

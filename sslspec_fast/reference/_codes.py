"""Codes over prototypes: what the references of such losses start from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def logits(
    rows: Tensor, prototypes: Tensor | None, temperature: float | Tensor, normalize: bool = True
) -> Tensor:
    """(n, k). temperature: of all rows or (n,); without prototypes the rows are logits."""
    if prototypes is not None:
        if normalize:
            rows, prototypes = F.normalize(rows, dim=1), F.normalize(prototypes, dim=1)
        rows = rows @ prototypes.T
    return rows / (temperature.reshape(-1, 1) if isinstance(temperature, Tensor) else temperature)


def log_codes(
    rows: Tensor, prototypes: Tensor | None, temperature: float | Tensor, normalize: bool = True
) -> Tensor:
    return logits(rows, prototypes, temperature, normalize).log_softmax(1)


@torch.no_grad()
def codes(
    rows: Tensor,
    prototypes: Tensor | None,
    temperature: float | Tensor,
    normalize: bool = True,
    bias: Tensor | None = None,
) -> Tensor:
    """(n, k), of a teacher: without a gradient."""
    each = logits(rows, prototypes, temperature, normalize)
    return (each if bias is None else each + bias).softmax(1)


@torch.no_grad()
def balanced(matrix: Tensor, iterations: int) -> Tensor:
    """Sinkhorn and Knopp on positive (n, k): columns over their sums, then rows over theirs."""
    for _ in range(iterations):
        matrix = matrix / matrix.sum(0)
        matrix = matrix / matrix.sum(1, keepdim=True)
    return matrix / matrix.sum(1, keepdim=True)

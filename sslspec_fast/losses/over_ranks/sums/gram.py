"""Squared norms of X^T Y as differentiable functions of a rank's rows."""

from __future__ import annotations

import torch
from torch import Tensor

from ...._dtypes import as_multiplied
from ....primitives._matmul import mm_float32
from ....ranks.differentiable import sum_over_ranks
from .._form import Problem
from .squared_products import (
    added_up_symmetric,
    by_rows,
    gram_products,
    inner_product,
    off_diagonal,
)
from .value_and_gradients import ValueAndGradients

__all__ = ["nested_sqnorm", "sqnorm"]
Parts = tuple[Tensor, list[Tensor], list[Tensor]]


def sqnorm(p: Problem, x: Tensor, y: Tensor | None = None, *, off_diagonal: bool = False) -> Tensor:
    """|| X^T Y ||^2 of the rows of all ranks, Y = X without y; without its diagonal if asked."""
    if off_diagonal:
        return _without_diagonal(p, x, y)
    assert y is None

    def make(x: Tensor) -> Parts:
        a = as_multiplied(x, p.half)
        if by_rows(p.ranks.n, x.shape[1], a.element_size()):
            value, quarter, _ = gram_products(a, a, p.ranks, crossed=False, same=True)
        else:
            matrix = added_up_symmetric(mm_float32(a.T, a), p.ranks)
            value = inner_product(matrix, matrix, p.ranks)
            quarter = mm_float32(a, matrix.to(a.dtype))
        return value, [value], [4 * quarter]

    loss: Tensor = ValueAndGradients.apply(make, p.ranks, x)[0]
    return loss


def _without_diagonal(p: Problem, x: Tensor, y: Tensor | None) -> Tensor:
    def make(x: Tensor, *others: Tensor) -> Parts:
        other = others[0] if others else x
        diagonal = sum_over_ranks((x.double() * other).sum(0), p.ranks)
        a, b = as_multiplied(x, p.half), as_multiplied(other, p.half)
        side = by_rows(p.ranks.n, x.shape[1], a.element_size())
        value, of_x, of_y = off_diagonal(a, b if others else None, diagonal, p.ranks, side)
        grads = [2 * of_x, 2 * of_y] if others else [4 * of_x]
        return value, [value], grads

    rows = (x,) if y is None else (x, y)
    loss: Tensor = ValueAndGradients.apply(make, p.ranks, *rows)[0]
    return loss


def nested_sqnorm(p: Problem, x: Tensor, tail: Tensor, *, off_diagonal: bool = False) -> Tensor:
    """sum over m of c_m || X_m^T X_m ||^2 over prefixes of the columns, without the diagonals if
    asked; tail: (d,), non-increasing sums of the c_m.
    """

    def make(x: Tensor) -> Parts:
        a = as_multiplied(x, p.half)
        matrix = added_up_symmetric(mm_float32(a.T, a), p.ranks)
        if off_diagonal:
            matrix = matrix - matrix.diagonal().diag()
        weighted = torch.minimum(tail[:, None], tail) * matrix
        value = inner_product(matrix, weighted, p.ranks)
        return value, [value], [4 * mm_float32(a, weighted.to(a.dtype))]

    loss: Tensor = ValueAndGradients.apply(make, p.ranks, x)[0]
    return loss

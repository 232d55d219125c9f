r"""Squared norms of :math:`X^\top Y` for rows that are spread over ranks, with their gradients.

.. math::
    q = \|X^\top Y\|_F^2 = \langle X X^\top, Y Y^\top \rangle, \qquad
    \tfrac12 \bar X = Y Y^\top X, \quad \tfrac12 \bar Y = X X^\top Y,

with or without the terms k = l of the first form. On the side of the columns the (d, d) matrix is
added up over ranks, and the gradients are products with it. On the side of the rows all rows are
gathered, and rank r makes its n_r rows of both (N, N) matrices, a strip of columns at a time.

Bytes per rank, e of each on the wire: 2 N d e for the rows of X and Y, 8 d^2 for a float32 matrix.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ....primitives._matmul import mm_float32
from ....ranks import Ranks
from ....ranks.differentiable import start_gather, sum_over_ranks
from ....ranks.traffic import all_reduce

_STRIP_BYTES = 64 << 20


def by_rows(n: int, d: int, element_size: int) -> bool:
    """Whether the rows of both views, 2 n d elements, are fewer bytes than adding up one (d, d)
    matrix or two symmetric ones, 2 d^2 elements of float32 or float64. All ranks know the sizes.
    """
    return n * element_size <= d * max(element_size, 4)


def added_up(matrix: Tensor, ranks: Ranks) -> Tensor:
    """The sum of a (d, d) matrix over ranks; of a symmetric one, see `added_up_symmetric`."""
    return all_reduce(matrix, ranks.group)


def added_up_symmetric(matrix: Tensor, ranks: Ranks) -> Tensor:
    """The sum of a symmetric (d, d) matrix over ranks: half of it travels."""
    d = matrix.shape[0]
    rows, cols = torch.triu_indices(d, d, device=matrix.device)
    half = all_reduce(matrix[rows, cols], ranks.group)
    out = torch.empty_like(matrix)
    out[rows, cols] = half
    out[cols, rows] = half
    return out


def inner_product(a: Tensor, b: Tensor, ranks: Ranks) -> Tensor:
    """That of two matrices which every rank has: each adds up a part of the rows, in float64, so
    that the sum has the same bits on every rank.
    """
    step = -(-a.shape[0] // ranks.size)
    part = slice(ranks.rank * step, (ranks.rank + 1) * step)
    return sum_over_ranks((a[part].double() * b[part]).sum(), ranks)


def off_diagonal(
    x: Tensor, y: Tensor | None, diagonal: Tensor, ranks: Ranks, rows_side: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """``|| X^T Y ||^2`` without its diagonal, and half of its gradients for the rows x and y of
    this rank; a quarter of that of x if y is None, which means Y = X.

    x, y: (n_r, d) as they are multiplied. diagonal: (d,) float64, that of X^T Y.
    """
    other = x if y is None else y
    if not rows_side:
        matrix = mm_float32(x.T, other)
        matrix = added_up_symmetric(matrix, ranks) if y is None else added_up(matrix, ranks)
        matrix.fill_diagonal_(0)
        value, cut = inner_product(matrix, matrix, ranks), matrix.to(x.dtype)
        grad_x = mm_float32(other, cut.T)
        return value, grad_x, grad_x if y is None else mm_float32(x, cut)
    value, grad_x, grad_y = gram_products(x, other, ranks, crossed=True, same=y is None)
    kept = diagonal.to(grad_x.dtype)
    value = value - diagonal.square().sum()
    grad_x = grad_x - other * kept
    return value, grad_x, grad_x if y is None else grad_y - x * kept


def gram_products(
    x: Tensor, y: Tensor, ranks: Ranks, *, crossed: bool, same: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The side of the rows: value, and half of its gradients for the rows of this rank.

    crossed: <X X^T, Y Y^T>, otherwise ||X Y^T||^2. same: y is x, and both gradients are one.
    """
    pending_x = start_gather(x, ranks)
    pending_y = pending_x if same else start_gather(y, ranks)
    all_x = pending_x()
    all_y = all_x if same else pending_y()
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    grad_x, grad_y = (x.new_zeros(x.shape, dtype=kind) for _ in "xy")
    value = x.new_zeros((), dtype=torch.float64)
    width = max(128, _STRIP_BYTES // (4 * max(1, x.shape[0])))
    for start in range(0, ranks.n, width):
        strip = slice(start, start + width)
        left, right = all_x[strip], all_y[strip]
        if same:
            product = mm_float32(x, left.T)
            value += product.square().sum(dtype=torch.float64)
            grad_x += mm_float32(product.to(x.dtype), left)
            continue
        if crossed:
            of_x, of_y = mm_float32(x, left.T), mm_float32(y, right.T)
            value += (of_x * of_y).sum(dtype=torch.float64)
            grad_x += mm_float32(of_y.to(x.dtype), left)
            grad_y += mm_float32(of_x.to(x.dtype), right)
        else:
            of_x, of_y = mm_float32(x, right.T), mm_float32(y, left.T)
            value += of_x.square().sum(dtype=torch.float64)
            grad_x += mm_float32(of_x.to(x.dtype), right)
            grad_y += mm_float32(of_y.to(x.dtype), left)
    return sum_over_ranks(value, ranks), grad_x, grad_x if same else grad_y

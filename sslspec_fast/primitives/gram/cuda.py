"""``gram`` on a GPU: columns, operands, products and loss forward, the gradient backward.

What the gradient needs of the products is made beside the value; the pass over memory that
completes it (csrc/gram/cuda/gram.h) is the backward pass, where the factor from above is known: the
gradient is rounded once, in the dtype of the rows, after it was multiplied. Rows are read in their
own dtype.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._dtypes import computed_dtype
from ..._seam import _C, stream, unit_stride, view
from .. import _value_and_grad
from .products import BLOCK, GramLoss, StripProducts, blocks

__all__ = ["BARLOW_TWINS", "COLUMNS", "SQNORM", "VICREG", "finish", "value"]

SQNORM, _SQNORM_CENTERED, VICREG, BARLOW_TWINS = range(4)  # GramKind of csrc/gram/cuda/gram.h
COLUMNS = 10  # numbers per column that the backward pass reads


class _CudaForm(NamedTuple):
    """GramForm of csrc/gram/cuda/gram.h, in its order."""

    kind: int
    cross: bool
    half: bool
    eps: float = 0.0
    strength: float = 0.0
    alpha: float = 0.0
    near: float = 0.0
    kept: int = 0


def _form(
    kind: int, cross: bool, half: bool, shape: torch.Size, options: tuple[Any, ...]
) -> tuple[_CudaForm, tuple[float, float, float], tuple[float, float, float]]:
    """How a loss and its gradient are composed; the normalizers and the weights of its terms."""
    (n, d), form = shape, _CudaForm(kind, cross, half)
    if kind == VICREG:
        invariance, variance, covariance, eps, _ = options
        per_entry = 1 / (d * (n - 1) ** 2)
        form = form._replace(
            eps=eps,
            strength=-variance / (2 * d * (n - 1)),
            alpha=4 * covariance * per_entry,
            near=2 * invariance / (n * d),
        )
        return form, (1 / (n * d), 1 / (2 * d), per_entry), (invariance, variance, covariance)
    if kind == BARLOW_TWINS:
        off_diagonal, eps, _ = options
        form = form._replace(eps=eps, alpha=2 * off_diagonal / n**2)
        return form, (1, 0, 1 / n**2), (1, 0, off_diagonal)
    return form._replace(alpha=2.0 if cross else 4.0), (0, 0, 1), (0, 0, 1)


def _is_cross(kind: int, y: Tensor | None) -> bool:
    return y is not None and kind != VICREG


def _flags(kind: int, options: tuple[Any, ...]) -> tuple[int, bool, bool]:
    """GramKind, whether the diagonal is left out, and whether factors are bfloat16."""
    if kind == SQNORM:
        off_diagonal, center, half = options
        return _SQNORM_CENTERED if center else SQNORM, off_diagonal, half
    return kind, True, options[-1]


_PRODUCTS, _ROWS, _COLUMNS = range(3)  # GramKept


def _products(loss: int, x: Tensor, y: Tensor | None, options: tuple[Any, ...]) -> StripProducts:
    (n, d), operands = x.shape, 1 if y is None else 2
    kind, off_diagonal, half = _flags(loss, options)
    cross, dual = _is_cross(kind, y), _C.gram_uses_dual(n, d, off_diagonal)
    return StripProducts(
        n,
        d,
        operands,
        columns=not dual,
        mixed=cross and not dual,
        cross=cross,
        masked=off_diagonal and not dual,
        triangle=0 if cross else _C.cuda_gram_triangle_slots(view(x), operands, not dual, half),
    )


def _kept(
    loss: int, x: Tensor, y: Tensor | None, options: tuple[Any, ...], wanted: tuple[bool, bool]
) -> int:
    """What the backward pass gets (GramKept). Both passes ask, so SSLSPEC_HOPPER must not change in
    between.
    """
    if loss != VICREG or not all(wanted):
        return _PRODUCTS
    dual: bool = _C.gram_uses_dual(x.shape[0], x.shape[1], True)
    keeps = _C.cuda_gram_keeps_factors(view(x), not dual, options[-1])
    if not keeps or not _products(loss, x, y, options).whole:
        return _PRODUCTS
    return _ROWS if dual else _COLUMNS


def value(
    loss: int, x: Tensor, y: Tensor | None, options: tuple[Any, ...], wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Value (), three terms (3,), products (operands, n, d) and columns (COLUMNS, d).

    Args:
        loss: SQNORM, VICREG or BARLOW_TWINS.
        x, y: (n, d) of any float type.
        wanted: the gradients. Where the backward pass makes the second product too (gram.h), the
            memory of the products holds factors and matrices instead.
        options: of that loss, in the order of its function in `composed`.
    """
    n, d = x.shape
    wide = computed_dtype(x)
    kind, off_diagonal, half = _flags(loss, options)
    columns = x.new_empty((COLUMNS, d), dtype=wide)
    if x.numel() == 0:
        zero, gradients = (
            x.new_zeros((4,), dtype=wide),
            x.new_empty((sum(wanted), n, d), dtype=wide),
        )
        return zero[0].clone(), zero[1:].clone(), gradients, columns
    x, y = unit_stride(x), None if y is None else unit_stride(y)
    operands, cross = 1 if y is None else 2, _is_cross(kind, y)
    form, normalizers, weights = _form(kind, cross, half, x.shape, options)
    products, kept = _products(loss, x, y, options), _kept(loss, x, y, options, wanted)
    subtracted = off_diagonal and not products.columns  # the diagonal, as it was multiplied
    pairs = blocks(d, BLOCK)
    sums = products.sums(x, 2 * pairs)
    work = x.new_empty(_C.cuda_gram_workspace_size(n, d), dtype=wide)
    room = None
    if kept:  # both gradients take as much memory as factors and matrices of half the size
        gradients = x.new_empty((2, n, d), dtype=wide)
        factors, room = gradients.view(torch.bfloat16).view(2, 2, n, d)
    else:
        narrow = torch.bfloat16 if half else wide
        factors = x.new_empty((operands, products.rows, d), dtype=narrow)
    queue = stream(x)
    _C.cuda_gram_prepare(
        view(x),
        view(y),
        form,
        subtracted,
        view(columns),
        view(factors),
        view(sums),
        (view(work), queue),
    )
    total, terms = x.new_empty((), dtype=wide), x.new_empty(3, dtype=wide)
    result = GramLoss(pairs, 0, normalizers, weights, total, terms)
    diagonal = (view(work), view(columns), n) if subtracted else (None, None, 0)
    if room is None:
        gradients = products.run(factors, sums, wanted, result, diagonal)
    else:
        products.matrices(factors, sums, result, diagonal, room)
    return total, terms, gradients, columns


def _packed(rows: Tensor) -> Tensor:
    """Rows at multiples of 16 bytes."""
    packed = rows.data_ptr() % 16 == 0 and rows.stride(0) % 8 == 0 and rows.stride(0) > 0
    return rows if packed else rows.clone(memory_format=torch.contiguous_format)


def finish(
    loss: int,
    x: Tensor,
    y: Tensor | None,
    gradients: Tensor,
    columns: Tensor,
    factor: Tensor,
    options: tuple[Any, ...],
    wanted: tuple[bool, bool],
) -> tuple[Tensor, Tensor]:
    """The gradients of x and y, in their dtype, of what `value` left."""
    kind, _, half = _flags(loss, options)
    grads = _value_and_grad.outputs(x, wanted[0], y, wanted[1])
    if x.numel() == 0:
        return grads
    x, y = unit_stride(x), None if y is None else unit_stride(y)
    n, d = x.shape
    form, *_ = _form(kind, _is_cross(kind, y), half, x.shape, options)
    kept = _kept(loss, x, y, options, wanted)
    if kept and y is not None:
        form, x, y = form._replace(kept=kept), _packed(x), _packed(y)
    gx, gy = (view(g) if asked else None for g, asked in zip(grads, wanted, strict=True))
    work = None
    if kind == BARLOW_TWINS:
        work = x.new_empty(_C.cuda_gram_workspace_size(n, d), dtype=columns.dtype)
    _C.cuda_gram_finish(
        view(x),
        view(y),
        form,
        view(columns),
        view(gradients),
        view(factor),
        (gx, gy),
        (view(work), stream(x)),
    )
    return grads

r"""Primitive ``gram``: squared norms of X^T Y and their gradients, no (d, d) or (n, n) matrix.

.. math::
    q = \|X^\top Y\|_F^2 = \langle X X^\top, Y Y^\top \rangle, \qquad
    \bar X = 2 \bar q\, Y Y^\top X, \quad \bar Y = 2 \bar q\, X X^\top Y,

without the terms k = l if ``off_diagonal``. The work is done on the n x n side while n <= d
(n <= d / 2 without the diagonal, which is subtracted there), on the d x d side otherwise:
3 n d min(n, d) flops for value and gradient when Y is X, 6 otherwise. The gradient is made together
with the value, because it needs nothing but a factor from above.

The fused losses are the same computation with everything else that VICReg and Barlow Twins do to X
and Y folded into it: centring and scaling while the rows are packed, the other terms of the
gradient while it is written.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._dtypes import computed_dtype, widen
from ..._seam import _C, CODE, rounds, threads, unit_stride, view, workspace
from .. import _value_and_grad
from ..rows.moments import check_matrix, pair_moments
from . import composed, cuda

__all__ = ["barlow_twins", "sqnorm", "vicreg"]


def _check(op: str, x: Tensor, y: Tensor | None, min_rows: int = 0, *, half: bool = False) -> None:
    check_matrix(op, "x", x, half=half)
    if x.shape[0] < min_rows:
        raise ValueError(f"{op}: x must have at least {min_rows} rows, got shape {tuple(x.shape)}")
    if y is None:
        return
    check_matrix(op, "y", y, half=half)
    if y.shape != x.shape:
        raise ValueError(f"{op}: y must match x {tuple(x.shape)}, got {tuple(y.shape)}")
    if y.dtype != x.dtype:
        raise TypeError(f"{op}: y must match x ({x.dtype}), got {y.dtype}")
    if y.device != x.device:
        raise ValueError(f"{op}: y must be on x's device {x.device}, got {y.device}")


class GramForm(NamedTuple):
    """GramForm of csrc/gram/gram.h; vectors are (1 or 2, d)."""

    alpha: float
    cross: bool
    off_diagonal: bool
    shift: Tensor | None = None
    scale: Tensor | None = None
    diagonal: Tensor | None = None
    own: Tensor | None = None
    other: Tensor | None = None
    near: float = 0.0
    project: bool = False
    half: bool = False
    tail: Tensor | None = None  # (d,)

    def view(self) -> tuple[Any, ...]:
        alpha, cross, off_diagonal, shift, scale, diagonal, own, other, *numbers, tail = self
        vectors = view(shift), view(scale), view(diagonal), view(own), view(other)
        return alpha, cross, off_diagonal, *vectors, *numbers, view(tail)


def run_gram(x: Tensor, y: Tensor | None, grads: tuple[Tensor, Tensor], form: GramForm) -> Tensor:
    """(1 or 2,) float64: one call of the kernel, csrc/gram/gram.h. Empty gradients are skipped."""
    n, d = x.shape
    operands = 1 if y is None else 2
    value, kind = x.new_empty(1 if form.cross else operands, dtype=torch.float64), computed_dtype(x)
    dual = form.tail is None and _C.gram_uses_dual(n, d, False)
    if form.off_diagonal:
        dual = form.diagonal is not None
    code = CODE[torch.bfloat16 if form.half else kind]
    size = _C.gram_workspace_size(n, d, code, operands, form.cross, dual)
    gx, gy = (view(g) if g.numel() else None for g in grads)
    work = workspace(x, size, kind)
    run = view(work), threads(4.0 * operands * n * d * min(n, d))
    _C.gram(view(x), view(y), form.view(), view(value), (gx, gy), run)
    return value


def _to_subtract(n: int, diagonal: Tensor) -> Tensor | None:
    """C_kk (operands, d) in float64 for the dual side; None where the d x d tiles are masked."""
    return diagonal if _C.gram_may_subtract(view(diagonal), n) else None


# ---- sqnorm ----


def _sqnorm_cpu(
    x: Tensor, y: Tensor | None, options: tuple[bool, bool, bool], wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    off_diagonal, center, half = options
    grads = _value_and_grad.outputs(x, wanted[0], y, wanted[1])
    terms = x.new_empty(0)
    if x.numel() == 0:
        return x.new_zeros(()), terms, *grads
    x, y = unit_stride(x), None if y is None else unit_stride(y)
    n, d = x.shape
    shift = diagonal = None
    dual = _C.gram_uses_dual(n, d, off_diagonal)
    if center or (off_diagonal and dual):
        mean, var = pair_moments(x, y, product=y is not None)
        shift = mean[: 1 if y is None else 2] if center else None
        if off_diagonal and dual:
            diagonal = var[-1:].double()
            if not center:  # 1 of (1, d), or x and y of (3, d)
                diagonal += mean[0].double() * mean[0 if y is None else 1]
            diagonal *= n
            if y is None:
                diagonal = _to_subtract(n, diagonal)
    alpha, cross = (4.0, False) if y is None else (2.0, True)
    half = rounds(half, x.dtype)
    form = GramForm(alpha, cross, off_diagonal, shift, diagonal=diagonal, half=half)
    value = run_gram(x, y, grads, form)
    return value[0].to(x.dtype), terms, *grads


_sqnorm = _value_and_grad.register_loss(
    "gram_sqnorm",
    "bool off_diagonal, bool center, bool half",
    terms=0,
    cpu=_sqnorm_cpu,
    cuda=partial(cuda.value, cuda.SQNORM),
    finish=partial(cuda.finish, cuda.SQNORM),
    extra=cuda.COLUMNS,
    expression=composed.sqnorm,
)


def sqnorm(
    x: Tensor,
    y: Tensor | None = None,
    *,
    off_diagonal: bool = False,
    center: bool = False,
    half: bool = False,
) -> Tensor:
    """``|| X^T Y ||_F^2``, Y = X when absent; differentiable in x and y.

    Args:
        x: (n, d) float32 or float64, any row stride.
        y: (n, d), same dtype and device.
        off_diagonal: leave out the terms k == l.
        center: subtract the column means first, without a centred copy.
        half: the rows were bfloat16 before they were widened: products are of bfloat16 factors with
            float32 sums on a GPU and on a CPU that has them (AVX512-BF16).

    Returns:
        () of x's dtype, 0 for an empty matrix.
    """
    _check("sqnorm", x, y)
    return _sqnorm(x, y, (off_diagonal, center, half))[0]


# ---- VICReg: all three terms and the whole gradient ----


def _vicreg_cpu(
    x: Tensor,
    y: Tensor,
    options: tuple[float, float, float, float, bool],
    wanted: tuple[bool, bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    invariance, variance, covariance, eps, half = options
    kind = computed_dtype(x)
    half = rounds(half, kind)
    if not half:  # also bfloat16 rows of a processor without such products
        x, y = widen(x), widen(y)
    grads = _value_and_grad.outputs(x, wanted[0], y, wanted[1], kind)
    x, y = unit_stride(x), unit_stride(y)
    n, d = x.shape
    mean, var = pair_moments(x, y)
    terms = x.new_empty(3, dtype=torch.float64)
    terms[0] = (var[2] + mean[2].square()).sum(dtype=torch.float64) / d
    deviation = (var[:2] * (n / (n - 1))).add_(eps).sqrt_()
    terms[1] = (1 - deviation).relu_().sum(dtype=torch.float64) / (2 * d)

    # d/dx of the first two terms: near (x - y), and a factor of x - mean per column
    near, inverse = 2 * invariance / (n * d), deviation.reciprocal()
    own = inverse.mul_(deviation < 1).mul_(-variance / (2 * d * (n - 1)))
    form = GramForm(
        alpha=4 * covariance / (d * (n - 1) ** 2),
        cross=False,
        off_diagonal=True,
        shift=mean[:2],
        diagonal=_to_subtract(n, var[:2].double().mul_(n)),
        own=own,
        near=near,
        half=half,
    )
    off = run_gram(x, y, grads, form)
    terms[2] = off.sum() / (d * (n - 1) ** 2)
    loss = invariance * terms[0] + variance * terms[1] + covariance * terms[2]
    return loss.to(kind), terms.to(kind), *grads


_vicreg = _value_and_grad.register_loss(
    "gram_vicreg",
    "float invariance, float variance, float covariance, float eps, bool half",
    terms=3,
    cpu=_vicreg_cpu,
    cuda=partial(cuda.value, cuda.VICREG),
    finish=partial(cuda.finish, cuda.VICREG),
    extra=cuda.COLUMNS,
    expression=composed.vicreg,
)


def vicreg(
    x: Tensor,
    y: Tensor,
    *,
    invariance: float,
    variance: float,
    covariance: float,
    eps: float,
    half: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""VICReg with its whole gradient in three passes over x and y; formula: losses/vicreg.py.

    Args:
        x, y: (n, d) float32 or float64, n >= 2; differentiable. Also bfloat16 (products of bfloat16
            factors with float32 sums) or, on a GPU, float16; values are then float32.
        invariance, variance, covariance: coefficients of the terms.
        eps: added to the unbiased variances inside the root, > 0.
        half: as in `sqnorm`; rows that are bfloat16 here need not say it.

    Returns:
        loss (), and the unweighted terms (3,) in the order of the coefficients, without gradient.
    """
    _check("gram.vicreg", x, y, min_rows=2, half=True)
    coefficients = float(invariance), float(variance), float(covariance)
    return _vicreg(x, y, (*coefficients, float(eps), half or x.dtype == torch.bfloat16))


# ---- Barlow Twins: both terms and the whole gradient ----


def _barlow_twins_cpu(
    x: Tensor, y: Tensor, options: tuple[float, float, bool], wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    off_diagonal, eps, half = options
    kind = computed_dtype(x)
    half = rounds(half, kind)
    if not half:  # also bfloat16 rows of a processor without such products
        x, y = widen(x), widen(y)
    grads = _value_and_grad.outputs(x, wanted[0], y, wanted[1], kind)
    x, y = unit_stride(x), unit_stride(y)
    n, d = x.shape
    mean, var = pair_moments(x, y, product=True)
    scale = (var[:2] + eps).rsqrt_()
    correlation = var[2] * scale[0] * scale[1]  # C_kk
    from_one = correlation - 1
    terms = x.new_empty(2, dtype=torch.float64)
    terms[0] = from_one.square().sum(dtype=torch.float64)
    dual = _C.gram_uses_dual(n, d, True)
    form = GramForm(
        alpha=2 * off_diagonal / n**2,
        cross=True,
        off_diagonal=True,
        shift=mean[:2],
        scale=scale,
        diagonal=correlation.double().mul_(n)[None] if dual else None,
        other=(from_one * (2 / n)).expand(2, d),
        project=True,
        half=half,
    )
    off = run_gram(x, y, grads, form)
    terms[1] = off[0] / n**2
    loss = terms[0] + off_diagonal * terms[1]
    return loss.to(kind), terms.to(kind), *grads


_barlow_twins = _value_and_grad.register_loss(
    "gram_barlow_twins",
    "float off_diagonal, float eps, bool half",
    terms=2,
    cpu=_barlow_twins_cpu,
    cuda=partial(cuda.value, cuda.BARLOW_TWINS),
    finish=partial(cuda.finish, cuda.BARLOW_TWINS),
    extra=cuda.COLUMNS,
    expression=composed.barlow_twins,
)


def barlow_twins(
    x: Tensor, y: Tensor, *, off_diagonal: float, eps: float, half: bool = False
) -> tuple[Tensor, Tensor]:
    r"""Barlow Twins and its whole gradient in three passes; formula: losses/barlow_twins.py.

    Args:
        x, y: (n, d) float32 or float64, n >= 2; differentiable. Also bfloat16 (products of bfloat16
            factors with float32 sums) or, on a GPU, float16; values are then float32.
        off_diagonal: weight of the redundancy term.
        eps: added to the biased variances inside the root, > 0.
        half: as in `sqnorm`; rows that are bfloat16 here need not say it.

    Returns:
        loss (), and the unweighted terms (2,), on and off the diagonal, without gradient.
    """
    _check("gram.barlow_twins", x, y, min_rows=2, half=True)
    return _barlow_twins(x, y, (float(off_diagonal), float(eps), half or x.dtype == torch.bfloat16))

r"""Primitive ``spmm``: products of a sparse matrix and a tall dense one.

.. math::
    Y = \alpha\, r \odot (A\, (c \odot X)), \qquad
    \bar X = \alpha\, c \odot (A^\top (r \odot \bar Y)),

with optional row and column factors r and c, which stand for every normalisation of a graph
(:math:`D^{-1/2} A D^{-1/2}`, :math:`D^{-1} A`) without a second matrix. Two variations serve the
gradients of ``edges``: with ``own`` the sum runs over differences :math:`o_i - x_j`, with
``add_scales`` an entry counts :math:`a_{ij} (r_i + c_j)`. The gradient is the same operator on
:math:`A^\top`, so derivatives of any order exist.

Cost: one row of X per entry of A. Results do not depend on the number of threads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._register import register_op
from ..._seam import _C, stream, threads, unit_stride, view
from .csr import SPARSE_ARGS, Csr, Sparse, of_sparse

__all__ = ["Combination", "spmm", "spmm_into", "spmm_op"]


class Combination(NamedTuple):
    """``alpha (A X) + beta out + (gamma + delta diagonal) ⊙ W``."""

    alpha: float = 1.0
    beta: float = 0.0
    gamma: float = 0.0
    delta: float = 0.0
    w: Tensor | None = None
    diagonal: Tensor | None = None

    def view(self) -> tuple[Any, ...]:
        """As the core takes it, csrc/sparse/spmm.h."""
        alpha, beta, gamma, delta, w, diagonal = self
        return alpha, beta, gamma, delta, view(w), view(diagonal)


PRODUCT = Combination()


def _flat(scale: Tensor | None) -> Tensor | None:
    return None if scale is None else scale.contiguous()


def _run(
    a: Csr | Sparse,
    x: Tensor,
    own: Tensor | None,
    scales: tuple[Tensor | None, Tensor | None, bool],
    combination: Combination,
    y: Tensor,
) -> None:
    """csrc/sparse/spmm.h on the device of x."""
    row, col, add = scales
    arrays = a.view(), view(x), view(own)
    rest = (view(row), view(col), add), combination.view(), view(y)
    if x.is_cuda:
        _C.cuda_spmm(*arrays, *rest, -1, stream(x))
    else:
        _C.spmm(*arrays, *rest, threads())


@of_sparse
def _shapes(
    a: Sparse,
    x: Tensor,
    own: Tensor | None,
    row_scale: Tensor | None,
    col_scale: Tensor | None,
    add_scales: bool,
    alpha: float,
) -> Tensor:
    return x.new_empty(a.indptr.shape[0] - 1, x.shape[1])


@of_sparse
def _body(
    a: Sparse,
    x: Tensor,
    own: Tensor | None,
    row_scale: Tensor | None,
    col_scale: Tensor | None,
    add_scales: bool,
    alpha: float,
) -> Tensor:
    y = x.new_empty(a.indptr.shape[0] - 1, x.shape[1])
    x, own = unit_stride(x), None if own is None else unit_stride(own)
    row_scale, col_scale = _flat(row_scale), _flat(col_scale)
    _run(a, x, own, (row_scale, col_scale, add_scales), Combination(alpha), y)
    return y


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.add_scales, ctx.alpha = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    *sparse, x, own, r, c = ctx.saved_tensors
    add, alpha, needs = ctx.add_scales, ctx.alpha, ctx.needs_input_grad[6:10]
    here = Sparse(*sparse)
    there = here.t()
    grad_x = grad_own = grad_r = grad_c = None
    if needs[0]:
        grad_x = spmm_op(*there, grad, None, c, r, add, alpha if own is None else -alpha)
    if needs[1]:
        weights = spmm_op(*here, x.new_ones(x.shape[0], 1), None, r, c, add, alpha)
        grad_own = grad * weights
    if needs[2]:
        inner = spmm_op(*here, x, own, None, None if add else c, False, alpha)
        grad_r = (grad * inner).sum(1)
    if needs[3]:
        outer = None if add else r
        grad_c = (x * spmm_op(*there, grad, None, None, outer, False, alpha)).sum(1)
        if own is not None:
            dots = (grad * own).sum(1, keepdim=True)
            grad_c = spmm_op(*there, dots, None, None, outer, False, alpha)[:, 0] - grad_c
    return (None,) * 6 + (grad_x, grad_own, grad_r, grad_c, None, None)


spmm_op = register_op(
    f"spmm({SPARSE_ARGS}, Tensor x, Tensor? own, Tensor? row_scale, Tensor? col_scale, "
    "bool add_scales, float alpha) -> Tensor",
    cpu=_body,
    cuda=_body,
    fake=_shapes,
    backward=_backward,
    setup=_setup,
)


def spmm(
    a: Csr,
    x: Tensor,
    *,
    alpha: float = 1.0,
    row_scale: Tensor | None = None,
    col_scale: Tensor | None = None,
) -> Tensor:
    """alpha * row_scale ⊙ (A (col_scale ⊙ X)).

    Args:
        a: (n, m) sparse, values of any dtype.
        x: (m, b) float32 or float64, any row stride.
        alpha: a number.
        row_scale: (n,) of x's dtype.
        col_scale: (m,) of x's dtype.

    Returns:
        (n, b) of x's dtype, differentiable in x and in the scales.
    """
    _check("spmm", a, x, row_scale, col_scale)
    out: Tensor = spmm_op(*a.with_transpose(), x, None, row_scale, col_scale, False, alpha)
    return out


@torch.no_grad()
def spmm_into(
    a: Csr,
    x: Tensor,
    out: Tensor,
    combination: Combination = PRODUCT,
    *,
    row_scale: Tensor | None = None,
    col_scale: Tensor | None = None,
) -> Tensor:
    """out = alpha row_scale ⊙ (A (col_scale ⊙ X)) + beta out + (gamma + delta diagonal) ⊙ W.

    In place and without autograd. One step of a three-term recurrence, Y₊ = a (M − s) Y − b Y₋, is
    one call with x = w = Y, beta = −b, gamma = −a s: out holds Y₋ on entry and Y₊ on return. For
    M = A: alpha = a; for the Laplacian M = D − A: alpha = −a, delta = a, diagonal = degrees (n,).
    `out` may be any view with contiguous rows that does not overlap x; w may be x or out. beta = 0
    never reads out.
    """
    w, diagonal = combination.w, combination.diagonal
    _check("spmm_into", a, x, row_scale, col_scale)
    shape = (a.n_rows, x.shape[1])
    for name, t in (("out", out), ("w", w)):
        if t is not None and (tuple(t.shape) != shape or t.dtype != x.dtype):
            raise ValueError(
                f"spmm_into: {name} must be {shape} {x.dtype}, got {tuple(t.shape)} {t.dtype}"
            )
    if diagonal is not None and (tuple(diagonal.shape) != shape[:1] or diagonal.dtype != x.dtype):
        raise ValueError(
            f"spmm_into: diagonal must be {shape[:1]} {x.dtype}, got {tuple(diagonal.shape)} "
            f"{diagonal.dtype}"
        )
    if out.shape[1] > 1 and out.stride(1) != 1:
        raise ValueError(f"spmm_into: out must have contiguous rows, got strides {out.stride()}")
    if out.untyped_storage().data_ptr() == x.untyped_storage().data_ptr() and _overlap(out, x):
        raise ValueError("spmm_into: out must not overlap x, which is read while out is written")
    x, w = unit_stride(x), None if w is None else unit_stride(w)
    row_scale, col_scale, diagonal = _flat(row_scale), _flat(col_scale), _flat(diagonal)
    combination = combination._replace(w=w, diagonal=diagonal)
    _run(a, x, None, (row_scale, col_scale, False), combination, out)
    return out


def _overlap(a: Tensor, b: Tensor) -> bool:
    def span(t: Tensor) -> tuple[int, int]:
        last = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
        return int(t.storage_offset()), int(t.storage_offset() + last)

    if a.numel() == 0 or b.numel() == 0:
        return False
    (a0, a1), (b0, b1) = span(a), span(b)
    if a1 < b0 or b1 < a0:
        return False
    # column blocks of one matrix interleave in memory without sharing an element
    same_rows = a.stride(0) == b.stride(0) and a.stride(0) >= max(a.shape[1], b.shape[1])
    if not same_rows:
        return True
    first, second = a0 % a.stride(0), b0 % a.stride(0)
    fits = first + a.shape[1] <= a.stride(0) and second + b.shape[1] <= a.stride(0)
    return not fits or (first < second + b.shape[1] and second < first + a.shape[1])


def _check(op: str, a: Csr, x: Tensor, row_scale: Tensor | None, col_scale: Tensor | None) -> None:
    if x.dim() != 2 or x.shape[0] != a.n_cols:
        raise ValueError(f"{op}: x must be ({a.n_cols}, b), got {tuple(x.shape)}")
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{op}: x must be float32 or float64, got {x.dtype}")
    for name, scale, n in (("row_scale", row_scale, a.n_rows), ("col_scale", col_scale, a.n_cols)):
        if scale is not None and (tuple(scale.shape) != (n,) or scale.dtype != x.dtype):
            raise ValueError(
                f"{op}: {name} must be ({n},) {x.dtype}, got {tuple(scale.shape)} {scale.dtype}"
            )
    if x.device != a.device:
        raise ValueError(f"{op}: x must be on the matrix's device {a.device}, got {x.device}")

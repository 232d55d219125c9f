r"""Primitive ``pairwise``: log-sum-exp statistics of all pairwise logits, never stored.

For logits :math:`s_{ij} = c_i\, a_i \cdot b_j` over the pairs that are not left out,

.. math::
    r_i = \log \sum_j e^{s_{ij}}, \qquad q_j = \log \sum_i e^{s_{ij}},

with :math:`W_{ij} = \bar r_i e^{s_{ij}-r_i} + \bar q_j e^{s_{ij}-q_j}` the gradient of the logits:
:math:`\bar a_i = c_i \sum_j W_{ij} b_j`, :math:`\bar b_j = \sum_i W_{ij} c_i a_i`,
:math:`\bar c_i = a_i \cdot \sum_j W_{ij} b_j`.

Cost: one pass of products forward, one recomputation and two products backward; half of it for
`lse_self` (`softmax_self.py`). Memory O((n + m) d). The sigmoid is in `sigmoid.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._dtypes import computed_dtype
from ..._register import register_op
from ..._seam import _C, threads, view
from .._double_backward import left_out_pairs, row_blocks_vjp, softmax_weights
from . import cuda
from .common import multiplied, through_scale, workspace
from .sigmoid import softplus

__all__ = ["lse", "softplus"]


_ARGS = (
    "Tensor a, Tensor b, Tensor scale, Tensor? ids_a, Tensor? ids_b, "
    "Tensor? skip_indptr, Tensor? skip_indices, bool skip_self, bool cols, bool half"
)


def _lse_shapes(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    ids_a: Tensor | None,
    ids_b: Tensor | None,
    skip_indptr: Tensor | None,
    skip_indices: Tensor | None,
    skip_self: bool,
    cols: bool,
    half: bool,
) -> tuple[Tensor, Tensor]:
    kind = computed_dtype(a)
    return a.new_empty(a.shape[0], dtype=kind), a.new_empty(b.shape[0] if cols else 0, dtype=kind)


def _lse_body(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    ids_a: Tensor | None,
    ids_b: Tensor | None,
    skip_indptr: Tensor | None,
    skip_indices: Tensor | None,
    skip_self: bool,
    cols: bool,
    half: bool,
) -> tuple[Tensor, Tensor]:
    if a.is_cuda:
        return cuda.forward(
            a,
            b,
            scale,
            ids=(ids_a, ids_b),
            skip=(skip_indptr, skip_indices),
            skip_self=skip_self,
            cols=cols,
        )
    row, col = a.new_empty(a.shape[0]), a.new_empty(b.shape[0] if cols else 0)
    a, b = multiplied(a, scale, half), multiplied(b, scale, half)
    work = workspace(a, b, backward=False)
    _C.pairwise_forward(
        view(a),
        view(b),
        view(scale),
        view(ids_a),
        view(ids_b),
        view(skip_indptr),
        view(skip_indices),
        skip_self,
        view(row),
        view(col) if cols else None,
        view(work),
        threads(),
    )
    return row, col


def _lse_bwd_shapes(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    ids_a: Tensor | None,
    ids_b: Tensor | None,
    skip_indptr: Tensor | None,
    skip_indices: Tensor | None,
    skip_self: bool,
    cols: bool,
    half: bool,
    row: Tensor,
    col: Tensor,
    grad_row: Tensor,
    grad_col: Tensor,
    want_b: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_b = b.new_empty(b.shape if want_b else (0,))
    return a.new_empty(a.shape), grad_b, scale.new_empty(scale.shape)


def _lse_bwd_body(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    ids_a: Tensor | None,
    ids_b: Tensor | None,
    skip_indptr: Tensor | None,
    skip_indices: Tensor | None,
    skip_self: bool,
    cols: bool,
    half: bool,
    row: Tensor,
    col: Tensor,
    grad_row: Tensor,
    grad_col: Tensor,
    want_b: bool,
) -> tuple[Tensor, ...]:
    if a.is_cuda:
        stats = (row, col if cols else None, grad_row, grad_col if cols else None)
        return cuda.gradients(
            a,
            b,
            scale,
            None,
            (ids_a, ids_b),
            (skip_indptr, skip_indices),
            skip_self,
            *stats,
            want_b,
        )
    left, right = multiplied(a, scale, half), multiplied(b, scale, half)
    grad_row, grad_col = grad_row.contiguous(), grad_col.contiguous()
    grad_a, grad_b = a.new_empty(a.shape), b.new_empty(b.shape if want_b else (0,))
    work = workspace(left, right, backward=True)
    _C.pairwise_backward(
        view(left),
        view(right),
        view(scale),
        view(ids_a),
        view(ids_b),
        view(skip_indptr),
        view(skip_indices),
        skip_self,
        view(row),
        view(col) if cols else None,
        view(grad_row),
        view(grad_col) if cols else None,
        view(grad_a),
        view(grad_b) if want_b else None,
        view(work),
        threads(),
    )
    if left.dtype == torch.bfloat16:  # whose panels of a are not scaled
        grad_b.mul_(scale)
    grad_a, grad_scale = through_scale(a, grad_a, scale)
    return grad_a, grad_b, grad_scale


def _lse_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.skip_self, ctx.cols, ctx.half = inputs
    ctx.set_materialize_grads(False)  # zeros of no columns are an operation as well
    ctx.save_for_backward(*tensors, *output)


def _lse_backward(
    ctx: Any, grad_row: Tensor | None, grad_col: Tensor | None
) -> tuple[Tensor | None, ...]:
    if grad_row is None and grad_col is None:
        return (None,) * 10
    *inputs, row, col = ctx.saved_tensors
    grad_row = torch.zeros_like(row) if grad_row is None else grad_row
    if grad_col is None:
        grad_col = torch.zeros_like(col) if ctx.cols else col.detach()
    want_b = ctx.needs_input_grad[1]
    flags = ctx.skip_self, ctx.cols, ctx.half
    g_a, g_b, g_scale = lse_bwd(*inputs, *flags, row, col, grad_row, grad_col, want_b)
    return (g_a, g_b if want_b else None, g_scale, *(None,) * 7)


def _lse_bwd_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.skip_self, ctx.cols, _ = inputs[:10]
    *rest, ctx.want_b = inputs[10:]
    ctx.save_for_backward(*tensors, *rest)


def _lse_bwd_backward(
    ctx: Any, v_a: Tensor, v_b: Tensor, v_scale: Tensor
) -> tuple[Tensor | None, ...]:
    a, b, scale, ids_a, ids_b, indptr, indices, row, col, grad_row, grad_col = ctx.saved_tensors
    skip = None if indptr is None else (indptr, indices)
    v_b = v_b if ctx.want_b else torch.zeros_like(b)

    def block(
        rows: slice,
        a: Tensor,
        b: Tensor,
        scale: Tensor,
        row: Tensor,
        col: Tensor,
        grad_row: Tensor,
        grad_col: Tensor,
    ) -> Tensor:
        left_out = left_out_pairs(rows, a, b.shape[0], ids_a, ids_b, skip, ctx.skip_self)
        c = scale if scale.ndim == 0 else scale[rows, None]
        v_c = v_scale if scale.ndim == 0 else v_scale[rows, None]
        columns = (col, grad_col) if ctx.cols else (None, None)
        w = softmax_weights(rows, c * (a[rows] @ b.T), left_out, row, grad_row, *columns)
        grad_a = w @ b  # without the factor scale
        return (
            (v_a[rows] * c * grad_a).sum()
            + (v_b * (w.T @ (c * a[rows]))).sum()
            + (v_c * a[rows] * grad_a).sum()
        )

    tensors = (a, b, scale, row, col, grad_row, grad_col)
    g_a, g_b, g_scale, *rest = row_blocks_vjp(block, a.shape[0], b.shape[0], *tensors)
    return (g_a, g_b, g_scale, *(None,) * 7, *rest, None)


lse_bwd = register_op(
    f"pairwise_lse_bwd({_ARGS}, Tensor row, Tensor col, Tensor grad_row, Tensor grad_col,"
    " bool want_b) -> (Tensor, Tensor, Tensor)",
    cpu=_lse_bwd_body,
    cuda=_lse_bwd_body,
    fake=_lse_bwd_shapes,
    backward=_lse_bwd_backward,
    setup=_lse_bwd_setup,
)
_lse = register_op(
    f"pairwise_lse({_ARGS}) -> (Tensor, Tensor)",
    cpu=_lse_body,
    cuda=_lse_body,
    fake=_lse_shapes,
    backward=_lse_backward,
    setup=_lse_setup,
)


def lse(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    *,
    ids_a: Tensor | None = None,
    ids_b: Tensor | None = None,
    skip: tuple[Tensor, Tensor] | None = None,
    skip_self: bool = False,
    cols: bool = False,
    half: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""Row and column log-sum-exp of ``s_ij = scale_i a_i . b_j``.

    Args:
        a: (n, d) float32 or float64, any row stride.
        b: (m, d), same dtype.
        scale: 0-dim or, without ``cols``, (n,) tensor of the same dtype; receives a gradient.
        ids_a, ids_b: (n,) and (m,) int32; pairs with equal ids are left out.
        skip: CSR pattern (indptr (n + 1,), indices) int64 of pairs to leave out, columns ascending
            in a row.
        skip_self: leave out i == j.
        cols: also return the column statistics.
        half: a and b are exact in bfloat16; a CPU that multiplies bfloat16 does, under one scale,
            and rounds W to it.

    Returns:
        (n,) and (m,), the latter empty without ``cols``; a row without any pair gives ``-inf`` and
        no gradient.
    """
    if cols and scale.ndim != 0:
        raise ValueError(
            f"pairwise.lse: scale must be a scalar with cols=True, got shape {tuple(scale.shape)}"
        )
    indptr, indices = skip if skip is not None else (None, None)
    row, col = _lse(a, b, scale, ids_a, ids_b, indptr, indices, skip_self, cols, half)
    return row, col

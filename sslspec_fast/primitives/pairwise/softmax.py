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
from ..._seam import _C, view
from .._double_backward import row_blocks_vjp, softmax_weights
from . import cuda
from .common import (
    ALL_PAIRS,
    LOGITS,
    LeftOut,
    Logits,
    both_multiplied,
    keeping,
    largest_one,
    number_of_kept,
    of_logits,
    pair_threads,
    pair_workspace,
    through_scale,
)
from .sigmoid import softplus

__all__ = ["lse", "softplus"]


def _right(x: Logits) -> Tensor:
    assert x.b is not None
    return x.b


@of_logits
def _lse_shapes(x: Logits, cols: bool, half: bool, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    (n, _), m, kind = x.a.shape, _right(x).shape[0] if cols else 0, computed_dtype(x.a)
    return x.a.new_empty(n, dtype=kind), x.a.new_empty(m, dtype=kind), number_of_kept(x.a, keep)


@of_logits
def _lse_body(x: Logits, cols: bool, half: bool, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    kept = number_of_kept(x.a, keep)
    if x.a.is_cuda:
        return *cuda.forward(x, cols=cols), kept
    return *statistics(x, half, kept if keep else None, cols=cols), kept


def statistics(
    x: Logits, half: bool, kept: Tensor | None, *, cols: bool = False
) -> tuple[Tensor, Tensor]:
    """The statistics on a CPU. kept: gets the number of the products that are kept."""
    a, b = x.a, _right(x)
    row, col = a.new_empty(a.shape[0]), a.new_empty(b.shape[0] if cols else 0)
    rows = both_multiplied(x, half)
    work = pair_workspace(rows.a, rows.b, backward=False)
    lse = view(row), view(col) if cols else None
    run = view(work), pair_threads(a, b)
    _C.pairwise_forward(rows.view(), lse, view(kept), run)
    return row, col


@of_logits
def _lse_bwd_shapes(
    x: Logits, cols: bool, half: bool, *arguments: Any
) -> tuple[Tensor, Tensor, Tensor]:
    *_, want_b, _ = arguments
    b = _right(x)
    grad_b = b.new_empty(b.shape if want_b else (0,))
    return x.a.new_empty(x.a.shape), grad_b, x.scale.new_empty(x.scale.shape)


@of_logits
def _lse_bwd_body(x: Logits, cols: bool, half: bool, *arguments: Any) -> tuple[Tensor, ...]:
    row, col, grad_row, grad_col, want_b, kept = arguments
    lse, grad_lse = (row, col if cols else None), (grad_row, grad_col if cols else None)
    if x.a.is_cuda:
        return cuda.gradients(x, lse, grad_lse, want_b=want_b)
    return gradients(x, half, lse, grad_lse, want_b=want_b, kept=kept)


def gradients(
    x: Logits,
    half: bool,
    lse: tuple[Tensor, Tensor | None],
    grad_lse: tuple[Tensor, Tensor | None],
    *,
    want_b: bool,
    kept: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Those of a, b (empty unless wanted) and the scale, on a CPU, from the statistics of the rows
    and columns and their gradients.
    """
    a, b, scale = x.a, _right(x), x.scale
    rows = both_multiplied(x, half)
    present = [g for g in grad_lse if g is not None]
    factor, (grad_row, *grad_col) = largest_one(rows.a, *present)
    grad_a, grad_b = a.new_empty(a.shape), b.new_empty(b.shape if want_b else (0,))
    work = pair_workspace(rows.a, rows.b, backward=True)
    _C.pairwise_backward(
        rows.view(),
        (view(lse[0]), view(lse[1])),
        (view(grad_row), view(grad_col[0]) if grad_col else None),
        (view(grad_a), view(grad_b) if want_b else None),
        view(kept),
        (view(work), pair_threads(a, b)),
    )
    if factor is not None:  # the panels of a in bfloat16 are not scaled
        grad_a.mul_(factor)
        grad_b.mul_(rows.scale * factor)
    grad_a, grad_scale = through_scale(a, grad_a, scale)
    return grad_a, grad_b, grad_scale


def _lse_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.skip_self, ctx.cols, ctx.half, ctx.keep = inputs
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(False)  # zeros of no columns are an operation as well
    ctx.save_for_backward(*tensors, *output)


def _lse_backward(
    ctx: Any, grad_row: Tensor | None, grad_col: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    if grad_row is None and grad_col is None:
        return (None,) * 11
    *inputs, row, col, kept = ctx.saved_tensors
    grad_row = torch.zeros_like(row) if grad_row is None else grad_row
    if grad_col is None:
        grad_col = torch.zeros_like(col) if ctx.cols else col.detach()
    want_b = ctx.needs_input_grad[1]
    flags = ctx.skip_self, ctx.cols, ctx.half
    stats = row, col, grad_row, grad_col
    g_a, g_b, g_scale = lse_bwd(*inputs, *flags, *stats, want_b, kept if ctx.keep else None)
    return (g_a, g_b if want_b else None, g_scale, *(None,) * 8)


def _lse_bwd_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.skip_self, ctx.cols, _ = inputs[:10]
    *rest, ctx.want_b, _ = inputs[10:]
    ctx.save_for_backward(*tensors, *rest)


def _lse_bwd_backward(
    ctx: Any, v_a: Tensor, v_b: Tensor, v_scale: Tensor
) -> tuple[Tensor | None, ...]:
    a, b, scale, ids_a, ids_b, indptr, indices, row, col, grad_row, grad_col = ctx.saved_tensors
    b = b.to(a.dtype)
    left_out = LeftOut(ids_a, ids_b, indptr, indices, ctx.skip_self)
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
        mask = left_out.mask(rows, b.shape[0], a.device)
        c = scale if scale.ndim == 0 else scale[rows, None]
        v_c = v_scale if scale.ndim == 0 else v_scale[rows, None]
        columns = (col, grad_col) if ctx.cols else (None, None)
        w = softmax_weights(rows, c * (a[rows] @ b.T), mask, row, grad_row, *columns)
        grad_a = w @ b  # without the factor scale
        return (
            (v_a[rows] * c * grad_a).sum()
            + (v_b * (w.T @ (c * a[rows]))).sum()
            + (v_c * a[rows] * grad_a).sum()
        )

    tensors = (a, b, scale, row, col, grad_row, grad_col)
    g_a, g_b, g_scale, *rest = row_blocks_vjp(block, a.shape[0], b.shape[0], *tensors)
    return (g_a, g_b, g_scale, *(None,) * 7, *rest, None, None)


lse_bwd = register_op(
    f"pairwise_lse_bwd({LOGITS}, bool cols, bool half, Tensor row, Tensor col, Tensor grad_row,"
    " Tensor grad_col, bool want_b, Tensor? kept) -> (Tensor, Tensor, Tensor)",
    cpu=_lse_bwd_body,
    cuda=_lse_bwd_body,
    fake=_lse_bwd_shapes,
    backward=_lse_bwd_backward,
    setup=_lse_bwd_setup,
)
_lse = register_op(
    f"pairwise_lse({LOGITS}, bool cols, bool half, bool keep) -> (Tensor, Tensor, Tensor)",
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
    left_out: LeftOut = ALL_PAIRS,
    *,
    cols: bool = False,
    half: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""Row and column log-sum-exp of ``s_ij = scale_i a_i . b_j``.

    Args:
        a: (n, d) float32 or float64, any row stride.
        b: (m, d), same dtype; without a gradient also bfloat16, where that is multiplied.
        scale: 0-dim or, without ``cols``, (n,) tensor of the same dtype; receives a gradient.
        left_out: pairs that are not in the sums.
        cols: also return the column statistics.
        half: the rows came as bfloat16: a CPU that multiplies bfloat16 does, and rounds a, b and W
            to it; a scale of each row multiplies a before that.

    Returns:
        (n,) and (m,), the latter empty without ``cols``; a row without any pair gives ``-inf`` and
        no gradient.
    """
    if cols and scale.ndim != 0:
        raise ValueError(
            f"pairwise.lse: scale must be a scalar with cols=True, got shape {tuple(scale.shape)}"
        )
    row, col, _ = _lse(a, b, scale, *left_out, cols, half, keeping(a, b, scale))
    return row, col

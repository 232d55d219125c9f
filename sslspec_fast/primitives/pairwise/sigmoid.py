r"""Sigmoid part of ``pairwise``: row sums of softplus over the pairwise logits, never stored.

.. math::
    r_i = \sum_j \log(1 + e^{s_{ij}}), \qquad s_{ij} = c_i\, a_i \cdot b_j + t,

over the pairs that are not left out, with :math:`W_{ij} = \bar r_i\, \sigma(s_{ij})` the gradient
of the logits:
:math:`\bar a_i = c_i \sum_j W_{ij} b_j`, :math:`\bar b_j = \sum_i W_{ij} c_i a_i`,
:math:`\bar c_i = a_i \cdot \sum_j W_{ij} b_j`, :math:`\bar t = \sum_{ij} W_{ij}`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._dtypes import computed_dtype
from ..._register import grouping, register_op
from ..._seam import _C, view
from .._double_backward import row_blocks_vjp
from . import cuda
from .common import (
    ALL_PAIRS,
    LOGITS,
    LeftOut,
    Logits,
    both_multiplied,
    pair_threads,
    pair_workspace,
    through_scale,
)

__all__ = ["softplus", "weigh_rows"]


_ARGS = f"{LOGITS}, Tensor bias"
_of_logits = grouping(9, lambda x: Logits(x[0], x[1], x[2], LeftOut._make(x[3:8]), x[8]))


@_of_logits
def _softplus_shapes(x: Logits, half: bool) -> Tensor:
    return x.a.new_empty(x.a.shape[0], dtype=computed_dtype(x.a))


@_of_logits
def _softplus_body(x: Logits, half: bool) -> Tensor:
    if x.a.is_cuda:
        return cuda.forward(x)[0]
    out, rows = x.a.new_empty(x.a.shape[0]), both_multiplied(x, half)
    assert rows.b is not None
    run = view(pair_workspace(rows.a, rows.b, backward=False)), pair_threads(rows.a, rows.b)
    _C.pairwise_sigmoid_forward(rows.view(), view(out), run)
    return out


@_of_logits
def _softplus_bwd_shapes(
    x: Logits, half: bool, grad: Tensor, want_b: bool, want_bias: bool, want_scale: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    a, b, scale, _, bias, _ = x
    assert b is not None
    assert bias is not None
    return (
        a.new_empty(a.shape),
        b.new_empty(b.shape if want_b else (0,)),
        scale.new_empty(scale.shape),
        bias.new_empty(()),
    )


@_of_logits
def _softplus_bwd_body(
    x: Logits, half: bool, grad: Tensor, want_b: bool, want_bias: bool, want_scale: bool
) -> tuple[Tensor, ...]:
    if x.a.is_cuda:
        wants = want_b, want_bias, want_scale
        return cuda.gradients(x, (None, None), (grad, None), *wants)
    assert x.b is not None
    of_a, of_b = x.a.new_empty(x.a.shape), x.b.new_empty(x.b.shape if want_b else (0,))
    return weigh_rows(x, half, grad, None, (of_a, of_b))


def weigh_rows(
    x: Logits, half: bool, grad: Tensor, rows: Tensor | None, grads: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of a, b, scale and bias of the row sums with these weights, on a CPU.

    The panels of a in bfloat16 are not scaled. A scale of each row is in the weights of its pairs
    then, and is taken out of their sums.

    rows: the row sums, written if they are not None.
    grads: where those of a and b are made; that of b has no elements where none is wanted.
    """
    of_a, of_b = grads
    operands, scale = both_multiplied(x, half), x.scale
    assert operands.b is not None
    narrow = operands.a.dtype == torch.bfloat16
    each = narrow and scale.ndim > 0
    of_bias = torch.empty_like(grad, memory_format=torch.contiguous_format)
    _C.pairwise_sigmoid_backward(
        operands.view(),
        view(grad * scale if each else grad.contiguous()),
        view(of_bias),
        view(rows),
        (view(of_a), view(of_b) if of_b.numel() else None),
        (
            view(pair_workspace(operands.a, operands.b, backward=True)),
            pair_threads(operands.a, operands.b),
        ),
    )
    if each:
        return of_a, of_b, (x.a * of_a).sum(1) / scale, (of_bias / scale).sum()
    if narrow:
        of_b.mul_(scale)
    of_a, of_scale = through_scale(x.a, of_a, scale)
    return of_a, of_b, of_scale, of_bias.sum()


def _softplus_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.skip_self, ctx.half = inputs[7], inputs[9]
    ctx.save_for_backward(*inputs[:7], inputs[8])


def _softplus_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    want_b, want_scale, want_bias = (ctx.needs_input_grad[k] for k in (1, 2, 8))
    *logits, bias = ctx.saved_tensors
    flags = ctx.half, grad, want_b, want_bias, want_scale
    g_a, g_b, g_scale, g_bias = _softplus_bwd(*logits, ctx.skip_self, bias, *flags)
    return (g_a, g_b if want_b else None, g_scale, *(None,) * 5, g_bias, None)


def _softplus_bwd_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.skip_self, ctx.want_b = inputs[7], inputs[11]
    ctx.save_for_backward(*inputs[:7], inputs[8], inputs[10])


def _softplus_bwd_backward(
    ctx: Any, v_a: Tensor, v_b: Tensor, v_scale: Tensor, v_bias: Tensor
) -> tuple[Tensor | None, ...]:
    a, b, scale, *pairs, bias, grad = ctx.saved_tensors
    left_out = LeftOut._make((*pairs, ctx.skip_self))
    v_b = v_b if ctx.want_b else torch.zeros_like(b)

    def block(
        rows: slice, a: Tensor, b: Tensor, scale: Tensor, bias: Tensor, grad: Tensor
    ) -> Tensor:
        c = scale if scale.ndim == 0 else scale[rows, None]
        v_c = v_scale if scale.ndim == 0 else v_scale[rows, None]
        w = torch.sigmoid(c * (a[rows] @ b.T) + bias) * grad[rows, None]
        w = w.masked_fill(left_out.mask(rows, b.shape[0], a.device), 0.0)
        grad_a = w @ b
        first = (v_a[rows] * c * grad_a).sum() + (v_b * (w.T @ (c * a[rows]))).sum()
        return first + (v_c * a[rows] * grad_a).sum() + v_bias * w.sum()

    g_a, g_b, g_scale, g_bias, g_grad = row_blocks_vjp(
        block, a.shape[0], b.shape[0], a, b, scale, bias, grad
    )
    return g_a, g_b, g_scale, *(None,) * 5, g_bias, None, g_grad, None, None, None


_softplus_bwd = register_op(
    f"pairwise_softplus_bwd({_ARGS}, bool half, Tensor grad, bool want_b, bool want_bias,"
    " bool want_scale) -> (Tensor, Tensor, Tensor, Tensor)",
    cpu=_softplus_bwd_body,
    cuda=_softplus_bwd_body,
    fake=_softplus_bwd_shapes,
    backward=_softplus_bwd_backward,
    setup=_softplus_bwd_setup,
)
_softplus = register_op(
    f"pairwise_softplus({_ARGS}, bool half) -> Tensor",
    cpu=_softplus_body,
    cuda=_softplus_body,
    fake=_softplus_shapes,
    backward=_softplus_backward,
    setup=_softplus_setup,
)


def softplus(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    bias: Tensor,
    left_out: LeftOut = ALL_PAIRS,
    *,
    half: bool = False,
) -> Tensor:
    r"""``sum_j softplus(scale_i a_i . b_j + bias)``, the dense part of the sigmoid loss.

    Args:
        a, b: (n, d) and (m, d) float32 or float64, any row stride.
        scale, bias: tensors of the same dtype, 0-dim (scale also (n,)); both receive gradients.
        left_out: pairs that are not in the sums.
        half: as in `lse`.

    Returns:
        (n,)
    """
    out: Tensor = _softplus(a, b, scale, *left_out, bias, half)
    return out

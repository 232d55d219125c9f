r"""Weighted sums of the rows of a softmax.

.. math::
    \bar p_j = \sum_i c_i p_{ij}, \qquad p_i = \mathrm{softmax}_j(a_i \cdot w_j), \qquad
    \bar s_{ij} = c_i p_{ij} (f_j - \sum_k p_{ik} f_k),

f the gradient of the sums and s the logits. The forward pass has one product of (n, k), the
backward pass three; no (n, k) matrix exists but for a panel of rows.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from ...._dtypes import computed_dtype
from ...._register import register_op
from ...._seam import empty
from ..._double_backward import through_composition
from .plain import columns_of
from .visit import Visit, visit

__all__ = ["mean_softmax"]


def _mean_shapes(a: Tensor, w: Tensor, weight: Tensor, unit: bool) -> Tensor:
    return a.new_empty(w.shape[0], dtype=computed_dtype(a))


def _mean_body(a: Tensor, w: Tensor, weight: Tensor, unit: bool) -> Tensor:
    out = _mean_shapes(a, w, weight, unit)
    visit(
        (a, w, None),
        None,
        weight.to(out.dtype).contiguous(),
        None,
        (None, None),
        False,
        Visit(out.new_empty(a.shape[0]), column_sum=out),
        unit,
    )
    return out


def _mean_bwd_shapes(
    a: Tensor, w: Tensor, weight: Tensor, grad: Tensor, unit: bool, want_w: bool
) -> tuple[Tensor, Tensor]:
    return a.new_empty(a.shape), w.new_empty(w.shape if want_w else (0,))


def _mean_bwd_body(
    a: Tensor, w: Tensor, weight: Tensor, grad: Tensor, unit: bool, want_w: bool
) -> tuple[Tensor, Tensor]:
    kind = computed_dtype(a)
    g_a = a.new_empty(a.shape, dtype=kind)
    g_w = empty(w, w.shape if want_w else (0,), kind)
    visit(
        (a, w, None),
        None,
        weight.to(kind).contiguous(),
        grad.to(kind).contiguous(),
        (a, w),
        False,
        Visit(g_a.new_empty(a.shape[0]), None, None, g_a, g_w if want_w else None),
        unit,
    )
    return g_a.to(a.dtype), g_w.to(w.dtype)


def _mean_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.unit = inputs
    ctx.save_for_backward(*tensors)


def _mean_plain(a: Tensor, w: Tensor, weight: Tensor, unit: bool) -> Tensor:
    kind = computed_dtype(a)
    return weight.to(kind) @ (a.to(kind) @ columns_of(w, kind, unit).T).softmax(1)


def _mean_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    inputs, unit = ctx.saved_tensors, ctx.unit
    if torch.is_grad_enabled():
        plain = functools.partial(_mean_plain, unit=unit)
        return *through_composition(plain, inputs, [grad]), None
    g_a, g_w = _mean_bwd(*inputs, grad, unit, ctx.needs_input_grad[1])
    return g_a, g_w if ctx.needs_input_grad[1] else None, None, None


_mean_bwd = register_op(
    "pairwise_mean_softmax_bwd(Tensor a, Tensor w, Tensor weight, Tensor grad, bool unit,"
    " bool want_w) -> (Tensor, Tensor)",
    cpu=_mean_bwd_body,
    cuda=_mean_bwd_body,
    fake=_mean_bwd_shapes,
)
_mean = register_op(
    "pairwise_mean_softmax(Tensor a, Tensor w, Tensor weight, bool unit) -> Tensor",
    cpu=_mean_body,
    cuda=_mean_body,
    fake=_mean_shapes,
    backward=_mean_backward,
    setup=_mean_setup,
)


def mean_softmax(a: Tensor, w: Tensor, weight: Tensor, unit: bool = False) -> Tensor:
    r"""(k,) :math:`\sum_i c_i\, \mathrm{softmax}_j(a_i \cdot w_j)`; c (n,) has no gradient.

    a (n, d), w (k, d), unit: as in `Sides`, both with gradients.
    """
    out: Tensor = _mean(a, w, weight.detach(), unit)
    return out

r"""Weighted sums of rows of `pairwise`, with the gradient made in the same visit of the logits.

.. math::
    L = \sum_i w_i \log(1 + e^{r_i - p_i}), \quad r_i = \log \sum_j e^{s_{ij}}
    \qquad\text{or}\qquad L = \sum_i w_i \sum_j \log(1 + e^{s_{ij}}),

:math:`s_{ij} = c_i\, a_i \cdot b_j` (+ t in the second form). The weights of a row,
:math:`W_{ij} = w_i \sigma(r_i - p_i) e^{s_{ij} - r_i}` or :math:`w_i \sigma(s_{ij})`, depend on
that row alone, so nothing has to be computed twice: three products of n m d instead of the four of
`pairwise.lse` or `softplus` with their backward, and two where no gradient of b is requested (a
queue of negatives). Memory: 192 rows of logits in the first form, none in the second.

On a GPU, where no gradient is wanted, and with a log-sum-exp of rows in bfloat16 on a CPU that
multiplies it, it is the composition.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..._register import register_op
from ..._seam import _C, CODE, rounds, unit_stride, view
from .. import _value_and_grad
from . import lse
from .common import (
    ALL_PAIRS,
    LeftOut,
    Logits,
    both_multiplied,
    inner,
    pair_threads,
    through_scale,
    workspace,
)
from .sigmoid import softplus

__all__ = ["one_positive_total", "softplus_total"]

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]  # total, rows, four gradients


def _shapes(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    other: Tensor,
    weight: Tensor,
    skip_self: bool,
    *flags: bool,
) -> Outputs:
    grad_b = flags[-1]
    rows, g_a = a.new_empty(a.shape[0]), a.new_empty(a.shape)
    g_b = b.new_empty(b.shape if grad_b else (0,))
    return (
        a.new_empty(()),
        rows,
        g_a,
        g_b,
        scale.new_empty(scale.shape),
        other.new_empty(other.shape),
    )


def _total(rows: Tensor, weight: Tensor) -> Tensor:
    return inner(rows.double(), weight.double()).to(rows.dtype)


def _one_positive_body(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    positive: Tensor,
    weight: Tensor,
    skip_self: bool,
    grad_b: bool,
) -> Outputs:
    a, b, weight = unit_stride(a), unit_stride(b), weight.contiguous()
    shapes = _shapes(a, b, scale, positive, weight, skip_self, grad_b)
    _, rows, g_a, g_b, _, grad_positive = shapes
    panel = a.new_empty(_C.pairwise_one_positive_panel_size(b.shape[0], CODE[a.dtype]))
    _C.pairwise_one_positive(
        Logits(a, b, scale, LeftOut(self_pairs=skip_self)).view(),
        view(positive.contiguous()),
        view(weight),
        view(rows),
        view(grad_positive),
        (view(g_a), view(g_b) if grad_b else None),
        view(panel),
        (view(workspace(a, b, backward=True)), pair_threads(a, b)),
    )
    g_a, g_scale = through_scale(a, g_a, scale)
    return _total(rows, weight), rows, g_a, g_b, g_scale, grad_positive


def _softplus_shapes(
    a: Tensor, b: Tensor, scale: Tensor, bias: Tensor, weight: Tensor, *rest: Any
) -> Outputs:
    return _shapes(a, b, scale, bias, weight, False, rest[-1])


def _softplus_body(
    a: Tensor, b: Tensor, scale: Tensor, bias: Tensor, weight: Tensor, *rest: Any
) -> Outputs:
    *pairs, half, grad_b = rest
    logits = both_multiplied(Logits(a, b, scale, LeftOut._make(pairs), bias), half)
    weight = weight.contiguous()
    _, rows, g_a, g_b, _, _ = _shapes(a, b, scale, bias, weight, False, grad_b)
    of_bias = torch.empty_like(rows)
    _C.pairwise_sigmoid_backward(
        logits.view(),
        view(weight),
        view(of_bias),
        view(rows),
        (view(g_a), view(g_b) if grad_b else None),
        (view(workspace(logits.a, logits.b, backward=True)), pair_threads(a, b)),
    )
    if logits.a.dtype == torch.bfloat16:  # whose panels of a are not scaled
        g_b.mul_(logits.scale)
    g_a, g_scale = through_scale(a, g_a, scale)
    return _total(rows, weight), rows, g_a, g_b, g_scale, of_bias.sum()


def _one_positive_expression(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    positive: Tensor,
    weight: Tensor,
    skip_self: bool,
    half: bool = False,
) -> Tensor:
    rows = -F.logsigmoid(positive - lse(a, b, scale, LeftOut(self_pairs=skip_self), half=half)[0])
    return (rows * weight).sum()


def _softplus_expression(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    bias: Tensor,
    weight: Tensor,
    left_out: LeftOut,
    half: bool = False,
) -> Tensor:
    return (softplus(a, b, scale, bias, left_out, half=half) * weight).sum()


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...], **options: Any) -> None:
    tensors, ctx.others = inputs[:5], len(inputs) - 5
    _, rows, *grads = output  # the rows are the gradient of the weights
    _value_and_grad.save(ctx, tensors, output, (*grads, rows), **options)


def _one_positive_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _save(ctx, inputs, output, skip_self=inputs[5])


def _softplus_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _save(ctx, inputs, output, left_out=LeftOut._make(inputs[5:10]), half=inputs[10])


def _backward(expression: Callable[..., Tensor]) -> Callable[..., tuple[Tensor | None, ...]]:
    def backward(ctx: Any, factor: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        return *_value_and_grad.gradient(ctx, factor, expression), *(None,) * ctx.others

    return backward


_one_positive = register_op(
    "pairwise_one_positive_total(Tensor a, Tensor b, Tensor scale, Tensor positive, Tensor weight,"
    " bool skip_self, bool grad_b) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    cpu=_one_positive_body,
    cuda=None,
    fake=_shapes,
    backward=_backward(_one_positive_expression),
    setup=_one_positive_setup,
)
_softplus = register_op(
    "pairwise_softplus_total(Tensor a, Tensor b, Tensor scale, Tensor bias, Tensor weight,"
    " Tensor? ids_a, Tensor? ids_b, Tensor? skip_indptr, Tensor? skip_indices, bool skip_self,"
    " bool half, bool grad_b) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    cpu=_softplus_body,
    cuda=None,
    fake=_softplus_shapes,
    backward=_backward(_softplus_expression),
    setup=_softplus_setup,
)


def one_positive_total(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    positive: Tensor,
    weight: Tensor,
    *,
    skip_self: bool,
    half: bool = False,
) -> Tensor:
    r"""``sum_i weight_i softplus(log sum_j exp(scale_i a_i . b_j) - positive_i)``.

    Args:
        a, b: (n, d) and (m, d) float32 or float64, any row stride.
        scale: 0-dim or (n,) tensor of the same dtype.
        positive, weight: (n,); the positive logit of a row is not among those of b, or left out.
        skip_self: leave out i == j.
        half: as in `lse`, whose products of bfloat16 are faster than one visit without them.

    All tensors receive gradients. Rows without any pair add 0.
    """
    if (
        a.is_cuda
        or rounds(half, a.dtype)
        or not (_value_and_grad.wanted(a) or _value_and_grad.wanted(b))
    ):
        return _one_positive_expression(a, b, scale, positive, weight, skip_self, half)
    out: Tensor = _one_positive(
        a, b, scale, positive, weight, skip_self, _value_and_grad.wanted(b)
    )[0]
    return out


def softplus_total(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    bias: Tensor,
    weight: Tensor,
    left_out: LeftOut = ALL_PAIRS,
    *,
    half: bool = False,
) -> Tensor:
    r"""``sum_ij weight_i softplus(scale_i a_i . b_j + bias)``; arguments as above, bias 0-dim."""
    wanted = _value_and_grad.wanted
    if a.is_cuda or not (wanted(a) or wanted(b)):
        return _softplus_expression(a, b, scale, bias, weight, left_out, half)
    out: Tensor = _softplus(a, b, scale, bias, weight, *left_out, half, wanted(b))[0]
    return out

r"""Weighted sums of rows of `pairwise`, with the gradient made in the same visit of the logits.

.. math::
    L = \sum_i w_i \log(1 + e^{r_i - p_i}), \quad r_i = \log \sum_j e^{s_{ij}}
    \qquad\text{or}\qquad L = \sum_i w_i \sum_j \log(1 + e^{s_{ij}}),

:math:`s_{ij} = c_i\, a_i \cdot b_j` (+ t in the second form). The weights of a row,
:math:`W_{ij} = w_i \sigma(r_i - p_i) e^{s_{ij} - r_i}` or :math:`w_i \sigma(s_{ij})`, depend on
that row alone, so nothing has to be computed twice: three products of n m d instead of the four of
`pairwise.lse` or `softplus` with their backward, and two where no gradient of b is requested (a
queue of negatives). Memory: 384 rows of logits in the first form, none in the second. Rows in
bfloat16 of the first form have their statistics first, and keep as many products for the gradient
as `pairwise.lse` does.

On a GPU, and where no gradient is wanted, it is the composition.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..._register import register_op
from ..._seam import _C, CODE, view
from .. import _value_and_grad
from . import lse
from .common import (
    ALL_PAIRS,
    LeftOut,
    Logits,
    both_multiplied,
    inner,
    largest_one,
    pair_threads,
    pair_workspace,
    through_scale,
)
from .sigmoid import softplus, weigh_rows

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
    half: bool,
    grad_b: bool,
) -> Outputs:
    shapes = _shapes(a, b, scale, positive, weight, skip_self, grad_b)
    _, rows, g_a, g_b, _, grad_positive = shapes
    operands = both_multiplied(Logits(a, b, scale, LeftOut(self_pairs=skip_self)), half)
    factor, (share,) = largest_one(operands.a, weight)
    size = _C.pairwise_one_positive_panel_size(len(a), len(b), CODE[operands.a.dtype])
    panel = a.new_empty(size)
    _C.pairwise_one_positive(
        operands.view(),
        view(positive.contiguous()),
        view(share),
        view(rows),
        view(grad_positive),
        (view(g_a), view(g_b) if grad_b else None),
        view(panel),
        (view(pair_workspace(operands.a, operands.b, backward=True)), pair_threads(a, b)),
    )
    if factor is not None:  # the panels of a in bfloat16 are not scaled
        grad_positive.mul_(factor)
        g_a.mul_(factor)
        g_b.mul_(operands.scale * factor)
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
    _, rows, g_a, g_b, _, _ = _shapes(a, b, scale, bias, weight, False, grad_b)
    logits = Logits(a, b, scale, LeftOut._make(pairs), bias)
    grads = weigh_rows(logits, half, weight, rows, (g_a, g_b))
    return _total(rows, weight), rows, *grads


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
    _save(ctx, inputs, output, skip_self=inputs[5], half=inputs[6])


def _softplus_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _save(ctx, inputs, output, left_out=LeftOut._make(inputs[5:10]), half=inputs[10])


def _backward(expression: Callable[..., Tensor]) -> Callable[..., tuple[Tensor | None, ...]]:
    def backward(ctx: Any, factor: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        return *_value_and_grad.gradient(ctx, factor, expression), *(None,) * ctx.others

    return backward


_one_positive = register_op(
    "pairwise_one_positive_total(Tensor a, Tensor b, Tensor scale, Tensor positive, Tensor weight,"
    " bool skip_self, bool half, bool grad_b)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
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
        a, b: (n, d) and (m, d) float32 or float64, any row stride; b as in `lse`.
        scale: 0-dim or (n,) tensor of the same dtype.
        positive, weight: (n,); the positive logit of a row is not among those of b, or left out.
        skip_self: leave out i == j.
        half: as in `lse`.

    All tensors receive gradients. Rows without any pair add 0.
    """
    wanted = _value_and_grad.wanted
    if a.is_cuda or not (wanted(a) or wanted(b)):
        return _one_positive_expression(a, b, scale, positive, weight, skip_self, half)
    out: Tensor = _one_positive(a, b, scale, positive, weight, skip_self, half, wanted(b))[0]
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

r"""Spectral contrastive loss of two views, from the rows to the loss in one operator.

.. math::
    L = a \sum_i s_i + r \sum_{i \ne j} (x_i \cdot y_j)^2, \qquad s_i = x_i \cdot y_i, \qquad
    \bar x_i = 2 r\, x_i (Y^\top Y) + (a - 2 r s_i)\, y_i,

x, y the rows of the views, those longer than ``longest`` cut to it. The second sum is
:math:`\langle X^\top X, Y^\top Y \rangle - \sum_i s_i^2`: O(n d^2). With at least d rows the CPU
does all of it, cut and gradient included, in four passes over the rows that store two (d, d)
matrices (no larger than a view) and no shortened row. With fewer rows it is the composition of
`unit_rows` and `gram`, on whichever side is smaller. A GPU does the same with library GEMMs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._register import register_op
from .._seam import _C, CODE, threads, unit_stride, view
from ..primitives import _value_and_grad
from . import composed, spectral_contrastive_cuda
from .composed import weights

__all__ = ["spectral_contrastive", "weights"]


def _shapes(
    z1: Tensor, z2: Tensor, longest: float, factor: float, mean: bool, grad_1: bool, grad_2: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return z1.new_empty(()), z1.new_empty(2), *_value_and_grad.outputs(z1, grad_1, z2, grad_2)


def _body(
    z1: Tensor, z2: Tensor, longest: float, factor: float, mean: bool, grad_1: bool, grad_2: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grads = _value_and_grad.outputs(z1, grad_1, z2, grad_2)
    z1, z2 = unit_stride(z1), unit_stride(z2)
    sums = z1.new_empty(2, dtype=torch.float64)
    n, d = z1.shape
    attraction, repulsion = weights(n, factor, mean)
    work = z1.new_empty(_C.spectral_views_workspace_size(n, d, CODE[z1.dtype]))
    g1, g2 = grads
    _C.spectral_views(
        view(z1), view(z2), longest, attraction, repulsion, view(sums),
        view(g1) if grad_1 else None, view(g2) if grad_2 else None, view(work), threads(),
    )  # fmt: skip
    loss = attraction * sums[0] + repulsion * sums[1]
    return loss.to(z1.dtype), sums.to(z1.dtype), *grads


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    names = ("longest", "factor", "mean")
    _value_and_grad.save(
        ctx, inputs[:2], output, output[-2:], **dict(zip(names, inputs[2:5], strict=True))
    )


def _backward(ctx: Any, factor: Tensor | None, *unused: Tensor | None) -> tuple[Tensor | None, ...]:
    return *_value_and_grad.gradient(ctx, factor, composed.loss), None, None, None, None, None


_spectral = register_op(
    "spectral_views(Tensor z1, Tensor z2, float longest, float factor, bool mean,"
    " bool grad_1, bool grad_2) -> (Tensor, Tensor, Tensor, Tensor)",
    body=_body,
    fake=_shapes,
    backward=_backward,
    setup=_setup,
)


def spectral_contrastive(
    z1: Tensor, z2: Tensor, *, longest: float, factor: float, mean: bool
) -> tuple[Tensor, Tensor]:
    """Loss () and the sums over pairs and over i != j, both without gradient.

    Args:
        z1, z2: (n, d) float32 or float64, paired rows; differentiable. On a GPU also bfloat16
            (products of bfloat16 factors with float32 sums) or float16; results are float32.
        longest: > 0; longer rows are cut to it.
        factor, mean: a = -2 w and r = w / (n - 1) with w = factor / n for the mean, factor for the
            sum. They are made from n inside the operator: a traced program takes any n.
    """
    if z1.is_cuda:
        loss, sums = spectral_contrastive_cuda.spectral_contrastive(
            z1, z2, longest=longest, factor=factor, mean=mean
        )
        return loss, sums[::2]
    if z1.shape[0] < z1.shape[1]:
        return composed.composed(z1, z2, longest=longest, factor=factor, mean=mean)
    wanted = _value_and_grad.wanted(z1), _value_and_grad.wanted(z2)
    loss, sums, *_ = _spectral(z1, z2, float(longest), float(factor), mean, *wanted)
    return loss, sums

r"""Primitive ``gram_nested``: squared norms of the Gram matrices of all prefixes of the columns.

.. math::
    \sum_m c_m \|X_m^\top X_m\|_F^2 = \sum_{kl} \min(t_k, t_l)\, (X^\top X)_{kl}^2, \qquad
    t_k = \sum_{m \ge k} c_m,

without k = l if ``off_diagonal``, with gradient
:math:`4 X (\min(t_k, t_l)\, (X^\top X)_{kl})_{kl}`, made in the same call, whatever the number of
prefixes. On a CPU it is `gram` on the side of the columns, 3 n d^2 flops without a stored (d, d)
matrix; on a GPU two library products with one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._register import register_op
from ..._seam import rounds, unit_stride
from .. import _value_and_grad
from ..rows.moments import pair_moments
from .gram import GramForm, run_gram

__all__ = ["nested_sqnorm"]


def _shapes(
    x: Tensor, tail: Tensor, off_diagonal: bool, center: bool, half: bool, grad_x: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(()), *_value_and_grad.outputs(x, grad_x, None, False)


def _cpu(
    x: Tensor, tail: Tensor, off_diagonal: bool, center: bool, half: bool, grad_x: bool
) -> tuple[Tensor, Tensor, Tensor]:
    grads = _value_and_grad.outputs(x, grad_x, None, False)
    if x.numel() == 0:
        return x.new_zeros(()), *grads
    x, tail, half = unit_stride(x), tail.contiguous(), rounds(half, x.dtype)
    shift = pair_moments(x)[0][:1] if center else None
    form = GramForm(4.0, False, off_diagonal, shift, half=half, tail=tail)
    return run_gram(x, None, grads, form)[0].to(x.dtype), *grads


def _cuda(
    x: Tensor, tail: Tensor, off_diagonal: bool, center: bool, half: bool, grad_x: bool
) -> tuple[Tensor, Tensor, Tensor]:
    x = x - x.mean(0) if center else x
    product = _product(x, off_diagonal)
    if not off_diagonal:  # its largest entries: their rounding would be most of the gradient's
        lengths = torch.linalg.vector_norm(x, dim=0, dtype=torch.float64)
        product.diagonal().copy_(lengths.square())
    weighted = torch.minimum(tail[:, None], tail) * product
    gradient = (x @ weighted).mul_(4) if grad_x else x.new_empty(0)
    return (weighted * product).sum(), gradient, x.new_empty(0)


def _product(x: Tensor, off_diagonal: bool) -> Tensor:
    product = x.T @ x
    return product - product.diagonal().diag() if off_diagonal else product


def _expression(x: Tensor, tail: Tensor, off_diagonal: bool, center: bool) -> Tensor:
    x = x - x.mean(0) if center else x
    return (torch.minimum(tail[:, None], tail) * _product(x, off_diagonal).square()).sum()


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, tail, off_diagonal, center, *_ = inputs
    options = {"off_diagonal": off_diagonal, "center": center}
    _value_and_grad.save(ctx, (x, tail), output, output[1:], **options)


def _backward(ctx: Any, factor: Tensor | None, *unused: Tensor | None) -> tuple[Tensor | None, ...]:
    return _value_and_grad.gradient(ctx, factor, _expression)[0], *(None,) * 5


_nested = register_op(
    "gram_nested(Tensor x, Tensor tail, bool off_diagonal, bool center, bool half, bool grad_x)"
    " -> (Tensor, Tensor, Tensor)",
    cpu=_cpu,
    cuda=_cuda,
    fake=_shapes,
    backward=_backward,
    setup=_setup,
)


def nested_sqnorm(
    x: Tensor,
    tail: Tensor,
    *,
    off_diagonal: bool = False,
    center: bool = False,
    half: bool = False,
) -> Tensor:
    """The sum, for x (n, d) float32 or float64 and the non-increasing t (d,), a constant.

    center: as in `gram.sqnorm`. half: as there, on a CPU.
    """
    out: Tensor = _nested(x, tail, off_diagonal, center, half, _value_and_grad.wanted(x))[0]
    return out

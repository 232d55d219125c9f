r"""Primitive ``gram_difference``: squared distances of Gram matrices of rows, none of them stored.

.. math::
    q_b = \|D_b\|_F^2, \qquad D_b = X_b X_b^\top - Y_b Y_b^\top, \qquad
    \bar X_b = 4 \bar q_b D_b X_b,

or with the negative entries of both products set to 0 (`clamp`), whose gradient is that of the
others. D is made in blocks of rows and columns on one side of its diagonal, reduced, and used for
the gradient of both blocks: 2 to 3 products of n x n x d in place of the 4 of the plain form, and a
few blocks of memory. The difference is taken entry by entry: the identity
:math:`\|X^\top X\|^2 + \|Y^\top Y\|^2 - 2 \|X^\top Y\|^2` would lose a small one to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._register import register_op
from .._double_backward import through_composition
from .._value_and_grad import wanted

__all__ = ["gram_difference"]

_BLOCK = 256  # rows of a block; its products keep the library's GEMM busy
_ELEMENTS = 1 << 22  # of a block of all matrices together


def _blocks(x: Tensor) -> list[slice]:
    """Blocks of the rows of (b, n, d), of like size."""
    b, n, _ = x.shape
    most = min(_BLOCK, max(16, int((_ELEMENTS / max(b, 1)) ** 0.5)))
    count = -(-n // most)
    step = -(-n // count)
    return [slice(first, min(first + step, n)) for first in range(0, n, step)]


def _shapes(x: Tensor, y: Tensor, clamp: bool, grad_x: bool) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[0]), x.new_empty(x.shape if grad_x else (0,))


def _body(x: Tensor, y: Tensor, clamp: bool, grad_x: bool) -> tuple[Tensor, Tensor]:
    value = x.new_zeros(x.shape[0], dtype=torch.float64)
    gradient = torch.zeros_like(x) if grad_x else x.new_empty(0)
    blocks = _blocks(x)
    for k, here in enumerate(blocks):
        for there in blocks[k:]:
            a, b = x[:, here], x[:, there]
            other = y[:, here] @ y[:, there].mT
            if clamp:
                own = a @ b.mT
                off = own.clamp(min=0) - other.clamp_(min=0)
            else:
                off = torch.baddbmm(other, a, b.mT, beta=-1)
            value += (1 if here is there else 2) * off.square().sum((1, 2), dtype=torch.float64)
            if not grad_x:
                continue
            if clamp:
                off.masked_fill_(own < 0, 0.0)
            gradient[:, here] += off @ b
            if here is not there:
                gradient[:, there] += off.mT @ a
    return value.to(x.dtype), gradient.mul_(4) if grad_x else gradient


def _expression(x: Tensor, y: Tensor, clamp: bool) -> Tensor:
    own, other = x @ x.mT, y @ y.mT
    if clamp:
        own, other = own.clamp(min=0), other.clamp(min=0)
    return (own - other).square().sum((1, 2))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, y, ctx.clamp, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, y, output[1])


def _backward(ctx: Any, factor: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    x, y, gradient = ctx.saved_tensors
    if factor is None:
        return None, None, None, None

    def of_x(x: Tensor) -> Tensor:
        return _expression(x, y, ctx.clamp)

    if torch.is_grad_enabled():  # create_graph=True
        return through_composition(of_x, [x], [factor])[0], None, None, None
    if gradient.numel() == 0 and x.numel() > 0:  # torch.vmap hid that x requires a gradient
        with torch.enable_grad():
            (late,) = through_composition(of_x, [x], [factor])
        return None if late is None else late.detach(), None, None, None
    return gradient * factor[:, None, None], None, None, None


_gram_difference = register_op(
    "gram_difference(Tensor x, Tensor y, bool clamp, bool grad_x) -> (Tensor, Tensor)",
    cpu=_body,
    cuda=_body,
    fake=_shapes,
    backward=_backward,
    setup=_setup,
)


def gram_difference(x: Tensor, y: Tensor, *, clamp: bool = False) -> Tensor:
    """(b,) || X X^T - Y Y^T ||^2 for each of b pairs, y a constant.

    Args:
        x, y: (b, n, d) and (b, n, e) float32 or float64 of one dtype.
        clamp: negative entries of both products count as 0.
    """
    out: Tensor = _gram_difference(x, y, clamp, wanted(x))[0]
    return out

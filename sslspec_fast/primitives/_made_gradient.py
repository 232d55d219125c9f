"""Gradients made together with the value, because they need nothing from above but a factor.

Such an operator takes one flag per input (is its gradient wanted?), returns the value first and the
gradients last, and is differentiated by multiplying them with the incoming factor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._register import register_op


def wanted(x: Tensor | None) -> bool:
    """Is the gradient to be made in the forward pass?"""
    return x is not None and x.requires_grad and torch.is_grad_enabled()


def outputs(x: Tensor, grad_x: bool, y: Tensor | None, grad_y: bool) -> tuple[Tensor, Tensor]:
    """Room for both gradients; nobody wants an empty one."""
    gx = x.new_empty(x.shape if grad_x else (0,))
    return gx, x.new_empty(x.shape if grad_y and y is not None else (0,))


def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...], **options: Any) -> None:
    """Outputs: the value, what has no gradient, and the two gradients."""
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # zeros for what has no gradient: two passes over memory
    ctx.save_for_backward(inputs[0], inputs[1], *output[-2:])
    ctx.options = options


def gradient(
    ctx: Any, factor: Tensor | None, expression: Callable[..., Tensor]
) -> tuple[Tensor | None, Tensor | None]:
    """The two gradients, differentiable through `expression` of the inputs and options if asked."""
    if factor is None:
        return None, None
    x, y, made_x, made_y = ctx.saved_tensors
    want_x, want_y = ctx.needs_input_grad[0], y is not None and ctx.needs_input_grad[1]
    if torch.is_grad_enabled():  # create_graph=True: the gradient itself must have one
        leaves = [v for v, want in ((x, want_x), (y, want_y)) if want]
        grads = iter(
            torch.autograd.grad(expression(x, y, **ctx.options), leaves, factor, create_graph=True)
        )
        return next(grads) if want_x else None, next(grads) if want_y else None
    return scaled(made_x, factor) if want_x else None, scaled(made_y, factor) if want_y else None


def scaled(made: Tensor, factor: Tensor) -> Tensor:
    """The gradient times what came from above."""
    # loss.backward() asks for exactly 1 times the gradient: no need for a pass over memory
    looks = type(factor) is Tensor and not factor.is_cuda and not torch.compiler.is_compiling()
    if looks and factor.item() == 1.0:
        return made
    out: Tensor = _times(made, factor)
    return out


def _times_shapes(made: Tensor, factor: Tensor) -> Tensor:
    return made.new_empty(made.shape)


def _times_body(made: Tensor, factor: Tensor) -> Tensor:
    return made * factor


_times = register_op(
    "gram_times(Tensor made, Tensor factor) -> Tensor", body=_times_body, fake=_times_shapes
)

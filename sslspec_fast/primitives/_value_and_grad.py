"""Gradients made together with the value, because they need nothing from above but a factor.

Such an operator takes flags (is a gradient wanted?), returns the value first and the gradients
among the rest, and is differentiated by multiplying them with the incoming factor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .._register import is_plain, register_op
from .._torch_private import graph_is_kept
from ._double_backward import through_composition


def wanted(x: Tensor | None) -> bool:
    """Is the gradient to be made in the forward pass?"""
    return x is not None and x.requires_grad and torch.is_grad_enabled()


def outputs(x: Tensor, grad_x: bool, y: Tensor | None, grad_y: bool) -> tuple[Tensor, Tensor]:
    """Memory for both gradients; an empty tensor where none is requested."""
    gx = x.new_empty(x.shape if grad_x else (0,))
    return gx, x.new_empty(x.shape if grad_y and y is not None else (0,))


def save(
    ctx: Any,
    inputs: Sequence[Tensor | None],
    output: tuple[Tensor, ...],
    grads: Sequence[Tensor],
    **options: Any,
) -> None:
    """The tensors among the inputs, which come first, and the gradient made for each of them; the
    output, of which only the value is differentiable; and what else the expression takes.
    """
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # zeros for what has no gradient: two passes over memory
    ctx.save_for_backward(*inputs, *grads)
    ctx.options = options


def gradient(
    ctx: Any,
    factor: Tensor | None,
    expression: Callable[..., Tensor],
    complete: Callable[..., Sequence[Tensor]] | None = None,
) -> tuple[Tensor | None, ...]:
    """The gradients, differentiable through `expression` of the inputs and options if asked.

    complete: makes them of what was saved, in that order, where the forward pass did not finish.
    """
    saved = ctx.saved_tensors  # unpacked once: checkpoints and saved-tensor hooks allow no more
    count = len(saved) // 2
    if factor is None:
        return (None,) * count
    inputs, grads = saved[:count], saved[count:]
    needs = ctx.needs_input_grad[:count]

    def compose(*x: Tensor | None) -> Tensor:
        return expression(*x, **ctx.options)

    if torch.is_grad_enabled():  # create_graph=True: the gradient itself must have one
        return through_composition(compose, inputs, [factor])
    present = ctx.wanted if complete is not None else [grad.numel() > 0 for grad in grads]
    if any(n and not p and x.numel() > 0 for x, n, p in zip(inputs, needs, present, strict=True)):
        # torch.vmap hides from the forward pass that an input requires a gradient
        with torch.enable_grad():
            late = through_composition(compose, inputs, [factor])
        return tuple(None if g is None else g.detach() for g in late)
    if complete is not None:
        grads = complete(*saved)
        return tuple(g if need else None for g, need in zip(grads, needs, strict=True))
    pairs = zip(grads, needs, strict=True)
    return tuple(_scaled(grad, factor) if need else None for grad, need in pairs)


def _scaled(made: Tensor, factor: Tensor) -> Tensor:
    # loss.backward() asks for exactly 1 times the gradient, and the saved tensor is freed behind
    # it: it is returned without a pass over memory. A graph that is kept keeps its saved tensors.
    readable = not torch.compiler.is_compiling() and is_plain(factor) and not factor.is_cuda
    if readable and not graph_is_kept() and factor.item() == 1.0:
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

"""Operators that return a value and its gradient: the gradient needs only a factor from above.

Such an operator takes flags (which gradients are requested), returns the value first and the
gradients among the rest, and is differentiated by multiplying them with the incoming factor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .._dtypes import computed_dtype
from .._register import register_op
from .._torch_private import graph_is_kept, transforms_are_active
from ._double_backward import through_composition


def wanted(x: Tensor | None) -> bool:
    """Whether the gradient is requested, and made in the forward pass."""
    return x is not None and x.requires_grad and torch.is_grad_enabled()


def outputs(
    x: Tensor, grad_x: bool, y: Tensor | None, grad_y: bool, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Memory for both gradients, of the dtype of x unless given; empty where none is requested.

    A CPU makes those of bfloat16 rows in float32, for they are rounded once, after the factor.
    """
    gx = x.new_empty(x.shape if grad_x else (0,), dtype=dtype)
    return gx, x.new_empty(x.shape if grad_y and y is not None else (0,), dtype=dtype)


def save(
    ctx: Any,
    inputs: Sequence[Tensor | None],
    output: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    **options: Any,
) -> None:
    """What `gradient` takes.

    Args:
        inputs: the tensors among the inputs, which come first.
        output: the value and the other tensors that are returned, which are not differentiable. A
            list of tensors that is returned has no gradient in any case: it is not among them.
        grads: the gradient made for each of the inputs; None or an empty tensor where none is.
        options: what else the expression takes.
    """
    if len(output) > 1:
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
    inputs, grads, needs = saved[:count], saved[count:], ctx.needs_input_grad
    if torch.is_grad_enabled():  # create_graph=True: the gradient itself must have one
        return _composed(ctx, inputs, factor, expression)
    if complete is not None:
        grads = [x if one else None for x, one in zip(inputs, ctx.wanted, strict=True)]
    wanted: list[Tensor | None] = []
    # one loop: every step pays for it; needs goes on with what is no tensor
    for x, grad, need in zip(inputs, grads, needs, strict=False):
        if need and (grad is None or grad.numel() == 0) and x.numel() > 0:
            # torch.vmap hides from the forward pass that an input requires a gradient
            with torch.enable_grad():
                late = _composed(ctx, inputs, factor, expression)
            return tuple(None if g is None else g.detach() for g in late)
        wanted.append(grad if need else None)
    if complete is not None:
        grads = complete(*saved)
        return tuple(g if need else None for g, need in zip(grads, needs, strict=False))
    if not _is_one(factor):
        wanted = [None if grad is None else _times(grad, factor) for grad in wanted]
    return tuple(wanted)


def _composed(
    ctx: Any, inputs: Sequence[Tensor | None], factor: Tensor, expression: Callable[..., Tensor]
) -> tuple[Tensor | None, ...]:
    return through_composition(lambda *x: expression(*x, **ctx.options), inputs, [factor])


def _is_one(factor: Tensor | None) -> bool:
    """Whether a saved gradient may be returned as it is, without a pass over memory.

    ``loss.backward()`` asks for exactly 1 times the gradient, and frees the saved tensor. A graph
    that is kept keeps its saved tensors.
    """
    if type(factor) is not Tensor or torch.compiler.is_compiling() or transforms_are_active():
        return False
    return not factor.is_cuda and not graph_is_kept() and factor.item() == 1.0


def _times_shapes(gradient: Tensor, factor: Tensor) -> Tensor:
    return gradient.new_empty(gradient.shape)


def _times_body(gradient: Tensor, factor: Tensor) -> Tensor:
    return gradient * factor


_times = register_op(
    "times(Tensor gradient, Tensor factor) -> Tensor",
    cpu=_times_body,
    cuda=_times_body,
    fake=_times_shapes,
)


def _widened(expression: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The expression on rows in the dtype in which the loss is computed."""

    def widened(x: Tensor, y: Tensor | None, **options: Any) -> Tensor:
        kind = computed_dtype(x)
        return expression(x.to(kind), None if y is None else y.to(kind), **options)

    return widened


def register_loss(
    name: str,
    numbers: str,
    *,
    terms: int,
    cpu: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]],
    cuda: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]],
    finish: Callable[..., tuple[Tensor, Tensor]],
    extra: int,
    expression: Callable[..., Tensor],
) -> Callable[..., tuple[Tensor, Tensor]]:
    """One operator, and one for its backward, of a loss of x and y.

    On the CPU the forward pass makes the gradients, and the backward pass multiplies them. On a GPU
    the forward pass makes what the gradients need of the products, and the backward pass completes
    them, in the dtype of the rows.

    Args:
        numbers: the options in the schema, e.g. ``"float eps, bool mean"``.
        terms: how many unweighted terms are returned beside the loss.
        cpu: ``(x, y, options, (grad_x, grad_y)) -> loss (), terms, gradient of x, of y``.
        cuda: the same, ``-> loss, three terms, products (grad_x + grad_y, n, d), extra``; of fewer
            `terms` the second is left out.
        finish: ``(x, y, products, extra, factor, options, wanted) -> gradient of x, of y``.
        extra: the last output of `cuda` is (extra, d), or (-extra, n) where it is negative.
        expression: ``(x, y, **options)``, the loss in differentiable torch operators.

    Returns:
        ``(x, y, options) -> loss, terms``.
    """
    returned = {3: slice(None), 2: slice(None, None, 2), 0: slice(0)}[terms]
    names = tuple(number.split()[-1] for number in numbers.split(","))

    def shapes(x: Tensor, y: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
        grad_x, grad_y = rest[-2:]
        kind, (n, d) = computed_dtype(x), x.shape
        loss = x.new_empty((), dtype=kind)
        if not x.is_cuda:
            return loss, x.new_empty(terms, dtype=kind), *outputs(x, grad_x, y, grad_y, kind)
        kept = (extra, d) if extra > 0 else (-extra, n)
        products = x.new_empty((grad_x + grad_y, n, d), dtype=kind)
        three = x.new_empty(3, dtype=kind)
        return loss, three[returned], products, x.new_empty(kept, dtype=kind)

    def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, y, *options, grad_x, grad_y = inputs
        ctx.wanted, ctx.on_gpu = (grad_x, grad_y), x.is_cuda
        save(ctx, (x, y), output, output[2:], **dict(zip(names, options, strict=True)))

    def backward(ctx: Any, factor: Tensor | None, *unused: Tensor | None) -> Any:
        def complete(x: Tensor, y: Tensor | None, first: Tensor, second: Tensor) -> Any:
            if not ctx.on_gpu and _is_one(factor):
                return first, second
            return multiply(x, y, first, second, factor, *ctx.options.values(), *ctx.wanted)

        return *gradient(ctx, factor, _widened(expression), complete), *(None,) * (len(names) + 2)

    def multiplied(
        x: Tensor, y: Tensor | None, first: Tensor, second: Tensor, factor: Tensor, *rest: Any
    ) -> tuple[Tensor, Tensor]:
        return (first * factor).to(x.dtype), (second * factor).to(x.dtype)

    def on_gpu(x: Tensor, y: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
        loss, three, *kept = cuda(x, y, rest[:-2], rest[-2:])
        return loss, three[returned], *kept

    multiply = register_op(
        f"{name}_backward(Tensor x, Tensor? y, Tensor first, Tensor second, Tensor factor,"
        f" {numbers}, bool grad_x, bool grad_y) -> (Tensor, Tensor)",
        cpu=multiplied,
        cuda=lambda x, y, a, b, factor, *rest: finish(x, y, a, b, factor, rest[:-2], rest[-2:]),
        fake=lambda x, y, *rest: outputs(x, rest[-2], y, rest[-1]),
    )
    operator = register_op(
        f"{name}(Tensor x, Tensor? y, {numbers}, bool grad_x, bool grad_y)"
        " -> (Tensor, Tensor, Tensor, Tensor)",
        cpu=lambda x, y, *rest: cpu(x, y, rest[:-2], rest[-2:]),
        cuda=on_gpu,
        fake=shapes,
        setup=setup,
        backward=backward,
    )

    def call(x: Tensor, y: Tensor | None, options: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
        loss, values, _, _ = operator(x, y, *options, wanted(x), wanted(y))
        return loss, values

    return call

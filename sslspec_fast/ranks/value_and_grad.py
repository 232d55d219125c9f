"""A value over ranks together with its gradient, in one forward pass.

All collectives, those of the gradient too, are over when the value is there; the backward pass
multiplies by the factor from above. So there is one order of collectives per call, rows are
gathered once, and a rank that skips its backward keeps no rank waiting.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor


@contextlib.contextmanager
def recording() -> Iterator[None]:
    """Autograd on, also in the body of an operator that was called through the dispatcher, which
    leaves the autograd keys out: enabling gradients alone would record nothing there.
    """
    key = torch._C.DispatchKey.AutogradFunctionality
    with torch._C._SetExcludeDispatchKeyGuard(key, False), torch.enable_grad():
        yield


def value_and_grad(
    function: Callable[..., tuple[Tensor, Tensor]],
    tensors: Sequence[Tensor | None],
    wants: Sequence[bool],
    factor: Tensor | None = None,
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """value, rest = function(*tensors), and the gradient of value for the tensors that want one.

    Args:
        function: returns the value and a tensor that has no gradient.
        tensors: its arguments; fresh leaves are made of them.
        wants: one flag per tensor.
        factor: the gradient of a value that is no scalar.

    No two gradients share memory: the outputs of an operator may not.
    """
    if not any(wants):
        with torch.no_grad():
            value, rest = function(*tensors)
        return value, rest, [None] * len(wants)
    with recording():
        leaves = [
            None if x is None else x.detach().requires_grad_(want)
            for x, want in zip(tensors, wants, strict=True)
        ]
        value, rest = function(*leaves)
        wanted = [x for x, want in zip(leaves, wants, strict=True) if x is not None and want]
        grads = iter(_apart(torch.autograd.grad(value, wanted, factor, allow_unused=True)))
    return value.detach(), rest.detach(), [next(grads) if want else None for want in wants]


def _apart(grads: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Copies of the gradients that are views of one tensor (those of rows that were joined)."""
    storages = [None if g is None else g.untyped_storage().data_ptr() for g in grads]
    return [
        g.clone() if g is not None and s in storages[:k] else g
        for k, (g, s) in enumerate(zip(grads, storages, strict=True))
    ]


def refuse_second_derivative(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A backward that raises where its result would need a gradient of its own.

    torch's once_differentiable raises nothing where the factor from above is a constant, and a part
    of the second derivative would be missing.
    """

    @functools.wraps(backward)
    def run(ctx: Any, *grads: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise NotImplementedError(
                "second derivatives of a loss over ranks exist with impl='torch' only"
            )
        return backward(ctx, *grads)

    return run

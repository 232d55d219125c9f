"""Registration of operators with ``torch.library``: schema, body, shapes and gradient in one call.

``Library.define`` / ``impl`` are used instead of ``torch.library.custom_op``, which does the same
with a higher cost per call. Operators are functional: they return fresh tensors and never write to
their arguments.

``torch.compile``, modes, tensor subclasses and ``torch.func`` need the dispatcher. It costs several
times what ``torch.autograd.Function`` does, and more than the loss of a small batch: plain tensors
in eager mode go straight to the body.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ._torch_private import (
    PLAIN_TENSORS,
    any_requires_grad,
    apply_outside_transforms,
    autocast_is_active,
    dispatch_bits,
    is_watched,
    key_set,
    transforms_are_active,
)

__all__ = ["grouping", "register_op"]

_NAMESPACE = "sslspec_fast"
_LIBRARY = torch.library.Library(_NAMESPACE, "DEF")


_without = torch._C._ExcludeDispatchKeyGuard
_AUTOCAST = key_set("AutocastCPU", "AutocastCUDA")
_PLAIN_VALUES = {type(None), bool, int, float, str}


def register_op(
    schema: str,
    *,
    cpu: Callable[..., Any] | None,
    cuda: Callable[..., Any] | None,
    fake: Callable[..., Any],
    backward: Callable[..., Any] | None = None,
    setup: Callable[..., None] | None = None,
    transformed: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """Registers one operator, ``torch.ops.sslspec_fast.<name>``, and returns a callable for it.

    Args:
        schema: operator schema, e.g. ``"rows(Tensor x, float eps) -> Tensor"``. The first argument
            is a tensor: the operator runs on its device.
        cpu, cuda: the bodies. They may be one function, and one is None where the operator is for
            the other device alone. Autocast does not reach into them.
        fake: output shapes and dtypes only; used under ``torch.compile`` and by meta tensors.
        backward: ``backward(ctx, *grads)``; without it a gradient through the operator raises.
        setup: ``setup(ctx, inputs, output)`` saves what the backward needs.
        transformed: the same in torch operations, for torch.vmap and torch.func: they know no
            operator that returns a list.
    """
    name = schema.split("(", 1)[0].strip()
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    body = _body_of_device(name, cpu, cuda)
    for key in ("CPU", "CUDA"):
        _LIBRARY.impl(name, body, key)
    qualified = f"{_NAMESPACE}::{name}"
    torch.library.register_fake(qualified, fake, lib=_LIBRARY)
    op: Callable[..., Any] = getattr(getattr(torch.ops, _NAMESPACE), name).default
    exact = _without_any_autocast(backward or _no_gradient(name))
    differentiable = _with_gradient(op, setup, exact)
    _LIBRARY.impl(name, differentiable, "Autograd", with_keyset=True)
    for key in ("AutocastCPU", "AutocastCUDA"):
        _LIBRARY.impl(name, _without_autocast(op, key), key)
    apply = op
    if backward is not None:
        apply = apply_outside_transforms(_function(name, body, exact, setup))

    def call(*args: Any) -> Any:
        if torch.compiler.is_compiling():
            return op(*args)
        if is_watched():
            return (transformed if transformed and transforms_are_active() else op)(*args)
        recorded = False
        for x in args:  # one loop: this is paid by every call
            if type(x) in _PLAIN_VALUES:
                continue
            if isinstance(x, Tensor):
                if dispatch_bits(x) not in PLAIN_TENSORS:
                    return op(*args)
                recorded = recorded or x.requires_grad
            elif not _plain_list(x):
                return op(*args)
        run = body
        if recorded and torch.is_grad_enabled():
            run = apply
        if not autocast_is_active():
            return run(*args)
        with _without(_AUTOCAST):
            return run(*args)

    return call


def grouping(
    count: int, group: Callable[[tuple[Any, ...]], Any]
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """For bodies and shapes of operators: they take the first `count` arguments of the schema as
    one, ``group(arguments)``. A schema is flat; what travels together in it is a NamedTuple here.
    """

    def decorate(body: Callable[..., Any]) -> Callable[..., Any]:
        def flat(*args: Any) -> Any:
            return body(group(args[:count]), *args[count:])

        return flat

    return decorate


def _body_of_device(
    name: str, cpu: Callable[..., Any] | None, cuda: Callable[..., Any] | None
) -> Callable[..., Any]:
    """The device switch of all operators. Both dispatch keys get it, and it asks the tensor: the
    tests run the CUDA bodies on host tensors that say that they are on a GPU.
    """
    on_gpu, on_cpu = cuda or _absent(name), cpu or _absent(name)
    if on_gpu is on_cpu:
        return on_cpu

    def body(x: Tensor, *args: Any) -> Any:
        return on_gpu(x, *args) if x.is_cuda else on_cpu(x, *args)

    return body


def _absent(name: str) -> Callable[..., Any]:
    def body(x: Tensor, *args: Any) -> Any:
        raise NotImplementedError(f"{name} is not made for tensors on {x.device}")

    return body


def _plain_list(x: Any) -> bool:
    return type(x) in (list, tuple) and all(type(item) in _PLAIN_VALUES for item in x)


def _function(
    name: str,
    body: Callable[..., Any],
    backward: Callable[..., Any],
    setup: Callable[..., None] | None,
) -> Any:
    """The operator as a torch.autograd.Function."""

    def forward(ctx: Any, *args: Any) -> Any:
        output = body(*args)
        if setup is not None:
            setup(ctx, args, output)
        return output

    members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type(name, (torch.autograd.Function,), members)


def _with_gradient(
    op: Any, setup: Callable[..., None] | None, backward: Callable[..., Any]
) -> Callable[..., Any]:
    """What ``torch.library.register_autograd`` does, without filling in defaults: schemas here have
    none, and looking for them takes up to 50 microseconds of every call.
    """

    def below(keyset: Any, args: tuple[Any, ...]) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return op.redispatch(keyset & torch._C._after_autograd_keyset, *args)

    class Node(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            *inputs, keyset = args
            output = below(keyset, tuple(inputs))
            if setup is not None:
                setup(ctx, tuple(inputs), output)
            return output

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            inputs = backward(ctx, *grads)
            return (*inputs, None) if isinstance(inputs, tuple) else (inputs, None)

    def run(keyset: Any, *args: Any) -> Any:
        if forward_ad._current_level >= 0 and any(map(_has_tangent, args)):
            raise NotImplementedError(_FUNCTIONAL.format(op, "forward-mode derivatives"))
        if torch.is_grad_enabled() and any_requires_grad(*args):
            if transforms_are_active():
                raise NotImplementedError(_FUNCTIONAL.format(op, "derivatives by torch.func"))
            return Node.apply(*args, keyset)
        return below(keyset, args)

    return run


_FUNCTIONAL = (
    "{}: {} are not implemented, only torch.autograd's reverse ones; the losses take impl='torch' "
    "for others"
)


def _has_tangent(x: Any) -> bool:
    return isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None


def _without_autocast(op: Callable[..., Any], key: str) -> Callable[..., Any]:
    """The operator takes the dtype that it is given: torch's own products inside its body must not
    be rounded to the autocast dtype.
    """
    autocast = key_set(key)

    def run(*args: Any) -> Any:
        with _without(autocast):
            return op(*args)

    return run


def _without_any_autocast(backward: Callable[..., Any]) -> Callable[..., Any]:
    """The same for the torch operations of a backward that runs inside autocast."""

    def run(ctx: Any, *grads: torch.Tensor) -> Any:
        if not autocast_is_active():
            return backward(ctx, *grads)
        with _without(_AUTOCAST):
            return backward(ctx, *grads)

    return run


def _no_gradient(name: str) -> Callable[..., Any]:
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        raise NotImplementedError(
            f"{name} has no gradient of its own (double backward is not supported here)"
        )

    return backward

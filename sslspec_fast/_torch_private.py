"""Private functions of torch; those that some supported versions lack have a fallback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.autograd import forward_ad
from torch.utils._pytree import tree_flatten, tree_unflatten

__all__ = [
    "PLAIN_TENSORS",
    "any_requires_grad",
    "apply_outside_transforms",
    "autocast_is_active",
    "constant_when_traced",
    "dispatch_bits",
    "graph_is_kept",
    "inside_backward",
    "is_watched",
    "key_set",
    "transforms_are_active",
    "tree_flatten",
    "tree_unflatten",
]

_F = TypeVar("_F", bound=Callable[..., Any])

_any_requires_grad: Callable[..., bool] | None = getattr(torch._C, "_any_requires_grad", None)

# Whether torch.vmap or torch.func is at work. Torch's own function: every call of an operator asks.
transforms_are_active: Callable[[], bool] = torch._C._are_functorch_transforms_active


# Whether this thread runs under autocast for some device; True where torch does not tell.
autocast_is_active: Callable[[], bool] = getattr(torch._C, "_is_any_autocast_enabled", lambda: True)

# Whether the running backward pass keeps the graph (retain_graph=True); True where torch does not
# tell.
graph_is_kept: Callable[[], bool] = getattr(
    torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True
)


def is_watched() -> bool:
    """Whether more than a call's result is asked for: torch.jit traces, a dispatch or function mode
    or a transform of torch.func is at work, or forward-mode derivatives are.
    """
    return bool(
        torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or transforms_are_active()
        or forward_ad._current_level >= 0
    )


def apply_outside_transforms(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """``function.apply`` for plain tensors while no transform of torch.func is at work: it does not
    look at each argument for what such a transform leaves behind.
    """
    return super(torch.autograd.Function, function).apply  # type: ignore[misc]


def inside_backward() -> bool:
    """Whether this thread runs a backward pass."""
    return bool(torch._C._current_graph_task_id() != -1)


def any_requires_grad(*args: Any) -> bool:
    """Whether one of the tensors among the arguments, or in a list of them, requires a gradient."""
    if _any_requires_grad is not None:  # torch >= 2.8
        return bool(_any_requires_grad(*args))
    flat = [item for x in args for item in (x if isinstance(x, (list, tuple)) else [x])]
    return any(isinstance(x, torch.Tensor) and x.requires_grad for x in flat)


def constant_when_traced(function: _F) -> _F:
    """torch.compile calls the function while it traces and keeps the result as a constant.

    It guards the arguments but not ``self``: an argument must tell one relation from another, or
    the caller must read an attribute that does.

    The mark of torch.compiler.assume_constant_result, which would import the compiler here.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def key_set(*names: str) -> Any:
    """The set of dispatch keys of these names."""
    out = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, names[0]))
    for name in names[1:]:
        out = out | torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, name))
    return out


def _bits(keys: Any) -> int | None:
    """A set of dispatch keys as one number; None before torch 2.7, which cannot tell."""
    return int(keys.raw_repr()) if hasattr(keys, "raw_repr") else None


# Dense, on a CPU or GPU, without any subclass, wrapper or lazy bit. Empty before torch 2.7: every
# call then goes through the dispatcher, which is slower and gives the same results.
PLAIN_TENSORS = {
    _bits(key_set(device, "ADInplaceOrView", f"Autograd{device}", f"Autocast{device}"))
    for device in ("CPU", "CUDA")
} - {None}


def dispatch_bits(x: torch.Tensor) -> int | None:
    """The dispatch keys of a tensor as a number, to be looked up in `PLAIN_TENSORS`."""
    return torch._C._dispatch_keys(x).raw_repr() if PLAIN_TENSORS else None

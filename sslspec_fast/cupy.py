"""The losses for CuPy arrays: every function of `sslspec_fast.functional`, returning (loss, grads).

    import sslspec_fast.cupy as sfc
    loss, (grad_z1, grad_z2) = sfc.nt_xent(z1, z2, temperature=0.1)

The arrays are shared with torch through DLPack, not copied, and the work runs on CuPy's current
stream. `grads` holds the gradient of the loss (of its sum, with ``reduction="none"``) with respect
to every floating-point CuPy argument, positional ones first, then by keyword; None where the loss
does not depend on it. With ``return_terms=True`` the loss comes as (loss, terms). Integer arrays
(labels, ids) and graphs are passed on.

Errors: ImportError without cupy; those of the losses; TypeError when no argument is a
floating-point CuPy array.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch

from . import functional

__all__ = [name for name in functional.__all__ if name != "negative_mises_fisher_weights"]


def _cupy() -> Any:
    try:
        return importlib.import_module("cupy")
    except ImportError as error:
        raise ImportError(
            "sslspec_fast.cupy needs CuPy: pip install cupy-cuda13x (or sslspec-fast[cuda])"
        ) from error


def _on_stream_of(cupy: Any, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Makes torch launch on CuPy's current stream, so that no synchronisation is needed."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    pointer = cupy.cuda.get_current_stream().ptr
    return torch.cuda.stream(torch.cuda.ExternalStream(pointer, device=device))


def _back(cupy: Any, value: Any) -> Any:
    """Tensors in any tuple or dict as CuPy arrays."""
    if isinstance(value, torch.Tensor):
        return cupy.from_dlpack(value.detach())
    if isinstance(value, tuple):
        return tuple(_back(cupy, v) for v in value)
    if isinstance(value, dict):
        return {key: _back(cupy, v) for key, v in value.items()}
    return value


def _mirror(name: str) -> Callable[..., Any]:
    function = getattr(functional, name)

    @functools.wraps(function)
    def mirrored(*args: Any, **keywords: Any) -> Any:
        cupy = _cupy()
        inputs: list[torch.Tensor] = []

        def tensor(value: Any) -> Any:
            if not isinstance(value, cupy.ndarray):
                return value
            shared = torch.from_dlpack(value)
            if shared.is_floating_point():
                shared = shared.requires_grad_()
                inputs.append(shared)
            return shared

        found = [value for value in (*args, *keywords.values()) if isinstance(value, cupy.ndarray)]
        if not any(value.dtype.kind == "f" for value in found):
            raise TypeError(
                f"{name}: at least one argument must be a floating-point CuPy array, "
                f"got {[type(value).__name__ for value in (*args, *keywords.values())]}"
            )
        device = torch.from_dlpack(found[0]).device
        with _on_stream_of(cupy, device):
            positional = [tensor(value) for value in args]
            named = {key: tensor(value) for key, value in keywords.items()}
            result = function(*positional, **named)
            loss = result[0] if isinstance(result, tuple) else result
            grads = torch.autograd.grad(loss.sum(), inputs, allow_unused=True)
            return _back(cupy, result), _back(cupy, tuple(grads))

    mirrored.__doc__ = f"`functional.{name}` for CuPy arrays: (loss, grads).\n\n{function.__doc__}"
    return mirrored


for _name in __all__:
    globals()[_name] = _mirror(_name)
del _name

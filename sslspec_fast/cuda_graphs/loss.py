"""A loss that a GPU starts as one CUDA graph, for batches of a few rows.

A step of a few hundred rows takes a GPU some ten microseconds, and the host several times that:
each kernel, each operator and each node of autograd is started by itself. A CUDA graph starts all
of them at once, over memory whose addresses never change.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from .. import _checks as check
from .._torch_private import inside_backward, is_watched, tree_flatten, tree_unflatten
from ..ranks import ExchangeRefused
from .recorder import CudaRecorder
from .step import CannotReplay, CapturedStep

__all__ = ["GraphedLoss", "graphed"]

OP = "graphed"
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_OWN_OF_MODULE = frozenset(vars(torch.nn.Module()))
_PLAIN = (type(None), bool, int, float, str, torch.dtype, torch.device)
_TENSORS = (Tensor, torch.nn.Parameter)


def graphed(loss: Callable[..., Any], *, most: int = 8) -> GraphedLoss:
    """The same loss, replayed as a CUDA graph where its inputs are on a GPU.

    The first call of a kind runs the loss a few times and captures value and gradients; later ones
    copy their tensors into static memory, replay, and return copies: nothing that a caller holds is
    overwritten, and several calls before a backward pass, gradient accumulation, loss scales and
    ``retain_graph=True`` are right. On a CPU it is the loss itself.

    A kind is: shapes, dtypes and ``requires_grad`` of all tensors among the arguments, parameters
    and buffers; numbers, strings and flags among the arguments and the attributes of a module; grad
    mode, autocast and the precision of float32 products. A temperature or scale that changes
    from step to step is best given as a 0-dim tensor: as a number each value is another kind.

    These calls run eagerly, with the same result, and `GraphedLoss.calls` says how many and why: a
    CPU tensor among the inputs; inside a capture of the caller, which then contains the kernels;
    under torch.compile, which traces the loss; further kinds than `most`; first calls of a kind
    inside a backward pass; arguments that are neither tensors nor plain values, such as a
    `PairGraph`; a module with hooks; losses over several ranks, and losses that draw random
    numbers, change a buffer (a queue, a memory bank, a centre), hold a tensor that requires a
    gradient, or read a result on the host. Derivatives of the gradient (``create_graph=True``) are
    computed eagerly.

    Other tensors that a function holds, in a closure or a `functools.partial`, are read where they
    were at the capture: update them in place, or pass them. A function must not communicate over
    torch.distributed by itself.

    Args:
        loss: a function such as ``sf.functional.clip``, or a Module such as ``sf.NTXentLoss()``, of
            tensors and plain values, also in tuples, lists and dicts.
        most: kinds of calls that are captured, >= 1; each keeps the memory of its workspaces and
            gradients.

    Returns:
        A Module with the call of the loss.

    Raises:
        TypeError or ValueError: loss is not callable, or most no integer >= 1.

    >>> loss = graphed(torch.nn.functional.mse_loss)
    >>> float(loss(torch.ones(3), torch.zeros(3)))
    1.0
    """
    return GraphedLoss(loss, most=most)


class GraphedLoss(torch.nn.Module):
    """What `sslspec_fast.graphed` returns.

    Attributes:
        loss: the loss that is wrapped.
        calls: how many calls were "replayed", and how many ran eagerly by reason.
    """

    recorder: Any = CudaRecorder

    def __init__(self, loss: Callable[..., Any], *, most: int = 8) -> None:
        super().__init__()
        if not callable(loss):
            raise TypeError(f"{OP}: loss must be callable, got {type(loss).__name__}")
        self.most = check.count(OP, "most", most, 1)
        self.loss = loss
        self._start()

    def _start(self) -> None:
        self.calls: dict[str, int] = {}
        self._kinds: list[tuple[Any, Any, CapturedStep | str]] = []
        self._held: list[Any] = []  # keeps the numbers that `id` gave unique
        self._lock = threading.Lock()

    def reset(self) -> None:
        """Frees all captured graphs with their memory, and forgets the counts.

        Returns:
            None.
        """
        self._start()

    def __getstate__(self) -> dict[str, Any]:
        """A copy or a file contains the loss, and captures anew."""
        return {k: v for k, v in self.__dict__.items() if k not in _CAPTURED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._start()

    def extra_repr(self) -> str:
        name = getattr(self.loss, "__name__", type(self.loss).__name__)
        return f"most={self.most}" if "loss" in self._modules else f"{name}, most={self.most}"

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return self.loss(*args, **kwargs)
        leaves, spec = tree_flatten((args, kwargs))
        tensors = [x for x in leaves if isinstance(x, Tensor)]
        step: CapturedStep | str | None = self._refusal(leaves, tensors)
        state: dict[str, Tensor] = {}
        if step is None:
            state = self._state()
            tensors += state.values()
            step = self._step(leaves, spec, tensors, list(state))
        if isinstance(step, str):
            self.calls[step] = self.calls.get(step, 0) + 1
            return self.loss(*args, **kwargs)
        self.calls["replayed"] = self.calls.get("replayed", 0) + 1
        return step(tensors)

    def _refusal(self, leaves: Sequence[Any], tensors: Sequence[Tensor]) -> str | None:
        """Why these arguments are of no kind that could be captured."""
        for x in leaves:
            if type(x) not in _TENSORS and not isinstance(x, _PLAIN):
                return f"an argument of type {type(x).__name__}"
        if not tensors:
            return "no tensor among the arguments"
        if any(x.layout != torch.strided for x in tensors):
            return "a tensor that is not dense"
        if is_watched():
            return "under a mode or a transform"
        if self._has_hooks():
            return "hooks of the module"
        reason: str | None = self.recorder.refusal(tensors)
        return reason

    def _has_hooks(self) -> bool:
        """Whether functions of the caller run with the module, which a replay would leave out."""
        if not isinstance(self.loss, torch.nn.Module):
            return False
        return any(getattr(m, hooks) for m in self.loss.modules() for hooks in _HOOKS)

    def _state(self) -> dict[str, Tensor]:
        if not isinstance(self.loss, torch.nn.Module):
            return {}
        return {**dict(self.loss.named_parameters()), **dict(self.loss.named_buffers())}

    def _step(
        self, leaves: Sequence[Any], spec: Any, tensors: Sequence[Tensor], names: list[str]
    ) -> CapturedStep | str:
        key = self._key(leaves, tensors, names)
        for known, known_spec, step in self._kinds:
            if known == key and known_spec == spec:
                return step
        if len(self._kinds) >= self.most:
            return f"more than {self.most} kinds of calls"
        if inside_backward():
            return "a first call inside a backward pass"
        with self._lock:
            step = self._captured(leaves, spec, tensors, names)
            if step != _TO_BE_RAISED:
                self._kinds.append((key, spec, step))
        return step

    def _key(self, leaves: Sequence[Any], tensors: Sequence[Tensor], names: list[str]) -> Any:
        device = tensors[0].device
        return (
            [None if isinstance(x, Tensor) else (type(x), x) for x in leaves],
            [(x.shape, x.dtype, x.requires_grad) for x in tensors],
            names,
            device,
            torch.is_grad_enabled(),
            torch.is_autocast_enabled(device.type),
            torch.get_autocast_dtype(device.type),
            torch.get_float32_matmul_precision(),
            torch.are_deterministic_algorithms_enabled(),
            self._attributes(),
        )

    def _attributes(self) -> list[Any]:
        """Of the module and those inside it: a changed temperature is another kind."""
        if not isinstance(self.loss, torch.nn.Module):
            return []
        return [
            [(k, self._named(v)) for k, v in vars(m).items() if k not in _OWN_OF_MODULE]
            + [m.training]
            for m in self.loss.modules()
        ]

    def _named(self, value: Any) -> Any:
        if isinstance(value, _PLAIN):
            return type(value), value
        if isinstance(value, dict):
            return [(k, self._named(v)) for k, v in value.items()]
        if isinstance(value, (tuple, list)):
            return [self._named(v) for v in value]
        if not any(value is held for held in self._held):
            self._held.append(value)
        return id(value)

    def _captured(
        self, leaves: Sequence[Any], spec: Any, tensors: Sequence[Tensor], names: list[str]
    ) -> CapturedStep | str:
        constants = [None if isinstance(x, Tensor) else x for x in leaves]
        places = [i for i, x in enumerate(leaves) if isinstance(x, Tensor)]

        def call(inputs: Sequence[Tensor]) -> Any:
            mine = list(constants)
            for i, x in zip(places, inputs[: len(places)], strict=True):
                mine[i] = x
            args, kwargs = tree_unflatten(mine, spec)
            if not isinstance(self.loss, torch.nn.Module):
                return self.loss(*args, **kwargs)
            state = dict(zip(names, inputs[len(places) :], strict=True))
            given = dict(state)
            out = functional_call(self.loss, state, args, kwargs)
            if any(state[name] is not given[name] for name in names):
                raise CannotReplay("the loss replaces a buffer")
            return out

        try:
            return CapturedStep(call, tensors, self.recorder(tensors[0].device))
        except CannotReplay as reason:
            return str(reason)
        except ExchangeRefused:
            return "a loss over several ranks"
        except Exception as error:
            return self._failed(call, tensors, error)

    def _failed(
        self, call: Callable[[Sequence[Tensor]], Any], tensors: Sequence[Tensor], error: Exception
    ) -> str:
        """Bad arguments fail in the eager call as well, which says so; anything else is told."""
        try:
            with torch.no_grad():
                call([x.detach().clone() for x in tensors])
        except Exception:
            return _TO_BE_RAISED
        lines = str(error).strip().splitlines() or [""]
        reason = f"no capture: {type(error).__name__}: {lines[0]}"
        warnings.warn(f"{OP}: the loss runs eagerly, {reason}", RuntimeWarning, stacklevel=7)
        return reason


_TO_BE_RAISED = "arguments that the loss refuses"
_CAPTURED = ("calls", "_kinds", "_held", "_lock")

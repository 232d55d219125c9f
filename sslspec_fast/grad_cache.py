"""A batch larger than its activations: encode in chunks, and replay them in the backward pass.

The loss of n rows needs their n embeddings at once, but the encoder treats every row by itself. So
the embeddings are computed a chunk at a time without a graph, the loss is taken on all of them, and
in the backward pass each chunk is encoded again, with a graph, and given its part of the gradient
:math:`\\partial L / \\partial Z`. The activations of one chunk are held at a time, and the encoder
runs forward twice. The gradients are those of the whole step.

Gao, Zhang, Han, Callan, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup"
(RepL4NLP 2021, arXiv 2101.06983).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from . import _checks as check
from ._torch_private import tree_flatten, tree_unflatten

__all__ = ["GradCache"]

BATCH_NORM = ("refuse", "chunk")
HALF = (torch.float16, torch.bfloat16)
OP = "GradCache"


class GradCache(torch.nn.Module):
    """An encoder that holds the activations of `chunk_size` rows at a time (arXiv 2101.06983).

    ``GradCache(encoder, chunk_size)(*args, **kwargs)`` is ``encoder(*args, **kwargs)``, with the
    same gradients. What follows is ordinary: any loss, `backward`, GradScaler, several towers.

    Args:
        encoder: a Module, or a method of one such as ``clip.encode_image``, that treats rows by
            themselves: row i of its outputs depends on row i of its inputs only.
        chunk_size: rows that are encoded at a time.
        batch_norm: "refuse" raises ValueError where a batch norm of the encoder is in training
            mode, because its statistics would be those of a chunk and not of the batch. "chunk"
            takes these, as each process of an unsynchronised DDP does; running statistics are
            updated once per chunk.

    Call: every tensor among the arguments, in tuples, lists and dicts too, has the n rows of the
    batch first; other values go to every chunk as they are. Every output tensor has one row per row
    of the chunk, or is 0-dim and the same for all chunks, as the exponentiated scale of a CLIP
    model is. Inputs that require a gradient get one.

    Dropout draws the same numbers in the replay, autocast is as it was, checkpoints inside the
    encoder work. Parameters that change between the call and its backward
    pass are a RuntimeError. Second derivatives are refused.

    With DDP either order works. ``DDP(GradCache(encoder))`` reduces once in a backward pass;
    ``GradCache(DDP(encoder))`` once for each call, in its last chunk. Ranks may have different
    numbers of rows, 0 included. With sharded parameters (``GradCache(fully_shard(encoder))``) they
    need the same number of chunks. Around a data-parallel encoder gradients go to ``.grad`` only:
    call ``backward``, not ``torch.autograd.grad``.

    Raises:
        TypeError or ValueError: arguments that do not fit; at a call, outputs that do not.

    >>> encoder = torch.nn.Linear(3, 2)
    >>> z = GradCache(encoder, chunk_size=4)(torch.ones(10, 3))
    >>> z.square().sum().backward()
    >>> encoder.weight.grad.shape
    torch.Size([2, 3])
    """

    def __init__(
        self, encoder: Callable[..., Any], chunk_size: int, *, batch_norm: str = "refuse"
    ) -> None:
        super().__init__()
        owner = getattr(encoder, "__self__", None)
        if not isinstance(encoder, torch.nn.Module):
            if not isinstance(owner, torch.nn.Module):
                raise TypeError(
                    f"{OP}: encoder must be a Module or a method of one, so that its parameters "
                    f"are known, got {type(encoder).__name__}"
                )
            encoder = _Method(owner, encoder.__name__)
        check.choice(OP, "batch_norm", batch_norm, BATCH_NORM)
        self.chunk_size = check.count(OP, "chunk_size", chunk_size, 1)
        self.batch_norm = batch_norm
        self.encoder = encoder

    def extra_repr(self) -> str:
        return f"chunk_size={self.chunk_size}, batch_norm={self.batch_norm!r}"

    @torch.compiler.disable
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        leaves, spec = tree_flatten((args, kwargs))
        positions = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        inputs = [leaves[i] for i in positions]
        rows = _rows_of(inputs)
        self._check_batch_norm()

        def encode(chunk: Sequence[Tensor], parameters: dict[str, Tensor] | None = None) -> Any:
            mine = list(leaves)
            for i, tensor in zip(positions, chunk, strict=True):
                mine[i] = tensor
            some, named = tree_unflatten(mine, spec)
            if parameters is None:
                return self.encoder(*some, **named)
            return functional_call(self.encoder, parameters, some, named)

        parameters = dict(self.encoder.named_parameters())
        step = _Step(
            encode,
            [slice(at, min(at + self.chunk_size, rows)) for at in range(0, rows, self.chunk_size)]
            or [slice(0, 0)],
            list(parameters),
            _autocast_of([*inputs, *parameters.values()]),
            _devices_of([*inputs, *parameters.values()]),
            [m for m in self.encoder.modules() if isinstance(m, _BatchNorm) and m.training],
            _DataParallel.of(self.encoder),
        )
        trained = any(p.requires_grad for p in parameters.values())
        anchor = torch.zeros((), requires_grad=trained and torch.is_grad_enabled())
        edges: list[Tensor] = list(parameters.values())
        if step.parallel is not None:  # gradients go to ``.grad``, and no edge leads there
            edges = [p.detach() for p in edges]
        return step.rebuilt(_Replayed.apply(step, anchor, *inputs, *edges))

    def _check_batch_norm(self) -> None:
        if self.batch_norm == "chunk":
            return
        for name, module in self.encoder.named_modules():
            if isinstance(module, _BatchNorm) and module.training:
                raise ValueError(
                    f"{OP}: batch_norm must be 'chunk' for an encoder with a batch norm in "
                    f"training mode, got 'refuse' and {type(module).__name__} {name!r}: its "
                    "statistics are those of a chunk, not of the batch"
                )


class _Method(torch.nn.Module):
    """A method of a module as a module."""

    def __init__(self, owner: torch.nn.Module, name: str) -> None:
        super().__init__()
        self.owner, self.name = owner, name

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.owner, self.name)(*args, **kwargs)

    def extra_repr(self) -> str:
        return f"method={self.name!r}"


@dataclass
class _DataParallel:
    """Modules of the encoder that reduce gradients over ranks when they are accumulated.

    replicated: its DistributedDataParallel modules, each with whether it reduces in this step.
    """

    replicated: list[tuple[Any, bool]]

    @classmethod
    def of(cls, encoder: torch.nn.Module) -> _DataParallel | None:
        modules = list(encoder.modules())
        replicated = [m for m in modules if isinstance(m, DistributedDataParallel)]
        if not replicated and not any(_is_sharded(m) for m in modules):
            return None
        return cls([(m, m.require_backward_grad_sync) for m in replicated])

    def silent(self, last: bool) -> contextlib.ExitStack:
        """Around every chunk: replicas reduce in the last one, if they do so in this step."""
        stack = contextlib.ExitStack()
        for module, reduces in self.replicated:
            if not (last and reduces):
                stack.enter_context(module.no_sync())
        return stack


@dataclass
class _Step:
    """One call: how a chunk is encoded, and under which state."""

    encode: Callable[..., Any]
    chunks: list[slice]
    names: list[str]  # of the parameters
    autocast: dict[str, tuple[bool, torch.dtype]]
    devices: list[torch.device]
    batch_norms: list[_BatchNorm]
    parallel: _DataParallel | None

    def __post_init__(self) -> None:
        self._random: list[list[Tensor]] = []  # before each chunk: of the CPU and the devices
        self._spec: Any = None

    def first_pass(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs of all chunks, below each other."""
        parts: list[list[Tensor]] = []
        with self._casting():
            for rows in self.chunks:
                self._random.append(_random_state(self.devices))
                parts.append(self._flat(self.encode([x[rows] for x in inputs]), rows))
        return [_joined(of_chunks) for of_chunks in zip(*parts, strict=True)]

    def rebuilt(self, outputs: Sequence[Tensor]) -> Any:
        return tree_unflatten(list(outputs), self._spec)

    def _flat(self, outputs: Any, rows: slice) -> list[Tensor]:
        leaves, self._spec = tree_flatten(outputs)
        count = rows.stop - rows.start
        for leaf in leaves:
            if not isinstance(leaf, Tensor):
                raise TypeError(f"{OP}: encoder must return tensors, got {type(leaf).__name__}")
            if leaf.dim() and leaf.shape[0] != count:
                raise ValueError(
                    f"{OP}: encoder must return one row for each of the {count} rows of a chunk, "
                    f"got shape {tuple(leaf.shape)}"
                )
        return leaves

    @contextlib.contextmanager
    def _casting(self) -> Iterator[None]:
        """Autocast as in the call, without its cache: a weight that was cast in another chunk has
        no graph here.
        """
        with contextlib.ExitStack() as stack:
            for device, (enabled, dtype) in self.autocast.items():
                stack.enter_context(
                    torch.autocast(device, dtype=dtype, enabled=enabled, cache_enabled=False)
                )
            yield

    @contextlib.contextmanager
    def _as_before(self, chunk: int) -> Iterator[None]:
        """Random numbers as in the first pass of a chunk; running statistics stay as they are."""
        now = _random_state(self.devices)
        tracked = [module.track_running_stats for module in self.batch_norms]
        for module in self.batch_norms:
            module.track_running_stats = False
        _set_random_state(self.devices, self._random[chunk])
        try:
            yield
        finally:
            _set_random_state(self.devices, now)
            for module, tracks in zip(self.batch_norms, tracked, strict=True):
                module.track_running_stats = tracks

    def replay(
        self, tensors: Sequence[Tensor], needed: Sequence[bool], grads: Sequence[Tensor | None]
    ) -> list[Tensor | None]:
        """Gradients of the inputs and parameters that need one, from those of all outputs."""
        n_inputs = len(tensors) - len(self.names)
        inputs, parameters = tensors[:n_inputs], tensors[n_inputs:]
        # Copies without the hooks of the parameters, which are called with the whole gradient.
        copies = [
            p.detach().requires_grad_(need)
            for p, need in zip(parameters, needed[n_inputs:], strict=True)
        ]
        named = None if self.parallel else dict(zip(self.names, copies, strict=True))
        sums: list[Tensor | None] = [None] * len(copies)
        of_inputs: list[list[Tensor]] = [[] for _ in inputs]
        for chunk, rows in enumerate(self.chunks):
            last = chunk == len(self.chunks) - 1
            leaves = [
                x.detach()[rows].requires_grad_(need)
                for x, need in zip(inputs, needed[:n_inputs], strict=True)
            ]
            with self._reducing(last), torch.enable_grad():
                with self._as_before(chunk), self._casting():
                    outputs = self._flat(self.encode(leaves, named), rows)
                torch.autograd.backward(*_roots(outputs, grads, rows, last))
            for x, parts in zip(leaves, of_inputs, strict=True):
                if x.requires_grad:
                    parts.append(torch.zeros_like(x) if x.grad is None else x.grad)
            for i, copy in enumerate(copies):
                if copy.dtype in HALF and copy.grad is not None:  # summed in float32
                    total = sums[i]
                    sums[i] = copy.grad.float() if total is None else total + copy.grad
                    copy.grad = None
        of_parameters = [
            copy.grad if total is None else total.to(copy.dtype)
            for copy, total in zip(copies, sums, strict=True)
        ]
        return [*(torch.cat(parts) if parts else None for parts in of_inputs), *of_parameters]

    def _reducing(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if self.parallel is None else self.parallel.silent(last)


class _Replayed(torch.autograd.Function):
    """`_Step.first_pass` with `_Step.replay` as its derivative.

    anchor: requires a gradient where the outputs do.
    """

    @staticmethod
    def forward(ctx: Any, step: _Step, anchor: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.step = step
        ctx.save_for_backward(*tensors)
        outputs = step.first_pass(tensors[: len(tensors) - len(step.names)])
        ctx.mark_non_differentiable(*[x for x in outputs if not x.is_floating_point()])
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        found = ctx.step.replay(ctx.saved_tensors, ctx.needs_input_grad[2:], grads)
        return (None, None, *found)


def _is_sharded(module: torch.nn.Module) -> bool:
    """Whether FSDP, of either version, holds its parameters."""
    return any(
        base.__module__.startswith("torch.distributed.fsdp") for base in type(module).__mro__
    )


def _rows_of(inputs: Sequence[Tensor]) -> int:
    if not inputs:
        raise TypeError(f"{OP}: needs a tensor among its arguments, got none")
    for x in inputs:
        if x.dim() == 0 or x.shape[:1] != inputs[0].shape[:1]:
            raise ValueError(
                f"{OP}: every tensor must have the rows of the batch first, got shapes "
                f"{tuple(inputs[0].shape)} and {tuple(x.shape)}"
            )
    return inputs[0].shape[0]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Rows below each other; of what has none: the value that all chunks have."""
    if parts[0].dim():
        return torch.cat(list(parts))
    every = torch.stack(list(parts))
    if not bool((every == every[0]).all()):
        raise ValueError(
            f"{OP}: a 0-dim output must be the same for all chunks, got {every.min().item()} and "
            f"{every.max().item()}"
        )
    return every[0].clone()


def _roots(
    outputs: Sequence[Tensor], grads: Sequence[Tensor | None], rows: slice, last: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """The outputs of a chunk that get a gradient, and these; a 0-dim one gets it in the last."""
    roots, of_roots = [], []
    for output, grad in zip(outputs, grads, strict=True):
        if grad is None or not output.requires_grad or not (output.dim() or last):
            continue
        roots.append(output)
        of_roots.append(grad[rows] if output.dim() else grad)
    return roots, of_roots


def _autocast_of(tensors: Sequence[Tensor]) -> dict[str, tuple[bool, torch.dtype]]:
    """Of every type of device: whether autocast is on, and its dtype."""
    types = {"cpu", *(x.device.type for x in tensors)} - {"meta"}
    return {
        kind: (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
        for kind in sorted(types)
    }


def _devices_of(tensors: Sequence[Tensor]) -> list[torch.device]:
    """Those that have a random generator of their own, besides the CPU's."""
    devices = {x.device for x in tensors if x.device.type not in ("cpu", "meta")}
    return sorted(devices, key=str)


def _random_state(devices: Sequence[torch.device]) -> list[Tensor]:
    states = [getattr(torch, device.type).get_rng_state(device) for device in devices]
    return [torch.get_rng_state(), *states]


def _set_random_state(devices: Sequence[torch.device], states: Sequence[Tensor]) -> None:
    torch.set_rng_state(states[0])
    for device, state in zip(devices, states[1:], strict=True):
        getattr(torch, device.type).set_rng_state(state, device)

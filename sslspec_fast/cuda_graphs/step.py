"""Value and gradient of one kind of call as two CUDA graphs over static memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from .._torch_private import tree_flatten, tree_unflatten
from ..primitives._double_backward import through_composition
from ..ranks import without_exchange

__all__ = ["CannotReplay", "CapturedStep"]

WARM_UP = 2  # runs before a capture: libraries start, and caches on the host fill


class CannotReplay(Exception):
    """Why the loss is not the same computation in every call."""


class CapturedStep:
    """A loss with its inputs in static memory.

    Args:
        call: the loss, of the static inputs.
        inputs: of the first call, all on one device; their values are not kept.
        recorder: of that device.

    A replay of the forward graph leaves in the pool what the backward graph reads. Every replay
    gets a number: a backward pass that finds another number (two losses of one kind in a step)
    fills the inputs in again and replays its forward graph first. What leaves is a copy, so that no
    tensor of a caller is overwritten.
    """

    def __init__(
        self, call: Callable[[Sequence[Tensor]], Any], inputs: Sequence[Tensor], recorder: Any
    ) -> None:
        self.call, self.recorder = call, recorder
        self.lock = threading.Lock()
        self.number = 0
        with torch.inference_mode(False), torch.no_grad():
            self.inputs = [torch.empty_like(x).copy_(x) for x in inputs]
        self.wanted = [x.requires_grad and torch.is_grad_enabled() for x in inputs]
        self.leaves: list[Tensor] = []
        self.outputs: list[Any] = []
        self.factors: list[Tensor] = []
        self.grads: list[Tensor | None] = []
        # casts that autocast remembers from outside a graph are no part of it
        device = recorder.device.type
        self.autocast = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
        # hooks of the caller, such as those of a checkpoint, are for the tensors of the caller
        with torch.inference_mode(False), saved_tensors_hooks(_as_it_is, _as_it_is):
            self._record()

    def _record(self) -> None:
        self._warm_up()
        self.forward_graph = self.recorder.record(self._forward)
        self.backward_graph = self.recorder.record(self._backward) if any(self.wanted) else None

    def _warm_up(self) -> None:
        """Runs the loss, and refuses one that does more than compute outputs from its inputs."""
        device, versions = self.recorder.device, [x._version for x in self.inputs]
        states = torch.get_rng_state(), self.recorder.random_state(device)

        def run() -> None:
            for _ in range(WARM_UP):
                with without_exchange():
                    self._forward()
                if any(self.wanted):
                    self._backward()

        try:
            self.recorder.warm_up(run)
            drawn = torch.get_rng_state(), self.recorder.random_state(device)
        finally:
            torch.set_rng_state(states[0])
            self.recorder.set_random_state(device, states[1])
        if not all(map(torch.equal, states, drawn)):
            raise CannotReplay("the loss draws random numbers")
        if versions != [x._version for x in self.inputs]:
            raise CannotReplay("the loss changes its inputs or buffers")
        self._check_graph()

    def _check_graph(self) -> None:
        """Every leaf of the autograd graph must be an input, or its gradient would be lost."""
        known = {id(leaf) for leaf in self.leaves}
        nodes, seen = [o.grad_fn for o in self._differentiable()], set()
        if nodes and not any(self.wanted):
            raise CannotReplay("the loss holds a tensor that requires a gradient")
        while nodes:
            node = nodes.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            variable = getattr(node, "variable", None)
            if variable is not None and id(variable) not in known:
                raise CannotReplay("the loss holds a tensor that requires a gradient")
            nodes += [following for following, _ in node.next_functions]

    def _differentiable(self) -> list[Tensor]:
        return [o for o in self.outputs if isinstance(o, Tensor) and o.requires_grad]

    def _forward(self) -> None:
        enabled, dtype = self.autocast
        leaves = [x.detach() for x in self.inputs]
        pairs = zip(leaves, self.wanted, strict=True)
        self.leaves = [x.requires_grad_() if wanted else x for x, wanted in pairs]
        with (
            torch.set_grad_enabled(any(self.wanted)),
            torch.autocast(self.recorder.device.type, dtype, enabled, cache_enabled=False),
        ):
            self.outputs, self.spec = tree_flatten(self.call(self.leaves))
        if not self.factors:
            self.factors = [torch.ones_like(o) for o in self._differentiable()]

    def _backward(self) -> None:
        leaves = [leaf for leaf in self.leaves if leaf.requires_grad]
        outputs = self._differentiable()
        if not outputs:
            self.grads = [None] * len(self.inputs)
            return
        # the graph stays: its saved tensors must keep their memory
        found = iter(
            torch.autograd.grad(outputs, leaves, self.factors, retain_graph=True, allow_unused=True)
        )
        self.grads = [next(found) if wanted else None for wanted in self.wanted]

    def __call__(self, inputs: Sequence[Tensor]) -> Any:
        """The loss of other inputs of the same kind."""
        if any(self.wanted):
            found = list(_Replay.apply(self, *inputs))
        else:
            with torch.no_grad():
                found = self.replay(inputs)[0]
        tensors = iter(found)
        leaves = [next(tensors) if isinstance(o, Tensor) else o for o in self.outputs]
        return tree_unflatten(leaves, self.spec)

    def replay(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], int]:
        """Copies of the outputs, and the number of this replay."""
        with self.lock:
            self._fill(inputs)
            return [o.detach().clone() for o in self.outputs if isinstance(o, Tensor)], self.number

    def gradients(
        self, inputs: Sequence[Tensor], number: int, factors: Sequence[Tensor]
    ) -> tuple[list[Tensor | None], int]:
        """Copies of the gradients of the replay `number`, and the number whose state there is."""
        assert self.backward_graph is not None
        with self.lock:
            if number != self.number:
                self._fill(inputs)
            self.recorder.ordered()
            torch._foreach_copy_(self.factors, list(factors))
            self.backward_graph()
            return [None if g is None else g.clone() for g in self.grads], self.number

    def _fill(self, inputs: Sequence[Tensor]) -> None:
        self.recorder.ordered()
        torch._foreach_copy_(self.inputs, list(inputs))
        self.number += 1
        self.forward_graph()


def _as_it_is(x: Tensor) -> Tensor:
    return x


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, step: CapturedStep, *inputs: Tensor) -> tuple[Tensor, ...]:
        found, ctx.number = step.replay(inputs)
        ctx.step = step
        ctx.save_for_backward(*inputs)
        tensors = [o for o in step.outputs if isinstance(o, Tensor)]
        ctx.differentiable = [o.requires_grad for o in tensors]
        constant = [f for f, d in zip(found, ctx.differentiable, strict=True) if not d]
        ctx.mark_non_differentiable(*constant)
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        step, inputs = ctx.step, ctx.saved_tensors
        factors = [g for g, d in zip(grads, ctx.differentiable, strict=True) if d]
        if torch.is_grad_enabled():  # create_graph=True: the gradient itself has one

            def compose(*leaves: Tensor) -> list[Tensor]:
                found, _ = tree_flatten(step.call(leaves))
                return [o for o in found if isinstance(o, Tensor) and o.requires_grad]

            return None, *through_composition(compose, inputs, factors)
        found, ctx.number = step.gradients(inputs, ctx.number, factors)
        pairs = zip(found, ctx.needs_input_grad[1:], strict=True)
        return None, *(g if needed else None for g, needed in pairs)

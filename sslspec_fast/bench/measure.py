"""Time several forms of one computation against each other in a single run.

The variants of a case take turns, so that a change of clock or a busy neighbour hits them all; each
sample is one forward and backward; the table shows the median with the 20th and 80th percentile.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from .machine import synchronize

Variant = Callable[..., Tensor]


@dataclass(frozen=True)
class Timing:
    """Seconds per forward + backward; cpu: median of the seconds of all threads together."""

    p20: float
    p50: float
    p80: float
    samples: int
    cpu: float = math.nan


@contextmanager
def flushed_subnormals() -> Iterator[None]:
    """Subnormal numbers count as zero for every variant, on the CPU.

    Weights of well-aligned pairs at scale 100 are 2^-100, and plain torch then spends 40 times as
    long as its work takes on products with subnormal numbers; users who know set this flag. Enter
    before the first parallel product: threads take the mode of the one that starts them.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def flushed_share() -> float:
    """Share of the subnormal results of a parallel product that come out as zero: 1 where all
    threads flush them, less where one was started before `flushed_subnormals`.
    """
    side = 1024
    a, b = torch.zeros(side, side), torch.zeros(side, side)
    a[:, 0], b[0] = 1e-20, 1e-20
    return float((a @ b == 0).float().mean())


def forward_backward(variant: Variant, leaves: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Gradients of the loss with respect to the leaves; nothing is accumulated. Losses by row are
    added up.
    """
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    loss = variant(*leaves)
    return torch.autograd.grad(loss if loss.dim() == 0 else loss.sum(), wanted)


def interleaved(
    variants: dict[str, Variant],
    leaves: Sequence[Tensor],
    *,
    seconds: float,
    most: int = 100,
    least: int = 5,
) -> dict[str, Timing]:
    """Time forward + backward of every variant, by turns."""

    def call(variant: Variant) -> Callable[[], object]:
        return lambda: forward_backward(variant, leaves)

    calls = {name: call(variant) for name, variant in variants.items()}
    return by_turns(calls, leaves[0].device.type, seconds=seconds, most=most, least=least)


def by_turns(
    calls: Mapping[str, Callable[[], object]],
    device: str,
    *,
    seconds: float,
    most: int = 100,
    least: int = 5,
) -> dict[str, Timing]:
    """Time every call by turns for about ``seconds`` in all, ``least`` to ``most`` samples each.

    One untimed call of each comes first. A slow one stops at its part of the time (but not
    before ``least`` samples), a fast one goes on to ``most``.
    """
    for call in calls.values():
        call()
    samples: dict[str, list[float]] = {name: [] for name in calls}
    busy: dict[str, list[float]] = {name: [] for name in calls}
    budget = seconds / len(calls)
    running = True
    while running:
        running = False
        for name, call in calls.items():
            taken = samples[name]
            if len(taken) >= most or (len(taken) >= least and sum(taken) >= budget):
                continue
            running = True
            synchronize(device)
            start, at = time.perf_counter(), time.process_time()
            call()
            synchronize(device)
            taken.append(time.perf_counter() - start)
            busy[name].append(time.process_time() - at)
    return {name: _timing(taken, busy[name]) for name, taken in samples.items()}


def _timing(seconds: Sequence[float], cpu: Sequence[float]) -> Timing:
    ordered = sorted(seconds)

    def at(fraction: float) -> float:
        position = fraction * (len(ordered) - 1)
        low = int(position)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (position - low) * (ordered[high] - ordered[low])

    return Timing(at(0.2), at(0.5), at(0.8), len(ordered), median(cpu))

"""Forms of one computation by turns on a GPU, after one conditioner, by events and by wall.

What ran before a form decides how fast it runs: an idle GPU lowers its clock and has to be woken, a
memory-bound form leaves another clock than products do. So each sample comes after 20 ms of one
large product, the same for all forms. It is taken twice:

- GPU: the form is queued behind the product, between two events: its kernels, with the launches
  that the host could make meanwhile.
- wall: the product is waited for first: from the call to the end of its kernels, launches included.

The clock of the multiprocessors is read without touching any setting, from the time that a kernel
of known cycles takes right after the form.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any, NamedTuple

import torch

CYCLES = 1_000_000
CONDITIONER = 0.02  # seconds
STATES = ("nothing", "50 ms of sleep", "8 GB of zeros", "20 ms of products", "the other form")


class Turn(NamedTuple):
    """Seconds of one form, medians, and the clock in MHz after it; samples: how many."""

    wall: float
    gpu: float
    p20: float
    p80: float
    mhz: float
    samples: int


class Gpu:
    """The current CUDA device, and the product that precedes a sample."""

    def __init__(self, side: int = 8192) -> None:
        self.a = torch.randn(side, side, device="cuda").bfloat16()
        self.repeats = 1
        self.condition()
        seconds = min(self.timed(self.condition)[0] for _ in range(3))
        self.repeats = max(1, round(CONDITIONER / max(seconds, 1e-6)))

    def condition(self) -> None:
        for _ in range(self.repeats):
            torch.mm(self.a, self.a)

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def timed(self, call: Callable[[], object]) -> tuple[float, float]:
        """Seconds of the kernels of a call, queued behind what runs, and the clock after them."""
        events = [torch.cuda.Event(enable_timing=True) for _ in range(3)]
        events[0].record()
        call()
        events[1].record()
        torch.cuda._sleep(CYCLES)
        events[2].record()
        self.synchronize()
        return 1e-3 * events[0].elapsed_time(events[1]), CYCLES / (
            1e3 * events[1].elapsed_time(events[2])
        )


def by_turns(
    calls: Mapping[str, Callable[[], object]],
    gpu: Any,
    *,
    seconds: float,
    most: int = 25,
    least: int = 5,
) -> dict[str, Turn]:
    """Time every call by turns for about ``seconds`` in all, conditioners included."""
    for call in calls.values():
        call()
    gpu.synchronize()
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    for turn in range(most):
        if turn >= least and time.perf_counter() > end:
            break
        for name, call in calls.items():
            found[name].append(sample(call, gpu, gpu.condition))
    return {name: _turn(samples) for name, samples in found.items()}


def sample(
    call: Callable[[], object], gpu: Any, before: Callable[[], object]
) -> tuple[float, float, float]:
    """Seconds by wall and on the GPU, and the clock in MHz."""
    before()
    on_gpu, mhz = gpu.timed(call)
    before()
    gpu.synchronize()
    start = time.perf_counter()
    call()
    gpu.synchronize()
    return time.perf_counter() - start, on_gpu, mhz


def _turn(samples: list[tuple[float, float, float]]) -> Turn:
    wall, on_gpu, mhz = zip(*samples, strict=True)
    ordered = sorted(wall)

    def at(share: float) -> float:
        return ordered[round(share * (len(ordered) - 1))]

    return Turn(median(wall), median(on_gpu), at(0.2), at(0.8), median(mhz), len(samples))


def after_states(
    call: Callable[[], object], other: Callable[[], object], gpu: Any, samples: int = 7
) -> dict[str, Turn]:
    """One form after each of STATES: what a table owes to what ran before."""
    zeros = gpu.a.new_empty(8 << 30, dtype=torch.uint8) if gpu.a.is_cuda else gpu.a
    preparations = (
        lambda: None,
        lambda: (gpu.synchronize(), time.sleep(0.05)),
        zeros.zero_,
        gpu.condition,
        other,
    )
    call(), other()
    return {
        state: _turn([sample(call, gpu, before) for _ in range(samples)])
        for state, before in zip(STATES, preparations, strict=True)
    }


def as_columns(turns: Mapping[str, Turn]) -> dict[str, dict[str, Any]]:
    """For the record of a case: milliseconds by wall and on the GPU, and the clock, by form."""
    return {
        "milliseconds": {name: 1e3 * t.wall for name, t in turns.items()},
        "GPU milliseconds": {name: 1e3 * t.gpu for name, t in turns.items()},
        "p20 - p80": {name: [1e3 * t.p20, 1e3 * t.p80] for name, t in turns.items()},
        "MHz": {name: t.mhz for name, t in turns.items()},
    }


def table(cases: list[dict[str, Any]]) -> list[str]:
    """Wall and GPU milliseconds with the clock, by form."""
    lines = ["| case | form | wall, ms | on the GPU, ms | MHz |", "|---|---|--:|--:|--:|"]
    for case in cases:
        for name, mhz in case.get("MHz", {}).items():
            wall, on_gpu = case["milliseconds"][name], case["GPU milliseconds"][name]
            lines.append(f"| {case['case']} | {name} | {wall:.3g} | {on_gpu:.3g} | {mhz:.0f} |")
    return lines

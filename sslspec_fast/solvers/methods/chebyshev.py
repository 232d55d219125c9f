"""Block Chebyshev-Davidson: policy for block, degree and cut.

Work per outer step = degree * block products (float32 in mixed precision) + one Gram-Schmidt,
Rayleigh-Ritz and float64 product. The filter converges at a rate per degree that only the spectrum
sets, so the degree is chosen to keep orthogonalisation a minor part, within what float32 can
resolve and what is still needed. All choices come from sizes, never from clocks: runs repeat.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...primitives.basis import column_norms, lengths
from ..completeness.missed_pairs import FilteredSample, MissedPairSearch
from ..linalg.basis import Basis, host_memory
from ..linalg.chebyshev_filter import (
    cleaner,
    filter_block,
    filter_residual,
    growth_rate,
)
from ..linalg.cost import LINE, MAX_DEGREE, balanced_degree, start_width, step_width
from ..plan import Plan
from ..problem.first_filter import FirstFilter
from ..problem.probe import Probe
from ..problem.reorder import order, renumber
from ..problem.task import Outcome, Task
from ._davidson import Sizes, davidson
from ._krylov_start import krylov_start

__all__ = ["chebyshev"]

# float32 keeps about 7 digits between the fastest and the slowest growing wanted direction
_MAX_LOG_GROWTH = math.log(1e9)
_SPARE = 4  # columns of a start more than wanted, from which it can tell what it does not hold


@dataclass
class ResidualFilter:
    """Residual-form Chebyshev expansion with the degree chosen at each step."""

    task: Task
    lo: float
    held: int  # pairs whose growth is not damped
    degrees: list[int] = field(default_factory=list)
    guard_steps: int = 0

    def __call__(self, r: Tensor, values: Tensor, basis: Basis, ritz: Tensor) -> Tensor:
        task = self.task
        # a Ritz value below the bound shows that the bound was not safe
        self.lo = min(self.lo, float(ritz[-1]))
        cut = float(ritz[min(self.held, len(ritz) - 1)])
        cut = max(cut, self.lo + 1e-8 * task.norm)
        behind = len(ritz) > task.k and float(values[0]) == float(ritz[task.k])
        # those behind the wanted ones fill the block up; they set no goal
        goal = 1 if behind else int((values >= ritz[min(task.k, len(ritz)) - 1]).sum())
        degree = self._degree(r, values, goal, basis.size, cut, float(ritz[0]))
        if behind:
            # all wanted pairs are good: the vector behind them is needed to a digit only
            degree = min(degree, 3 << min(self.guard_steps, 8))
            self.guard_steps += 1
        self.degrees.append(degree)
        task.columns += (degree - 1) * r.shape[1]
        clean = cleaner(task.op, task.deflated, self.lo, cut, float(values[goal - 1]))
        return filter_residual(task.op, r.to(task.low), values, self.lo, cut, degree, clean)

    def _degree(
        self, r: Tensor, values: Tensor, goal: int, size: int, cut: float, top: float
    ) -> int:
        task = self.task
        rate = growth_rate(float(values[goal - 1]), self.lo, cut)
        spread = growth_rate(top, self.lo, cut) - rate
        limit = float(MAX_DEGREE)
        if rate > 0.0:
            # no more than what is missing, with a margin for the part that the cut lets through
            worst = float(column_norms(r[:, :goal]).max())
            missing = math.log(max(4.0 * worst / max(task.tol, 1e-300), 4.0))
            limit = min(limit, missing / rate)
        if spread > 0.0:
            limit = min(limit, _MAX_LOG_GROWTH / spread)
        return int(max(2, min(balanced_degree(task.op, r.shape[1], size), limit)))


def chebyshev(task: Task, plan: Plan, found: Probe) -> Outcome:
    """Filtered start block, then block Chebyshev-Davidson, on renumbered nodes where that pays."""
    if not plan.reordered:
        return _solve(task, plan, found)
    better = order(task.op)
    inner, found = renumber(task, found, better)
    outcome = _solve(inner, plan, found)
    task.columns = inner.columns
    vectors = torch.empty_like(outcome.vectors)
    vectors[torch.from_numpy(better)] = outcome.vectors
    outcome.facts["reordered"] = "reverse Cuthill-McKee"
    return replace(outcome, vectors=vectors)


def _solve(task: Task, plan: Plan, found: Probe) -> Outcome:
    k, width = plan.cluster or task.k, plan.width
    guard = max(start_width(k, task.free) - k, 1)
    facts: dict[str, Any] = {
        "bounds": (found.lo, found.hi),
        "guard": guard,
        "filter_dtype": str(task.low)[6:],
    }
    if task.warm is not None:
        start = _Start(_warm_start(task, task.warm, width), None)
    else:
        start = _start(task, plan.first_filter, found, width)
        if plan.first_filter is not None:
            facts["start_degree"] = plan.first_filter.degree
            facts["start_cut"] = plan.first_filter.cut
    if plan.cluster is not None:
        facts["cluster"] = plan.cluster
    expand = ResidualFilter(task, found.lo, k + max(min(guard, k // 8) // 2, 1))
    search = MissedPairSearch(
        task, found.lo, found.hi, task.low, start.multiplicity, start.degrees, plan.cluster
    )
    sample = start.sample
    bound = None if sample is None else partial(sample.bound_on_missed, task, width)
    outcome = davidson(task, start.block, expand, _sizes(task, width), search, bound)
    outcome.facts = {**facts, "degrees": expand.degrees}
    return outcome


def _sizes(task: Task, width: int) -> Sizes:
    block = min(width, step_width(task.k))
    keep = width + max(width // 2, 4)
    capacity = keep + max(2 * block, width // 2)
    if 2 * capacity * task.op.most_rows * task.dtype.itemsize > 0.25 * host_memory():
        # V and A V would crowd out the filter's blocks: restart after each step
        keep, capacity = width + 4, width + 4 + block
    return Sizes(block=block, capacity=capacity, keep=keep, fill=min(block, 16))


def _warm_start(task: Task, given: Tensor, width: int) -> Tensor:
    """The given block, and small random columns that fill it up to `width`."""
    fill = task.op.random_block(max(width - given.shape[1], 0), task.seed, task.dtype)
    return torch.cat([given.to(task.dtype), fill * float(lengths(given).mean()) * 1e-3], 1)


@dataclass
class _Start:
    """multiplicity: copies of an eigenvalue that the block holds; None: it may miss any. degrees:
    of the polynomials of A that made it. sample: bounds what it does not hold.
    """

    block: Tensor
    multiplicity: int | None
    degrees: int = 0
    sample: FilteredSample | None = None


def _start(task: Task, first: FirstFilter | None, found: Probe, width: int) -> _Start:
    if first is None:
        return _Start(task.op.random_block(width, task.seed, task.low), width)
    if first.krylov:
        return _Start(*krylov_start(task, first, found, width))
    if first.of_ritz:
        x = found.vectors(width)
        assert x is not None
        if first.needed:
            y = _filtered(task, x[:, : first.vectors].contiguous(), first)
            x = y if first.vectors is None else torch.cat([y, x[:, first.vectors :]], 1)
        return _Start(x, found.block)
    x = task.op.random_block(width, task.seed, task.low)
    if task.deflated is not None:
        task.deflated.remove_(x)
    x = _filtered(task, x, first)
    if width - task.k < _SPARE:
        return _Start(x, width)
    # random entries are uniform in [-1, 1)
    growth = first.degree * growth_rate(first.top, first.lo, first.cut)
    size = math.exp(-min(growth, 60.0)) / math.sqrt(3.0)
    sample = FilteredSample(x[:, :LINE].clone(), first.lo, first.cut, first.degree, size)
    return _Start(x, width, sample=sample)


def _filtered(task: Task, x: Tensor, first: FirstFilter) -> Tensor:
    task.columns += first.degree * x.shape[1]
    clean = cleaner(task.op, task.deflated, first.lo, first.cut, first.wanted)
    return filter_block(task.op, x, first.lo, first.cut, first.degree, first.top, clean)

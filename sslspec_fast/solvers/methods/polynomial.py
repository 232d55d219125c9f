"""Block Chebyshev-Davidson and its corner, block Lanczos: policy for block, degree and cut.

Work per outer step = degree * block products (float32 in mixed precision) + one Gram-Schmidt,
Rayleigh-Ritz and float64 product. The filter converges at a rate per degree that only the spectrum
sets, so the degree is chosen to keep orthogonalisation a minor share, within what float32 can
resolve and what is still needed. All choices come from sizes, never from clocks: runs repeat.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from ...primitives.basis import column_norms, lengths
from ..completeness.missed_pairs import FilteredLook, Witness
from ..linalg.basis import Basis, host_memory
from ..linalg.chebyshev_filter import (
    cleaner,
    filter_block,
    filter_residual,
    growth_rate,
)
from ..linalg.cost import LINE, padded, product_cost, start_width
from ..problem.probe import Probe
from ..problem.task import Outcome, Task
from ._davidson import davidson

__all__ = ["chebyshev", "lanczos"]

_MAX_DEGREE = 300
# float32 keeps about 7 digits between the fastest and the slowest growing wanted direction
_MAX_LOG_GROWTH = math.log(1e9)
_SPARE = 4  # columns of a start more than wanted, from which it can tell what it does not hold


@dataclass
class Filter:
    """Residual-form Chebyshev expansion with the degree chosen at each step."""

    task: Task
    lo: float
    low: torch.dtype
    guard: int
    degrees: list[int] = field(default_factory=list)
    guard_steps: int = 0

    def __call__(self, r: Tensor, values: Tensor, basis: Basis, ritz: Tensor) -> Tensor:
        task = self.task
        # a Ritz value below the bound shows that the bound was not safe
        self.lo = min(self.lo, float(ritz[-1]))
        cut = float(ritz[min(task.k + self.guard, len(ritz) - 1)])
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
        return filter_residual(task.op, r.to(self.low), values, self.lo, cut, degree, clean)

    def _degree(
        self, r: Tensor, values: Tensor, goal: int, size: int, cut: float, top: float
    ) -> int:
        task, n, b = self.task, self.task.op.n, r.shape[1]
        product = product_cost(task.op, n) * padded(b)
        overhead = 5.0 * n * size + 3.0 * product + 2e6 + 2.0 * size**3
        balance = 2.5 * overhead / product
        rate = growth_rate(float(values[goal - 1]), self.lo, cut)
        spread = growth_rate(top, self.lo, cut) - rate
        limit = float(_MAX_DEGREE)
        if rate > 0.0:
            # no more than what is missing, with a margin for the part that the cut lets through
            worst = float(column_norms(r[:, :goal]).max())
            missing = math.log(max(4.0 * worst / max(task.tol, 1e-300), 4.0))
            limit = min(limit, missing / rate)
        if spread > 0.0:
            limit = min(limit, _MAX_LOG_GROWTH / spread)
        return int(max(2, min(balance, limit)))


def chebyshev(
    task: Task, x0: Tensor | None, low: torch.dtype, found: Probe
) -> tuple[Outcome, dict]:
    """Filtered start block, then block Chebyshev-Davidson. `low`: dtype of the filter products."""
    k = task.k
    width = start_width(k, task.free)
    guard = max(width - k, 1)
    facts: dict = {"bounds": (found.lo, found.hi), "guard": guard, "filter_dtype": str(low)[6:]}
    copies: int | None = None
    witness: Witness | None = None
    if x0 is None:
        start = _continue(task, found, width, facts)
        copies = width if start is None else found.block
        if start is None:
            start = task.op.random_block(width, task.seed, low)
            start, witness = _first_filter(task, start, found, width, facts)
    else:
        fill = task.op.random_block(max(width - x0.shape[1], 0), task.seed, task.dtype)
        start = torch.cat([x0.to(task.dtype), fill * float(lengths(x0).mean()) * 1e-3], 1)
        width = start.shape[1]
    expand = Filter(task, found.lo, low, max(min(guard, k // 8) // 2, 1))
    block = min(width, max(16, min(32, k // 2)))
    keep = width + max(width // 2, 4)
    capacity = keep + max(2 * block, width // 2)
    if 2 * capacity * task.op.most_rows * task.dtype.itemsize > 0.25 * host_memory():
        # V and A V would crowd out the filter's blocks: restart after each step
        keep, capacity = width + 4, width + 4 + block
    outcome = davidson(
        task,
        start,
        expand,
        block=block,
        keep=keep,
        capacity=capacity,
        fill=min(block, 16),
        look=FilteredLook(task, found.lo, found.hi, low, copies),
        hidden=None if witness is None else partial(witness.hidden, task, width),
    )
    facts["degrees"] = expand.degrees
    return outcome, facts


def _continue(task: Task, found: Probe, width: int, facts: dict) -> Tensor | None:
    """Filter the probe's Ritz vectors: they lack only what their residuals say."""
    x = found.vectors(width)
    if x is None or found.hi - found.lo <= 1e-12 * task.norm:
        return None
    lo = found.lo
    at = min(width, len(found.values) - 1)
    # a Ritz value lies below its eigenvalue, by less than its residual
    wanted = float(found.values[task.k - 1] + found.residuals[task.k - 1] / 3)
    cut = max(float(found.values[at]), lo + 1e-6 * task.norm)
    rate = growth_rate(float(found.values[task.k - 1]), lo, cut)
    worst = float(found.residuals[: task.k].max())
    # Ritz values near a dense spectrum are low, and so is the cut: what lies between grows as well
    edge = cut + float(found.residuals[at])
    raised = growth_rate(wanted, lo, edge)
    if raised > 0.33 * rate:
        cut, rate = edge, raised
        if rate < 0.6:  # no gap behind the cut: values there are as unsure as the cut itself
            rate *= 0.8
    elif rate < 0.8:
        rate *= 0.33
    need = math.log(max(2.0 * worst / max(task.tol, 2e-6 * task.norm), 1.0))
    cost = product_cost(task.op, task.op.n) * padded(width)
    cap = max(8.0, min(60.0, 2.5 * (5.0 * task.op.n * width + 2e6) / cost))
    degree = int(min(need / max(rate, 1e-6), 36.0 if rate > 0.18 else cap)) + 1
    facts["start_degree"], facts["start_cut"] = degree, cut
    if need == 0.0:
        return x
    task.columns += degree * width
    clean = cleaner(task.op, task.deflated, lo, cut, cut)
    return filter_block(task.op, x, lo, cut, degree, max(found.hi, cut), clean)


def _first_filter(
    task: Task, x: Tensor, found: Probe, width: int, facts: dict
) -> tuple[Tensor, Witness | None]:
    """Random vectors carry n / k times more of the unwanted: grow until that is paid back.

    Also some of the columns as they come out, where they can tell what the start does not hold.
    """
    if found.hi - found.lo <= 1e-12 * task.norm:  # a multiple of the identity
        return x, None
    cut, last = found.split(width)
    cost = product_cost(task.op, task.op.n)
    cap = int(max(8, min(60, 2.5 * (5.0 * task.op.n * width + 1e6) / (cost * width))))
    degree, top = cap, max(found.hi, cut)
    lo = min(found.lo, cut - 1e-6 * task.norm)
    if last is not None:
        rate = growth_rate(last, lo, cut)
        reachable = max(task.tol / task.norm, 2e-6)
        need = math.log(8.0 * math.sqrt(task.op.n) / reachable)
        # a resolved, well separated top needs no second look: finish in one pass
        degree = int(min(max(need / max(rate, 1e-6), 4), 60 if rate > 0.4 else 1.5 * cap))
    facts["start_degree"], facts["start_cut"] = degree, cut
    task.columns += degree * x.shape[1]
    if task.deflated is not None:
        task.deflated.remove_(x)
    clean = cleaner(task.op, task.deflated, lo, cut, cut if last is None else last)
    x = filter_block(task.op, x, lo, cut, degree, top, clean)
    if width - task.k < _SPARE:
        return x, None
    # random entries are uniform in [-1, 1)
    size = math.exp(-min(degree * growth_rate(top, lo, cut), 60.0)) / math.sqrt(3.0)
    return x, Witness(x[:, :LINE].clone(), lo, cut, degree, size)


def lanczos(task: Task, x0: Tensor | None, found: Probe) -> tuple[Outcome, dict]:
    """Block thick-restart Lanczos with full reorthogonalisation, in the dtype of the basis."""
    k = task.k
    block = min(max(4, min(16, k // 4)), task.free)
    # as many random directions as wanted, or multiplicities larger than the block go unseen
    width = min(k + block, task.free)
    start = task.op.random_block(width, task.seed, task.dtype)
    if x0 is not None:
        start = torch.cat([x0.to(task.dtype), start * float(lengths(x0).mean()) * 1e-3], 1)
    keep = width + max(k // 4, block)
    capacity = keep + max(k, 10 * block)
    steps = max(-(-(capacity - keep) // block), 1)
    outcome = davidson(
        task,
        start,
        None,
        block=block,
        keep=keep,
        capacity=capacity,
        krylov_steps=steps,
        look=FilteredLook(task, found.lo, found.hi, task.dtype),
    )
    return outcome, {"block": block, "capacity": capacity}

"""Which Ritz pairs are good enough, how wide the gap behind them is, and what is still to do.

Convergence: ||r_i|| <= tol for every wanted pair and, with an angle tolerance,
||R||_F <= angle_tol * gap. The gap t_k - (t_{k+1} + 4 ||r_{k+1}||) needs a guard vector good to a
tenth of that distance: copies of t_k could still lie behind less, and the next eigenvalue need not
be the one that the guard is near. The gap ends at the floor of a search for missed pairs, below
which the search finds nothing. Where a bound shows that half of that distance holds no other
eigenvalue, the guard may be as rough as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ...primitives.basis.blocks import column_norms
from ..linalg.basis import Basis
from ..linalg.cost import machine
from ..problem.task import Task

__all__ = ["BoundOnMissed", "Monitor"]

# (basis, Ritz values and vectors) -> above it, there is nothing but the wanted pairs
BoundOnMissed = Callable[[Basis, Tensor, Tensor], float]

_STALE = 25  # measurements of a guard that is good to tol and gets no better
_LEAST = 2e-15  # residual that rounding allows, relative to the norm


class Monitor:
    """Which Ritz pairs are good enough, how wide the gap is, and what is still to do."""

    def __init__(self, task: Task, bound_on_missed: BoundOnMissed | None = None) -> None:
        self.task = task
        self._bound_on_missed = bound_on_missed  # until it has been computed
        self._bound = math.inf  # its value
        self.target = task.tol
        self.gap = math.inf if not task.guard else math.nan
        self.norms = torch.full((task.k + 1,), math.inf, dtype=torch.float64)
        self.search_floor = -math.inf  # above it, a search would have found every eigenvalue
        self._best, self._stale = math.inf, 0  # residual of the guard, and calls since it fell
        self.trusted = 0  # leading pairs that the last call accepted without measuring them

    def pick(
        self, basis: Basis, values: Tensor, q: Tensor, block: int, fill: int
    ) -> tuple[Tensor, Tensor]:
        """`measure`, with Ritz pairs behind the wanted ones added up to `fill` columns.

        A step costs nearly the same with a few columns more, and the vectors behind decide how
        fast the last wanted ones come.
        """
        index, r = self.measure(basis, values, q, block)
        first = max(self.task.k, int(index[-1]) + 1) if len(index) else 0
        stop = min(first + fill - len(index), basis.size)
        if not len(index) or stop <= first:
            return index, r
        extra = basis.residual(values[first:stop], q[:, first:stop])
        return torch.cat([index, torch.arange(first, stop)]), torch.cat([r, extra], 1)

    def measure(self, basis: Basis, values: Tensor, q: Tensor, block: int) -> tuple[Tensor, Tensor]:
        """Indices still to improve (at most `block`) and their residual vectors.

        Residuals are computed chunk by chunk from the first pair that is not good on, the pair
        behind the wanted ones with the last chunk. Pairs that were good are trusted until the end,
        when all are measured again; a chunk of them is not: a pass over V and A V costs the same.
        """
        task = self.task
        last = min(task.k, basis.size)
        guarded = task.guard if basis.size > task.k else 0
        chunk = max(block, machine(task.op.device).residuals_per_pass)
        start = 0
        while start < last and self.norms[start] <= self.target:
            start += 1
        start = start if start > chunk else 0
        self.trusted = start
        while True:
            picked: list[int] = []
            kept: list[Tensor] = []
            while start < last + guarded and len(picked) < block:
                stop = min(start + chunk, last)
                stop += guarded if stop == last else 0
                r = basis.residual(values[start:stop], q[:, start:stop])
                self.norms[start:stop] = column_norms(r)
                bad = torch.nonzero(self.norms[start : min(stop, last)] > self.target)[:, 0]
                if len(bad):
                    picked += (bad + start).tolist()
                    kept.append(r[:, bad.to(r.device)] if len(bad) < r.shape[1] else r)
                start = stop
            if not picked and guarded:
                guard = self._guard(values)
                if len(guard) and self._bound_on_missed is not None:
                    self._bound = self._bound_on_missed(basis, values, q)
                    self._bound_on_missed = None
                    guard = self._guard(values)
                if not len(guard) and self._tighten(values):
                    self.trusted = start = 0
                    continue
                return guard, r[:, -1:] if len(guard) else basis.empty
            if not picked:
                return torch.zeros(0, dtype=torch.int64), basis.empty
            index, r = torch.tensor(picked), torch.cat(kept, 1) if len(kept) > 1 else kept[0]
            return index[:block], r[:, :block]

    def _guard(self, values: Tensor) -> Tensor:
        """Pair k+1 while it is to be improved: until it is good to a tenth of its distance the
        gap is a guess.
        """
        k = self.task.k
        last, residual = float(values[k - 1]), float(self.norms[k])
        distance = last - float(values[k])
        copies = self.copies_at_the_cut(values)
        fraction = 0.01 if copies else 0.1
        floor = self.task.tol
        if self.task.angle_tol is not None:  # no residual could resolve a narrower gap
            least = max(1e-13, _LEAST * math.sqrt(k) / self.task.angle_tol) * self.task.norm
            floor = fraction * least
        self.gap = 0.0
        improve = residual > max(fraction * distance, floor)
        if residual <= fraction * distance:
            self.gap = max(min(distance - 4.0 * residual, last - self.search_floor), 0.0)
        elif last - self._bound >= 0.5 * distance > 0.0 and not copies:
            self.gap, improve = max(last - max(self._bound, self.search_floor), 0.0), False
        if residual < 0.5 * self._best:
            self._best, self._stale = residual, 0
        elif residual <= self.task.tol:
            self._stale += 1
        if self._stale > _STALE:  # rounding, or copies without end: the gap cannot be measured
            improve = False
        return torch.tensor([k] if improve else [], dtype=torch.int64)

    def copies_at_the_cut(self, values: Tensor) -> bool:
        """The last wanted values are one, as far as their residuals tell: there may be more of it,
        and a mixture of those and what lies behind can pass for the end of the gap.
        """
        k = self.task.k
        if k < 2 or not self.task.guard or len(values) <= k:
            return False
        distance = float(values[k - 1] - values[k])
        # float32 rows give copies apart from each other by their rounding
        slack = max(1e-12, 8.0 * torch.finfo(self.task.dtype).eps) * self.task.norm
        worst = float(self.norms[k - 2 : k].max())
        if worst < 0.01 * distance:  # else they tell nothing
            slack += 4.0 * worst**2 / distance
        return float(values[k - 2] - values[k - 1]) <= slack

    def _tighten(self, values: Tensor) -> bool:
        """Lower the residual target when the angle asks for it; True when pairs must be redone."""
        task = self.task
        if task.angle_tol is None or self.gap <= 1e-13 * task.norm:
            return False
        total = float(self.norms[: task.k].norm())
        if total <= task.angle_tol * self.gap:
            return False
        target = max(0.9 * task.angle_tol * self.gap / math.sqrt(task.k), _LEAST * task.norm)
        if target >= self.target:
            return False
        self.target = target
        return bool((self.norms[: task.k] > target).any())

    def settle(self, basis: Basis, values: Tensor, q: Tensor) -> None:
        """Measure every wanted pair and the one behind, whatever was trusted."""
        k, chunk = self.task.k, 32
        last = min(k + self.task.guard, basis.size)
        for start in range(0, last, chunk):
            stop = min(start + chunk, last)
            r = basis.residual(values[start:stop], q[:, start:stop])
            self.norms[start:stop] = column_norms(r)
        if last > k:
            self._guard(values)

    def satisfied(self) -> bool:
        task = self.task
        wanted = self.norms[: task.k]
        return bool((wanted <= task.tol).all()) and task.angle_met(wanted, self.gap)

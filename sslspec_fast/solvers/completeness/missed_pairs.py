"""The search for what a run may have missed: random directions outside the basis, filtered.

A Krylov or filter method holds only what its start block holds. A given start (`x0`) may lack any
pair; b random columns hold b directions of each eigenspace, fewer where they came out parallel; and
a method that follows single residuals (Lanczos with restarts, LOBPCG) may drop copies it once held.

Often the filtered columns need not even be added to the basis: what is left of them outside the
pairs that were found bounds how far the filter can have lifted anything else (`FilteredSample`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...operators.known import Deflated, DenseVectors, Removable
from ...primitives.basis import column_norms
from ..linalg.basis import Basis, orthonormalize
from ..linalg.chebyshev_filter import Clean, filter_block, growth_rate
from ..linalg.cost import LINE
from ..problem.task import Task

__all__ = ["FilteredSample", "MissedPairSearch"]

# A short run tells no closer values apart: this fraction of the spectrum, or 5 tol. Polynomials of
# degree d do so from 1 / d^2 of it on, at its ends.
_TOGETHER = 1e-3
_RESOLVED = 4.0
_MOST = 200.0  # degrees of a filter
_TOTAL = 1000.0  # of all filters of a search
_LEAD = 1e3  # by which what is known may outgrow what is searched for
_LOG_GROWTH = 60.0  # what float32 can hold of a growth, and `filter_block` takes out in advance
_LOG_ODDS = math.log(1e6)  # against a random block that shows an eigenvector too weakly
_LEAK = 0.2  # squared, of a missed vector, that may lie in Ritz vectors behind the wanted ones


@dataclass
class FilteredSample:
    """Random columns behind a filter, y = C_degree(A) X for X (n, b) with entries of rms `size`.

    An eigenvector v that is not among those found has kept p(v) v^T X, p(v) = C_degree at its
    eigenvalue, and |v^T X|^2 > size^2 b / (e odds^(2 / b)) for all but one in `odds` blocks
    (Chernoff's bound for chi^2). So it shows in the norm of what is left, or p(v) was small; what
    crowds behind it, or rounds, only adds to that norm.
    """

    y: Tensor
    lo: float
    cut: float
    degree: int
    size: float  # with the factor that `filter_block` takes out

    def growth(self, found: list[Removable], leak: float = 0.0) -> float:
        """Log of the most that the filter can have lifted what lies outside `found`, but for a
        squared fraction `leak`; inf: the sample overflowed and bounds nothing.
        """
        y, b = self.y.clone(), self.y.shape[1]
        for known in found:
            known.remove_(y)
        left = float(column_norms(y).norm()) / math.sqrt(b)
        if not left < math.inf:
            return math.inf
        log = math.log(max(left / self.size, 1.0))
        return log + 0.5 + _LOG_ODDS / b - 0.5 * math.log1p(-leak)

    def level(self, growth: float) -> float:
        """The eigenvalue that the filter lifts by exp(growth)."""
        return _level(self.lo, self.cut, self.degree, growth)

    def bound_on_missed(
        self, task: Task, width: int, basis: Basis, values: Tensor, q: Tensor
    ) -> float:
        """Above this value there is nothing but the k wanted pairs of a run that started from
        `width` columns, these among them; inf where the sample does not tell.
        """
        k, spare = task.k, width - task.k
        found: list[Removable] = [DenseVectors(basis.vectors(q[:, :k]))]
        growth = self.growth(found if task.deflated is None else [*found, task.deflated])
        # of copies of a wanted value, the one missing may be what these columns show worst of all
        worst = growth + (1 / spare - 1 / self.y.shape[1]) * _LOG_ODDS
        worst += 0.5 * math.log((k + 1) * width / spare)
        last = float(values[k - 1])
        return self.level(growth) if self.level(worst) < last else math.inf


def _level(lo: float, cut: float, degree: int, growth: float) -> float:
    """Where C_degree = exp(growth)."""
    log = growth + math.log1p(math.sqrt(-math.expm1(-2.0 * growth))) if growth > 0.0 else 0.0
    return ((cut + lo) + (cut - lo) * math.cosh(log / degree)) / 2 if log < 700.0 else math.inf


@dataclass(frozen=True)
class _Spectrum:
    """The ends of a spectrum, and the Ritz values on either side of the cut behind the wanted."""

    lo: float
    top: float
    last: float  # wanted value
    behind: float  # the value after it

    @property
    def half(self) -> float:
        """Halfway up the gap."""
        return (self.behind + self.last) / 2


@dataclass
class MissedPairSearch:
    """lo, hi: bounds of the spectrum; low: dtype of the products; multiplicity: of an eigenvalue,
    up to which the start holds every copy; None for a start or a method that may miss any pair.
    degrees: of the polynomials that made a start of many. cluster: pairs above a gap, some of which
    are wanted; a search ends in that gap.
    """

    task: Task
    lo: float
    hi: float
    low: torch.dtype
    multiplicity: int | None = None
    degrees: int = 0
    cluster: int | None = None

    def may_miss_copies(self, values: Tensor, drawn: int | None = None) -> bool:
        """Whether the start may lack a copy: as many of the wanted values as it holds copies of
        lie together. drawn: columns of the random block that completed it.
        """
        if self.multiplicity is None:
            return True
        wanted = values[: self.task.k]
        b = self.multiplicity if drawn is None else min(self.multiplicity, drawn)
        if len(wanted) < b:
            return False
        widths = wanted[: len(wanted) - b + 1] - wanted[b - 1 :]
        # a root of the polynomials takes out the first value, which may lie far above the others
        spread = float(values[min(1, len(values) - 1)] - min(self.lo, float(values[-1])))
        together = min(_TOGETHER, _RESOLVED / max(self.degrees, 1) ** 2)
        return float(widths.min()) < max(together * spread, 5.0 * self.task.tol)

    def __call__(self, basis: Basis, values: Tensor, seed: int) -> tuple[Tensor, float]:
        """b <= 16 columns; the basis keeps room for what is wanted.

        An eigenvalue that was missed has a fraction sqrt(b / n) of the block, and the filter must
        lift it above all that lies below the cut, where |C_d| <= 1. What is known, and would grow
        fastest, is taken out on the way: it may only get so far ahead.
        """
        task = self.task
        k = self._searched(values)
        room = basis.capacity - k - task.guard
        width = max(min(LINE, task.free - basis.size, room), 1)
        # not all of the basis: that may hold a part of a missed vector, and what would be left of
        # it is no eigenvector
        q = basis.ritz()[1]
        known = basis.vectors(q[:, :k])
        x = task.op.random_block(width, seed, task.dtype)
        x = orthonormalize(x, [known], task.deflated)
        ends = _Spectrum(
            min(self.lo, float(values[-1])),
            max(self.hi, float(values[0])),
            float(values[k - 1]),
            float(values[min(k, len(values) - 1)]),
        )
        if x.shape[1] == 0 or ends.top - ends.lo <= 1e-12 * task.norm:
            return x, -math.inf
        return self._filtered(basis, values, q, x, known, ends)

    def _searched(self, values: Tensor) -> int:
        """Pairs outside which is searched: the wanted ones, or those above the widest gap at the
        end of their cluster.
        """
        k, last = self.task.k, len(values) - 1
        if self.cluster is None or last <= k:
            return k
        stop = min(self.cluster + 2, last)
        return k + int((values[k - 1 : stop] - values[k : stop + 1]).argmax())

    def _filtered(
        self, basis: Basis, values: Tensor, q: Tensor, x: Tensor, known: Tensor, ends: _Spectrum
    ) -> tuple[Tensor, float]:
        """From halfway up the gap on, every eigenvalue is to show, and to be lifted by 1e4."""
        task, lo, top = self.task, ends.lo, ends.top
        cut = max(ends.behind, lo + 1e-6 * task.norm)
        rate = max(growth_rate(ends.half, lo, cut), 1e-9)
        visible = math.log(10.0 * math.sqrt(task.op.n / x.shape[1]))
        need = max(visible, math.log(1e4))
        most = min(_MOST, _LOG_GROWTH / max(growth_rate(top, lo, cut), 1e-9))
        degree = int(max(1.0, min(math.ceil((need + math.log(2.0)) / rate), most)))
        passes = math.ceil(need / max(_log_cosh(degree * rate), 1e-12))  # no gap: it may be 0
        passes = max(min(passes, int(_TOTAL / degree)), 1)
        floor = self._bound_without_search(basis, values, q, x, known, ends, degree * passes)
        if floor <= ends.half:
            return x[:, :0], floor
        clean = self._clean(known, _every(top, ends.last, lo, cut))
        task.columns += degree * passes * x.shape[1]
        for step in range(passes):
            if step:
                x = orthonormalize(x.to(task.dtype), [known], task.deflated)
            if x.shape[1] == 0:  # it was all known
                break
            x = filter_block(task.op, x.to(self.low), lo, cut, degree, max(top, cut), clean)
        # where the passes lift as much as it takes to be visible
        return x, _level(lo, cut, degree, visible / passes)

    def _clean(self, known: Tensor, every: int) -> Clean:
        return Clean(_Both(DenseVectors(known), self.task.deflated), every)

    def _bound_without_search(
        self,
        basis: Basis,
        values: Tensor,
        q: Tensor,
        x: Tensor,
        known: Tensor,
        ends: _Spectrum,
        most: int,
    ) -> float:
        """Above this value there is nothing but what was found, by a filter of fewer degrees than
        `most`; inf where that does not tell.

        Ritz vectors behind the wanted ones, as far as they are good, are taken out of what is left.
        So the filter may cut below them: where the next gap is wider, it has to be much shorter.
        Those of a cluster are among `known`.
        """
        task, k, n, b = self.task, known.shape[1], self.task.op.n, x.shape[1]
        inside = k - task.k  # of a cluster, behind the wanted ones
        lo, top = ends.lo, ends.top
        stop = min(k + b, len(values))
        if stop == k:
            return math.inf
        half = float(values[k - 1] + values[k]) / 2
        behind, first = values[task.k : stop], float(values[task.k - 1] + values[task.k]) / 2
        norms = column_norms(basis.residual(behind, q[:, task.k : stop]))
        # |v^T u| <= r / (t - u) for a unit vector u with residual r and v at t
        distances = torch.cat([first - behind[:inside], half - behind[inside:]])
        leaks = (norms / distances.clamp_min(1e-300)).square().cumsum(0)
        good = max(int((leaks <= _LEAK).sum()) - inside, 0)
        levels = (behind + norms)[inside : inside + good + 1]
        cut = max(float(levels.min()), lo + 1e-6 * task.norm)
        rate = growth_rate(half, lo, cut)
        need = math.log(4.0 * math.sqrt(n / 2)) + 0.5 + _LOG_ODDS / b
        if not good or need >= most * rate:
            return math.inf
        degree = int((need + math.log(2.0)) / rate) + 1
        if degree * growth_rate(top, lo, cut) > _LOG_GROWTH:
            return math.inf
        found: list[Removable] = [
            DenseVectors(known),
            DenseVectors(basis.vectors(q[:, k : k + good])),
        ]
        found += [] if task.deflated is None else [task.deflated]
        clean = self._clean(known, _every(top, half, lo, cut))
        task.columns += degree * b
        x = x.to(self.low, copy=True)
        y = filter_block(task.op, x, lo, cut, degree, max(top, cut), clean)
        size = math.exp(-degree * growth_rate(max(top, cut), lo, cut)) / math.sqrt(n)
        sample = FilteredSample(y, lo, cut, degree, size)
        return sample.level(sample.growth(found, float(leaks[inside + good - 1])))


def _every(top: float, last: float, lo: float, cut: float) -> int:
    """Degrees after which what is known leads by so much that it is taken out."""
    lead = growth_rate(top, lo, cut) - growth_rate(last, lo, cut)
    return int(max(min(math.log(_LEAD) / max(lead, 1e-9), 1e9), 1.0))


def _log_cosh(x: float) -> float:
    return x + math.log1p(math.exp(-2.0 * x)) - math.log(2.0)


class _Both:
    """What is known and what is deflated, taken out together."""

    def __init__(self, known: DenseVectors, deflated: Deflated | None) -> None:
        self.known, self.deflated = known, deflated

    def remove_(self, x: Tensor) -> Tensor:
        x = self.known.remove_(x)
        return x if self.deflated is None else self.deflated.remove_(x)

    def block(self, dtype: torch.dtype) -> Tensor | None:
        return None

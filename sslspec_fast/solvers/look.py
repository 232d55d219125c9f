"""A look for what a run may have missed: random directions outside the basis, filtered.

A Krylov or filter method holds only what its start sees. A given start (`x0`) may lack any pair; b
random columns hold b directions of each eigenspace, fewer where they came out parallel; and a
method that follows single residuals (Lanczos with restarts, LOBPCG) may drop copies it once saw.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sslspec_fast.operators.base import Deflated, DenseVectors
from sslspec_fast.primitives.basis import random_block
from sslspec_fast.solvers._basis import Basis, orthonormalize
from sslspec_fast.solvers._cost import LINE
from sslspec_fast.solvers.chebyshev import Clean, filter_block, growth_rate
from sslspec_fast.solvers.task import Task

__all__ = ["FilteredLook"]

# A short run tells no closer values apart: this share of the spectrum, or 5 tol.
_TOGETHER = 1e-3
_MOST = 200.0  # degrees of a filter
_TOTAL = 1000.0  # of all filters of a look
_LEAD = 1e3  # by which what is known may outgrow what is looked for
_LOG_GROWTH = 60.0  # what float32 can hold of a growth, and `filter_block` takes out in advance


@dataclass
class FilteredLook:
    """lo, hi: bounds of the spectrum; low: dtype of the products; copies: of an eigenvalue, that
    the start sees, or None for a start or a method that is doubted as such.
    """

    task: Task
    lo: float
    hi: float
    low: torch.dtype
    copies: int | None = None

    def doubts(self, values: Tensor) -> bool:
        """Whether a copy may be hidden: as many of the wanted values as it sees lie together."""
        if self.copies is None:
            return True
        wanted, b = values[: self.task.k], self.copies
        if len(wanted) < b:
            return False
        widths = wanted[: len(wanted) - b + 1] - wanted[b - 1 :]
        spread = float(values[0] - min(self.lo, float(values[-1])))
        return float(widths.min()) < max(_TOGETHER * spread, 5.0 * self.task.tol)

    def __call__(self, basis: Basis, values: Tensor, seed: int) -> tuple[Tensor, float]:
        """b <= 16 columns; the basis keeps room for what is wanted.

        An eigenvalue that was missed has its share sqrt(b / n) of the block, and the filter must
        lift it above all that lies below the cut, where |C_d| <= 1. What is known, and would grow
        fastest, is taken out on the way: it may only get so far ahead.
        """
        task, n = self.task, self.task.op.n
        room = basis.capacity - task.k - task.guard
        width = max(min(LINE, task.free - basis.size, room), 1)
        # not all of the basis: that may hold a part of what is looked for, and what would be left
        # of it is no eigenvector
        known = basis.vectors(basis.ritz()[1][:, : task.k])
        x = random_block(n, width, seed, task.dtype, task.op.device)
        x = orthonormalize(x, [known], task.deflated)
        lo = min(self.lo, float(values[-1]))
        top = max(self.hi, float(values[0]))
        last, behind = float(values[task.k - 1]), float(values[min(task.k, len(values) - 1)])
        cut = max(behind, lo + 1e-6 * task.norm)
        if x.shape[1] == 0 or top - lo <= 1e-12 * task.norm:
            return x, -math.inf
        # from halfway up the gap on, everything is to be seen, and to be lifted by 1e4
        rate = max(growth_rate((behind + last) / 2, lo, cut), 1e-9)
        visible = math.log(10.0 * math.sqrt(n / x.shape[1]))
        need = max(visible, math.log(1e4))
        most = min(_MOST, _LOG_GROWTH / max(growth_rate(top, lo, cut), 1e-9))
        degree = int(max(1.0, min(math.ceil((need + math.log(2.0)) / rate), most)))
        passes = math.ceil(need / _log_cosh(degree * rate))
        passes = max(min(passes, int(_TOTAL / degree)), 1)
        lead = growth_rate(top, lo, cut) - growth_rate(last, lo, cut)
        every = int(max(min(math.log(_LEAD) / max(lead, 1e-9), 1e9), 1.0))
        clean = Clean(_Both(DenseVectors(known), task.deflated), every)
        task.columns += degree * passes * x.shape[1]
        for step in range(passes):
            if step:
                x = orthonormalize(x.to(task.dtype), [known], task.deflated)
            if x.shape[1] == 0:  # it was all known
                break
            x = filter_block(task.op, x.to(self.low), lo, cut, degree, max(top, cut), clean)
        # where the passes lift as much as it takes to be visible
        least = visible / passes + math.log1p(math.sqrt(-math.expm1(-2.0 * visible / passes)))
        seen = math.cosh(least / degree) if least < 700.0 * degree else math.inf
        return x, ((cut + lo) + (cut - lo) * seen) / 2


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

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

from sslspec_fast.primitives.basis import random_block
from sslspec_fast.solvers._basis import Basis, orthonormalize
from sslspec_fast.solvers._cost import LINE
from sslspec_fast.solvers.chebyshev import cleaner, filter_block, growth_rate
from sslspec_fast.solvers.davidson import Task

__all__ = ["FilteredLook"]

# A short run tells no closer values apart: this share of the spectrum, or 5 tol.
_TOGETHER = 1e-3
_MOST = 200.0  # degrees of a filter
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

    def __call__(self, basis: Basis, values: Tensor, seed: int) -> Tensor:
        """(n, b <= 16) orthonormal before the filter; the basis keeps room for what is wanted."""
        task, n = self.task, self.task.op.n
        room = basis.capacity - task.k - task.guard
        width = max(min(LINE, task.free - basis.size, room), 1)
        x = random_block(n, width, seed, task.dtype, task.op.device)
        x = orthonormalize(x, basis.v, task.deflated)
        lo = min(self.lo, float(values[-1]))
        top = max(self.hi, float(values[0]))
        cut = max(float(values[min(task.k, len(values) - 1)]), lo + 1e-6 * task.norm)
        if x.shape[1] == 0 or top - lo <= 1e-12 * task.norm:
            return x
        # 1e4 for copies of what was found; all of it may lie too low, and nothing may overflow
        need = math.log(1e4) / max(growth_rate(float(values[0]), lo, cut), 1e-6)
        most = _LOG_GROWTH / max(growth_rate(top, lo, cut), 1e-6)
        degree = int(max(2.0, min(need, most, _MOST)))
        task.columns += degree * x.shape[1]
        clean = cleaner(task.op, task.deflated, lo, cut, cut)
        return filter_block(task.op, x.to(self.low), lo, cut, degree, max(top, cut), clean)

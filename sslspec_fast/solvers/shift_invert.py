"""Shift-invert: scipy's SuperLU factor of sigma I - A, driven by the block Davidson driver.

For the largest eigenvalues of A with sigma just above them, T = (sigma I - A)^-1 R spans the same
block Krylov space as the inverse itself (X is in the basis already), while Rayleigh-Ritz on A
keeps true residuals. Blocks see multiplicities that ARPACK's single vector misses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sslspec_fast.primitives.basis import random_block
from sslspec_fast.solvers._basis import Basis, column_norms, orthonormalize
from sslspec_fast.solvers.davidson import Outcome, Task, davidson, rounded
from sslspec_fast.solvers.factorization import symmetric_factor
from sslspec_fast.solvers.probe import Probe

__all__ = ["shift_invert"]

_FRESH = 4  # columns that look for missed directions


class _Solve:
    """R -> (sigma I - A)^-1 R. sigma may move: eigenvalues of deflated vectors lie anywhere."""

    def __init__(self, task: Task, matrix: Any, sigma: float) -> None:
        self.task, self.columns = task, 0
        self.factor, self.sigma = symmetric_factor("shift_invert", matrix, sigma, task.norm)

    def __call__(self, r: Tensor, values: Tensor, basis: Basis, ritz: Tensor) -> Tensor:
        # a solve costs little beside the orthogonalisation of a step: take two Krylov steps at once
        once = self.solve(r)
        lengths = column_norms(once).clamp_min(1e-300)
        return torch.cat([once, self.solve(once / lengths.to(once.device))], 1)

    def grown(self, x: Tensor, v: Sequence[Tensor], solves: int) -> Tensor:
        """Random directions x outside v (blocks of columns), pushed towards the top.

        A shift next to the top makes columns parallel, and lets what is known grow by 1e6 from
        rounding alone: both are undone before each solve.
        """
        for _ in range(solves):
            x = self.solve(orthonormalize(x, v, self.task.deflated))
        return x

    def solve(self, r: Tensor) -> Tensor:
        if r.shape[1] == 0:
            return r
        self.columns += r.shape[1]
        block = np.asfortranarray(r.double().cpu().numpy())
        out = np.ascontiguousarray(self.factor.solve(block))
        return torch.from_numpy(out).to(r)


@dataclass
class _Look:
    """Random directions outside the basis by the solver itself, after every run: columns next to
    the shift come out parallel, and hide others.
    """

    task: Task
    solver: _Solve

    def doubts(self, values: Tensor) -> bool:
        return True

    def __call__(self, basis: Basis, values: Tensor, seed: int) -> Tensor:
        op = self.task.op
        more = random_block(op.n, _FRESH, seed, torch.float64, op.device)
        return self.solver.grown(more, basis.v, 3)


def shift_invert(
    task: Task, x0: Tensor | None, found: Probe, exact_top: bool
) -> tuple[Outcome, dict]:
    """Block Krylov on the factor. exact_top: found.hi is known to touch the spectrum.

    The factor is float64 and so is the basis, whatever the precision: a float32 one costs more
    steps than its narrower rows save.
    """
    matrix = task.op.assemble()
    if matrix is None:
        raise ValueError(
            "shift_invert: A must have stored entries (sparse matrix or stored graph), got "
            f"{type(task.op).__name__}; use method='chebyshev'"
        )
    n, k = task.op.n, task.k
    offset = 1e-6 * max(task.norm, 1e-300)
    solver = _Solve(task, matrix, found.hi + offset)
    solves, factors, iterations = 0, 1, 0
    guard = max(2, min(k // 4, 8))
    width = min(k + guard, task.free)
    start = random_block(n, width, task.seed, torch.float64, task.op.device)
    if not exact_top:
        # the bound may lie far above: find the top roughly, then move the shift next to it
        first = replace(
            task, k=1, angle_tol=None, max_iter=9, tol=offset, callback=None, columns=0,
            dtype=torch.float64,
        )  # fmt: skip
        block = start[:, : min(4, width)]
        near = davidson(first, solver.solve(block), solver, block=4, capacity=24, keep=8)
        task.columns += first.columns
        iterations = near.n_iter
        top, residual = float(near.values[0]), float(near.residuals[0])
        # eigenvalues converge with the square of the residual over the distance to the rest, here
        # at least of the order of the old shift's; a shift inside the spectrum would still serve
        margin = min(residual, 3.0 * residual**2 / max(solver.sigma - top, offset))
        if solver.sigma - top > 3.0 * max(margin, offset):
            solves, factors = solver.columns, 2
            solver = _Solve(task, matrix, top + max(margin, offset))
    if x0 is None:
        start = solver.grown(start, [], 2)
    else:
        start[:, : min(x0.shape[1], width)] = x0[:, :width].to(start)

    inner = replace(task, dtype=torch.float64)
    outcome = davidson(
        inner, start, solver, block=min(width, 16), keep=width + max(width // 2, 2),
        capacity=5 * width + _FRESH, fill=min(width, 4), look=_Look(task, solver),
    )  # fmt: skip
    task.columns = inner.columns
    outcome = rounded(outcome, task)
    outcome.n_iter += iterations
    fill = float(solver.factor.L.nnz + solver.factor.U.nnz) / max(matrix.nnz, 1)
    facts = {"sigma": solver.sigma, "fill": fill, "factorisations": factors}
    facts["n_solve"] = solves + solver.columns
    return outcome, facts

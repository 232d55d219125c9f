"""Shift-invert: scipy's SuperLU factor of sigma I - A, driven by the block Davidson driver.

For the largest eigenvalues of A with sigma just above them, T = (sigma I - A)^-1 R spans the same
block Krylov space as the inverse itself (X is in the basis already), while Rayleigh-Ritz on A
keeps true residuals. Blocks hold multiplicities that ARPACK's single vector misses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...primitives.basis import random_block
from ...primitives.basis.blocks import column_norms
from ..completeness.inertia import Count, counting
from ..linalg.basis import Basis, orthonormalize
from ..linalg.factorization import Order, order_of, symmetric_factor
from ..plan import Plan
from ..problem.probe import Probe
from ..problem.task import Outcome, Task, rounded
from ._davidson import Sizes, davidson

__all__ = ["shift_invert"]

_FRESH = 4  # columns that search for missed directions
_SOLVES = 40  # at most, for each of them
_ATTEMPTS = 3  # to find what a count says is missing


class ShiftedSolve:
    """R -> (sigma I - A)^-1 R. sigma may move: eigenvalues of deflated vectors lie anywhere."""

    def __init__(self, task: Task, matrix: Any, sigma: float, order: Order | None = None) -> None:
        """order: of an earlier factor, or None."""
        self.task, self.columns = task, 0
        found = symmetric_factor("shift_invert", matrix, sigma, task.norm, order)
        self.factor, self.sigma = found
        self.order = order_of(self.factor) if order is None else order

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
class _SearchBySolves:
    """Random directions outside the basis by the solver itself, after a run that nothing else can
    prove: columns next to the shift come out parallel, and others are lost.
    """

    task: Task
    solver: ShiftedSolve

    def may_miss_copies(self, values: Tensor, drawn: int | None) -> bool:
        return True

    def __call__(self, basis: Basis, values: Tensor, seed: int) -> tuple[Tensor, float]:
        op, k, sigma = self.task.op, self.task.k, self.solver.sigma
        last, behind = float(values[k - 1]), float(values[min(k, len(values) - 1)])
        # a solve lifts what lies at t by (sigma - behind) / (sigma - t)
        visible = math.log(max(1e4, 10.0 * math.sqrt(op.n / _FRESH)))
        aim = max(sigma - (behind + last) / 2, 1e-300)
        rate = math.log(max(sigma - behind, 1e-300) / aim)
        solves = int(max(3.0, min(visible / max(rate, 1e-9), _SOLVES)))
        known = [basis.vectors(basis.ritz()[1][:, :k])]
        more = random_block(op.n, _FRESH, seed, torch.float64, op.device)
        floor = sigma - (sigma - behind) * math.exp(-visible / solves)
        return self.solver.grown(more, known, solves), floor


def shift_invert(task: Task, plan: Plan, found: Probe) -> Outcome:
    """Block Krylov on the factor.

    A second factor, at a shift inside the gap, counts the eigenvalues above it (`inertia`). A run
    that lacks some of them, or is too rough to be judged, goes on with other directions.

    The factor is float64 and so is the basis, whatever the precision: a float32 one costs more
    steps than its narrower rows save.
    """
    matrix = task.op.assemble()
    if matrix is None:
        raise ValueError(
            "shift_invert: A must have stored entries (sparse matrix or stored graph), got "
            f"{type(task.op).__name__}; use method='chebyshev'"
        )
    count = counting(task.op, task.deflated, task.known, matrix)
    width = plan.width
    start = random_block(task.op.n, width, task.seed, torch.float64, task.op.device)
    run = _FactorRun(replace(task, dtype=torch.float64), width, count)
    run.place_shift(matrix, found, start)
    if task.warm is None:
        start = run.solver.grown(start, [], 2)
    else:
        start[:, : min(task.warm.shape[1], width)] = task.warm[:, :width].to(start)
    outcome = run.until_complete(start)
    task.columns = run.task.columns
    outcome = rounded(outcome, task)
    outcome.n_iter += run.iterations
    solver = run.solver
    fill = float(solver.factor.L.nnz + solver.factor.U.nnz) / max(matrix.nnz, 1)
    outcome.facts = {
        "sigma": solver.sigma,
        "fill": fill,
        "order": solver.order.name,
        "factorisations": run.factors,
        "n_solve": run.solves + solver.columns,
    }
    return outcome


class _FactorRun:
    """A task in float64, its factor, and what the runs before the last one took.

    solves: by factors before the present one; factors: all, of counts too; iterations: of runs
    before the last.
    """

    solver: ShiftedSolve

    def __init__(self, task: Task, width: int, count: Count | None) -> None:
        self.task, self.width, self.count = task, width, count
        self.tol = task.tol  # as asked; that of the task may be lowered
        self.solves, self.factors, self.iterations = 0, 1, 0

    def place_shift(self, matrix: Any, found: Probe, start: Tensor) -> None:
        """Factorise next to the top of the spectrum."""
        task = self.task
        offset, top = 1e-6 * max(task.norm, 1e-300), found.hi
        if task.tol < 1e-9 * task.norm:
            # values that lie closer together: nearer to the top than the probe's float32 can tell
            top = min(task.op.bounds()[1], found.hi + offset)
            offset = max(10.0 * task.tol, 1e-13 * task.norm)
        self.solver = solver = ShiftedSolve(task, matrix, top + offset)
        if task.op.top_attained():
            return
        # the bound may lie far above: find the top roughly, then move the shift next to it
        first = replace(task, k=1, angle_tol=None, max_iter=9, tol=offset, callback=None, columns=0)
        block = start[:, : min(4, self.width)]
        near = davidson(first, solver.solve(block), solver, Sizes(block=4, capacity=24, keep=8))
        task.columns += first.columns
        self.iterations = near.n_iter
        top, residual = float(near.values[0]), float(near.residuals[0])
        # eigenvalues converge with the square of the residual over the distance to the rest, here
        # at least of the order of the old shift's; a shift inside the spectrum would still serve
        margin = min(residual, 3.0 * residual**2 / max(solver.sigma - top, offset))
        if solver.sigma - top > 3.0 * max(margin, offset):
            self.solves, self.factors = solver.columns, 2
            self.solver = ShiftedSolve(task, matrix, top + max(margin, offset), solver.order)

    def until_complete(self, start: Tensor) -> Outcome:
        """Runs from other directions until none of the eigenvalues that were counted is missing."""
        task, solver, width = self.task, self.solver, self.width
        search = None if self.count is not None else _SearchBySolves(task, solver)
        outcome = self._once(start, search)
        for attempt in range(_ATTEMPTS):
            proof = outcome.proof
            self.factors += proof is not None
            if proof is None or proof.complete:
                break
            self.iterations += outcome.n_iter
            if not proof.missing:  # Ritz values too rough to be told from what was counted
                task.tol *= 0.1
            seed = task.seed + 104729 * (attempt + 1)
            more = random_block(task.op.n, width, seed, torch.float64, task.op.device)
            more = solver.grown(more, [outcome.vectors], _SOLVES)
            outcome = self._once(torch.cat([outcome.vectors, more], 1), None)
        return outcome

    def _once(self, start: Tensor, search: _SearchBySolves | None) -> Outcome:
        task, width = self.task, self.width
        sizes = Sizes(
            block=min(width, 16),
            keep=width + max(width // 2, 2),
            capacity=5 * width + _FRESH,
            fill=min(width, 4),
        )
        out = davidson(task, start, self.solver, sizes, search)
        if self.count is not None and out.converged:
            norm = float(out.residuals.norm())
            order = self.solver.order
            out.proof = self.count(out.values.numpy(), norm, out.gap, self.tol, task.norm, order)
        return out

"""Shift-invert: scipy's SuperLU factor of sigma I - A, driven by the block Davidson driver.

For the largest eigenvalues of A with sigma just above them, T = (sigma I - A)^-1 R spans the same
block Krylov space as the inverse itself (X is in the basis already), while Rayleigh-Ritz on A
keeps true residuals. Blocks see multiplicities that ARPACK's single vector misses.
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
from ..completeness.inertia import counting
from ..linalg.basis import Basis, orthonormalize
from ..linalg.factorization import symmetric_factor
from ..problem.probe import Probe
from ..problem.task import Known, Outcome, Task, rounded
from ._davidson import davidson

__all__ = ["shift_invert"]

_FRESH = 4  # columns that look for missed directions
_SOLVES = 40  # at most, for each of them
_ATTEMPTS = 3  # to find what a count says is missing


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
    """Random directions outside the basis by the solver itself, after a run that nothing else can
    prove: columns next to the shift come out parallel, and hide others.
    """

    task: Task
    solver: _Solve

    def doubts(self, values: Tensor) -> bool:
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
        sight = sigma - (sigma - behind) * math.exp(-visible / solves)
        return self.solver.grown(more, known, solves), sight


def shift_invert(
    task: Task, x0: Tensor | None, found: Probe, exact_top: bool, known: Known
) -> tuple[Outcome, dict]:
    """Block Krylov on the factor. exact_top: found.hi is known to touch the spectrum; known: wanted
    pairs that are among the deflated ones.

    A second factor, at a shift inside the gap, counts the eigenvalues above it (certificate). A run
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
    count = counting(task.op, task.deflated, known, matrix)
    n, k = task.op.n, task.k
    offset, top = 1e-6 * max(task.norm, 1e-300), found.hi
    if task.tol < 1e-9 * task.norm:
        # values that lie closer together: nearer to the top than what the probe's float32 can tell
        top = min(task.op.bounds()[1], found.hi + offset)
        offset = max(10.0 * task.tol, 1e-13 * task.norm)
    solver = _Solve(task, matrix, top + offset)
    solves, factors, iterations = 0, 1, 0
    guard = max(2, min(k // 4, 8))
    width = min(k + guard, task.free)
    start = random_block(n, width, task.seed, torch.float64, task.op.device)
    if not exact_top:
        # the bound may lie far above: find the top roughly, then move the shift next to it
        first = replace(
            task,
            k=1,
            angle_tol=None,
            max_iter=9,
            tol=offset,
            callback=None,
            columns=0,
            dtype=torch.float64,
        )
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

    def run(start: Tensor, look: _Look | None) -> Outcome:
        out = davidson(
            inner,
            start,
            solver,
            block=min(width, 16),
            keep=width + max(width // 2, 2),
            capacity=5 * width + _FRESH,
            fill=min(width, 4),
            look=look,
        )
        if count is not None and out.converged:
            norm = float(out.residuals.norm())
            order = np.argsort(solver.factor.perm_c)
            out.proof = count(out.values.numpy(), norm, out.gap, task.tol, task.norm, order)
        return out

    outcome = run(start, None if count is not None else _Look(task, solver))
    for attempt in range(_ATTEMPTS):
        proof = outcome.proof
        factors += proof is not None
        if proof is None or proof.complete:
            break
        iterations += outcome.n_iter
        if not proof.missing:  # Ritz values too rough to be told from what was counted
            inner.tol *= 0.1
        more = random_block(
            n, width, task.seed + 104729 * (attempt + 1), torch.float64, task.op.device
        )
        more = solver.grown(more, [outcome.vectors], _SOLVES)
        outcome = run(torch.cat([outcome.vectors, more], 1), None)
    task.columns = inner.columns
    outcome = rounded(outcome, task)
    outcome.n_iter += iterations
    fill = float(solver.factor.L.nnz + solver.factor.U.nnz) / max(matrix.nnz, 1)
    facts = {"sigma": solver.sigma, "fill": fill, "factorisations": factors}
    facts["n_solve"] = solves + solver.columns
    return outcome, facts

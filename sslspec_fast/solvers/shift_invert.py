"""Shift-invert: scipy's SuperLU factor of sigma I - A, driven by the block Davidson driver.

For the largest eigenvalues of A with sigma just above them, T = (sigma I - A)^-1 R spans the same
block Krylov space as the inverse itself (X is in the basis already), while Rayleigh-Ritz on A
keeps true residuals. Blocks see multiplicities that ARPACK's single vector misses.

Whether a factorisation pays is read off a breadth-first level structure: the narrowest level s in
the middle half is a separator, a nested dissection with it fills about s^2 log2(n / s) entries,
and the number of levels D bounds from below the degree that any polynomial needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse
import torch
from scipy.sparse.csgraph import breadth_first_order, connected_components
from scipy.sparse.linalg import splu
from torch import Tensor

from sslspec_fast.primitives.basis import random_block
from sslspec_fast.solvers._basis import Basis, column_norms, orthonormalize
from sslspec_fast.solvers.davidson import Outcome, Task, davidson, rounded
from sslspec_fast.solvers.probe import Probe

__all__ = ["INT32_LIMIT", "Structure", "shift_invert", "structure"]

INT32_LIMIT = 2**31 - 1  # entries that SuperLU and scipy's graph routines can index
_FRESH = 4  # columns that look for missed directions
# Columns that SuperLU updates together. Its 20 serve dense factors; this method is for low fill:
# USA power grid 135 -> 95 ms, GeoNames 1150 -> 980, but MNIST-5k (fill 41x) 490 -> 530.
_PANEL = 4
_NUDGES = (0.0, 1e-10, 1e-8, 1e-6)  # of a sigma that is an eigenvalue, relative to the norm


@dataclass
class Structure:
    """Level structure of the largest component: levels, separator width, predicted fill of L."""

    levels: int
    separator: int
    fill: float

    def seconds(self, n: int, columns: int) -> float:
        """Factorisation and `columns` solves, from SuperLU's measured rates on one core."""
        factor = 3e-6 * n + 0.3e-6 * self.fill + 1e-10 * float(self.separator) ** 3
        return factor + columns * (70e-9 * n + 2.5e-9 * self.fill)


def structure(matrix: Any) -> Structure:
    """Two breadth-first searches from the far end of the largest component, O(nnz)."""
    n = matrix.shape[0]
    count, labels = connected_components(matrix, directed=False)
    root = 0 if count == 1 else int(np.flatnonzero(labels == np.bincount(labels).argmax())[0])
    order, _ = _levels(matrix, root)
    order, starts = _levels(matrix, int(order[-1]))
    widths = np.diff(starts)
    ends = starts[1:] / len(order)
    middle = widths[(ends > 0.25) & (ends < 0.75)]
    # too few levels to have a middle: no separator to speak of
    separator = max(int(middle.min()) if len(middle) else len(order) // 2, 1)
    # trees hang off the core and eliminate without fill: only the cycles of the graph count
    cycles = max(matrix.nnz / 2 - n + count, 0.0)
    separator = max(int(separator * min(1.0, cycles / n)), 1)
    fill = matrix.nnz / 2 + float(separator) ** 2 * max(math.log2(max(n / separator, 2.0)), 1.0)
    return Structure(len(widths), separator, fill)


def _levels(matrix: Any, root: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes in breadth-first order and the position where each level starts (plus the end)."""
    order, parent = breadth_first_order(matrix, root, directed=False)
    position = np.empty(matrix.shape[0], dtype=np.int64)
    position[order] = np.arange(len(order))
    parents = position[parent[order[1:]]]  # never decreases along the order
    starts = [0, 1]
    while starts[-1] < len(order):
        starts.append(1 + int(np.searchsorted(parents, starts[-1])))
    return order, np.array(starts)


class _Solve:
    """R -> (sigma I - A)^-1 R by SuperLU, minimum degree on A + A^T, diagonal pivots.

    A sigma that meets an eigenvalue (of a deflated vector: these may lie anywhere) is moved up.
    """

    def __init__(self, task: Task, matrix: Any, sigma: float) -> None:
        self.task, self.columns = task, 0
        for nudge in _NUDGES:
            self.sigma = sigma + nudge * task.norm
            try:
                self.factor = self._factor(matrix, self.sigma)
                return
            except RuntimeError as singular:
                if "singular" not in str(singular):
                    raise
        raise ValueError(
            f"shift_invert: A - sigma I must be regular, got a singular factor at sigma = {sigma} "
            f"and up to {self.sigma}; use method='chebyshev'"
        )

    @staticmethod
    def _factor(matrix: Any, sigma: float) -> Any:
        shifted = scipy.sparse.csc_array(
            sigma * scipy.sparse.eye_array(matrix.shape[0], format="csc") - matrix
        )
        if max(shifted.nnz, matrix.shape[0]) > INT32_LIMIT:
            raise ValueError(
                f"shift_invert: SuperLU needs nnz < 2^31, got nnz = {shifted.nnz}; "
                "use method='chebyshev'"
            )
        shifted.indptr = shifted.indptr.astype(np.int32)
        shifted.indices = shifted.indices.astype(np.int32)
        return splu(
            shifted, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, panel_size=_PANEL,
            options={"SymmetricMode": True},
        )  # fmt: skip

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

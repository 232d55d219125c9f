"""The k eigenvalues nearest to sigma: block Lanczos on S = (A - sigma I)^-1, from a factor.

    S x = theta x   <=>   A x = (sigma + 1 / theta) x

The nearest are those of the largest |theta|, at both ends of the spectrum of S, and one Krylov
space holds both. A residual r of S becomes one of A of about ||r|| / theta^2 by one more solve,
which every pair that is returned has gone through; so it is A's residual that the run ends by.
Completeness is counted: two more factors, on either side of sigma, tell how many eigenvalues lie
between them (`completeness.inertia`). A run that lacks some goes on from other directions.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..operators.base import ShiftOperator, SymmetricOperator
from ..primitives.basis import column_norms
from .completeness.inertia import Inertia, Window, count_within
from .linalg.basis import Basis, orthonormalize
from .linalg.cost import lanczos_block
from .linalg.factorization import Order
from .linalg.shifted import Shifted, dense_shifted, sparse_shifted
from .linalg.sparse_cholesky import SparseCholesky
from .methods._davidson import report_step
from .plan import Plan
from .problem.eigenproblem import Eigenproblem
from .problem.pencil import SparsePencil
from .problem.probe import probe
from .problem.task import Outcome, Task, rounded

__all__ = ["nearest"]

_DENSE_ROWS = 10_000  # of an A without entries: its factor takes 0.8 GB and half a minute
_ATTEMPTS = 3  # to find what a count says is missing
_SOLVES = 6  # that push random directions towards sigma
_SPARE = 4  # directions more than are missing
_STALE = 12  # steps without a better residual, after which it is rounding
_TOO_NEAR = 1e5  # times nearer to sigma than the last wanted one: S rounds the others away
_ASIDE = 0.03  # of the distance of the last wanted one, by which the shift is then moved


def nearest(problem: Eigenproblem, sigma: float) -> tuple[Plan, Outcome]:
    """sigma: in the units of problem.op."""
    task = problem.task
    lo, hi = task.op.bounds()
    if not math.isfinite(hi - lo):
        found = probe(task)
        lo, hi = found.lo, found.hi
    task.set_norm(max(abs(lo), abs(hi), abs(sigma), 1e-300))
    factored = _Factored.of(task.op)
    run = _Run(task, factored, sigma)
    outcome = run.until_complete()
    facts = {"sigma": run.solver.sigma, "n_solve": run.solves, "factor": run.solver.kind}
    outcome.facts = facts | {"factorisations": run.factors}
    return Plan("shift_invert", "the nearest to sigma, by a factor of A - sigma I"), outcome


class _Factored:
    """What is factorised: a A + (b - sigma) B, of entries, or dense. mass: B and its factor."""

    def __init__(
        self, matrix: Any, b: float = 0.0, mass: tuple[Any, SparseCholesky] | None = None
    ) -> None:
        self.matrix, self.b, self.mass = matrix, b, mass

    @classmethod
    def of(cls, op: SymmetricOperator) -> _Factored:
        a, b, inner = 1.0, 0.0, op
        while isinstance(inner, ShiftOperator):
            a, b, inner = a * inner.a, a * inner.b + b, inner.op
        if isinstance(inner, SparsePencil):
            matrix = inner.inner.assemble()
            if matrix is not None:
                return cls(a * matrix, b, (inner.mass, inner.factor))
        matrix = op.assemble()
        if matrix is not None:
            return cls(matrix)
        if op.n > _DENSE_ROWS:
            raise ValueError(
                "eigsh: sigma needs the entries of A (sparse or a stored graph) or n <= "
                f"{_DENSE_ROWS}, got {type(op).__name__} with n = {op.n}"
            )
        return cls(op.to_dense().cpu().numpy())

    def shifted(self, sigma: float, norm: float, order: Order | None = None) -> Shifted:
        if isinstance(self.matrix, np.ndarray):
            return dense_shifted(self.matrix, sigma, norm)
        if self.mass is None:
            return sparse_shifted(self.matrix, sigma, norm, order=order)
        mass, factor = self.mass
        inner = sparse_shifted(self.matrix, sigma - self.b, norm, mass, order)
        return Shifted(
            lambda r: factor.times_transposed(inner(factor.times(r))),
            inner.sigma + self.b,
            inner.kind,
            inner.order,
        )


class _Run:
    """A basis of S, and which of its Ritz pairs are wanted."""

    def __init__(self, task: Task, factored: _Factored, sigma: float) -> None:
        self.task, self.factored, self.sigma = task, factored, sigma
        self.solver = factored.shifted(sigma, task.norm)
        self.factors, self.solves_before, self.moved = 1, 0, False
        k, self.block = task.k, lanczos_block(task.k, task.free)
        self.keep = min(k + max(k // 4, self.block) + 1, task.free)
        self.capacity = min(self.keep + max(k, 10 * self.block), task.free)
        self.target = task.tol
        self.history: list[dict[str, Any]] = []
        self.stopped = False
        self._empty_basis()

    @property
    def solves(self) -> int:
        return self.solves_before + self.solver.columns

    def _empty_basis(self) -> None:
        op = self.task.op
        self.basis = Basis(op.rows, self.capacity + self.block, torch.float64, op.device)

    def solve(self, x: Tensor) -> Tensor:
        y = torch.from_numpy(np.ascontiguousarray(self.solver(x.double().cpu().numpy()))).to(x)
        return y if self.task.deflated is None else self.task.deflated.remove_(y)

    def _random(self, seed: int, columns: int | None = None) -> Tensor:
        columns = self.block if columns is None else columns
        return self.task.op.random_block(columns, self.task.seed + seed, torch.float64)

    def until_complete(self) -> Outcome:
        task = self.task
        start = self._random(0)
        if task.warm is not None:
            start = torch.cat([task.warm[:, : self.keep], start], 1)
        outcome = self._once(orthonormalize(start, [], task.deflated))
        for attempt in range(1, _ATTEMPTS + 1):
            proof = outcome.proof
            if proof is None or proof.complete:
                break
            if not proof.missing:  # values too rough to be told from what was counted
                self.target *= 0.1
            columns = min(max(proof.missing + _SPARE, self.block), max(task.k, self.block))
            more = self._random(104729 * attempt, columns)
            for _ in range(_SOLVES):
                more = self.solve(orthonormalize(more, [outcome.vectors], task.deflated))
            self._empty_basis()
            start = torch.cat([outcome.vectors, more], 1)
            outcome = self._once(orthonormalize(start, [], task.deflated))
        return rounded(outcome, task)

    def _once(self, t: Tensor) -> Outcome:
        """From the orthonormal block t until the pairs are good, or get no better."""
        task, basis, k = self.task, self.basis, self.task.k
        refills, best, stale = 0, math.inf, 0
        while True:
            at = self.solve(t)
            basis.append(t, at)
            theta, q = basis.ritz()
            values = self.solver.sigma + 1.0 / torch.where(theta == 0.0, 1e-300, theta)
            places = (values - self.sigma).abs().argsort(stable=True)
            enough = basis.size >= min(k + task.guard, task.free)
            if enough:
                wanted = places[: k + task.guard]
                norms = column_norms(basis.residual(theta[wanted], q[:, wanted]))
                worst = float((norms / theta[wanted].square())[:k].max())
                best, stale = (worst, 0) if worst < 0.5 * best else (best, stale + 1)
                good = self._guard_good(theta[wanted], norms)
                good = good and worst <= 0.3 * self._tightened(theta[wanted], norms)
                # residuals of A, one solve on
                shown = norms[:k] / theta[wanted[:k]].square()
                self.stopped = report_step(
                    task, shown, self.target, self.history, basis.size, values[wanted[:k]]
                )
                self.stopped &= not good
                over = task.max_iter <= len(self.history)
                if good or stale >= _STALE or self.stopped or over or basis.size >= task.free:
                    moved = self._moved_shift(values[wanted])
                    if moved is None:
                        return self._outcome(theta, q, wanted, values, norms)
                    t, best, stale = moved, math.inf, 0
                    basis = self.basis
                    continue
            t = orthonormalize(at.clone(), basis.v, task.deflated)
            if basis.size + t.shape[1] > self.capacity and enough:
                basis.rotate(q[:, places[: self.keep]].contiguous())
            if t.shape[1] == 0:  # the Krylov space is invariant: copies lie outside
                refills += enough
                t = self._random(7919 * (basis.size + refills))
                t = orthonormalize(t, basis.v, task.deflated)
                if t.shape[1] == 0 or refills > _ATTEMPTS:
                    return self._outcome(theta, q, wanted, values, norms)

    def _guard_good(self, theta: Tensor, norms: Tensor) -> bool:
        """The pair behind tells where the gap ends, or is as good as the wanted ones."""
        k = self.task.k
        if len(theta) == k:
            return True
        distance = float(theta[:k].abs().min() - theta[k].abs())
        residual = float(norms[k])
        return residual <= max(0.1 * distance, 0.3 * self.target * float(theta[k]) ** 2)

    def _tightened(self, theta: Tensor, norms: Tensor) -> float:
        """The residual that the tolerances ask for, lower where the angle asks for it."""
        task, k = self.task, self.task.k
        if task.angle_tol is not None and len(theta) > k:
            behind = 1.0 / max(float(theta[k].abs() + 4.0 * norms[k]), 1e-300)
            gap = behind - 1.0 / max(float(theta[:k].abs().min()), 1e-300)
            least = max(0.5 * task.angle_tol * gap / math.sqrt(k), 1e-14 * task.norm)
            self.target = min(self.target, least) if gap > 0.0 else self.target
        return self.target

    def _moved_shift(self, values: Tensor) -> Tensor | None:
        """Where a wanted eigenvalue is so near to the shift that S rounds the others away: the
        start of a run with another shift, once.
        """
        k = self.task.k
        distances = (values[:k] - self.solver.sigma).abs()
        far = float(distances.max())
        if self.moved or float(distances.min()) * _TOO_NEAR >= far:
            return None
        self.moved = True
        theta, q = self.basis.ritz()
        order = (self.solver.sigma + 1.0 / theta - self.sigma).abs().argsort(stable=True)
        start = self.basis.vectors(q[:, order[: self.keep]].contiguous())
        self.solves_before, self.factors = self.solves, self.factors + 1
        sigma, known = self.sigma + _ASIDE * far, self.solver.order
        self.solver = self.factored.shifted(sigma, self.task.norm, known)
        self._empty_basis()
        return orthonormalize(start, [], self.task.deflated)

    def _outcome(
        self, theta: Tensor, q: Tensor, wanted: Tensor, values: Tensor, norms: Tensor
    ) -> Outcome:
        """The wanted pairs after one more solve, as Ritz pairs of A, and a count."""
        task, k = self.task, self.task.k
        x = self.solve(self.basis.vectors(q[:, wanted[:k]].contiguous()))
        x = orthonormalize(x / column_norms(x).clamp_min(1e-300).to(x.device), [], task.deflated)
        ritz = Basis(task.op.rows, x.shape[1], torch.float64, task.op.device)
        at = task.apply(x)
        ritz.append(x, at if task.deflated is None else task.deflated.remove_(at))
        found, c = ritz.ritz()
        order = (found - self.sigma).abs().argsort(stable=True)
        found, c = found[order], c[:, order].contiguous()
        residuals = column_norms(ritz.residual(found, c)).cpu()
        gap = math.inf
        if len(wanted) > k:
            rough = 1.0 / max(float(theta[wanted[k]].abs()) + 4.0 * float(norms[k]), 1e-300)
            behind = max(rough - abs(self.solver.sigma - self.sigma), 0.0)
            gap = max(behind - float((found - self.sigma).abs().max()), 0.0)
        good = len(found) == k and bool((residuals <= task.tol).all())
        reason = "stopped by the callback" if self.stopped else "rounding level reached"
        if task.max_iter <= len(self.history):
            reason = "max_iter reached"
        if good and not task.angle_met(residuals, gap):
            good, reason = False, "the residuals do not resolve the gap"
        outcome = Outcome(
            found,
            ritz.vectors(c),
            residuals,
            gap,
            good and not self.stopped,
            reason,
            len(self.history),
            self.history,
        )
        if outcome.converged and gap < math.inf:
            outcome.proof = self._proof(outcome)
        return outcome

    def _proof(self, outcome: Outcome) -> Window:
        task, factored = self.task, self.factored
        slack, others = float(outcome.residuals.norm()), np.zeros(0)
        if task.deflated is not None:
            v = task.deflated.dense()
            others = torch.linalg.eigvalsh(v.T @ task.apply(v)).cpu().numpy()
        self.factors += 2
        b = factored.b
        proof = count_within(
            Inertia(factored.matrix, task.norm, self.solver.order, factored.mass),
            outcome.values.numpy() - b,
            others - b,
            self.sigma - b,
            slack,
            outcome.gap,
            task.tol,
        )
        return replace(proof, center=self.sigma)

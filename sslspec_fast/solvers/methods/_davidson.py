"""Block Davidson with thick restart: the one driver behind every iterative method.

    repeat:  Rayleigh-Ritz on V  ->  residuals R = A X - X T of the first unconverged Ritz vectors
             ->  new directions  expand(R, T)  ->  orthonormalise against V  ->  V, A V grow

What `expand` does names the method: a Chebyshev filter in residual form (chebyshev), a solve with
a factorisation (shift_invert), a preconditioner (lobpcg), nothing (block Lanczos: V stays a
block Krylov space). Zhou and Saad 2007 (block Chebyshev-Davidson), Stathopoulos 2007 (restarts
that keep the previous Ritz vectors). The driver always computes the largest eigenvalues.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ...primitives.spread import decided
from ..completeness.convergence import BoundOnMissed, Monitor
from ..linalg.basis import Basis, orthonormalize
from ..linalg.cost import LINE, guards
from ..problem.task import Outcome, Task
from ._next_step import State, Step, next_step

__all__ = ["Search", "Sizes", "davidson", "report_step"]

Expand = Callable[[Tensor, Tensor, "Basis", Tensor], Tensor]

_REFILLS = 3  # random blocks that bring nothing new, after which rounding is the cause


class Search(Protocol):
    """Random directions outside the basis, lifted to the wanted end: what a run may have missed."""

    def may_miss_copies(self, values: Tensor, drawn: int | None) -> bool:
        """Whether these Ritz values leave room for eigenvalues that the run does not hold. drawn:
        random columns that took the place of what the start had lost, None where it lost nothing.
        """

    def __call__(self, basis: Basis, values: Tensor, seed: int) -> tuple[Tensor, float]:
        """(n, b) new directions, at most as many as leave room for what is wanted, and the floor
        of the search: an eigenvalue above it would have shown up in them. None, where there is no
        such eigenvalue.
        """


@dataclass(frozen=True)
class Sizes:
    """Columns. block, fill: most and fewest of a step; capacity, keep: of the basis, and of what a
    restart leaves of it; krylov_steps: products with A that extend the basis at once.
    """

    block: int
    capacity: int
    keep: int
    krylov_steps: int = 1
    fill: int = 1


def davidson(
    task: Task,
    start: Tensor,
    expand: Expand | None,
    sizes: Sizes,
    search: Search | None = None,
    bound_on_missed: BoundOnMissed | None = None,
) -> Outcome:
    """Run until the task is met. start (n, m): first directions, not yet orthonormal.

    search: where pairs may be missing, because of the values or of a start that lost its guards, a
    run that has converged is accepted only after these directions have been added and the wanted
    values stay. bound_on_missed: what the start itself tells of the gap, asked before the pair
    behind it is computed.
    """
    run = _DavidsonRun(task, expand, sizes, search, bound_on_missed)
    run.begin(start)
    while True:
        state = run.rayleigh_ritz()
        step = next_step(state)
        if step is Step.SEARCH_MISSED:
            step = run.search_missed()
        elif step is Step.EXPAND:
            step = run.extend()
        if step.ends:
            return run.outcome(state, step)


class _DavidsonRun:
    """A basis, what is known of its Ritz pairs, and the three ways to go on."""

    def __init__(
        self,
        task: Task,
        expand: Expand | None,
        sizes: Sizes,
        search: Search | None,
        bound_on_missed: BoundOnMissed | None,
    ) -> None:
        self.task, self.expand, self.search, self.sizes = task, expand, search, sizes
        least = min(task.k + task.guard, task.free)
        self.capacity = max(min(sizes.capacity, task.free), least)
        # a search completes what the basis has of a pair: nothing may be dropped for its columns
        most = self.capacity + (0 if search is None else LINE)
        self.basis = Basis(task.op.rows, most, task.dtype, task.op.device)
        self.needed = least
        self.krylov_steps = sizes.krylov_steps if expand is None else 1
        self.monitor = Monitor(task, bound_on_missed)
        self.history: list[dict[str, Any]] = []
        self.iteration = self.searches = self.refills = 0
        # wanted values before the last search
        self.searched = torch.full((task.k,), math.nan, dtype=torch.float64)
        self.filled = 0  # columns of a start that has lost none
        # random columns in the place of lost ones; None: none were drawn
        self.drawn: int | None = None

    def begin(self, start: Tensor) -> None:
        task, basis = self.task, self.basis
        self._grow(start.to(task.dtype), self.capacity, self.krylov_steps)
        self.filled = min(start.shape[1], self.capacity, task.k + guards(task.k))
        self.lost_guards = basis.size < self.filled
        self._forget_previous()

    def rayleigh_ritz(self) -> State:
        """Ritz pairs, and the residuals of those that are to be improved."""
        task, basis, monitor = self.task, self.basis, self.monitor
        self.iteration += 1
        self.values, self.q = basis.ritz()
        if basis.size < self.needed:
            self.index, self.residuals = torch.zeros(0, dtype=torch.int64), basis.empty
            converged = False
        else:
            converged = self._pick()
            if converged and monitor.trusted:  # measure every wanted pair on the final basis
                monitor.norms[: task.k] = math.inf
                converged = self._pick()
        stopped = report_step(
            task, monitor.norms[: task.k], monitor.target, self.history, basis.size, self.values
        )
        return State(
            size=basis.size,
            k=task.k,
            free=task.free,
            converged=converged,
            may_miss=self._may_miss(),
            confirmed=self._confirmed(),
            exhausted=self.refills == _REFILLS,
            stopped=stopped,
            out_of_steps=self.iteration > task.max_iter,
        )

    def _pick(self) -> bool:
        """True when there is no pair to improve."""
        sizes = self.sizes
        self.index, self.residuals = self.monitor.pick(
            self.basis, self.values, self.q, sizes.block, sizes.fill
        )
        return len(self.index) == 0

    def _may_miss(self) -> bool:
        if self.search is None:
            return False
        values = self.values
        return (
            self.lost_guards
            or self.search.may_miss_copies(values, self.drawn)
            or self.monitor.copies_at_the_cut(values)
        )

    def _confirmed(self) -> bool:
        """Whether the last search has left the wanted values as they were."""
        wanted, gap, tol = self.values[: self.task.k], self.monitor.gap, self.task.tol
        slack = min(tol, 0.1 * gap) if gap > 0.0 else tol
        same = len(wanted) == self.task.k
        return same and bool(((wanted - self.searched).abs() <= slack).all())

    def search_missed(self) -> Step:
        """Add directions that hold what the basis may lack."""
        task, basis, monitor = self.task, self.basis, self.monitor
        assert self.search is not None
        self.searches += 1
        self.searched = self.values[: task.k].clone()
        if basis.size > self.capacity:  # from the search before
            self._restart(self.sizes.keep)
        seed = task.seed + 104729 * self.searches
        more, monitor.search_floor = self.search(basis, self.values, seed)
        finite = bool(torch.isfinite(more).all())
        if self._grow(more.to(task.dtype), basis.capacity):
            self.refills = 0
        elif not finite:
            return Step.OVERFLOW
        monitor.norms[:] = math.inf
        return Step.SEARCH_MISSED

    def extend(self) -> Step:
        """Expand the residuals, or random directions where nothing new comes of them."""
        task, basis, sizes = self.task, self.basis, self.sizes
        capacity, index, r = self.capacity, self.index, self.residuals
        if basis.size + max(len(index), 1) > capacity:
            self._restart(min(sizes.keep, capacity - max(sizes.block // 2, 1)))
            index = index[index < basis.size]
            # Ritz pairs kept by a restart are unchanged up to sign, and so are their residuals
            if len(index):
                r = basis.residual(self.values[index], self.q[:, index])
        self.previous = self.q[:, : task.k + task.guard]
        room = capacity - basis.size
        added = 0
        if len(index):
            index, r = index[:room], r[:, :room]
            values = self.values
            t = r if self.expand is None else self.expand(r, values[index], basis, values)
            added = self._grow(t.to(task.dtype), capacity, self.krylov_steps)
        if added:
            return Step.EXPAND
        if self.refills == _REFILLS:
            return Step.ROUNDING
        seed = task.seed + 7919 * (basis.size + self.refills + 1)
        width = min(max(sizes.block, 1), capacity - basis.size)
        more = task.op.random_block(width, seed, task.dtype)
        # while there are fewer than what is wanted, only a block that adds nothing counts
        wanting = basis.size < self.needed
        added = self._grow(more, capacity)
        self.refills += not (added and wanting)
        if self.lost_guards and added:
            # what the start lacks is in these columns, as in any random start
            self.drawn = added if self.drawn is None else min(self.drawn, added)
            self.lost_guards = basis.size < self.filled
        return Step.EXPAND

    def outcome(self, state: State, step: Step) -> Outcome:
        """The wanted pairs. A run that was cut short proves nothing, whatever its residuals are;
        at rounding level the pair behind may stay open.
        """
        task, basis, monitor = self.task, self.basis, self.monitor
        if not state.converged:
            monitor.settle(basis, self.values, self.q)
        good = state.complete and step in (Step.ACCEPT, Step.WHOLE_SPACE, Step.ROUNDING)
        reason = step.value
        if step is Step.ACCEPT and not monitor.satisfied():
            reason = "the cut lies inside a cluster"
        k = min(task.k, basis.size)
        vectors = basis.vectors(self.q[:, :k])
        return Outcome(
            self.values[:k],
            vectors,
            monitor.norms[:k].clone(),
            monitor.gap,
            good and monitor.satisfied(),
            reason,
            self.iteration,
            self.history,
        )

    def _grow(self, t: Tensor, most: int, steps: int = 1) -> int:
        """Orthonormalise t against V and append, up to `most` columns in all; `steps` > 1 goes on
        along the Krylov space.
        """
        task, basis, added = self.task, self.basis, 0
        for step in range(steps):
            t = t[:, : max(most - basis.size, 0)]
            t = orthonormalize(t, basis.v, task.deflated)
            if t.shape[1] == 0:
                break
            at = task.apply(t.contiguous())
            if task.deflated is not None:
                task.deflated.remove_(at)
            basis.append(t, at)
            added += t.shape[1]
            if step + 1 < steps:
                t = at.clone()  # the basis has adopted A t itself
        return added

    def _forget_previous(self) -> None:
        self.previous = torch.zeros(self.basis.size, 0, dtype=torch.float64)

    def _restart(self, keep: int) -> None:
        """Keep the best Ritz vectors and, in the room that is left, those of the step before."""
        self.basis.rotate(*decided(_kept(self.q, self.previous, keep, self.task.k)))
        self._forget_previous()
        self.values, self.q = self.basis.ritz()


def _kept(q: Tensor, previous: Tensor, keep: int, k: int) -> Tensor:
    """Orthonormal coefficients (j, at most keep) of what a restart leaves."""
    old = torch.zeros(q.shape[0], previous.shape[1], dtype=q.dtype)
    old[: previous.shape[0]] = previous
    room = max(min(previous.shape[1], keep - k - 1), 0)
    coefficients = q[:, : keep - room]
    if not room:
        return coefficients
    old = old[:, -room:] if room < old.shape[1] else old
    for _ in range(2):
        old = old - coefficients @ (coefficients.T @ old)
    lengths = old.norm(dim=0)
    old = old[:, lengths > 1e-8] / lengths[lengths > 1e-8]
    if old.shape[1]:
        u, s, _ = torch.linalg.svd(old, full_matrices=False)
        coefficients = torch.cat([coefficients, u[:, s > 1e-6 * s[0]]], 1)
        coefficients = torch.linalg.qr(coefficients)[0]
    return coefficients


def report_step(
    task: Task,
    norms: Tensor,
    target: float,
    history: list[dict[str, Any]],
    size: int,
    values: Tensor,
) -> bool:
    """Record the step and show it to the callback; True when that asks to stop.

    norms (k,): residuals; target: what they are to reach; size: columns of the basis.
    """
    known = norms[torch.isfinite(norms)]
    entry = {
        "iteration": len(history) + 1,
        "converged": int((norms <= target).sum()),
        "residual": float(known.max()) / max(task.norm, 1e-300) if len(known) else math.nan,
        "basis": size,
        "n_matvec": task.columns,
    }
    history.append(entry)
    if task.callback is None:
        return False
    return bool(task.callback({**entry, "k": task.k, "values": values[: task.k].clone()}))

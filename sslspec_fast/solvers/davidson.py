"""Block Davidson with thick restart: the one driver behind every iterative method.

    repeat:  Rayleigh-Ritz on V  ->  residuals R = A X - X T of the first unconverged Ritz vectors
             ->  new directions  expand(R, T)  ->  orthonormalise against V  ->  V, A V grow

What `expand` does names the method: a Chebyshev filter in residual form (chebyshev), a solve with
a factorisation (shift_invert), a preconditioner (lobpcg), nothing (block Lanczos: V stays a
block Krylov space). Zhou and Saad 2007 (block Chebyshev-Davidson), Stathopoulos 2007 (restarts
that keep the previous Ritz vectors). The driver always looks for the largest eigenvalues.

Convergence: ||r_i|| <= tol for every wanted pair and, with an angle tolerance,
||R||_F <= angle_tol * gap. The gap t_k - (t_{k+1} + ||r_{k+1}||) needs a guard vector good to a
quarter of that distance (or to tol, inside a cluster): copies of t_k would still hide behind less.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from sslspec_fast.operators.base import Deflated, SymmetricOperator
from sslspec_fast.primitives.basis import random_block
from sslspec_fast.solvers._basis import Basis, column_norms, orthonormalize
from sslspec_fast.solvers._cost import guards, machine

__all__ = ["Look", "Outcome", "Task", "davidson", "rounded"]

Expand = Callable[[Tensor, Tensor, "Basis", Tensor], Tensor]


@dataclass
class Task:
    """What is asked: the k largest eigenpairs of op in the complement of the deflated vectors."""

    op: SymmetricOperator
    k: int
    free: int  # dimension of the complement of the deflated vectors
    norm: float  # bound of ||A||
    tol: float  # absolute bound of ||r_i||
    angle_tol: float | None
    max_iter: int
    seed: int
    deflated: Deflated | None = None
    dtype: torch.dtype = torch.float64  # of the basis
    callback: Callable[[dict[str, Any]], Any] | None = None
    columns: int = 0  # columns multiplied so far, all precisions

    def apply(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        self.columns += x.shape[1]
        return self.op.matmat(x, out).contiguous()

    def angle_met(self, norms: Tensor, gap: float) -> bool:
        """||R||_F <= angle_tol * gap, where it was asked for. No gap bounds no angle."""
        if self.angle_tol is None or gap == math.inf:
            return True
        return gap > 0.0 and float(norms.norm()) <= self.angle_tol * gap

    @property
    def guard(self) -> int:
        """Index just behind the wanted ones exists, so a gap can be measured."""
        return 1 if self.free > self.k else 0


@dataclass
class Outcome:
    values: Tensor
    vectors: Tensor
    residuals: Tensor
    gap: float
    converged: bool
    reason: str
    n_iter: int
    history: list[dict[str, Any]] = field(default_factory=list)


_LEAST = 2e-15  # residual that rounding allows, relative to the norm
_REFILLS = 3  # random blocks after which rounding is to blame that nothing new comes


class Look(Protocol):
    """Random directions outside the basis, pushed to the wanted end: what a run may have missed."""

    def doubts(self, values: Tensor) -> bool:
        """Whether these Ritz values may hide others."""

    def __call__(self, basis: Basis, values: Tensor, seed: int) -> Tensor:
        """(n, b) new directions; at most as many as leave room for what is wanted."""


def rounded(outcome: Outcome, task: Task) -> Outcome:
    """A float64 outcome in the dtype that was asked for, with the residuals of what is returned."""
    if task.dtype == outcome.vectors.dtype:
        return outcome
    vectors = outcome.vectors.to(task.dtype)
    x = vectors.double()
    r = task.apply(x) - x * outcome.values.to(x)
    if task.deflated is not None:
        task.deflated.remove_(r)
    return replace(outcome, vectors=vectors, residuals=column_norms(r))


class _Monitor:
    """Which Ritz pairs are good enough, how wide the gap is, and what is still to do."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.target = task.tol
        self.gap = math.inf if not task.guard else math.nan
        self.norms = torch.full((task.k + 1,), math.inf, dtype=torch.float64)
        self.trusted = 0  # leading pairs that the last call took for good without measuring them

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

        Residuals are computed chunk by chunk from the first doubtful pair on, the pair behind the
        wanted ones with the last chunk. Pairs that were good are trusted until the end, when all
        are measured again; a chunk of them is not: a pass over V and A V costs the same.
        """
        task = self.task
        last = min(task.k, basis.size)
        guarded = task.guard if basis.size > task.k else 0
        chunk = max(block, machine(task.op.device).together)
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
                if not len(guard) and self._tighten(values):
                    self.trusted = start = 0
                    continue
                return guard, r[:, -1:] if len(guard) else basis.empty
            if not picked:
                return torch.zeros(0, dtype=torch.int64), basis.empty
            index, r = torch.tensor(picked), torch.cat(kept, 1) if len(kept) > 1 else kept[0]
            return index[:block], r[:, :block]

    def _guard(self, values: Tensor) -> Tensor:
        """Pair k+1 while it is to be improved: until it is good to a quarter of its distance the
        gap is a guess.
        """
        k = self.task.k
        distance = float(values[k - 1] - values[k])
        self.gap = max(distance - float(self.norms[k]), 0.0)
        floor = self.task.tol
        if self.task.angle_tol is not None:  # below, no residual could resolve the gap
            floor = max(1e-13, _LEAST * math.sqrt(k) / self.task.angle_tol) * self.task.norm
        share = 0.01 if self.copies(values) else 0.25
        doubtful = float(self.norms[k]) > max(share * distance, floor)
        return torch.tensor([k] if doubtful else [], dtype=torch.int64)

    def copies(self, values: Tensor) -> bool:
        """The last wanted values are one, as far as their residuals tell: there may be more of it,
        and a mixture of those and what lies behind can look like the end of the gap.
        """
        k = self.task.k
        if k < 2 or not self.task.guard or len(values) <= k:
            return False
        distance, slack = float(values[k - 1] - values[k]), 1e-12 * self.task.norm
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


def davidson(
    task: Task, start: Tensor, expand: Expand | None, *, block: int, capacity: int,
    keep: int, krylov_steps: int = 1, fill: int = 1, look: Look | None = None,
) -> Outcome:  # fmt: skip
    """Run until the task is met. start (n, m): first directions, not yet orthonormal.

    block, fill: most and fewest columns of a step; capacity, keep: of the basis, and after restart.
    look: where it doubts the values, or where the start lost its guards, a run that is done is
    believed once such directions have been added and the wanted values stay, and not before.
    """
    n = task.op.n
    capacity = max(min(capacity, task.free), min(task.k + task.guard, task.free))
    basis = Basis(n, capacity, task.dtype, task.op.device)
    _grow(task, basis, start.to(task.dtype), krylov_steps if expand is None else 1)
    lost = basis.size < min(start.shape[1], capacity, task.k + guards(task.k))
    needed = min(task.k + task.guard, task.free)
    monitor = _Monitor(task)
    history: list[dict[str, Any]] = []
    previous = torch.zeros(basis.size, 0, dtype=torch.float64)
    reason, refills, looks, iteration = "max_iter reached", 0, 0, 0
    done = proven = may = False
    seen = torch.full((task.k,), math.nan, dtype=torch.float64)  # wanted values at the last look
    while True:
        iteration += 1
        values, q = basis.ritz()
        if basis.size < needed:
            index, r = torch.zeros(0, dtype=torch.int64), basis.empty
            done = False
        else:
            index, r = monitor.pick(basis, values, q, block, fill)
            done = len(index) == 0
        if done and monitor.trusted:  # measure every wanted pair on the final basis
            monitor.norms[: task.k] = math.inf
            index, r = monitor.pick(basis, values, q, block, fill)
            done = len(index) == 0
        enough = basis.size >= min(task.k, task.free)  # a run that is cut short returns k pairs too
        stopped = _report(task, monitor, history, iteration, basis, values) and enough
        doubted = look is not None and (lost or look.doubts(values) or monitor.copies(values))
        stays = enough and bool(((values[: task.k] - seen).abs() <= task.tol).all())
        proven = basis.size >= task.free or stays or (enough and not doubted)
        may = not stopped and iteration <= task.max_iter
        owed = enough and not proven and may
        if look is not None and owed and (done or refills == _REFILLS):
            looks, seen = looks + 1, values[: task.k].clone()
            more = look(basis, values, task.seed + 104729 * looks)
            if basis.size + more.shape[1] > capacity:
                _restart(basis, q, previous, min(keep, capacity - more.shape[1]), task.k)
                previous = torch.zeros(basis.size, 0, dtype=torch.float64)
            proven = bool(torch.isfinite(more).all())
            if _grow(task, basis, more.to(task.dtype)):
                monitor.norms[:] = math.inf
                refills = 0
                continue
            values, q = basis.ritz()  # a restart has turned it
            owed = False
            if not proven:
                reason = "the look for missed directions overflowed"
                break
        if done and proven:
            reason = "tolerance met" if monitor.satisfied() else "the cut lies inside a cluster"
            break
        if basis.size >= task.free:
            reason = "the basis spans the whole space"
            break
        if stopped:
            reason = "stopped by the callback"
            break
        if iteration > task.max_iter and enough:
            break
        if basis.size + max(len(index), 1) > capacity:
            _restart(basis, q, previous, min(keep, capacity - max(block // 2, 1)), task.k)
            values, q = basis.ritz()
            index = index[index < basis.size]
            r = _same_residual(basis, values, q, index, r)
        previous = q[:, : task.k + task.guard]
        room = capacity - basis.size
        added = 0
        if len(index):
            index, r = index[:room], r[:, :room]
            t = r if expand is None else expand(r, values[index], basis, values)
            added = _grow(task, basis, t.to(task.dtype), krylov_steps if expand is None else 1)
        if added == 0:  # nothing new came out: look for missed directions at random
            if refills == _REFILLS:
                if owed:
                    continue
                reason = "no new directions: rounding level reached"
                break
            seed = task.seed + 7919 * (basis.size + refills + 1)
            width = min(max(block, 1), capacity - basis.size)
            more = random_block(n, width, seed, task.dtype, task.op.device)
            # while there are fewer than what is wanted, only a block that adds nothing counts
            wanting = basis.size < needed
            refills += not (_grow(task, basis, more) and wanting)
    if not done:
        monitor.settle(basis, values, q)
    # at rounding level the pair behind may stay open; a run that somebody cut short proves nothing
    finished = proven and (done or may or basis.size >= task.free)
    k = min(task.k, basis.size)
    vectors = basis.vectors(q[:, :k])
    return Outcome(
        values[:k], vectors, monitor.norms[:k].clone(), monitor.gap,
        finished and monitor.satisfied(), reason, iteration, history,
    )  # fmt: skip


def _grow(task: Task, basis: Basis, t: Tensor, steps: int = 1) -> int:
    """Orthonormalise t against V and append; `steps` > 1 goes on along the Krylov space."""
    added = 0
    for step in range(steps):
        t = t[:, : basis.capacity - basis.size]
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


def _restart(basis: Basis, q: Tensor, previous: Tensor, keep: int, k: int) -> None:
    """Keep the best Ritz vectors and, in the room that is left, those of the iteration before."""
    old = torch.zeros(q.shape[0], previous.shape[1], dtype=q.dtype)
    old[: previous.shape[0]] = previous
    room = max(min(previous.shape[1], keep - k - 1), 0)
    coefficients = q[:, : keep - room]
    if room:
        old = old[:, -room:] if room < old.shape[1] else old
        for _ in range(2):
            old = old - coefficients @ (coefficients.T @ old)
        lengths = old.norm(dim=0)
        old = old[:, lengths > 1e-8] / lengths[lengths > 1e-8]
        if old.shape[1]:
            u, s, _ = torch.linalg.svd(old, full_matrices=False)
            coefficients = torch.cat([coefficients, u[:, s > 1e-6 * s[0]]], 1)
            coefficients = torch.linalg.qr(coefficients)[0]
    basis.rotate(coefficients)


def _same_residual(basis: Basis, values: Tensor, q: Tensor, index: Tensor, r: Tensor) -> Tensor:
    """Ritz pairs kept by a restart are unchanged up to sign, and so are their residuals."""
    return basis.residual(values[index], q[:, index]) if len(index) else r


def _report(
    task: Task, monitor: _Monitor, history: list[dict[str, Any]], iteration: int, basis: Basis,
    values: Tensor,
) -> bool:  # fmt: skip
    """Record the step and show it to the callback; True when that asks to stop."""
    norms = monitor.norms[: task.k]
    known = norms[torch.isfinite(norms)]
    entry = {
        "iteration": iteration,
        "converged": int((norms <= monitor.target).sum()),
        "residual": float(known.max()) / max(task.norm, 1e-300) if len(known) else math.nan,
        "basis": basis.size,
        "n_matvec": task.columns,
    }
    history.append(entry)
    if task.callback is None:
        return False
    return bool(task.callback({**entry, "k": task.k, "values": values[: task.k].clone()}))

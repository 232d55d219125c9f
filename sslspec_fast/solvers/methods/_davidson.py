"""Block Davidson with thick restart: the one driver behind every iterative method.

    repeat:  Rayleigh-Ritz on V  ->  residuals R = A X - X T of the first unconverged Ritz vectors
             ->  new directions  expand(R, T)  ->  orthonormalise against V  ->  V, A V grow

What `expand` does names the method: a Chebyshev filter in residual form (chebyshev), a solve with
a factorisation (shift_invert), a preconditioner (lobpcg), nothing (block Lanczos: V stays a
block Krylov space). Zhou and Saad 2007 (block Chebyshev-Davidson), Stathopoulos 2007 (restarts
that keep the previous Ritz vectors). The driver always looks for the largest eigenvalues.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from ...primitives.spread import decided
from ..completeness.convergence import Hidden, Monitor
from ..linalg.basis import Basis, orthonormalize
from ..linalg.cost import LINE, guards
from ..problem.task import Outcome, Task

__all__ = ["Look", "davidson"]

Expand = Callable[[Tensor, Tensor, "Basis", Tensor], Tensor]

_REFILLS = 3  # random blocks after which rounding is to blame that nothing new comes


class Look(Protocol):
    """Random directions outside the basis, pushed to the wanted end: what a run may have missed."""

    def doubts(self, values: Tensor) -> bool:
        """Whether these Ritz values may hide others."""

    def __call__(self, basis: Basis, values: Tensor, seed: int) -> tuple[Tensor, float]:
        """(n, b) new directions, at most as many as leave room for what is wanted, and the sight:
        an eigenvalue above it would have shown up in them. None, where there is no such eigenvalue.
        """


def davidson(
    task: Task,
    start: Tensor,
    expand: Expand | None,
    *,
    block: int,
    capacity: int,
    keep: int,
    krylov_steps: int = 1,
    fill: int = 1,
    look: Look | None = None,
    hidden: Hidden | None = None,
) -> Outcome:
    """Run until the task is met. start (n, m): first directions, not yet orthonormal.

    block, fill: most and fewest columns of a step; capacity, keep: of the basis, and after restart.
    look: where it doubts the values, or where the start lost its guards, a run that is done is
    believed once such directions have been added and the wanted values stay, and not before.
    hidden: what the start itself tells of the gap, asked before its end is searched for.
    """
    capacity = max(min(capacity, task.free), min(task.k + task.guard, task.free))
    # what a look brings completes what the basis has of it: nothing may be dropped for it
    most = capacity + (0 if look is None else LINE)
    basis = Basis(task.op.rows, most, task.dtype, task.op.device)
    steps = krylov_steps if expand is None else 1
    _grow(task, basis, start.to(task.dtype), capacity, steps)
    lost = basis.size < min(start.shape[1], capacity, task.k + guards(task.k))
    needed = min(task.k + task.guard, task.free)
    monitor = Monitor(task, hidden)
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
        slack = min(task.tol, 0.1 * monitor.gap) if monitor.gap > 0.0 else task.tol
        stays = enough and bool(((values[: task.k] - seen).abs() <= slack).all())
        proven = basis.size >= task.free or stays or (enough and not doubted)
        may = not stopped and iteration <= task.max_iter
        owed = enough and not proven and may
        if look is not None and owed and (done or refills == _REFILLS):
            looks, seen = looks + 1, values[: task.k].clone()
            if basis.size > capacity:  # from the look before
                _restart(basis, q, previous, keep, task.k)
                previous = torch.zeros(basis.size, 0, dtype=torch.float64)
                values, q = basis.ritz()
            more, monitor.sight = look(basis, values, task.seed + 104729 * looks)
            proven = bool(torch.isfinite(more).all())
            if _grow(task, basis, more.to(task.dtype), basis.capacity):
                refills = 0
            elif not proven:
                reason = "the look for missed directions overflowed"
                break
            monitor.norms[:] = math.inf
            continue
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
            added = _grow(task, basis, t.to(task.dtype), capacity, steps)
        if added == 0:  # nothing new came out: look for missed directions at random
            if refills == _REFILLS:
                if owed:
                    continue
                reason = "no new directions: rounding level reached"
                break
            seed = task.seed + 7919 * (basis.size + refills + 1)
            width = min(max(block, 1), capacity - basis.size)
            more = task.op.random_block(width, seed, task.dtype)
            # while there are fewer than what is wanted, only a block that adds nothing counts
            wanting = basis.size < needed
            refills += not (_grow(task, basis, more, capacity) and wanting)
    if not done:
        monitor.settle(basis, values, q)
    # at rounding level the pair behind may stay open; a run that somebody cut short proves nothing
    finished = proven and (done or may or basis.size >= task.free)
    k = min(task.k, basis.size)
    vectors = basis.vectors(q[:, :k])
    return Outcome(
        values[:k],
        vectors,
        monitor.norms[:k].clone(),
        monitor.gap,
        finished and monitor.satisfied(),
        reason,
        iteration,
        history,
    )


def _grow(task: Task, basis: Basis, t: Tensor, most: int, steps: int = 1) -> int:
    """Orthonormalise t against V and append, up to `most` columns in all; `steps` > 1 goes on along
    the Krylov space.
    """
    added = 0
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
    basis.rotate(*decided(coefficients))


def _same_residual(basis: Basis, values: Tensor, q: Tensor, index: Tensor, r: Tensor) -> Tensor:
    """Ritz pairs kept by a restart are unchanged up to sign, and so are their residuals."""
    return basis.residual(values[index], q[:, index]) if len(index) else r


def _report(
    task: Task,
    monitor: Monitor,
    history: list[dict[str, Any]],
    iteration: int,
    basis: Basis,
    values: Tensor,
) -> bool:
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

"""Pairs that are not one end of the spectrum: by magnitude, both ends, nearest to a number.

    "BE"    ceil(k / 2) from the upper end and the rest from the lower
    "LM"    from both ends, as many of each as have the largest magnitude
    "SM"    the end at 0 of a semidefinite A; else the nearest to 0
    sigma   the nearest to it (`nearest`)

An end is a problem of its own. The pairs of both are made orthonormal by one Rayleigh-Ritz step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..primitives.basis import column_norms
from .linalg.basis import Basis, orthonormalize
from .methods.dense import dense
from .nearest import nearest
from .plan import Plan, takes_lapack
from .problem.eigenproblem import Eigenproblem
from .problem.probe import Probe, probe
from .problem.task import Outcome, Task
from .report import finish
from .result import EigInfo, EigResult

__all__ = ["selected"]

_SEMIDEFINITE = 1e-14  # of the norm, below 0: a bound that rounding alone has put there

Solve = Callable[[Eigenproblem], EigResult]


def selected(solve: Solve, problem: Eigenproblem) -> EigResult:
    """The pairs that `settings.which` and `settings.sigma` name. solve: the pairs of one end."""
    which, sigma, op = problem.settings.which, problem.settings.sigma, problem.op
    if problem.k > problem.task.free // 2 or takes_lapack(op, problem.k, problem.settings.method):
        return _of_all(problem)
    if which == "SM":
        lo, hi = op.bounds()
        slack = _SEMIDEFINITE * max(abs(lo), abs(hi)) if math.isfinite(hi - lo) else 0.0
        if lo >= -slack or hi <= slack:
            end = problem.end("SA" if lo >= -slack else "LA", problem.k)
            return _finished(problem, [solve(end)])
        sigma = 0.0
    if sigma is not None:
        return finish(problem, *nearest(problem, sigma / (problem.scale or 1.0)))
    if which == "BE":
        counts = {"LA": problem.k - problem.k // 2, "SA": problem.k // 2}
        return _finished(problem, [solve(problem.end(end, n)) for end, n in counts.items() if n])
    return _finished(problem, *_by_magnitude(solve, problem))


def _choose(which: str, sigma: float | None, values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(indices of the k wanted values, wanted first, of "BE" from the top down; the others)."""
    if which == "BE":
        down = values.argsort(descending=True, stable=True)
        top, bottom = k - k // 2, len(down) - k // 2
        return torch.cat([down[:top], down[bottom:]]), values[down[top:bottom]]
    largest = which == "LM" and sigma is None
    places = (values - (sigma or 0.0)).abs().argsort(descending=largest, stable=True)
    return places[:k], values[places[k:]]


def _of_all(problem: Eigenproblem) -> EigResult:
    """Every pair by LAPACK, of which the wanted ones are taken."""
    task, settings = problem.task, problem.settings
    k = task.k
    every = replace(task, k=task.free, angle_tol=None, callback=None)
    found = dense(every, Plan("dense", ""), None)
    task.columns += every.columns
    task.set_norm(every.norm)
    sigma = None if settings.sigma is None else settings.sigma / (problem.scale or 1.0)
    places, rest = _choose(settings.which, sigma, found.values, k)
    gap = _gap(found.values[places], rest, settings.which, sigma)
    outcome = replace(
        found,
        values=found.values[places],
        vectors=found.vectors[:, places.to(found.vectors.device)].contiguous(),
        residuals=found.residuals[places],
        gap=gap,
    )
    return finish(problem, Plan("dense", "all eigenpairs, by LAPACK"), outcome)


def _gap(values: Tensor, rest: Tensor, which: str, sigma: float | None) -> float:
    """From the wanted values to the nearest other one, in what orders them."""
    if len(rest) == 0:
        return math.inf
    if which == "BE":
        return float((values[:, None] - rest[None, :]).abs().min())
    last = values.sub(sigma or 0.0).abs()
    behind = rest.sub(sigma or 0.0).abs()
    if which == "LM" and sigma is None:
        return max(float(last.min() - behind.max()), 0.0)
    return max(float(behind.min() - last.max()), 0.0)


def _by_magnitude(solve: Solve, problem: Eigenproblem) -> tuple[list[EigResult], float]:
    """Of each end as many as have the largest magnitude, and perhaps some more, and the largest
    magnitude of the others.
    """
    k, task = problem.k, replace(problem.task)
    found = probe(task)
    task.set_norm(max(abs(found.lo), abs(found.hi)))
    counts = _split(found, k, task.free)
    ends: dict[str, EigResult] = {}
    while True:
        for end, n in counts.items():
            if n and (end not in ends or len(ends[end].values) < n):
                ends[end] = solve(problem.end(end, n))
        least = float(torch.cat([r.values.double().abs() for r in ends.values()]).sort().values[-k])
        unseen = {end: _unseen(end, ends.get(end), found) for end in counts}
        short = [e for e, t in unseen.items() if t > least + task.tol and counts[e] < k]
        if not short:
            problem.task.columns += task.columns
            return list(ends.values()), max(unseen.values())
        for end in short:
            counts[end] = min(2 * counts[end] + 1, k)


def _split(found: Probe, k: int, free: int) -> dict[str, int]:
    """How many of the k values of largest magnitude lie at each end, as the probe estimates."""
    counts = found.counts
    above = torch.diff(counts, prepend=torch.zeros(1, dtype=counts.dtype))
    places = found.values.abs().argsort(descending=True, stable=True)
    total = above[places].cumsum(0)
    places = places[: int((total < k).sum()) + 1]
    upper = float(above[places][found.values[places] > 0].sum())
    lower = float(above[places][found.values[places] <= 0].sum())
    top = min(max(round(k * upper / max(upper + lower, 1e-300)), 0), k)
    return {"LA": top, "SA": k - top}


def _unseen(end: str, result: EigResult | None, found: Probe) -> float:
    """The largest magnitude that what was not computed at this end may have."""
    if result is None:
        return found.hi if end == "LA" else -found.lo
    last = float(result.values[-1])
    return (last if end == "LA" else -last) - result.info.gap


def _finished(
    problem: Eigenproblem, ends: list[EigResult], beyond: float | None = None
) -> EigResult:
    """One result of those of the ends, whose pairs are in the coordinates of the operator.

    beyond: the largest magnitude that what was not computed may have, for "LM".
    """
    task, settings, k = problem.task, problem.settings, problem.k
    infos = [r.info for r in ends]
    task.norm = max(info.norm for info in infos)
    task.tol = settings.tol * task.norm
    task.columns += sum(info.n_matvec for info in infos)
    values = torch.cat([r.values.double().cpu() for r in ends])
    places, rest = _choose(settings.which, None, values, k)
    x = torch.cat([r.vectors for r in ends], 1)[:, places.to(ends[0].vectors.device)]
    values, vectors, residuals = _ritz(task, x.double())
    places, _ = _choose(settings.which, None, values, len(values))
    values, residuals = values[places], residuals[places]
    vectors = vectors[:, places.to(vectors.device)]
    gap = _gap(values, rest, settings.which, None)
    if beyond is None:
        gap = min(gap, *(info.gap for info in infos))
    else:
        gap = max(min(gap, float(values.abs().min()) - beyond), 0.0)
    outcome = Outcome(
        values,
        vectors.to(task.dtype).contiguous(),
        residuals,
        gap,
        len(values) == k and all(info.converged for info in infos),
        "; ".join(info.reason for info in infos if not info.converged) or "vectors are dependent",
        sum(info.n_iter for info in infos),
        [entry for info in infos for entry in info.history],
        facts={"ends": [len(r.values) for r in ends], "n_solve": sum(i.n_solve for i in infos)},
    )
    result = finish(problem, _plan(infos), outcome)
    if settings.certify:
        result.info.complete = result.info.converged and all(info.complete for info in infos)
    return result


def _plan(infos: list[EigInfo]) -> Plan:
    plan = infos[0].plan
    assert plan is not None
    if len(infos) == 1:
        return plan
    methods = dict.fromkeys(info.method for info in infos)
    counts = " and ".join(f"{len(info.residuals)} ({info.reason})" for info in infos)
    return replace(plan, method=" + ".join(methods), reason=f"from the ends: {counts}")


def _ritz(task: Task, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ritz values, largest first, vectors and residuals in the span of x, whose columns are nearly
    orthonormal.
    """
    x = orthonormalize(x.clone())
    basis = Basis(task.op.rows, x.shape[1], torch.float64, task.op.device)
    basis.append(x, task.apply(x))
    values, q = basis.ritz()
    return values, basis.vectors(q), column_norms(basis.residual(values, q)).cpu()

"""Some pairs of a cluster, by solving for all of it.

A filter that tells the k-th value from the next one needs a degree of 1 / sqrt(gap). Where the
k-th lies inside a cluster, and the gap behind the cluster is wide, all of the cluster takes a
fraction of that, and Rayleigh-Ritz tells its values apart: a residual of tol leaves errors of
tol^2 / gap in the values, and the angle is a matter of the residual, which falls fast.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .methods.chebyshev import chebyshev
from .plan import Plan, make_plan
from .problem.probe import Probe
from .problem.task import Outcome, Task

__all__ = ["solve_cluster", "whole_cluster"]

_ROUNDS = 3  # of lower residuals, where an angle is asked for
_LEAST = 2e-15  # residual that rounding allows, relative to the norm


def whole_cluster(task: Task, size: int) -> Task:
    """The task of all `size` pairs of the cluster."""
    return replace(task, k=size, angle_tol=None, callback=_of_first(task))


def _of_first(task: Task) -> Callable[[dict[str, Any]], Any] | None:
    """The callback, with the wanted ones of the pairs."""
    callback, k = task.callback, task.k
    if callback is None:
        return None

    def call(entry: dict[str, Any]) -> Any:
        found = min(entry["converged"], k)
        return callback({**entry, "k": k, "values": entry["values"][:k], "converged": found})

    return call


def solve_cluster(task: Task, size: int, plan: Plan, found: Probe) -> tuple[Plan, Outcome]:
    """The first task.k of `size` pairs; plan: that of all of them."""
    wide = whole_cluster(task, size)
    outcome = chebyshev(wide, plan, found)
    result = _first(task, outcome)
    for _ in range(_ROUNDS):
        tol = _finer(task, outcome, result)
        if tol is None or not tol < wide.tol:
            break
        wide = replace(wide, tol=tol, warm=outcome.vectors.double())
        again = chebyshev(wide, make_plan(wide, "chebyshev", found), found)
        again.n_iter += outcome.n_iter
        again.history = outcome.history + again.history
        again.facts = {
            **outcome.facts,
            "degrees": outcome.facts["degrees"] + again.facts["degrees"],
        }
        outcome = again
        result = _first(task, outcome)
    task.columns = wide.columns
    result.facts["cluster"] = size
    reason = f"{plan.reason}; all {size} pairs above a gap are solved for"
    return replace(plan, reason=reason), result


def _first(task: Task, outcome: Outcome) -> Outcome:
    """The wanted pairs, and the gap behind them, as far as the next pair tells."""
    k, values, residuals = task.k, outcome.values, outcome.residuals
    distance, behind = float(values[k - 1] - values[k]), float(residuals[k])
    gap = max(distance - 4.0 * behind, 0.0) if behind <= 0.1 * distance else 0.0
    norms = residuals[:k]
    good = outcome.converged and task.angle_met(norms, gap)
    reason = outcome.reason if good or not outcome.converged else "the cut lies inside a cluster"
    return replace(
        outcome,
        values=values[:k],
        vectors=outcome.vectors[:, :k].contiguous(),
        residuals=norms,
        gap=gap,
        converged=good,
        reason=reason,
        facts=dict(outcome.facts),
    )


def _finer(task: Task, outcome: Outcome, result: Outcome) -> float | None:
    """The residual that the angle asks for; None: it is met, or nothing will meet it."""
    if result.converged or not outcome.converged or task.angle_tol is None:
        return None
    k = task.k
    distance = float(outcome.values[k - 1] - outcome.values[k])
    if distance <= 1e-13 * task.norm:
        return None
    angle = 0.5 * task.angle_tol * distance / math.sqrt(k)
    return max(min(angle, 0.05 * distance), _LEAST * task.norm)

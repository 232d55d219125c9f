"""Eigenpairs that are resolved at the scale of the wanted values, not of the norm.

One edge of weight 1e10 puts ||L|| there, and a residual of 1e-9 ||L|| says nothing of modes near 1.
An eigenvalue lies within

    delta_i = min(|r_i|, |R|_F^2 / gap)

of a Ritz value (Parlett 1998, sections 4.5 and 11.7); a pair counts as resolved where that is
small against |lambda_i| or a usual row of the matrix. Where it is not, the problem is solved again
by what can resolve it, LAPACK or a factorisation; what stays unresolved has not converged.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any, Literal

import numpy as np

from .._arrays import host_array
from ..operators import GroupVectors, SymmetricOperator
from ..solvers import ConvergenceWarning, EigInfo, EigResult, eigsh

__all__ = ["DEFAULT_TOL", "resolved", "solve"]

Array = np.ndarray

# Residuals relative to ||A||. Losses are quadratic in them; eigenvectors are not, hence 1e-9.
DEFAULT_TOL = 1e-9
_SHARE = 1e4  # times tol: of a value, that its error may be
_USUAL = 1e-2  # of a usual row: values below it count as that large
_DENSE_ROWS = 3000  # LAPACK takes seconds
_STEPS = 300
_SPREAD = 1e4  # norm over usual row, up to which a filter or Lanczos may still get there


def resolved(
    values: Array, residuals: Array, gap: float, usual: float, tol: float = DEFAULT_TOL
) -> bool:
    """Whether the errors of these eigenvalues are small at their own scale.

    usual: size of a row of the matrix that is neither heavy nor empty.
    """
    if not len(values):
        return True
    total = float(np.linalg.norm(residuals))
    bound = total**2 / gap if gap > 0 else math.inf
    scale = np.maximum(np.abs(values), _USUAL * usual)
    share = min(_SHARE * max(tol, DEFAULT_TOL), 1.0)
    return bool((np.minimum(residuals, bound) <= share * scale).all())


def solve(
    op: SymmetricOperator,
    k: int,
    which: Literal["LA", "SA"],
    groups: GroupVectors | None,
    solver: dict[str, Any],
    usual: float,
) -> EigResult:
    """k extreme pairs of op in the complement of `groups`, NumPy float64, resolved or not
    converged.
    """
    settings = {"tol": DEFAULT_TOL, **solver}
    tol = float(settings["tol"])

    def run(**changes: Any) -> EigResult:
        return eigsh(op, k, which=which, deflate=groups, **{**settings, **changes})

    def good(found: EigResult) -> bool:
        info = found.info
        return resolved(
            host_array(found.values).astype(np.float64), info.residuals, info.gap, usual, tol
        )

    low, high = op.bounds()
    heavy = _SPREAD * usual < max(abs(low), abs(high)) < math.inf
    first = _finer(op, which, settings, max(abs(low), abs(high)), usual) if heavy else None
    found = run(**(first or {}))
    if not found.info.converged or good(found):
        return found
    again = _finer(op, which, settings, found.info.norm, usual)
    if again is not None and again != first:
        before, found = found.info, run(**again)
        found.info = _after(before, found.info)
    if found.info.converged and not good(found):
        worst = float(found.info.residuals.max())
        why = (
            f"residuals of {worst:.2g} do not resolve the wanted values next to a norm of "
            f"{found.info.norm:.2g}"
        )
        reason = f"{found.info.reason}; stopped: {why}"
        found.info = dataclasses.replace(found.info, converged=False, reason=reason)
        warnings.warn(f"eigsh: not converged: {why}", ConvergenceWarning, stacklevel=4)
    return found


def _finer(
    op: SymmetricOperator, which: str, settings: dict[str, Any], norm: float, usual: float
) -> dict[str, Any] | None:
    """Settings that resolve values near `usual` next to that norm; None: there are none."""
    share = min(_SHARE * max(float(settings["tol"]), DEFAULT_TOL), 1.0)
    tol = 0.3 * share * _USUAL * usual / max(norm, 1e-300)
    finer: dict[str, Any] = {"tol": max(min(tol, settings["tol"]), 1e-14)}
    if settings.get("max_iter") is None:  # at rounding level, more steps bring nothing
        finer["max_iter"] = _STEPS
    if settings.get("method", "auto") != "auto":
        return finer
    if op.n <= _DENSE_ROWS and op.ranks is None:
        return {**finer, "method": "dense"}
    host = op.device.type == "cpu" and op.nnz() is not None
    if which == "SA" and host and op.assemble() is not None:
        return {**finer, "method": "shift_invert"}
    return finer if norm <= _SPREAD * usual else None


def _after(before: EigInfo, info: EigInfo) -> EigInfo:
    """The account of a second solve, with the work of the first."""
    return dataclasses.replace(
        info,
        n_iter=before.n_iter + info.n_iter,
        n_matvec=before.n_matvec + info.n_matvec,
        n_solve=before.n_solve + info.n_solve,
        seconds=before.seconds + info.seconds,
        reason=f"at the scale of the wanted values, after {before.method}",
    )

"""Argument checks of the closed forms; a message names the argument, the rule and the value."""

from __future__ import annotations

import math
import numbers
from typing import Any

from ..solvers._checks import check_settings

__all__ = ["check_positive", "check_rank", "check_solver"]

_SOLVER = (
    "method",
    "tol",
    "angle_tol",
    "x0",
    "precision",
    "max_iter",
    "seed",
    "callback",
    "progress",
    "certify",
)


def check_rank(k: Any, n: int) -> int:
    if isinstance(k, bool) or not isinstance(k, numbers.Integral):
        raise TypeError(f"k must be an integer, got {type(k).__name__}")
    k = int(k)
    if not 1 <= k <= n:
        raise ValueError(f"k must be between 1 and the number of nodes {n}, got {k}")
    return k


def check_positive(value: Any, name: str, *, strict: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a real number, got {type(value).__name__}")
    out = float(value)
    if not math.isfinite(out) or out < 0 or (strict and out == 0):
        raise ValueError(f"{name} must be {'positive' if strict else 'at least 0'}, got {out:g}")
    return out


def check_solver(solver: dict[str, Any]) -> dict[str, Any]:
    for name in solver:
        if name not in _SOLVER:
            raise TypeError(f"unexpected keyword {name!r}; solver options are {', '.join(_SOLVER)}")
    check_settings(solver)
    return solver

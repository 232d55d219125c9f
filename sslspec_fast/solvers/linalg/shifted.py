"""(A - sigma I)^-1 as an operator, from a factor of what A is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse
from scipy.sparse.linalg import splu

from .factorization import (
    INT32_LIMIT,
    Order,
    SingularFactor,
    order_of,
    structurally_singular,
    symmetric_factor,
)

__all__ = ["Shifted", "dense_shifted", "sparse_shifted"]

# Error of a solve, relative, from which pivots on the diagonal are not good enough: an indefinite
# matrix may need others.
_GOOD = 1e-10
_PROBES = 2
_NUDGE = 1e-10  # of a sigma that is an eigenvalue, relative to the norm

Solve = Callable[[np.ndarray], np.ndarray]


class Shifted:
    """solve: r (n, b) -> (A - sigma I)^-1 r. sigma is moved where it is an eigenvalue. `kind` says
    what the factor is, `columns` how many were solved. order: that of a factor with pivots on the
    diagonal, for others of the same pattern.
    """

    def __init__(self, solve: Solve, sigma: float, kind: str, order: Order | None = None) -> None:
        self._solve, self.sigma, self.kind, self.columns = solve, sigma, kind, 0
        self.order = order

    def __call__(self, r: np.ndarray) -> np.ndarray:
        self.columns += r.shape[1]
        return self._solve(r)


def dense_shifted(matrix: np.ndarray, sigma: float, norm: float) -> Shifted:
    """By LAPACK's LU. matrix: (n, n) float64."""
    n = len(matrix)
    for moved in (sigma, sigma + _NUDGE * norm):
        factor = scipy.linalg.lu_factor(matrix - moved * np.eye(n))
        if np.abs(factor[0].diagonal()).min() > 0.0:
            break
    return Shifted(lambda r: scipy.linalg.lu_solve(factor, r), moved, "dense")


def sparse_shifted(
    matrix: Any, sigma: float, norm: float, mass: Any = None, order: Order | None = None
) -> Shifted:
    """(A - sigma B)^-1 by SuperLU; B = 1 without a mass. order: of an earlier factor, or None.

    Pivots stay on the diagonal, which fills in least, while the solves are exact enough.
    """
    n = matrix.shape[0]
    g = np.random.default_rng(n).standard_normal((n, _PROBES))

    def exact(solve: Solve, sigma: float) -> bool:
        x = solve(g)
        known = x if mass is None else mass @ x
        error = matrix @ x - sigma * known - g
        size = norm * np.linalg.norm(known) + np.linalg.norm(g)
        return bool(np.linalg.norm(error) <= _GOOD * size)

    try:
        factor, moved = symmetric_factor("eigsh", matrix, sigma, norm, order, mass)
    except (SingularFactor, RuntimeError):  # without other pivots, SuperLU fails in many ways
        pass
    else:
        solve = _negative(factor)
        if exact(solve, moved):
            return Shifted(solve, moved, "SuperLU, pivots on the diagonal", order_of(factor))
    eye = scipy.sparse.eye_array(n) if mass is None else mass
    for moved in (sigma, sigma + _NUDGE * norm):
        shifted = scipy.sparse.csc_array(moved * eye - matrix)
        if max(shifted.nnz, n) > INT32_LIMIT:
            raise ValueError(f"eigsh: SuperLU needs nnz < 2^31, got nnz = {shifted.nnz}")
        if structurally_singular(shifted):
            continue
        try:
            solve = _negative(splu(shifted))
        except RuntimeError:  # an eigenvalue
            continue
        return Shifted(solve, moved, "SuperLU, partial pivoting")
    raise SingularFactor(f"eigsh: A - sigma I must be regular, got sigma = {sigma}")


def _negative(factor: Any) -> Solve:
    """Of the factor of sigma I - A."""
    return lambda r: -factor.solve(np.asfortranarray(r))

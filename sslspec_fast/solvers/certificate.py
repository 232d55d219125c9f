"""Proof that no eigenvalue was missed: those above a shift, counted by Sylvester's law of inertia.

    sigma I - A = L D L^T + E,      #{eigenvalues of A + E above sigma} = #{negative pivots in D}

k orthonormal vectors with residuals R have k eigenvalues of A within ||R|| of their Ritz values
(Kahan 1967; Parlett 1998, section 11.5). Where exactly k eigenvalues lie above a shift that is
further below the k-th Ritz value than ||R|| + ||E||, these are the k largest, and the next one is
at most sigma + ||E||. No method that multiplies by A alone can tell that: what its start does not
see, it does not miss. ||E||_F is estimated without bias from products with normal vectors, since
E|g|^2 = ||E||_F^2, and doubled; it shows as well where a factor without pivoting has blown up.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from torch import Tensor

from sslspec_fast.operators.base import Deflated, SymmetricOperator
from sslspec_fast.solvers._basis import host_memory
from sslspec_fast.solvers.factorization import SingularFactor, structure, symmetric_factor

__all__ = ["Count", "Proof", "counting"]

_PLACES = (7 / 8, 5 / 8, 3 / 8, 1 / 8)  # of the gap below the last wanted value
_WIDTHS = (1e-12, 1e-10, 1e-8)  # of a cluster, relative to the norm
_DENSE_ROWS = 10_000  # of any operator: a dense factor in a minute
_MOST_DEFLATED = 256
_PROBES = 4  # normal vectors that measure E
_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Proof:
    """A count of the eigenvalues above `shift`, from a factor with an error of norm `error`.

    expected: Ritz values above it. settled: no Ritz value is so near that the count might differ.
    """

    counted: int
    expected: int
    shift: float
    error: float
    settled: bool

    @property
    def complete(self) -> bool:
        return self.settled and self.counted == self.expected

    @property
    def missing(self) -> int:
        return max(self.counted - self.expected, 0) if self.settled else 0

    def __str__(self) -> str:
        count = f"{self.counted} eigenvalues beyond {self.shift:.6g}, {self.expected} were found"
        return count if self.settled else f"{count}, with a factor good to {self.error:.1e} only"


# (wanted values, largest first, ||R||_F, gap, norm) -> what a factorisation says of them
Count = Callable[[np.ndarray, float, float, float], Proof | None]


def counting(
    op: SymmetricOperator, deflated: Deflated | None, known: tuple[Tensor, Tensor] | None
) -> Count:
    """How to count the eigenvalues of op; an error right away if that cannot be done.

    known: (values, vectors) that are wanted and among the deflated, all of one value.
    """
    if deflated is not None and known is None and deflated.count > _MOST_DEFLATED:
        raise ValueError(
            f"eigsh: certify counts at most {_MOST_DEFLATED} deflated vectors, got {deflated.count}"
        )
    matrix = _entries(op)

    def count(values: np.ndarray, residual: float, gap: float, norm: float) -> Proof | None:
        if gap == math.inf:
            return None  # nothing is left that could be missing
        others = np.zeros(0)
        if known is not None and deflated is not None:
            others = np.full(deflated.count - len(known[0]), float(known[0][0]))
        elif deflated is not None:
            others, outside = _values_of(op, deflated)
            residual += outside
        return _prove(matrix, values, others, residual, gap, norm)

    return count


def _entries(op: SymmetricOperator) -> Any:
    """The matrix to factorise: scipy CSR, or (n, n) NumPy float64 where there are no entries."""
    matrix = op.assemble()
    if matrix is None and op.n <= _DENSE_ROWS:
        return op.to_dense().cpu().numpy()
    if matrix is None:
        raise ValueError(
            "eigsh: certify=True needs the entries of A (sparse or a stored graph) or n <= "
            f"{_DENSE_ROWS}, got {type(op).__name__} with n = {op.n}"
        )
    size, room = 48.0 * structure(matrix).fill, 0.25 * host_memory()
    if size > room:
        raise ValueError(
            f"eigsh: certify=True must factorise A within a quarter of the memory, {room:.2g} "
            f"bytes, got a predicted {size:.2g}"
        )
    return matrix


def _prove(
    matrix: Any, values: np.ndarray, others: np.ndarray, residual: float, gap: float, norm: float
) -> Proof:
    """Count where it tells most: right above the next value, or above a cluster at the cut.

    values (k,): wanted Ritz values, largest first; others: of deflated vectors; residual: ||R||_F
    of all; gap: from the last wanted value to the next.
    """
    last, every = float(values[-1]), np.concatenate([values, others])
    norm = max(norm, float(np.abs(every).max()))
    slack = residual + 8.0 * _EPS * norm
    if gap > 4.0 * slack:
        shifts = [last - place * gap for place in _PLACES]
    else:
        shifts = [_above_cluster(values, max(slack, width * norm)) for width in _WIDTHS]
    best: Proof | None = None
    for shift in shifts:
        try:
            counted, shift, error = _count(matrix, shift, norm)
        except SingularFactor:
            continue
        distance = float(np.abs(every - shift).min())
        settled = bool(distance > slack + error)
        found = Proof(counted, int((every > shift).sum()), shift, error, settled)
        if settled:
            return found
        best = best or found
    return best or Proof(0, 0, shifts[0], float("inf"), False)


def _above_cluster(values: np.ndarray, slack: float) -> float:
    """A shift above the last values that are one as far as `slack` tells."""
    top = float(values[-1])
    for value in values[::-1]:
        if value - top > 8.0 * slack:
            break
        top = float(value)
    return top + 4.0 * slack


def _count(matrix: Any, sigma: float, norm: float) -> tuple[int, float, float]:
    """(eigenvalues above the shift, the shift, error of the factor)."""
    n = matrix.shape[0]
    g = np.random.default_rng(n).standard_normal((n, _PROBES))
    if isinstance(matrix, np.ndarray):
        lower, d, _ = scipy.linalg.ldl(sigma * np.eye(n) - matrix)
        pivots = scipy.linalg.eigvalsh_tridiagonal(d.diagonal(), d.diagonal(-1))
        product = lower @ (d @ (lower.T @ g))
    else:
        factor, sigma = symmetric_factor("certify", matrix, sigma, norm)
        if not np.array_equal(factor.perm_r, factor.perm_c):  # no congruence: its signs say nothing
            return 0, sigma, float("inf")
        lower, pivots, order = factor.L, factor.U.diagonal(), factor.perm_r
        inner = np.empty_like(g)
        inner[order] = g
        product = (lower @ (pivots[:, None] * (lower.T @ inner)))[order]
    error = sigma * g - matrix @ g - product
    size = 2.0 * float(np.sqrt((error**2).sum() / _PROBES)) + 4.0 * _EPS * norm
    return int((pivots < 0).sum()), sigma, size if np.isfinite(size) else float("inf")


def _values_of(op: SymmetricOperator, deflated: Deflated) -> tuple[np.ndarray, float]:
    """Eigenvalues of V^T A V, and ||A V - V V^T A V||_F, of deflated vectors V."""
    v = deflated.dense()
    av = op.matmat(v)
    small = (v.T @ av).cpu()
    residual = float((av - v @ small.to(v)).norm())
    return np.linalg.eigvalsh(((small + small.T) / 2).numpy()), residual

"""Proof that no eigenvalue was missed: those above a shift, counted by Sylvester's law of inertia.

    sigma I - A = L D L^T + E,      #{eigenvalues of A + E above sigma} = #{negative pivots in D}

Ritz values never lie above the eigenvalues they stand for (Cauchy): t_i <= lambda_i. So if as many
eigenvalues as Ritz values lie above a shift, say m, then lambda_{m+1} <= sigma + ||E||. At a shift
inside the gap, m = k: the k largest were found, and the gap is at least t_k - sigma - ||E||. Where
the cut lies inside a cluster, at a shift tol above t_k: lambda_k is at most that, which is a proof
where tol is small beside the wanted values (or the rows of A, for values near 0). More eigenvalues
than Ritz values, also of those up to ||R|| below the shift (Kahan 1967; Parlett 1998, section
11.5): some were missed. No method that multiplies by A alone can show that: it holds only what its
start holds. ||E||_F is estimated without bias from products with normal vectors, since
E|g|^2 = ||E||_F^2, and doubled; it shows as well where a factor without pivoting has blown up.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

from ...operators.base import SymmetricOperator
from ...operators.known import Deflated
from ..linalg.basis import host_memory
from ..linalg.factorization import Order, SingularFactor, order_of, structure, symmetric_factor
from ..linalg.sparse_cholesky import SparseCholesky
from ..problem.scaling import usual_row
from ..problem.task import Known

__all__ = ["Count", "Inertia", "Proof", "Window", "count_within", "counting"]

_PLACES = (7 / 8, 5 / 8, 3 / 8, 1 / 8)  # of the gap, below the last wanted value
_ABOVE = (1.0, 0.7, 0.5, 0.35, 0.25)  # of tol, above it
_NEAR = 1e-7  # of the norm: nearer to an eigenvalue, a factor without pivoting is no longer exact
_SMALL = 0.1  # share of the wanted values that a proof may leave open
_DENSE_ROWS = 10_000  # of any operator: a dense factor in a minute
_MOST_DEFLATED = 256
_PROBES = 4  # normal vectors that measure E
_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Proof:
    """A count of the eigenvalues above `shift`, from a factor with an error of norm `error`.

    expected: Ritz values above it; missing: eigenvalues there that no Ritz value can stand for.
    """

    counted: int
    expected: int
    missing: int
    shift: float
    error: float

    @property
    def complete(self) -> bool:
        return self.counted == self.expected and self.error < math.inf

    def __str__(self) -> str:
        return (
            f"{self.counted} eigenvalues beyond {self.shift:.6g}, {self.expected} were found, by a "
            f"factor good to {self.error:.1e}"
        )

    def facts(self, sign: float) -> dict[str, Any]:
        """For `info.extra`; sign: -1 where -A was counted."""
        return {"count": self.counted, "count_shift": sign * self.shift}

    def gap(self, last: float) -> float:
        """What is proven to be free behind the last wanted value."""
        return max(last - self.shift - self.error, 0.0)


@dataclass(frozen=True)
class Window(Proof):
    """A count of the eigenvalues at a distance below `shift` from `center`, by two factors."""

    center: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.counted} eigenvalues within {self.shift:.6g} of {self.center:.6g}, "
            f"{self.expected} were found, by factors good to {self.error:.1e}"
        )

    def facts(self, sign: float) -> dict[str, Any]:
        return {
            "count": self.counted,
            "count_shift": (self.center - self.shift, self.center + self.shift),
        }

    def gap(self, last: float) -> float:
        return max(self.shift - abs(last - self.center) - self.error, 0.0)


# (wanted values, largest first, ||R||_F, gap, tol, norm, order of an earlier factor, or None) ->
# what a factorisation says of them
Count = Callable[[np.ndarray, float, float, float, float, "Order | None"], Proof | None]


def counting(
    op: SymmetricOperator,
    deflated: Deflated | None,
    known: Known,
    matrix: Any = None,
) -> Count | None:
    """How to count the eigenvalues of op; an error right away if it cannot be done.

    known: (values, vectors) that are wanted and among the deflated, all of one value. matrix: op
    assembled, for a method that factorises it anyway, and asks about the values that it found
    behind the known ones; None where it cannot be done.
    """
    inside = matrix is not None
    if deflated is not None and known is None and deflated.count > _MOST_DEFLATED:
        if inside:
            return None
        raise ValueError(
            f"eigsh: certify counts at most {_MOST_DEFLATED} deflated vectors, got {deflated.count}"
        )
    matrix = matrix if inside else _entries(op)
    front = known[0].numpy() if known is not None else np.zeros(0)

    def count(
        values: np.ndarray,
        residual: float,
        gap: float,
        tol: float,
        norm: float,
        order: Order | None = None,
    ) -> Proof | None:
        if gap == math.inf:
            return None  # nothing is left that could be missing
        others = np.zeros(0)
        if known is not None and deflated is not None:
            others = np.full(deflated.count - len(front), float(front[0]))
        elif deflated is not None:
            others, outside = _values_of(op, deflated)
            residual += outside
        wanted = np.concatenate([front, values]) if inside else values
        largest = max(norm, float(np.abs(np.concatenate([wanted, others])).max()))
        return _prove(Inertia(matrix, largest, order), wanted, others, residual, gap, tol)

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


class Inertia:
    """Counts the eigenvalues of a matrix above a shift by the signs of the pivots of a factor.

    matrix: sparse, or (n, n) NumPy float64. order: of an earlier factor of it, or None: then the
    first count finds one for all that follow. mass: B and its factor, for A - sigma B.
    """

    def __init__(
        self,
        matrix: Any,
        norm: float,
        order: Order | None = None,
        mass: tuple[Any, SparseCholesky] | None = None,
    ) -> None:
        self.matrix, self.norm, self.order, self.mass = matrix, norm, order, mass

    def above(self, sigma: float) -> tuple[int, float, float]:
        """(eigenvalues above the shift, the shift, error of the factor)."""
        matrix, mass, n = self.matrix, self.mass, self.matrix.shape[0]
        g = np.random.default_rng(n).standard_normal((n, _PROBES))
        if isinstance(matrix, np.ndarray):
            lower, d, _ = scipy.linalg.ldl(sigma * np.eye(n) - matrix)
            pivots = scipy.linalg.eigvalsh_tridiagonal(d.diagonal(), d.diagonal(-1))
            product = lower @ (d @ (lower.T @ g))
        else:
            factor, sigma = self._factor(sigma)
            if not np.array_equal(factor.perm_r, factor.perm_c):
                return 0, sigma, math.inf  # no congruence: its signs say nothing
            lower, pivots, places = factor.L, factor.U.diagonal(), factor.perm_r
            g = g if mass is None else mass[1].solve_transposed(g)
            inner = np.empty_like(g)
            inner[places] = g
            product = (lower @ (pivots[:, None] * (lower.T @ inner)))[places]
        error = sigma * (g if mass is None else mass[0] @ g) - matrix @ g - product
        error = error if mass is None else mass[1].solve(error)
        size = 2.0 * float(np.sqrt((error**2).sum() / _PROBES)) + 4.0 * _EPS * self.norm
        return int((pivots < 0).sum()), sigma, size if np.isfinite(size) else math.inf

    def _factor(self, sigma: float) -> tuple[Any, float]:
        mass = None if self.mass is None else self.mass[0]
        found = symmetric_factor("certify", self.matrix, sigma, self.norm, self.order, mass)
        if self.order is None:
            self.order = order_of(found[0])
        return found


def _prove(
    inertia: Inertia,
    values: np.ndarray,
    others: np.ndarray,
    residual: float,
    gap: float,
    tol: float,
) -> Proof:
    """Count at one shift after the other, until one settles it.

    values (k,): wanted Ritz values, largest first; others: of deflated vectors; residual: ||R||_F
    of all; gap: from the last wanted value to the next; tol: absolute.
    """
    last, every = float(values[-1]), np.concatenate([values, others])
    norm = inertia.norm
    slack = residual + 8.0 * _EPS * norm
    if gap > 4.0 * slack:
        shifts = [last - place * gap for place in _PLACES]
    else:
        shifts = [last + place * max(tol, _NEAR * norm) for place in _ABOVE]
        # what is known to tol is known only where tol is small beside the values, or a usual row
        size = max(float(np.abs(values).max()), usual_row(inertia.matrix) or math.inf)
        if shifts[-1] - last > _SMALL * size:
            return Proof(0, 0, 0, shifts[0], math.inf)
    best: Proof | None = None
    for shift in shifts:
        try:
            counted, shift, error = inertia.above(shift)
        except SingularFactor:
            continue
        if abs(last - shift) <= error:
            error = math.inf  # it tells nothing
        missing = counted - int((every > shift - slack - error).sum())
        found = Proof(counted, int((every > shift).sum()), max(missing, 0), shift, error)
        if found.complete or found.missing:
            return found
        best = best or found
    return best or Proof(0, 0, 0, shifts[0], math.inf)


def count_within(
    inertia: Inertia,
    values: np.ndarray,
    others: np.ndarray,
    center: float,
    slack: float,
    gap: float,
    tol: float,
) -> Window:
    """Count the eigenvalues around `center`, of which `values`, nearest first, were found.

    others: of deflated vectors; slack: ||R||_F; gap: from the last of the values to the next one
    in distance; tol: absolute.
    """
    norm = inertia.norm
    distances, every = np.abs(values - center), np.abs(np.concatenate([values, others]) - center)
    last = float(distances.max())
    slack += 8.0 * _EPS * norm
    if gap > 4.0 * slack:
        radii = [last + place * min(gap, max(norm, last)) for place in _PLACES]
    else:  # whatever was missed is no nearer than the last one, to tol
        radii = [last - place * max(tol, _NEAR * norm) for place in _ABOVE]
        if last <= max(tol, _NEAR * norm):  # none can be
            return Window(0, 0, 0, 0.0, 0.0, center)
    best: Window | None = None
    for radius in radii:
        if radius <= 0.0:
            continue
        try:
            below, low, first = inertia.above(center - radius)
            above, high, second = inertia.above(center + radius)
        except SingularFactor:
            continue
        error = first + second + abs(low - center + radius) + abs(high - center - radius)
        if abs(radius - last) <= error:
            error = math.inf
        counted = below - above
        missing = counted - int((every < radius + slack + error).sum())
        found = Window(counted, int((every < radius).sum()), max(missing, 0), radius, error, center)
        if found.complete or found.missing:
            return found
        best = best or found
    return best or Window(0, 0, 0, last, math.inf, center)


def _values_of(op: SymmetricOperator, deflated: Deflated) -> tuple[np.ndarray, float]:
    """Eigenvalues of V^T A V, and ||A V - V V^T A V||_F, of deflated vectors V."""
    v = deflated.dense()
    av = op.matmat(v)
    small = (v.T @ av).cpu()
    residual = float((av - v @ small.to(v)).norm())
    return np.linalg.eigvalsh(((small + small.T) / 2).numpy()), residual

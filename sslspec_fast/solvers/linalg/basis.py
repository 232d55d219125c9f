"""Tall-skinny building blocks: orthonormalise, Rayleigh-Ritz basis with thick restart, starts.

A basis is V (n, j) with A V and H = V^T A V; everything of size j x j is float64 on the host, and
its algebra NumPy's: a GPU waits for it, and calls of torch take three times as long at such sizes.
Orthonormalisation is block Gram-Schmidt with CholeskyQR (Fukaya et al. 2014, arXiv 1401.3683); a
second pass runs only where the first one cancelled too much, and directions that vanish are
dropped, never divided by (Stathopoulos and Wu 2002, SVQB).
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import numpy as np
import torch
from scipy.linalg.blas import dsyrk
from scipy.linalg.lapack import dpotrf, dtrtri
from torch import Tensor

from ...operators.known import Deflated
from ...primitives.basis import gram, multiply, multiply_into
from ...primitives.spread import current, decided

__all__ = [
    "Basis",
    "cholesky",
    "columns",
    "directions",
    "factor_rest",
    "host_memory",
    "orthonormalize",
    "physical_memory",
    "remaining",
    "stacked",
]

# Largest |V^T t| that is left alone. Anything larger is removed once more: the defects of V
# feed on themselves, and after ten restarts orthogonality would be gone.
_ORTHOGONAL = {torch.float64: 1e-13, torch.float32: 1e-6}
# Directions shorter than this (relative to the block's longest) are noise and are dropped.
_DROP = {torch.float64: 1e-12, torch.float32: 1e-5}
# Squared lengths below this are sums of numbers that are not normal.
_SMALL = {torch.float64: 1e-290, torch.float32: 1e-30}
# A block of a Krylov space behind one projection: squared, of a column, from which that is exact
# enough; condition up to which its Gram matrix is all it takes; and of the column that it was made
# of, from which what cancellation leaves is a direction.
_LEFT, _CONDITION = 0.2, 30.0
_CLEAR = {torch.float64: 1e-10, torch.float32: 1e-3}


def physical_memory() -> int | None:
    """Bytes of memory of this machine; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def host_memory() -> float:
    """Bytes of memory of this machine; a modest guess where the system does not tell. Over ranks,
    of the smallest of theirs.
    """
    exchange = current()
    return float(physical_memory() or 8e9) if exchange is None else exchange.memory


def stacked(dtype: torch.dtype, *parts: np.ndarray) -> Tensor:
    """The parts below each other, in the dtype of the blocks that they are to multiply."""
    kind = np.float32 if dtype == torch.float32 else np.float64
    return torch.from_numpy(np.concatenate(parts, dtype=kind, casting="same_kind"))


def remaining(square: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Upper triangle of the Gram matrix of what is left of T in the complement of V, from T^T T
    and V^T T.
    """
    return dsyrk(-1.0, parts.T, 1.0, square.T)  # transposed, they are in Fortran's order


def cholesky(g: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """(R, R^-1, ||R^-1|| to a factor sqrt(b)) with G = R^T R, from the upper triangle of G; an
    infinite norm: there is no such R.

    The norm is from the distances of the columns to the span of the others, in the diagonal of
    G^-1. Pivots would not tell: their product can be tiny while none of them is small.
    """
    factor, failed = dpotrf(g, lower=0, clean=1)
    if failed:
        inverse, norm = factor, math.inf
    else:
        inverse, _ = dtrtri(factor, lower=0)
        norm = math.sqrt(dsyrk(1.0, inverse).diagonal().max())
        norm = norm if norm < math.inf else math.inf  # not a number: the same
    if current() is None:
        return factor, inverse, norm
    first = decided(*(torch.from_numpy(np.asarray(x)) for x in (factor, inverse, norm)))
    return first[0].numpy(), first[1].numpy(), float(first[2])


def factor_rest(
    square: np.ndarray, parts: np.ndarray, before: np.ndarray, dtype: torch.dtype
) -> tuple[np.ndarray, np.ndarray] | None:
    """(R, R^-1) with R^T R the Gram matrix of what is left of T in the complement of V, from T^T T
    and V^T T; before: squared lengths of the columns that T was made of. None, where what is left
    is too little of a column of T, or of one before, or its columns are nearly parallel.
    """
    g = remaining(square, parts)
    factor, inverse, norm = cholesky(g)
    left = g.diagonal()
    enough = (left > _LEFT * square.diagonal()) & (left > _CLEAR[dtype] ** 2 * before)
    good = bool(enough.all()) and norm * math.sqrt(left.max()) < _CONDITION
    return (factor, inverse) if good else None


def _lengths(g: np.ndarray) -> np.ndarray:
    """Of the columns of T, from T^T T."""
    return np.sqrt(np.maximum(g.diagonal(), 0.0))


def columns(t: Tensor, keep: np.ndarray) -> Tensor:
    """Those columns of t (n, b) that keep (b,) says."""
    return t[:, torch.from_numpy(keep).to(t.device)]


def directions(t: Tensor, square: np.ndarray, before: np.ndarray) -> Tensor:
    """The columns of t that are more than the rounding of what they were made of, from t^T t and
    squared lengths before.
    """
    return columns(t, square.diagonal() > _DROP[t.dtype] ** 2 * before)


def _scaled(g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """G for columns of unit length, and the lengths that they had, (b, 1)."""
    norms = np.sqrt(g.diagonal())
    return g / norms / norms[:, None], norms[:, None]


def _inverse(g: np.ndarray) -> tuple[np.ndarray, float]:
    """C with C^T G C = 1 by Cholesky on the scaled g, and its condition (inf: that failed)."""
    scaled, norms = _scaled(g)
    _, inverse, condition = cholesky(scaled)
    return inverse / norms, condition


def _cholesky_qr(t: Tensor, g: np.ndarray) -> tuple[Tensor, float]:
    """Orthonormal basis of the columns of t from g = T^T T, and the condition that was removed.

    In place. Falls back to an eigenbasis of the scaled g, which can drop directions.
    """
    inverse, condition = _inverse(g)
    # CholeskyQR needs condition^2 * eps << 1
    if condition < (1e6 if t.dtype == torch.float64 else 1e4):
        return multiply_into(t, [t], stacked(t.dtype, inverse)), condition
    scaled, norms = _scaled(g)
    values, vectors = (x.numpy() for x in decided(*torch.linalg.eigh(torch.from_numpy(scaled))))
    keep = values > (1e-14 if t.dtype == torch.float64 else 1e-11) * values[-1]
    inverse = vectors[:, keep] / np.sqrt(values[keep]) / norms
    return multiply([t], stacked(t.dtype, inverse)), math.sqrt(values[-1] / values[keep][0])


def _at_once(
    t: Tensor, known: list[Tensor], square: np.ndarray, parts: np.ndarray
) -> Tensor | None:
    """T orthonormal and in the complement of `known` by one combination, from the Gram matrices
    T^T T and known^T T. In place; None, and t as it was, where these do not tell enough.

    Once is enough where most of each column is left (Daniel, Gragg, Kaufman and Stewart 1976).
    """
    g, before = remaining(square, parts), square.diagonal()
    if not ((2.0 * g.diagonal() > before).all() and before.min() > _SMALL[t.dtype]):
        return None
    inverse, condition = _inverse(g)
    if condition**2 * torch.finfo(t.dtype).eps > _ORTHOGONAL[t.dtype]:
        return None
    return multiply_into(t, [t, *known], stacked(t.dtype, inverse, -parts @ inverse))


def orthonormalize(t: Tensor, v: Sequence[Tensor] = (), deflated: Deflated | None = None) -> Tensor:
    """Orthonormal block (n, r), r <= b, of span(t) in the complement of v and `deflated`.

    t (n, b) is overwritten; v: blocks (n, j) of orthonormal columns. Directions that vanish
    numerically are dropped, so r can be 0.
    """
    b = t.shape[1]
    if b == 0:
        return t
    block = None if deflated is None else deflated.block(t.dtype)
    known = [*v] if block is None else [*v, block]
    products = gram([t, *known], t).numpy()
    square, parts = products[:b], products[b:]
    if not square.diagonal().min() > _SMALL[t.dtype]:  # squares in float32 would not do
        square = gram(t, t, exact=True).numpy()
    before = _lengths(square)
    if not 0.0 < before.min() <= before.max() < math.inf:
        return orthonormalize(columns(t, np.isfinite(before) & (before > 0.0)), v, deflated)
    if deflated is None or block is not None:
        done = _at_once(t, known, square, parts)
        if done is not None:
            return done
    parts = parts[: sum(x.shape[1] for x in v)]
    for _ in range(5):
        if v:
            multiply_into(t, v, torch.from_numpy(-parts), beta=1.0)
        if deflated is not None:
            deflated.remove_(t)
        g = gram(t, t, exact=True).numpy()
        after = _lengths(g)
        # what is left after cancellation to rounding level is noise, not a direction
        alive = after > _DROP[t.dtype] * before
        if not alive.all():
            t, g = columns(t, alive), g[alive][:, alive]
        if t.shape[1] == 0:
            return t
        cancelled = float((before[alive] / after[alive]).max())
        t, condition = _cholesky_qr(t, g)
        defect = condition**2 * torch.finfo(t.dtype).eps / 16
        if v:
            parts = gram(v, t).numpy()
            defect = max(defect, float(np.abs(parts).max()))
        if deflated is not None:  # not measured: rounding times what was amplified
            defect = max(defect, cancelled * condition * torch.finfo(t.dtype).eps / 8)
        if defect <= _ORTHOGONAL[t.dtype]:
            return t
        before = np.ones(t.shape[1])
    return t


class Basis:
    """V, A V and H = V^T A V. V and A V are lists of blocks of columns, up to `capacity` in all.

    Blocks are adopted as they come and nothing is copied before a restart: to write into a new
    store, memory that was never touched, would cost as much as several products.
    """

    def __init__(self, n: int, capacity: int, dtype: torch.dtype, device: torch.device) -> None:
        self.v: list[Tensor] = []
        self.av: list[Tensor] = []
        self.empty = torch.empty(n, 0, dtype=dtype, device=device)
        self.h = torch.zeros(capacity, capacity, dtype=torch.float64)
        self.capacity, self.size = capacity, 0

    def append(self, t: Tensor, at: Tensor) -> None:
        """Add an orthonormal block t (n, b) in the complement of V, with at = A t."""
        j, b = self.size, t.shape[1]
        self.v.append(t)
        self.av.append(at)
        self.size = j + b
        column, h = gram(self.v, at).numpy(), self.h.numpy()
        h[: j + b, j : j + b] = column
        h[j : j + b, : j + b] = column.T
        corner = column[j:]
        h[j : j + b, j : j + b] = (corner + corner.T) / 2

    def ritz(self) -> tuple[Tensor, Tensor]:
        """All Ritz values, largest first, and their coefficients (j, j)."""
        values, vectors = decided(*torch.linalg.eigh(self.h[: self.size, : self.size]))
        return values.flip(0), vectors.flip(1)

    def vectors(self, coefficients: Tensor) -> Tensor:
        """V C, (n, m)."""
        return multiply(self.v, coefficients)

    def residual(self, values: Tensor, coefficients: Tensor) -> Tensor:
        """A X - X diag(values) for X = V C."""
        c = coefficients.numpy()
        return multiply([*self.av, *self.v], stacked(self.empty.dtype, c, -c * values.numpy()))

    def rotate(self, coefficients: Tensor) -> None:
        """V <- V C with orthonormal C (j, m), and everything that follows from it."""
        m = coefficients.shape[1]
        self.h[:m, :m] = coefficients.T @ self.h[: self.size, : self.size] @ coefficients
        self.v = [multiply(self.v, coefficients)]
        self.av = [multiply(self.av, coefficients)]
        self.size = m

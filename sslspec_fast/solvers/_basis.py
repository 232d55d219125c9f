"""Tall-skinny building blocks: orthonormalise, Rayleigh-Ritz basis with thick restart, starts.

A basis is V (n, j) with A V and H = V^T A V; everything of size j x j is float64 on the host.
Orthonormalisation is block Gram-Schmidt with CholeskyQR (Fukaya et al. 2014, arXiv 1401.3683); a
second pass runs only where the first one cancelled too much, and directions that vanish are
dropped, never divided by (Stathopoulos and Wu 2002, SVQB).
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from sslspec_fast.operators.base import Deflated
from sslspec_fast.primitives.basis import combine, combine_into, gram

__all__ = [
    "Basis",
    "column_norms",
    "host_memory",
    "inverse_norm",
    "orthonormalize",
    "triangular_inverse",
]

# Largest |V^T t| that is left alone. Anything larger is removed once more: the defects of V
# feed on themselves, and after ten restarts orthogonality would be gone.
_ORTHOGONAL = {torch.float64: 1e-13, torch.float32: 1e-6}
# Directions shorter than this (relative to the block's longest) are noise and are dropped.
_DROP = {torch.float64: 1e-12, torch.float32: 1e-5}
# Squared lengths below this are sums of numbers that are not normal.
_SMALL = {torch.float64: 1e-290, torch.float32: 1e-30}
_PIECE = 1 << 16  # entries


def host_memory() -> float:
    """Bytes of memory of this machine; a modest guess where nothing tells."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError, AttributeError):
        return 8e9


def column_norms(t: Tensor) -> Tensor:
    """(b,) float64 on the host. By pieces that fit in the cache: torch's norm down a matrix of
    short rows takes up to ten times as long.
    """
    if t.is_cuda:
        return torch.linalg.vector_norm(t, dim=0, dtype=torch.float64).cpu()
    total = torch.zeros(t.shape[1], dtype=torch.float64)
    for part in t.split(max(_PIECE // max(t.shape[1], 1), 1)):
        total += part.double().square().sum(0)  # squares of small float32 numbers are 0
    return total.sqrt()


def _select(t: Tensor, g: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    if bool(keep.all()):
        return t, g
    return t[:, keep.to(t.device)], g[keep][:, keep]


def triangular_inverse(lower: Tensor) -> Tensor:
    """L^-1; torch's `inv` would factorise L first, for three times as long."""
    eye = torch.eye(lower.shape[0], dtype=lower.dtype)
    return torch.linalg.solve_triangular(lower, eye, upper=False)


def inverse_norm(inverse: Tensor) -> float:
    """||L^-1|| to a factor sqrt(b), from the distances of the columns to the span of the others.

    Pivots would not tell: their product can be tiny while none of them is small.
    """
    return float(inverse.norm(dim=0).max())


def _inverse(g: Tensor) -> tuple[Tensor, float]:
    """C with C^T G C = 1 by Cholesky on the scaled g, and its condition (inf: that failed)."""
    norms = g.diagonal().sqrt()
    factor, failed = torch.linalg.cholesky_ex(g / norms[:, None] / norms[None, :])
    if int(failed):
        return g, math.inf
    inverse = triangular_inverse(factor)
    return inverse.T / norms[:, None], inverse_norm(inverse)


def _cholesky_qr(t: Tensor, g: Tensor) -> tuple[Tensor, float]:
    """Orthonormal basis of the columns of t from g = T^T T, and the condition that was removed.

    In place. Falls back to an eigenbasis of the scaled g, which can drop directions.
    """
    inverse, condition = _inverse(g)
    # CholeskyQR needs condition^2 * eps << 1
    if condition < (1e6 if t.dtype == torch.float64 else 1e4):
        return combine_into(t, (t, inverse)), condition
    norms = g.diagonal().sqrt()
    scaled = g / norms[:, None] / norms[None, :]
    values, vectors = torch.linalg.eigh(scaled)
    keep = values > (1e-14 if t.dtype == torch.float64 else 1e-11) * values[-1]
    inverse = (vectors[:, keep] / values[keep].sqrt()) / norms[:, None]
    return combine((t, inverse)), float((values[-1] / values[keep][0]).sqrt())


def _at_once(t: Tensor, known: list[Tensor], square: Tensor, parts: list[Tensor]) -> Tensor | None:
    """T orthonormal and in the complement of `known` by one combination, from the Gram matrices
    T^T T and known^T T. In place; None, and t as it was, where these do not tell enough.

    Once is enough where most of each column is left (Daniel, Gragg, Kaufman and Stewart 1976).
    """
    g = square - sum(part.T @ part for part in parts)
    told = (2.0 * g.diagonal() > square.diagonal()) & (square.diagonal() > _SMALL[t.dtype])
    if not bool(told.all()):
        return None
    inverse, condition = _inverse(g)
    if condition**2 * torch.finfo(t.dtype).eps > _ORTHOGONAL[t.dtype]:
        return None
    out = [(block, -part @ inverse) for block, part in zip(known, parts, strict=True)]
    return combine_into(t, (t, inverse), *out)


def orthonormalize(t: Tensor, v: Sequence[Tensor] = (), deflated: Deflated | None = None) -> Tensor:
    """Orthonormal block (n, r), r <= b, of span(t) in the complement of v and `deflated`.

    t (n, b) is overwritten; v: blocks (n, j) of orthonormal columns. Directions that vanish
    numerically are dropped, so r can be 0.
    """
    if t.shape[1] == 0:
        return t
    block = None if deflated is None else deflated.block(t.dtype)
    known = [*v] if block is None else [*v, block]
    square, *parts = gram([t, *known], t).split([x.shape[1] for x in (t, *known)])
    if not bool((square.diagonal() > _SMALL[t.dtype]).all()):  # squares in float32 would not do
        square = gram(t, t, exact=True)
    before = square.diagonal().clamp_min(0).sqrt()
    ok = torch.isfinite(before) & (before > 0)
    if not bool(ok.all()):
        return orthonormalize(t[:, ok.to(t.device)], v, deflated)
    if deflated is None or block is not None:
        done = _at_once(t, known, square, parts)
        if done is not None:
            return done
    for _ in range(5):
        if v:
            combine_into(t, *((x, -part) for x, part in zip(v, parts, strict=False)), beta=1.0)
        if deflated is not None:
            deflated.remove_(t)
        g = gram(t, t, exact=True)
        after = g.diagonal().clamp_min(0).sqrt()
        # what is left after cancellation to rounding level is noise, not a direction
        alive = after > _DROP[t.dtype] * before
        t, g = _select(t, g, alive)
        if t.shape[1] == 0:
            return t
        cancelled = float((before[alive] / after[alive]).max())
        t, condition = _cholesky_qr(t, g)
        defect = condition**2 * torch.finfo(t.dtype).eps / 16
        if v:
            parts = list(_rows(gram(v, t), v))
            defect = max(defect, *(float(part.abs().max()) for part in parts))
        if deflated is not None:  # not measured: rounding times what was amplified
            defect = max(defect, cancelled * condition * torch.finfo(t.dtype).eps / 8)
        if defect <= _ORTHOGONAL[t.dtype]:
            return t
        before = torch.ones(t.shape[1], dtype=torch.float64)
    return t


def _rows(c: Tensor, blocks: Sequence[Tensor]) -> Sequence[Tensor]:
    """The rows of c (j, m) that belong to each block of j columns in all."""
    parts: Sequence[Tensor] = c.split([block.shape[1] for block in blocks])
    return parts


class Basis:
    """V, A V and H = V^T A V. V and A V are lists of blocks of columns, up to `capacity` in all.

    Blocks are adopted as they come and nothing is copied before a restart: to write into a new
    store, memory that nobody has touched yet, would cost as much as several products.
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
        column = gram(self.v, at)
        self.h[: j + b, j : j + b] = column
        self.h[j : j + b, : j + b] = column.T
        corner = column[j:]
        self.h[j : j + b, j : j + b] = (corner + corner.T) / 2

    def ritz(self) -> tuple[Tensor, Tensor]:
        """All Ritz values, largest first, and their coefficients (j, j)."""
        values, vectors = torch.linalg.eigh(self.h[: self.size, : self.size])
        return values.flip(0), vectors.flip(1)

    def vectors(self, coefficients: Tensor) -> Tensor:
        """V C, (n, m)."""
        return combine(*zip(self.v, _rows(coefficients, self.v), strict=True))

    def residual(self, values: Tensor, coefficients: Tensor) -> Tensor:
        """A X - X diag(values) for X = V C."""
        return combine(
            *zip(self.av, _rows(coefficients, self.v), strict=True),
            *zip(self.v, _rows(-coefficients * values, self.v), strict=True),
        )

    def rotate(self, coefficients: Tensor) -> None:
        """V <- V C with orthonormal C (j, m), and everything that follows from it."""
        m = coefficients.shape[1]
        self.h[:m, :m] = coefficients.T @ self.h[: self.size, : self.size] @ coefficients
        parts = _rows(coefficients, self.v)
        self.v = [combine(*zip(self.v, parts, strict=True))]
        self.av = [combine(*zip(self.av, parts, strict=True))]
        self.size = m

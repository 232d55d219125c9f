"""Tall-skinny building blocks: orthonormalise, Rayleigh-Ritz basis with thick restart, starts.

A basis is V (n, j) with A V and H = V^T A V; everything of size j x j is float64 on the host.
Orthonormalisation is block Gram-Schmidt with CholeskyQR (Fukaya et al. 2014, arXiv 1401.3683); a
second pass runs only where the first one cancelled too much, and directions that vanish are
dropped, never divided by (Stathopoulos and Wu 2002, SVQB).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sslspec_fast.primitives.basis import combine, combine_into, gram

__all__ = [
    "Basis",
    "Project",
    "column_norms",
    "host_memory",
    "inverse_norm",
    "orthonormalize",
]

Project = Callable[[Tensor], Tensor]

# Largest |V^T t| that is left alone. Anything larger is removed once more: the defects of V
# feed on themselves, and after ten restarts orthogonality would be gone.
_ORTHOGONAL = {torch.float64: 1e-13, torch.float32: 1e-6}
# Directions shorter than this (relative to the block's longest) are noise and are dropped.
_DROP = {torch.float64: 1e-12, torch.float32: 1e-5}


def host_memory() -> float:
    """Bytes of memory of this machine; a modest guess where nothing tells."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError, AttributeError):
        return 8e9


def column_norms(t: Tensor) -> Tensor:
    """(b,) float64 on the host; a product, because reductions along short rows are slow."""
    return gram(t, t).diagonal().clamp_min(0.0).sqrt()


def _select(t: Tensor, g: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    if bool(keep.all()):
        return t, g
    return t[:, keep.to(t.device)], g[keep][:, keep]


def inverse_norm(inverse: Tensor) -> float:
    """||L^-1|| to a factor sqrt(b), from the distances of the columns to the span of the others.

    Pivots would not tell: their product can be tiny while none of them is small.
    """
    return float(inverse.norm(dim=0).max())


def _cholesky_qr(t: Tensor, g: Tensor) -> tuple[Tensor, float]:
    """Orthonormal basis of the columns of t from g = T^T T, and the condition that was removed.

    In place. Falls back to an eigenbasis of the scaled g, which can drop directions.
    """
    norms = g.diagonal().sqrt()
    scaled = g / norms[:, None] / norms[None, :]
    factor, failed = torch.linalg.cholesky_ex(scaled)
    if int(failed) == 0:
        inverse = torch.linalg.inv(factor)
        condition = inverse_norm(inverse)
        # CholeskyQR needs condition^2 * eps << 1
        if condition < (1e6 if t.dtype == torch.float64 else 1e4):
            return combine_into(t, (t, inverse.T / norms[:, None])), condition
    values, vectors = torch.linalg.eigh(scaled)
    keep = values > (1e-14 if t.dtype == torch.float64 else 1e-11) * values[-1]
    inverse = (vectors[:, keep] / values[keep].sqrt()) / norms[:, None]
    return combine((t, inverse)), float((values[-1] / values[keep][0]).sqrt())


def orthonormalize(t: Tensor, v: Sequence[Tensor] = (), project: Project | None = None) -> Tensor:
    """Orthonormal block (n, r), r <= b, of span(t) in the complement of v and of `project`.

    t (n, b) is overwritten; v: blocks (n, j) of orthonormal columns; project(x) removes deflated
    vectors in place. Columns that lie in span(v) numerically are dropped, so r can be 0.
    """
    if t.shape[1] == 0:
        return t
    constrained = project is not None or len(v) > 0
    overlap = gram(v, t) if v else None
    g = gram(t, t, exact=not constrained)  # only its norms are used when more is taken out first
    before = g.diagonal().clamp_min(0).sqrt()
    ok = torch.isfinite(before) & (before > 0)
    if not bool(ok.all()):
        return orthonormalize(t[:, ok.to(t.device)], v, project)
    for _ in range(5):
        if constrained:
            if overlap is not None:
                combine_into(t, *zip(v, _rows(-overlap, v), strict=True), beta=1.0)
            if project is not None:
                project(t)
            g = gram(t, t, exact=True)
        after = g.diagonal().clamp_min(0).sqrt()
        # what is left after cancellation to rounding level is noise, not a direction
        alive = after > _DROP[t.dtype] * before
        t, g = _select(t, g, alive)
        if t.shape[1] == 0:
            return t
        cancelled = float((before[alive] / after[alive]).max())
        t, condition = _cholesky_qr(t, g)
        overlap = gram(v, t) if v else None
        defect = 0.0 if overlap is None else float(overlap.abs().max())
        if project is not None:  # its defect is not measured: rounding times what was amplified
            defect = max(defect, cancelled * condition * torch.finfo(t.dtype).eps / 8)
        defect = max(defect, condition**2 * torch.finfo(t.dtype).eps / 16)
        if defect <= _ORTHOGONAL[t.dtype]:
            return t
        g = gram(t, t, exact=True)
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

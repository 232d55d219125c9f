"""What an eigensolver returns: values, vectors, and how they were obtained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .plan import Plan

__all__ = ["ConvergenceWarning", "EigInfo", "EigResult"]


class ConvergenceWarning(UserWarning):
    """The solver stopped before the requested tolerance was met (``info.converged`` is False)."""


def ends(values: Any) -> str:
    """The values, or the first and the last few of many."""
    shown = [f"{float(v):.6g}" for v in values]
    if len(shown) > 6:
        shown = [*shown[:3], "...", *shown[-2:]]
    return f"[{', '.join(shown)}]"


@dataclass(repr=False)
class EigInfo:
    """How a result was obtained and how far it can be trusted.

    Attributes:
        converged: every pair met the tolerance, and the span the angle if one was asked for.
        residuals: (k,) float64, ``||A x - lambda x||`` of each returned pair (unit vectors); with B
            ``||F^-1 (A x - lambda B x)||``, B = F F^T, of B-orthonormal vectors.
        norm: the bound of ``||A||`` that ``tol`` is relative to.
        gap: distance of the k-th value to the nearest value that was not returned (``inf`` when
            there is none, e.g. k = n; estimated from Ritz values otherwise).
        angle_bound: ``||R||_F / gap``: bounds the sine between the returned and the exact subspace.
        cluster_cut: the k-th value lies inside a cluster, so the span of the vectors is not unique.
        method: what ran: "dense", "lanczos", "chebyshev", "lobpcg" or "shift_invert".
        reason: one sentence: why that method, and on stopping early why.
        plan: `Plan`: what was decided before the first step, with a reason against each other
            method; None where a closed form needs no eigensolver.
        n_iter: outer iterations (Rayleigh-Ritz steps).
        n_matvec: columns multiplied by A in all, in any precision (a block of b counts b).
        seconds: of the whole call.
        n_solve: columns solved with a factorisation or preconditioner.
        tol, angle_tol, precision: as they were asked for.
        complete: with ``certify``: a count of the eigenvalues proved that none was missed
            (``extra["count"]`` of them lie beyond ``extra["count_shift"]``); None: not asked.
        history: one dict per outer iteration: residual (largest, relative), basis, converged.
        extra: method-specific facts (filter degree, fill, precision, bounds ...).
    """

    converged: bool
    residuals: np.ndarray
    norm: float
    gap: float
    angle_bound: float
    cluster_cut: bool
    method: str
    reason: str
    n_iter: int
    n_matvec: int
    seconds: float
    n_solve: int = 0
    tol: float = 0.0
    angle_tol: float | None = None
    precision: str = "mixed"
    complete: bool | None = None
    history: list[dict[str, Any]] = field(default_factory=list, repr=False)
    extra: dict[str, Any] = field(default_factory=dict)
    plan: Plan | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self})"

    def __str__(self) -> str:
        state = "converged" if self.converged else "NOT converged"
        worst = float(self.residuals.max()) if self.residuals.size else 0.0
        return (
            f"{state}: {self.method} ({self.reason}), {self.n_iter} iterations, "
            f"{self.n_matvec} columns, {self.seconds:.3g} s; largest residual {worst:.2e} "
            f"(||A|| <= {self.norm:.3g}), gap {self.gap:.2e}, angle bound {self.angle_bound:.2e}"
            + (", the cut lies inside a cluster" if self.cluster_cut else "")
            + (", proven complete" if self.complete else "")
        )


@dataclass(repr=False)
class EigResult:
    """Eigenpairs, wanted first; unpacks as ``values, vectors = result``.

    Attributes:
        values: (k,), LA: descending, SA: ascending.
        vectors: (n, k), orthonormal (B-orthonormal for a pencil); entry of largest magnitude
            positive.
        info: `EigInfo`.
    """

    values: Any
    vectors: Any
    info: EigInfo

    def __repr__(self) -> str:
        """A summary: the vectors of a large problem would fill a notebook."""
        return f"EigResult({len(self.values)} pairs {ends(self.values)}, {self.info})"

    def __iter__(self) -> Iterator[Any]:
        yield self.values
        yield self.vectors

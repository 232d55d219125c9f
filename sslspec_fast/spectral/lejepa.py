"""LeJEPA's optimum for Gaussian embeddings: Laplacian eigenmaps under LeJEPA's own filter.

    min_Z  lambda n F(N(mean(Z), Cov(Z))) + (1 - lambda) / (N K) tr Z^T L Z

F the SIGReg of a Gaussian law per row, a function of the spectrum s of Cov(Z) = Z^T H Z / N:

    Z* = sqrt(N) Q_K S^{1/2},   s = argmin_{s >= 0}  lambda n F(s) + (1 - lambda) / K sum_k lambda_k
    s_k

with (lambda_k, q_k) the lowest modes of L = D - G; linear: the pencil (X^T L X / N, X^T H X / N).
Near the identity LeJEPA is VICReg with ls_var (`filters.lejepa`): alpha = 2 A2 lambda n / (K (K +
2)) on |C - I|_F^2, and half of it on the square of tr(C - I).

Source: Balestriero & LeCun (arXiv 2511.08544) for the loss; derived in docs/closed_forms.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._checks import count
from ._checks import check_positive, check_rank, check_solver
from ._eigen import laplacian_modes
from ._features import design_of
from ._target import Target, checked_array
from .closed_form import ClosedForm, OutOfSample, package, pad
from .filters.lejepa import (
    curvature,
    exact_filter,
    gaussian_sigreg,
    second_order_filter,
)

__all__ = ["gaussian_loss", "lejepa", "population_sigreg"]

Array = np.ndarray
ORDERS = ("exact", "second")


def lejepa(
    graph: Any,
    k: int,
    *,
    weight: float = 0.05,
    rows: int | None = None,
    knots: int = 17,
    t_max: float = 3.0,
    order: str = "exact",
    features: Any = None,
    kernel: Any = None,
    **solver: Any,
) -> ClosedForm:
    """Optimum of ``F.lejepa(slices=None)`` over z (n, k), or features @ W, of Gaussian law.

    The loss reads the law of z: here SIGReg is that of the Gaussian with z's mean and covariance,
    as it is for many Gaussian features under a linear map. Another law may do better or worse.

    Args:
        graph: symmetric relation of all n rows, such that the invariance is tr Z^T L Z / (n k): for
            V global views ``PairGraph.from_views(samples, V) * (1 / V)``; with local views the
            signed view graph of docs/math/lejepa.md.
        k: embedding dimensions, at most n.
        weight: lambda in (0, 1].
        rows: those of one view, which SIGReg is multiplied by; None: all n.
        knots, t_max: as in ``F.lejepa``.
        order: "exact", or "second" for the model of second order at C = I, which has a closed
            filter and is VICReg with ls_var.
        features, kernel: (n, d) and (n, n), the linear and the kernel regime, of columns with mean
            zero.
        solver: as in `vicreg`.

    Returns:
        `ClosedForm`. ``filter`` holds the eigenvalues s_k of the covariance, above 1 for the
        smoothest modes; ``loss`` the minimum, of the model with order="second".
        ``info.extra["collapse"]`` is the loss of z = 0: the price of collapse is finite.
        ``info.certified``: order="second" is convex; the exact filter is the best of descents.

    Raises:
        ValueError: a directed graph, k or weight out of range, features that are not centred, a
            Laplacian with a negative eigenvalue, which leaves the loss unbounded below.
        TypeError: wrong types.
    """
    target = Target(graph)
    k = check_rank(k, target.n)
    weight = _weight(weight)
    rows = target.n if rows is None else count("lejepa", "rows", rows, 1)
    knots, t_max = _quadrature(knots, t_max)
    if order not in ORDERS:
        raise ValueError(f"order must be 'exact' or 'second', got {order!r}")
    if target.n < 2:
        raise ValueError(f"graph must have at least 2 nodes for a covariance, got {target.n}")
    solver = check_solver(solver)
    design = design_of(target, features, kernel)
    if design is None:
        modes = laplacian_modes(target, k, solver)
        lam, info = modes.values, modes.info
        basis = np.sqrt(target.n) * modes.vectors
    else:
        _check_centred(design.features)
        pencil = design.pencil(
            target,
            k,
            lambda x: _energy(target, x),
            lambda x: _centred(x).T @ _centred(x) / target.n,
            largest=False,
        )
        lam, info, basis = pencil.values, pencil.info, pencil.weights
        lam = lam if target.is_signed else np.maximum(lam, 0.0)
    if len(lam) and lam.min() < -1e-9 * max(1.0, float(np.abs(lam).max())):
        raise ValueError(
            f"graph must have a non-negative Laplacian for lejepa, got an eigenvalue "
            f"{lam.min():.3g} < 0 (the loss is unbounded below)"
        )
    cost, strength = (1 - weight) / k * np.maximum(lam, 0.0), weight * rows
    if order == "exact":
        s, value = exact_filter(cost, k, strength, knots, t_max)
    else:
        s, value = second_order_filter(cost, k, strength, curvature(knots, t_max))
    info.regime = "gaussian law" if order == "exact" else "second order at C = I"
    info.certified = order == "second"
    info.lower_bound = value if order == "second" else 0.0  # both terms are at least 0
    info.extra["collapse"] = strength * gaussian_sigreg(np.zeros(k), None, knots, t_max)[0]
    mix = np.zeros((len(s), k))
    np.fill_diagonal(mix, np.sqrt(s))
    more: dict[str, Any] = (
        {"embedding": basis @ mix, "out_of_sample": OutOfSample(basis, mix, slope=1.0, offset=-lam)}
        if design is None
        else {
            "embedding": np.zeros((0, k)),
            "weights": design.weights(basis @ mix),
            "features": design.given,
        }
    )
    return package(
        target,
        eigenvalues=pad(lam, k, np.inf),
        filter_=pad(s, k, 0.0),
        loss=value,
        info=info,
        **more,
    )


def population_sigreg(
    covariance: Any, mean: Any = None, *, knots: int = 17, t_max: float = 3.0
) -> float:
    """SIGReg per row of the law N(mean, covariance), its mean over all directions taken exactly.

    ``F.sigreg`` of n rows of that law tends to n times this. 0 at N(0, I) only; at a point mass at
    0 it is the price of total collapse, .402 for the usual knots (docs/closed_forms.md).

    Args:
        covariance: (d, d) symmetric positive semi-definite, or (d,) its eigenvalues.
        mean: (d,), in the axes of the eigenvalues where those are given; None: 0.
        knots, t_max: as in ``F.sigreg``.

    Returns:
        F >= 0 of docs/closed_forms.md.

    Raises:
        ValueError: shapes, a covariance that is not symmetric or has a negative eigenvalue.
        TypeError: wrong types.

    >>> round(population_sigreg([0.0, 0.0]), 4)
    0.4021
    """
    knots, t_max = _quadrature(knots, t_max)
    ndim = np.ndim(covariance)
    c = checked_array(covariance, "covariance", 1 if ndim == 1 else 2)
    d = len(c)
    if d == 0 or (ndim != 1 and c.shape != (d, d)):
        raise ValueError(f"covariance must have shape (d, d) or (d,), got {c.shape}")
    shift = None if mean is None else checked_array(mean, "mean", 1)
    if shift is not None and shift.shape != (d,):
        raise ValueError(f"mean must have shape ({d},) like the covariance, got {shift.shape}")
    s = c
    if ndim != 1:
        if not np.allclose(c, c.T, rtol=1e-9, atol=1e-9 * np.abs(c).max()):
            raise ValueError(
                f"covariance must be symmetric, got max |C - C^T| = {np.abs(c - c.T).max():.3g}"
            )
        s, axes = np.linalg.eigh((c + c.T) / 2)
        shift = None if shift is None else shift @ axes
    if s.min() < -1e-9 * max(np.abs(s).max(), 1e-300):
        raise ValueError(f"covariance must have eigenvalues >= 0, got {s.min():.3g}")
    return gaussian_sigreg(np.maximum(s, 0.0), shift, knots, t_max)[0]


def gaussian_loss(
    z: Array,
    graph: Any,
    *,
    weight: float = 0.05,
    rows: int | None = None,
    knots: int = 17,
    t_max: float = 3.0,
) -> float:
    """The loss that `lejepa` minimises, at z (n, k): SIGReg of the Gaussian with z's moments."""
    target = graph if isinstance(graph, Target) else Target(graph)
    n, k = z.shape
    mean = z.mean(axis=0)
    s, axes = np.linalg.eigh(_centred(z).T @ _centred(z) / n)
    law = gaussian_sigreg(np.maximum(s, 0.0), mean @ axes, knots, t_max)[0]
    energy = float(np.trace(_energy(target, z)))
    return weight * (n if rows is None else rows) * law + (1 - weight) * energy / k


def _weight(weight: Any) -> float:
    weight = check_positive(weight, "weight", strict=True)
    if weight > 1:
        raise ValueError(f"weight must be in (0, 1], got {weight:g}")
    return weight


def _quadrature(knots: Any, t_max: Any) -> tuple[int, float]:
    return count("lejepa", "knots", knots, 2), check_positive(t_max, "t_max", strict=True)


def _check_centred(x: Array) -> None:
    """The mean of z enters SIGReg; with centred features it is 0, the best mean."""
    worst = float((np.abs(x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-300)).max(initial=0.0))
    if worst > 1e-6:
        raise ValueError(
            f"features (or kernel) must be centred for lejepa, got a column whose mean is "
            f"{worst:.3g} standard deviations; subtract the column means"
        )


def _centred(x: Array) -> Array:
    return x - x.mean(axis=0)


def _energy(target: Target, x: Array) -> Array:
    """X^T L X / n; L does not depend on the mean, and without it nothing cancels."""
    x = _centred(x)
    return (x.T @ (target.degree[:, None] * x) - target.quadratic(x)) / target.n

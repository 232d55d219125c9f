"""VICReg's optimum: Laplacian eigenmaps under a soft spectral cut-off.

    min_Z  alpha sum_k pen(C_kk) + beta sum_{k != l} C_kl^2 + (gamma/N) sum_ij G_ij |z_i - z_j|^2

    Z* = sqrt(N-1) Q_K S^{1/2} R^T,   s_k = (1 - gamma c lambda_k / alpha)_+   for alpha = beta, (1
    - v)^2

with (lambda_k, q_k) the lowest modes of L = D - G and c = (N-1)/N; linear: the pencil
(X^T L X / N, X^T H X / (N-1)), locality preserving projections; kernel: the same in the kernel's
feature map. Other penalties and alpha != beta: `filters/vicreg.py`. ``nested=`` sums the loss over
prefixes of the columns: every prefix of Z* with R = I is optimal for its own.

Source: Balestriero & LeCun, NeurIPS 2022 (arXiv 2205.11508) for the loss and its link to Laplacian
eigenmaps; the filter, the other regimes and the minima are derived in docs/closed_forms.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._checks import MEASURES, PENALTIES, choice, count
from .._prefixes import Nested, prefix_weights
from ._checks import check_positive, check_rank, check_solver
from ._eigen import laplacian_modes, normalized_modes
from ._features import Design, design_of
from ._rows_target import target_of
from ._target import Target
from .closed_form import ClosedForm, OutOfSample, package, pad
from .filters.vicreg import Filter, nested_filter, vicreg_filter

__all__ = ["vicreg"]

Array = np.ndarray


def vicreg(
    graph: Any,
    k: int,
    *,
    variance: float = 1.0,
    covariance: float | None = None,
    invariance: float = 1.0,
    penalty: str = "ls_var",
    measure: str = "uniform",
    eps: float = 0.0,
    nested: Nested = False,
    features: Any = None,
    kernel: Any = None,
    ridge: float = 0.0,
    starts: int | None = None,
    group: Any = None,
    **solver: Any,
) -> ClosedForm:
    """Optimum of ``F.graph_vicreg(z, graph, ...)`` over all z (n, k), or over z = features @ W.

    Args:
        graph: symmetric relation of n nodes: a `PairGraph`, a SciPy or torch sparse matrix, or a
            dense array.
        k: embedding dimensions, at most n (k > n - 1: surplus columns are zero).
        variance, covariance, invariance, penalty, measure, eps: as in ``F.graph_vicreg``.
        nested: as in ``F.graph_vicreg``, for penalty="ls_var" with covariance >= variance. The
            embedding is the same with its columns in order, and is then unique up to signs where
            the eigenvalues are distinct and every prefix has a weight > 0.
        features: (n, d), the linear regime.
        kernel: (n, n), positive semi-definite, the kernel regime.
        ridge: weight of ``|W|_F^2`` (linear) or tr(A^T K A) (kernel), added to ``loss``.
        starts: random starts of the K x K problem, where it has no closed form.
        group: a process group or 1-D DeviceMesh of ranks that hold the nodes together. graph is
            then the (n_r, n) rows of this rank, scipy or torch sparse with global columns, and so
            are the rows of the embedding; no features or kernel, no ``transform``
            (docs/distributed_eigensolver.md).
        solver: ``method``, ``tol``, ``angle_tol``, ``x0``, ``precision``, ``max_iter``, ``seed``,
            ``callback``, ``progress`` of `sslspec_fast.eigsh`.

    Returns:
        `ClosedForm`. ``filter`` holds the eigenvalues s_k of the covariance; ``eigenvalues`` those
        of L (uniform), of I - A (degree) or of the pencil. ``info.regime`` names the formula used
        and ``info.certified`` says whether the minimum is proven.

    Raises:
        ValueError: a directed graph, k out of range, negative weights of a term, a signed graph
            under a hinge (unbounded below).
        TypeError: wrong types.
    """
    facts = {
        "k": k,
        "variance": variance,
        "covariance": covariance,
        "invariance": invariance,
        "penalty": penalty,
        "measure": measure,
        "eps": eps,
        "nested": nested,
        "features": features,
        "kernel": kernel,
        "ridge": ridge,
        "starts": starts,
    }
    target = target_of("vicreg", graph, group, facts)
    k = check_rank(k, target.n)
    alpha = check_positive(variance, "variance", strict=True)
    beta = alpha if covariance is None else check_positive(covariance, "covariance")
    gamma = check_positive(invariance, "invariance")
    ridge = check_positive(ridge, "ridge")
    eps = check_positive(eps, "eps")
    choice("vicreg", "penalty", penalty, PENALTIES)
    choice("vicreg", "measure", measure, MEASURES)
    if eps >= 1:
        raise ValueError(f"eps must be below 1 (the target variance), got {eps:g}")
    if target.n < 2:
        raise ValueError(f"graph must have at least 2 nodes for a covariance, got {target.n}")
    prefixes = prefix_weights("vicreg", nested, k)
    if prefixes is not None and (penalty != "ls_var" or beta < alpha or ridge > 0):
        raise ValueError(
            "nested has a closed form for penalty='ls_var', covariance >= variance and ridge=0, "
            f"got penalty={penalty!r}, covariance={beta:g}, variance={alpha:g} and ridge={ridge:g}"
        )
    eps = eps if penalty.endswith("std") else 0.0  # the variance forms have no square root
    solver = check_solver(solver)
    seed = int(solver.get("seed", 0))
    starts = None if starts is None else count("vicreg", "starts", starts, 0)
    design = design_of(target, features, kernel, ridge)
    if ridge > 0 and design is None:
        raise ValueError(f"ridge needs features= or kernel=, got ridge={ridge:g} without either")

    def best(x: Array) -> Filter:
        if prefixes is not None:
            return target.alike(nested_filter(x, k, alpha, beta, prefixes))
        return target.alike(vicreg_filter(x, k, alpha, beta, penalty, eps, seed, starts))

    if design is not None:
        return _parametric(target, k, design, gamma, measure, ridge, solver, best)
    if measure == "uniform":
        modes = laplacian_modes(target, k, solver)
        scale = np.sqrt(target.n - 1.0)
        x = gamma * (target.n - 1.0) / target.n * modes.values
        basis = scale * modes.vectors
        lam = modes.values
        fit = best(x)
        out = OutOfSample(basis, fit.mix, slope=1.0, offset=-lam)
    else:
        modes = normalized_modes(target, k, solver, trivial=False)
        lam = 1.0 - modes.values
        fit = best(gamma * np.maximum(lam, 0.0))
        basis = _degree_basis(target, modes.vectors)
        out = OutOfSample(basis, fit.mix, slope=1.0 - lam)
    return _result(target, k, basis @ fit.mix, lam, fit, modes.info, out_of_sample=out)


def _degree_basis(target: Target, vectors: Array) -> Array:
    """sqrt(vol) D^-1/2 U; rows of isolated nodes, of weight 0 in this measure, stay zero."""
    degree = target.degree
    scale = np.where(degree > 0, np.sqrt(target.volume / np.where(degree > 0, degree, 1.0)), 0.0)
    return scale[:, None] * vectors


def _parametric(
    target: Target,
    k: int,
    design: Design,
    gamma: float,
    measure: str,
    ridge: float,
    solver: dict,
    best: Any,
) -> ClosedForm:
    degree = target.degree
    if measure == "degree" and (degree.min() < 0 or target.volume <= 0):
        raise ValueError("graph must have non-negative degrees and an edge for measure='degree'")
    share = np.full(target.n, 1.0 / target.n) if measure == "uniform" else degree / target.volume
    weight = np.full(target.n, 1.0 / (target.n - 1.0)) if measure == "uniform" else share
    total = float(target.n) if measure == "uniform" else target.volume

    def metric(x: Array) -> Array:
        centred = x - share @ x
        return centred.T @ (weight[:, None] * centred)

    def form(x: Array) -> Array:
        centred = x - share @ x  # L does not depend on the mean; without it nothing cancels
        return (centred.T @ (degree[:, None] * centred) - target.quadratic(centred)) / total

    # x_k = gamma mu_k; the ridge adds eta/2 to gamma B, that is eta / (2 gamma) to B.
    unit = gamma if gamma > 0 else 1.0
    inner = form if gamma > 0 or ridge == 0 else (lambda x: np.zeros((x.shape[1],) * 2))
    pencil = design.pencil(target, k, inner, metric, largest=False, ridge=ridge / (2.0 * unit))
    mu = pencil.values if target.is_signed else np.maximum(pencil.values, 0.0)
    fit = best(gamma * mu if gamma > 0 else (mu if ridge > 0 else 0.0 * mu))
    weights = design.weights(pencil.weights @ fit.mix)
    return _result(
        target, k, np.zeros((0, k)), mu, fit, pencil.info, weights=weights, features=design.given
    )


def _result(
    target: Target, k: int, embedding: Array, lam: Array, fit: Filter, info: Any, **more: Any
) -> ClosedForm:
    info.regime, info.certified, info.lower_bound = fit.regime, fit.certified, fit.lower_bound
    return package(
        target,
        embedding=embedding,
        eigenvalues=pad(lam, k, np.inf),
        filter_=pad(fit.s, k, 0.0),
        loss=fit.value,
        info=info,
        **more,
    )

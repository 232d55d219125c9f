"""Barlow Twins' optimum: canonical correlation analysis, water-filled.

    C_kl = z_k^T Ghat z_l / (p_k p_l),  p_k^2 = z_k^T Dhat z_k
    Ghat = G - d d^T/vol,  Dhat = D - d d^T/vol
    min_Z sum_k (1 - C_kk)^2 + alpha sum_{k != l} C_kl^2

Z* lives in D^-1/2 U_K, the top eigenvectors of the centred A = D^-1/2 G D^-1/2; with features, in
the top of the pencil (X^T Ghat X, X^T Dhat X), whose eigenvalues are the canonical correlations of
the edge list. Whitened (Z^T Dhat Z = I): the eigenvectors themselves (CCA). Exact: a water-filling
of them that is strictly better (`filters/barlow_twins.py`). On a label graph with self loops and
weight 1/n_c the pencil is linear discriminant analysis.

Source: Balestriero & LeCun 2022 (arXiv 2205.11508); Zbontar et al. 2021 (arXiv 2103.03230).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .._checks import count
from ._checks import check_positive, check_rank, check_solver
from ._eigen import normalized_modes
from ._features import design_of
from ._rows_target import target_of
from ._target import Target
from .closed_form import ClosedForm, OutOfSample, package, pad
from .filters.barlow_twins import barlow_filter, whitened_filter

__all__ = ["barlow_twins"]

Array = np.ndarray


def barlow_twins(
    graph: Any,
    k: int,
    *,
    off_diagonal: float = 1.0,
    whitened: bool = False,
    center: bool = True,
    features: Any = None,
    kernel: Any = None,
    starts: int | None = None,
    group: Any = None,
    **solver: Any,
) -> ClosedForm:
    """Optimum of ``F.graph_barlow_twins(z, graph, off_diagonal=..., center=...)``.

    The exact loss has a formula for off_diagonal = 1 (and below 1 when k is a power of two), else
    the result is the best of a multistart over the k x k problem, with a proven
    ``info.lower_bound`` for off_diagonal < 1. The loss ignores column scales; columns come out with
    p_k = 1. Nodes without edges do not enter the loss; their rows are zero.

    Args:
        graph: symmetric, weights >= 0, at least one edge; in the forms of `vicreg`.
        k: embedding dimensions. Beyond the number of modes, whitened: the surplus columns are zero
            and cost 1 each.
        off_diagonal: weight >= 0 of the redundancy term.
        whitened: add the constraint Z^T Dhat Z = I, under which the optimum is CCA.
        center: False is the paper's snippet, whose optimum contains the constant column.
        features, kernel, starts, group, solver: as in `vicreg`.

    Returns:
        `ClosedForm`. ``eigenvalues``: of the centred A or of the pencil; ``filter``: energy b_k /
        lambda_k of mode k (1 when whitened).

    Raises:
        ValueError: a directed or edgeless graph, k out of range, negative off_diagonal.
        TypeError: wrong types.
    """
    facts = {
        "k": k,
        "off_diagonal": off_diagonal,
        "whitened": whitened,
        "center": center,
        "features": features,
        "kernel": kernel,
        "starts": starts,
    }
    target = target_of("barlow_twins", graph, group, facts)
    k = check_rank(k, target.n)
    alpha = check_positive(off_diagonal, "off_diagonal")
    solver = check_solver(solver)
    seed = int(solver.get("seed", 0))
    starts = None if starts is None else count("barlow_twins", "starts", starts, 0)
    design = design_of(target, features, kernel)
    degree, volume = _measure(target)

    def best(lam: Array) -> Any:
        # Correlations cannot exceed 1; rounding can, and 1 - lam would turn into a loss of -1e-16.
        lam = np.minimum(lam, 1.0)
        if whitened:
            return target.alike(whitened_filter(lam, k, alpha))
        return target.alike(barlow_filter(lam, k, alpha, seed, starts))

    more: dict[str, Any]
    if design is None:
        modes = normalized_modes(target, k, solver, trivial=not center)
        lam, info = modes.values, modes.info
        fit = best(lam)
        basis = _inverse_root(degree)[:, None] * modes.vectors
        more = {
            "embedding": basis @ fit.mix,
            "out_of_sample": OutOfSample(basis, fit.mix, slope=lam),
        }
    else:
        pencil = design.pencil(target, k, *_forms(target, degree, volume, center), largest=True)
        lam, info = pencil.values, pencil.info
        fit = best(lam)
        more = {
            "embedding": np.zeros((0, k)),
            "features": design.given,
            "weights": design.weights(pencil.weights @ fit.mix),
        }
    info.regime, info.certified, info.lower_bound = fit.regime, fit.certified, fit.lower_bound
    if fit.regime == "multistart":  # its columns may mix modes: fewer dimensions than modes
        more["active"] = np.linalg.svd(fit.mix, compute_uv=False) ** 2
    return package(
        target,
        eigenvalues=pad(lam, k, 0.0),
        filter_=pad(fit.s, k, 0.0),
        loss=fit.value,
        info=info,
        **more,
    )


def _measure(target: Target) -> tuple[Array, float]:
    """(degree, volume) of a graph that can be divided by them."""
    degree, volume = target.degree, target.volume
    least = target.least(degree)
    if volume <= 0 or least < 0:
        raise ValueError(
            f"graph must have an edge and non-negative degrees, got volume {volume:.3g} and "
            f"smallest degree {least:.3g}"
        )
    return degree, volume


def _inverse_root(degree: Array) -> Array:
    """degree^-1/2, 0 for nodes without degree."""
    return np.where(degree > 0, 1.0 / np.sqrt(np.where(degree > 0, degree, 1.0)), 0.0)


def _forms(
    target: Target, degree: Array, volume: float, center: bool
) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """x -> x^T Ghat x and x -> x^T Dhat x: G and D applied to the centred columns."""
    weight = degree / volume if center else np.zeros(target.n)

    def form(x: Array) -> Array:
        return target.quadratic(x - weight @ x)

    def metric(x: Array) -> Array:
        x = x - weight @ x
        return x.T @ (degree[:, None] * x)

    return form, metric

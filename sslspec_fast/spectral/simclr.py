"""Least-squares SimCLR (multidimensional scaling of G) and the spectral contrastive loss.

    min_Z |Z Z^T - G|_F^2
        Z* = U_K (Lambda_K)_+^{1/2},  min = |G|_F^2 - sum_k (lambda_k)_+^2
    min_Z -(2/vol) sum_ij G_ij z_i.z_j + sum_ij d_i d_j / vol^2 (z_i.z_j)^2
        Z* = diag(d/vol)^{-1/2} U_K (Lambda_K)_+^{1/2},  min = -sum_k (lambda_k)_+^2

with the largest eigenpairs of G (or H G H) and of A = D^-1/2 G D^-1/2. With features the pencils
(X^T G X, X^T X) and (X^T G X / vol, X^T diag(d/vol) X). ``nested=`` sums a loss over prefixes of
the columns of Z: these Z are optimal for every prefix at once, so the minimum is the same sum.
G = -1/2 H Delta^2 H with geodesic distances is Isomap, a kernel matrix is kernel PCA. InfoNCE
itself has a closed form only in the two cases of `infonce.py`; this is its second-order surrogate
(docs/closed_forms.md).

Source: Balestriero & LeCun 2022 (arXiv 2205.11508); HaoChen et al. 2021 (arXiv 2106.04156).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._prefixes import Nested, prefix_weights
from ._checks import check_rank, check_solver
from ._eigen import adjacency_modes, normalized_modes
from ._features import design_of
from ._rows_target import target_of
from ._target import Target
from .closed_form import ClosedForm, OutOfSample, package, pad

__all__ = ["simclr", "spectral_contrastive"]

Array = np.ndarray


def _positive(values: Array) -> Array:
    """(lambda)_+ with rounding noise removed: kept iff above 1e-10 of the largest."""
    top = float(np.abs(values).max(initial=0.0))
    return np.where(values > 1e-10 * top, values, 0.0)


def simclr(
    graph: Any,
    k: int,
    *,
    center: bool = False,
    nested: Nested = False,
    features: Any = None,
    kernel: Any = None,
    group: Any = None,
    **solver: Any,
) -> ClosedForm:
    """Optimum of ``F.ls_simclr(z, graph, center=center)`` over all z (n, k) or z = features @ W.

    Args:
        graph: symmetric, possibly signed when given as a matrix (MDS, Isomap); in the forms of
            `vicreg`.
        k: embedding dimensions, at most n.
        center: fit H G H instead of G (drops the constant direction that is the top eigenvector of
            a regular graph).
        nested: as in ``F.ls_simclr``. The embedding is the same, and is then unique up to signs
            where the eigenvalues are distinct and every prefix has a weight > 0.
        features, kernel, group, solver: as in `vicreg`.

    Returns:
        `ClosedForm`. ``eigenvalues`` are those of G, H G H or the pencil; ``filter`` their positive
        part.

    Raises:
        ValueError: a directed graph or k out of range.
        TypeError: wrong types.
    """
    facts = {
        "k": k,
        "center": center,
        "nested": nested,
        "features": features,
        "kernel": kernel,
    }
    target = target_of("simclr", graph, group, facts)
    k = check_rank(k, target.n)
    prefixes = prefix_weights("simclr", nested, k)
    solver = check_solver(solver)
    design = design_of(target, features, kernel)
    constant = target.frobenius_sq  # of the loss
    if center:  # |H G H|^2 from the row sums; G itself is not touched
        constant += (
            -2.0 * float(target.total(target.degree @ target.degree)) / target.n
            + (target.volume / target.n) ** 2
        )
    if design is None:
        modes = adjacency_modes(target, k, solver, center=center)
        lam, info, vectors = modes.values, modes.info, modes.vectors
        s = _positive(lam)
        mix = np.diag(np.sqrt(s))
        mix = np.concatenate([mix, np.zeros((len(s), k - len(s)))], axis=1)
        shift = target.total(target.degree @ vectors) / target.n if center else 0.0
        more: dict[str, Any] = {
            "embedding": vectors @ mix,
            "out_of_sample": OutOfSample(vectors, mix, offset=lam, shift=shift),
        }
    else:

        def form(x: Array) -> Array:
            x = x - x.mean(axis=0) if center else x
            return target.quadratic(x)

        pencil = design.pencil(target, k, form, lambda x: x.T @ x, largest=True)
        lam, info = pencil.values, pencil.info
        more = _weights(design, pencil.weights, _positive(lam), k)
    return _finish(target, k, lam, constant, prefixes, info, more)


def spectral_contrastive(
    graph: Any,
    k: int,
    *,
    nested: Nested = False,
    features: Any = None,
    kernel: Any = None,
    group: Any = None,
    **solver: Any,
) -> ClosedForm:
    """Optimum of ``F.graph_spectral_contrastive(z, graph)`` over all z (n, k) or z = features @ W.

    The constant feature (eigenvalue 1) is part of this optimum. Nodes without edges do not enter
    the loss; their rows are zero.

    Args:
        graph: symmetric, weights >= 0, at least one edge; in the forms of `vicreg`.
        k: embedding dimensions, at most n.
        nested: as in `simclr`.
        features, kernel, group, solver: as in `vicreg`.

    Returns:
        `ClosedForm`. ``eigenvalues``: of A or of the pencil; ``filter``: their positive part.

    Raises:
        ValueError: a directed or edgeless graph or k out of range.
        TypeError: wrong types.
    """
    facts = {"k": k, "nested": nested, "features": features, "kernel": kernel}
    target = target_of("spectral_contrastive", graph, group, facts)
    k = check_rank(k, target.n)
    prefixes = prefix_weights("spectral_contrastive", nested, k)
    solver = check_solver(solver)
    design = design_of(target, features, kernel)
    if target.volume <= 0:
        raise ValueError(f"graph must have at least one edge, got none among {target.n} nodes")
    share = target.degree / target.volume
    if design is None:
        modes = normalized_modes(target, k, solver, trivial=True)
        lam, info = modes.values, modes.info
        scale = np.where(share > 0, 1.0 / np.sqrt(np.where(share > 0, share, 1.0)), 0.0)
        basis = scale[:, None] * modes.vectors
        mix = np.zeros((len(lam), k))
        np.fill_diagonal(mix, np.sqrt(_positive(lam)))
        more: dict[str, Any] = {
            "embedding": basis @ mix,
            "out_of_sample": OutOfSample(basis, mix, slope=lam),
        }
    else:
        if share.min() < 0:
            raise ValueError("graph must have non-negative degrees for spectral_contrastive")
        pencil = design.pencil(
            target,
            k,
            lambda x: target.quadratic(x) / target.volume,
            lambda x: x.T @ (share[:, None] * x),
            largest=True,
        )
        lam, info = pencil.values, pencil.info
        more = _weights(design, pencil.weights, _positive(lam), k)
    return _finish(target, k, lam, 0.0, prefixes, info, more)


def _weights(design: Any, pencil: Array, s: Array, k: int) -> dict[str, Any]:
    v = np.zeros((pencil.shape[0], k))
    v[:, : len(s)] = pencil * np.sqrt(s)
    return {"embedding": np.zeros((0, k)), "weights": design.weights(v), "features": design.given}


def _finish(
    target: Target,
    k: int,
    lam: Array,
    constant: float,
    prefixes: list[float] | None,
    info: Any,
    more: dict[str, Any],
) -> ClosedForm:
    """constant: the loss of Z = 0; mode j takes its square off the loss of every prefix with it."""
    squares = _positive(lam) ** 2
    if prefixes is None:
        loss = constant - float(squares.sum())
    else:
        tails = np.cumsum(prefixes[::-1])[::-1]
        loss = sum(prefixes) * constant - float(tails[: len(squares)] @ squares)
    info.regime, info.certified, info.lower_bound = "positive part", True, loss
    return package(
        target,
        eigenvalues=pad(lam, k, 0.0),
        filter_=pad(_positive(lam), k, 0.0),
        loss=loss,
        info=info,
        **more,
    )

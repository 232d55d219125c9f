"""The two cases in which InfoNCE itself has a closed form.

Cliques (every SimCLR or balanced supervised batch): with cosine similarity and k >= C - 1 the
optimum collapses each of the C cliques of n rows to a vertex of a simplex,

    Gram = C/(C-1) [(G + I) - 11^T/C]
    loss = -1/tau + log((n-1) e^{1/tau} + (N-n) e^{-1/((C-1) tau)})

Strictly positive G, dot products: softmax rows equal G_i/d_i for Z Z^T = tau log G + delta I, and
the loss is the mean entropy of those rows. On any other graph there is a bound but no closed form;
the least-squares surrogate is `simclr`.

Source: Balestriero & LeCun 2022 (arXiv 2205.11508) for the loss; the simplex: Graf et al. 2021
(arXiv 2102.08817); derivations in docs/closed_forms.md (N1, N2).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.linalg as sla

from .._checks import NEGATIVES, choice
from ._checks import check_positive, check_rank, check_solver
from ._eigen import known_info
from ._target import Target
from .closed_form import ClosedForm, package, pad
from .koleo import simplex

__all__ = ["entropy_bound", "info_nce"]

Array = np.ndarray


def info_nce(
    graph: Any,
    k: int,
    *,
    temperature: float = 0.1,
    normalize: bool = True,
    negatives: str = "others",
    reduction: str = "mean",
    **solver: Any,
) -> ClosedForm:
    """Optimum of ``F.graph_info_nce(z, graph, ...)`` where one is known.

    Args:
        graph: with normalize=True C >= 2 disjoint cliques of equal size and weight (the diagonal is
            ignored); with normalize=False all off-diagonal weights positive.
        k: embedding dimensions, at least C - 1, or n - 1 without normalize.
        temperature: > 0.
        normalize: whether the loss divides rows by their norms.
        negatives: "others", or with normalize=True also "non_positive".
        reduction: "mean" (over anchors, 1/d_i) or "sum".
        solver: as in `vicreg`.

    Returns:
        `ClosedForm`.

    Raises:
        ValueError: a graph, k or negatives for which no closed form is known, or a temperature <=
            0.
    """
    target = Target(graph)
    k = check_rank(k, target.n)
    tau = check_positive(temperature, "temperature", strict=True)
    check_solver(solver)
    choice("info_nce", "negatives", negatives, NEGATIVES[:2])
    choice("info_nce", "reduction", reduction, ("mean", "sum"))
    if target.is_signed:
        raise ValueError("graph must have non-negative weights for info_nce")
    if normalize:
        return _simplex(target, k, tau, negatives, reduction)
    return _log_graph(target, k, tau, negatives, reduction)


def entropy_bound(graph: Any, *, reduction: str = "mean") -> float:
    """Lower bound of InfoNCE at any temperature and dimension: mean_i (or sum_i d_i) H(G_i / d_i).

    Attained iff the softmax equals G_i/d_i. The diagonal is ignored; rows without edges are no
    anchors.

    Args:
        graph: weights >= 0, at least one edge; in the forms of `vicreg`.
        reduction: "mean" over anchors, or "sum" weighted by d_i.

    Returns:
        The bound.

    Raises:
        ValueError: a negative weight, no edge, or another reduction.
    """
    return _entropy(Target(graph), reduction)


def _entropy(target: Target, reduction: str) -> float:
    matrix = target.sparse()
    matrix.data[np.repeat(np.arange(target.n), np.diff(matrix.indptr)) == matrix.indices] = 0.0
    matrix.eliminate_zeros()
    degree = np.asarray(matrix.sum(axis=1)).ravel()
    rows = np.repeat(np.arange(target.n), np.diff(matrix.indptr))
    share = matrix.data / degree[rows]
    entropy = -np.bincount(rows, share * np.log(share), minlength=target.n)
    anchors = degree > 0
    if not anchors.any():
        raise ValueError(f"graph must have at least one edge, got none among {target.n} nodes")
    return float(degree @ entropy) if reduction == "sum" else float(entropy[anchors].mean())


def _simplex(target: Target, k: int, tau: float, negatives: str, reduction: str) -> ClosedForm:
    n = target.n
    cliques, labels = target.components
    size = n // cliques
    diagonal = target.diagonal
    volume = target.volume - float(diagonal.sum())
    # Edges stay inside components; equality in Cauchy-Schwarz over their n (size - 1) places
    # means that all of them are there and weigh the same.
    pairs = n * (size - 1)
    energy = target.frobenius_sq - float(diagonal @ diagonal)
    balanced = bool((np.bincount(labels) == size).all()) and size >= 2 and cliques >= 2
    if not balanced or abs(energy * pairs - volume**2) > 1e-10 * volume**2:
        raise ValueError(
            "graph must be at least 2 disjoint cliques of equal size >= 2 and weight for a "
            f"closed form of info_nce, got {cliques} component(s) of {n} nodes; simclr() has one "
            "for every graph"
        )
    if k < cliques - 1:
        raise ValueError(f"k must be at least C - 1 = {cliques - 1} for a simplex, got {k}")
    across = -1.0 / ((cliques - 1) * tau)
    if negatives == "others":
        log_sum = np.logaddexp(math.log(size - 1) + 1.0 / tau, math.log(n - size) + across)
    else:
        log_sum = math.log(n - size) + across
    loss = float(log_sum) - 1.0 / tau
    weight = volume / pairs
    if reduction == "sum":
        loss *= volume
    lam = np.full(cliques - 1, weight * (size - 1))
    info = known_info(target, np.concatenate([lam, np.full(n - cliques + 1, -weight)]), min(k, n))
    info.regime, info.lower_bound = "simplex", loss
    s = np.full(cliques - 1, n / (cliques - 1))
    return package(
        target,
        embedding=simplex(cliques, k)[labels],
        eigenvalues=pad(lam, k, -weight),
        filter_=pad(s, k, 0.0),
        loss=loss,
        info=info,
    )


def _log_graph(target: Target, k: int, tau: float, negatives: str, reduction: str) -> ClosedForm:
    n = target.n
    weights = target.sparse().toarray()
    np.fill_diagonal(weights, 1.0)
    if negatives != "others" or (weights <= 0).any() or n < 2:
        raise ValueError(
            "graph must have positive weights between all pairs, and negatives='others', for a "
            "closed form of info_nce without normalisation; got "
            f"{int((weights <= 0).sum())} zero weight(s) and negatives={negatives!r}"
        )
    if k < n - 1:
        raise ValueError(f"k must be at least n - 1 = {n - 1} for this closed form, got {k}")
    values, vectors = sla.eigh(tau * np.log(weights))
    values, vectors = values[::-1], vectors[:, ::-1]
    s = np.maximum(values - values[-1], 0.0)[:k]  # the smallest shift of the free diagonal
    loss = _entropy(target, reduction)
    info = known_info(target, values, k)
    info.regime, info.lower_bound = "log G", loss
    return package(
        target,
        embedding=vectors[:, :k] * np.sqrt(s),
        eigenvalues=values[:k].copy(),
        filter_=s,
        loss=loss,
        info=info,
    )

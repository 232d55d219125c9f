"""How far an embedding is from the closed-form optimum of its loss.

    relative_gap = (loss(Z) - optimum) / (loss(0) - optimum)

0 at the optimum, 1 at the collapsed embedding. This is the one place where the closed forms meet
the losses: the loss comes from their catalogue, the optimum from this package (arXiv 2205.11508).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from scipy.optimize import minimize_scalar

from .._checks import choice
from .._prefixes import prefix_weights
from ..graph import PairGraph
from ..losses._catalogue import of_closed_form
from ._target import Target, checked_array
from .barlow_twins import barlow_twins
from .closed_form import ClosedForm
from .downstream import active_span
from .filters.vicreg import penalty
from .infonce import info_nce
from .koleo import koleo
from .lejepa import gaussian_loss, lejepa
from .simclr import simclr, spectral_contrastive
from .vicreg import vicreg
from .x_clr import x_clr

__all__ = ["Gap", "optimality_gap"]

Array = np.ndarray

CLOSED_FORMS: dict[str, Callable[..., ClosedForm]] = {
    "vicreg": vicreg,
    "simclr": simclr,
    "barlow_twins": barlow_twins,
    "spectral_contrastive": spectral_contrastive,
    "lejepa": lejepa,
    "info_nce": info_nce,
    "x_clr": x_clr,
    "koleo": koleo,
}
# Losses that do not depend on the lengths of the rows.
UNIT_ROWS = ("x_clr", "koleo")


def _loss_of(name: str) -> Callable[..., Any]:
    """The loss that a closed form minimises. LeJEPA's depends on the law of z beyond its
    covariance: both sides are those of a Gaussian law.
    """
    row = of_closed_form(name)
    return gaussian_loss if row is None else row.function


def _shared(loss: Callable[..., Any], solve: Callable[..., Any]) -> dict[str, Any]:
    """The hyper-parameters that a loss and its closed form both take, with the loss's defaults."""
    known = inspect.signature(solve).parameters
    return {
        p.name: p.default
        for p in inspect.signature(loss).parameters.values()
        if p.kind == p.KEYWORD_ONLY and p.name in known and p.name != "group"
    }


@dataclass(frozen=True)
class Gap:
    """How far an embedding is from the optimum of its loss.

    Attributes:
        loss: of z as given.
        optimum: the minimum of that loss (closed form).
        relative_gap: (loss - optimum) / (loss at z = 0 - optimum).
        best_scale: the factor t > 0 that minimises loss(t z): 1 at an optimum.
        angle: largest principal angle (radians) between the active spans of optimum and z.
        rank: numerical rank of z (centred, where the loss ignores the mean).
        closed_form: the optimum itself.
    """

    loss: float
    optimum: float
    relative_gap: float
    best_scale: float
    angle: float
    rank: int
    closed_form: ClosedForm


def optimality_gap(loss: str, z: Any, graph: Any, **hyper: Any) -> Gap:
    """Compare z (n, k) with the optimum of ``loss`` on ``graph``.

    On a plain two-view graph every k <= N' - 1 has optimum 0, so measure on label or kNN graphs.

    Args:
        loss: "vicreg", "simclr", "barlow_twins", "spectral_contrastive", or "info_nce" on the
            graphs where that has a closed form (`spectral.info_nce`), or "lejepa": the loss of z is
            then that of the Gaussian with its mean and covariance (`spectral.lejepa`). "x_clr" and
            "koleo" where these have a closed form (`spectral.x_clr`, `spectral.koleo`).
        z: (n, k) array or tensor, k <= n.
        graph: as for the closed forms; for "x_clr" the targets (n, e), for "koleo" None.
        hyper: the keywords of the loss (``F.graph_*``, ``F.ls_simclr`` for "simclr", ``F.x_clr``,
            ``F.koleo``) with that loss's defaults, and of the closed form (``features=``,
            ``kernel=``, ``whitened=``, solver options); with features the
            optimum is that of the linear regime. ``whitened=True`` compares with the optimum under
            a constraint that z may violate: the gap can then be negative.

    Returns:
        `Gap`.

    Raises:
        ValueError: an unknown loss, a shape that does not match the graph, or a ridge.
        TypeError: wrong types, or a keyword that neither the loss nor its closed form has.
    """
    choice("optimality_gap", "loss", loss, tuple(CLOSED_FORMS))
    evaluate, solve = _loss_of(loss), CLOSED_FORMS[loss]
    shared = _shared(evaluate, solve)
    hyper = {**shared, **hyper}
    if hyper.get("ridge", 0.0):
        raise ValueError(
            "optimality_gap: ridge must be 0, because the loss of z has no weights to penalise, "
            f"got {hyper['ridge']}"
        )
    array = checked_array(z, "z", 2)
    relation, n = _relation(loss, graph, len(array))
    nodes = "the targets" if loss == "x_clr" else "the graph's nodes"
    if array.shape[0] != n or array.shape[1] == 0:
        raise ValueError(f"z must have shape ({n}, k) like {nodes}, got {array.shape}")
    if array.shape[1] > n and loss not in UNIT_ROWS:
        raise ValueError(
            f"z must have at most as many columns as the graph has nodes, {n}, got shape "
            f"{array.shape}"
        )
    terms = {key: hyper[key] for key in shared}
    beside = () if loss == "koleo" else (relation,)

    def value(x: Array) -> float:
        if evaluate is gaussian_loss:
            return gaussian_loss(x, target, **terms)
        tensor = torch.from_numpy(np.ascontiguousarray(x)).to(getattr(relation, "device", "cpu"))
        return float(evaluate(tensor, *beside, **terms))

    target = Target(relation) if evaluate is gaussian_loss else None
    best = solve(relation, array.shape[1], **hyper)
    found, worst = value(array), value(np.zeros_like(array))
    span = worst - best.loss
    gap = found - best.loss
    scale = float(relation.volume) if loss == "simclr" else 1.0
    if span > 1e-12 * max(1.0, scale):
        gap = gap / span
    else:  # collapse is optimal: nothing to divide by
        gap = 0.0 if abs(gap) <= 1e-9 * max(1.0, abs(found)) else float("inf")
    own, optimal = _spans(loss, array, best, relation, hyper)
    along = _along_the_ray(loss, value, array, relation, hyper)
    return Gap(
        loss=found,
        optimum=best.loss,
        relative_gap=float(gap),
        best_scale=_best_scale(along, array),
        angle=_angle(own, optimal),
        rank=own.shape[1],
        closed_form=best,
    )


def _relation(loss: str, graph: Any, rows: int) -> tuple[Any, int]:
    """What a loss takes beside z, and the rows that z must have."""
    if loss == "koleo":
        if graph is not None:
            raise TypeError(
                f"optimality_gap: graph must be None for koleo, got {type(graph).__name__}"
            )
        return rows, rows
    if loss == "x_clr":
        targets = torch.from_numpy(checked_array(graph, "targets", 2))
        return targets, len(targets)
    target = Target(graph)
    if target.graph is None:
        return PairGraph.from_sparse(sp.csr_array(target.dense_matrix)), target.n
    return target.graph, target.n


def _spans(
    loss: str, z: Array, best: ClosedForm, graph: Any, hyper: dict[str, Any]
) -> tuple[Array, Array]:
    """Orthonormal bases of what the loss depends on, of z and of the optimum."""
    optimum = checked_array(best.embedding, "embedding", 2)
    if loss in UNIT_ROWS:
        lengths = [np.linalg.norm(x, axis=1, keepdims=True) for x in (z, optimum)]
        unit = [x / np.maximum(r, 1e-300) for x, r in zip((z, optimum), lengths, strict=True)]
        own, optimal = (active_span(x - x.mean(axis=0), 1e-10) for x in unit)
        return own, optimal
    degree = graph.degree.cpu().numpy()
    if loss == "barlow_twins" or (loss == "vicreg" and hyper["measure"] == "degree"):
        weight = degree / degree.sum() if hyper.get("center", True) else np.zeros(len(z))
        pair = [np.sqrt(degree)[:, None] * (x - weight @ x) for x in (z, optimum)]
    elif loss in ("vicreg", "info_nce", "lejepa"):
        pair = [x - x.mean(axis=0) for x in (z, optimum)]
    elif loss == "spectral_contrastive":
        pair = [np.sqrt(degree)[:, None] * x for x in (z, optimum)]
    else:
        pair = [z, optimum]
    if loss == "barlow_twins":  # column scales are free; keep a small column from counting as noise
        pair = [x / np.maximum(np.linalg.norm(x, axis=0), 1e-300) for x in pair]
    return active_span(pair[0], 1e-10), active_span(pair[1], 1e-10)


def _angle(a: Array, b: Array) -> float:
    """Largest principal angle between the spans; a missing direction counts as pi/2."""
    if min(a.shape[1], b.shape[1]) == 0:
        return 0.0 if a.shape[1] == b.shape[1] else float(np.pi / 2)
    if a.shape[1] < b.shape[1]:
        return float(np.pi / 2)
    sine = float(np.linalg.norm(b - a @ (a.T @ b), 2))
    return float(np.arcsin(min(1.0, sine)))


def _along_the_ray(
    loss: str, value: Callable[[Array], float], z: Array, graph: Any, hyper: dict[str, Any]
) -> Callable[[float], float] | None:
    """t -> loss(t z) from a few numbers instead of a pass over the data; None: scale-invariant."""
    if loss in (*UNIT_ROWS, "barlow_twins") or (loss == "info_nce" and hyper["normalize"]):
        return None
    if loss in ("info_nce", "lejepa"):
        return lambda t: value(t * z)
    if loss in ("simclr", "spectral_contrastive"):  # c + p t^2 + q t^4, from its values at 0, 1, 2
        at = [value(s * z) for s in (0.0, 1.0, 2.0)]
        q = (at[2] - 4 * at[1] + 3 * at[0]) / 12
        p = at[1] - at[0] - q
        return lambda t: at[0] + p * t**2 + q * t**4
    prefixes = prefix_weights("optimality_gap", hyper["nested"], z.shape[1])
    tails = np.ones(z.shape[1]) if prefixes is None else np.cumsum(prefixes[::-1])[::-1]
    target = Target(graph)
    uniform = hyper["measure"] == "uniform"
    weight = np.full(target.n, 1 / target.n) if uniform else target.degree / target.volume
    x = z - weight @ z
    c = x.T @ x / (target.n - 1) if uniform else x.T @ (weight[:, None] * x)
    squares = np.minimum(tails[:, None], tails) * c**2  # of all prefixes that have both columns
    variance, off = np.diag(c), float(squares.sum() - np.diag(squares).sum())
    edges = float(((target.degree[:, None] * x - target.matmul(x)) * x).sum(0) @ tails)
    edges *= 2 / (target.n if uniform else target.volume)
    alpha, gamma = hyper["variance"], hyper["invariance"]
    beta = alpha if hyper["covariance"] is None else hyper["covariance"]

    def along(t: float) -> float:
        pen = penalty(t**2 * variance, hyper["penalty"], hyper["eps"]) @ tails
        return float(alpha * pen + beta * t**4 * off + gamma * t**2 * edges)

    return along


def _best_scale(along: Callable[[float], float] | None, z: Array) -> float:
    """argmin_t loss(t z), t >= 0: a grid over decades, then Brent's method at its best point."""
    if along is None or not z.any():
        return 1.0
    unit = 1.0 / float(np.sqrt((z**2).mean()))
    grid = np.unique(np.concatenate([[0.0], unit * np.geomspace(1e-4, 1e3, 57), [1.0]]))
    values = np.array([along(t) for t in grid])
    i = int(values.argmin())
    low, high = grid[max(i - 1, 0)], grid[min(i + 1, len(grid) - 1)]
    run = minimize_scalar(
        along, bounds=(low, high), method="bounded", options={"xatol": 1e-10 * high}
    )
    return float(run.x) if run.fun <= values[i] else float(grid[i])

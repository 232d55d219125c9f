"""Losses on a graph whose rows are spread over ranks, but for the one with a softmax.

Formulas: the files of the losses. A sum over edges is taken on the rank of its row, with the rows
of other ranks that the edges point to; what those get as a gradient goes back. Gram terms are those
of `sums.squared_products`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .... import _checks as check
from ....graph.pair_graph import PairGraph
from ....ranks import sum_to_rows, sum_to_value
from ....ranks.differentiable import sum_over_ranks
from ....ranks.traffic import all_gather
from ..._inputs import check_rows_of_graph
from ..._nested import Nested, prefix_weights
from ..._penalties import penalise
from .._form import COPY, ROWS, Form, Given, Problem, Result
from ..sums.gram import nested_sqnorm, sqnorm


def _given(op: str, z: Tensor, graph: PairGraph, **rules: Any) -> dict[str, Tensor | None]:
    check_rows_of_graph(op, z, graph, min_rows=0, **rules)
    return {"z": z}


def _value(p: Problem, part: Tensor) -> Tensor:
    """A sum over rows or edges, of the parts that the ranks have."""
    return sum_to_value(part, p.ranks)


# ---- sums over prefixes of the columns ----


def _nested_given(op: str, nested: Nested, z: Tensor) -> Tensor | None:
    """(d,) the weights of the prefixes, float64."""
    weights = prefix_weights(op, nested, z)
    return None if weights is None else z.new_tensor(weights, dtype=torch.float64)


def _nested_of(arguments: dict[str, Any]) -> dict[str, Any]:
    weights = arguments["nested"]
    return {**arguments, "nested": False if weights is None else weights.tolist()}


def _tail(p: Problem, x: Tensor) -> Tensor | None:
    """(d,) sums of the weights of all longer prefixes, in the dtype of x."""
    weights = p.tensors["nested"]
    return None if weights is None else weights.double().flip(0).cumsum(0).flip(0).to(x.dtype)


# ---- Dirichlet energy ----


def _check_dirichlet(z: Tensor, graph: PairGraph) -> Given:
    return Given(_given("dirichlet_energy", z, graph), {}, graph=graph)


def _dirichlet(p: Problem) -> Result:
    return 0.5 * _value(p, p.relation.edge_sqdist(p.rows("z")).sum()), ()


DIRICHLET_ENERGY = Form(
    "dirichlet_energy",
    {"z": ROWS},
    (),
    _check_dirichlet,
    _dirichlet,
    reduces=False,
    graph="graph",
)

# ---- covariance ----


def _check_covariance(z: Tensor, graph: PairGraph, center: bool) -> Given:
    op = "graph_covariance"
    tensors = _given(op, z, graph, symmetric=center)
    if center and graph.volume == 0:
        raise ValueError(f"{op}: graph must have a volume other than 0 to be centred, got 0")
    return Given(tensors, {"center": float(center)}, graph=graph)


def _covariance(p: Problem) -> Result:
    return p.relation.covariance(p.rows("z"), center=bool(p.numbers["center"])), ()


def _center_of(arguments: dict[str, Any]) -> dict[str, Any]:
    return {**arguments, "center": bool(arguments["center"])}


def _square(z: Tensor, *_: Tensor) -> Sequence[int]:
    return z.shape[1], z.shape[1]


GRAPH_COVARIANCE = Form(
    "graph_covariance",
    {"z": ROWS},
    ("center",),
    _check_covariance,
    _covariance,
    reduces=False,
    restore=_center_of,
    graph="graph",
    shape=_square,
    reduction="none",
)

# ---- VICReg ----


def _check_vicreg(
    z: Tensor,
    graph: PairGraph,
    variance: float,
    covariance: float | None,
    invariance: float,
    penalty: str,
    measure: str,
    eps: float,
    nested: Nested,
) -> Given:
    op = "graph_vicreg"
    tensors = _given(op, z, graph, nonnegative=measure == "degree")
    tensors["nested"] = _nested_given(op, nested, z)
    check.choice(op, "penalty", penalty, check.PENALTIES)
    check.choice(op, "measure", measure, check.MEASURES)
    beta = variance if covariance is None else covariance
    numbers = {"variance": variance, "covariance": beta, "invariance": invariance, "eps": eps}
    numbers = {k: check.number(op, k, value, low=0.0) for k, value in numbers.items()}
    choices = {"penalty": penalty, "measure": measure}
    return Given(tensors, numbers, choices=choices, graph=graph)


def _vicreg(p: Problem) -> Result:
    x, graph, n = p.rows("z"), p.relation, p.ranks.n
    alpha, beta, gamma, eps = p.numbers.values()
    tail = _tail(p, x)
    edge_sum = _value(p, graph.edge_sqdist(x if tail is None else x * tail.sqrt()).sum())
    if p.choices["measure"] == "uniform":
        mean = sum_to_rows(x.sum(0, dtype=torch.float64), p.ranks) / n
        y, factor, distance = x - mean.to(x.dtype), 1 / (n - 1), edge_sum / n
    else:
        weight = (graph.degree / graph.volume).to(x.dtype)[:, None]
        mean = sum_to_rows((weight * x).sum(0, dtype=torch.float64), p.ranks)
        y, factor, distance = weight.sqrt() * (x - mean.to(x.dtype)), 1.0, edge_sum / graph.volume
    var = _value(p, y.square().sum(0, dtype=torch.float64)).to(x.dtype) * factor
    variances = penalise(var, p.choices["penalty"], eps)
    if tail is None:
        off_diagonal = sqnorm(p, y, off_diagonal=True) * factor**2
    else:
        variances = variances * tail
        off_diagonal = nested_sqnorm(p, y, tail, off_diagonal=True) * factor**2
    terms = variances.sum(), off_diagonal, distance
    return alpha * terms[0] + beta * off_diagonal + gamma * distance, terms


GRAPH_VICREG = Form(
    "graph_vicreg",
    {"z": ROWS, "nested": COPY},
    ("variance", "covariance", "invariance", "eps"),
    _check_vicreg,
    _vicreg,
    terms=("variance", "covariance", "invariance"),
    min_rows=2,
    reduces=False,
    choices=("penalty", "measure"),
    restore=_nested_of,
    graph="graph",
)

# ---- Barlow Twins ----


def _check_barlow(
    z: Tensor, graph: PairGraph, off_diagonal: float, center: bool, eps: float
) -> Given:
    op = "graph_barlow_twins"
    numbers = {
        "off_diagonal": check.number(op, "off_diagonal", off_diagonal, low=0.0),
        "center": float(center),
        "eps": check.number(op, "eps", eps, low=0.0, strict=True),
    }
    return Given(_given(op, z, graph, nonnegative=True), numbers, graph=graph)


def _barlow(p: Problem) -> Result:
    x, graph = p.rows("z"), p.relation
    weight, center, eps = p.numbers.values()
    degree = graph.degree.to(x.dtype)[:, None]
    # a column whose squares do not fit is taken in units of a power of two, which rounds nothing
    room = 100 if x.dtype == torch.float32 else 900
    top = x.detach().abs().amax(0) if len(x) else x.new_zeros(x.shape[1])
    exponent = all_gather(top, p.ranks.group).amax(0).frexp().exponent.clamp(0, room)
    unit = torch.exp2(exponent.neg().to(x.dtype))
    x = x * unit
    if center:
        mean = sum_to_rows((degree * x).sum(0, dtype=torch.float64), p.ranks) / graph.volume
        x = x - mean.to(x.dtype)
    least = max(eps**2, torch.finfo(x.dtype).tiny) * unit.square()
    squares = sum_to_rows((degree * x.square()).sum(0, dtype=torch.float64), p.ranks).to(x.dtype)
    y = x / torch.maximum(squares, least).sqrt()
    gy = graph.matmul(y)
    on = (1 - _value(p, (y * gy).sum(0, dtype=torch.float64)).to(x.dtype)).square().sum()
    off = sqnorm(p, y, gy, off_diagonal=True)
    return on + weight * off, (on, off)


GRAPH_BARLOW_TWINS = Form(
    "graph_barlow_twins",
    {"z": ROWS},
    ("off_diagonal", "center", "eps"),
    _check_barlow,
    _barlow,
    terms=("on_diagonal", "off_diagonal"),
    reduces=False,
    restore=_center_of,
    graph="graph",
)

# ---- spectral contrastive, and least-squares SimCLR ----


def _edges_and_gram(p: Problem, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """<Y, G Y> and ||X^T X||^2, or their weighted sums over prefixes."""
    tail = _tail(p, x)
    if tail is None:
        positive, gram = p.relation.edge_dot(y, y), sqnorm(p, x)
    else:
        positive, gram = p.relation.edge_dot(y * tail, y), nested_sqnorm(p, x, tail)
    return _value(p, positive.sum()), gram


def _check_spectral(z: Tensor, graph: PairGraph, nested: Nested) -> Given:
    op = "graph_spectral_contrastive"
    tensors = _given(op, z, graph, nonnegative=True)
    return Given({**tensors, "nested": _nested_given(op, nested, z)}, {}, graph=graph)


def _spectral(p: Problem) -> Result:
    x, graph = p.rows("z"), p.relation
    rows = (graph.degree / graph.volume).to(x.dtype)[:, None].sqrt() * x
    positive, uniformity = _edges_and_gram(p, x, rows)
    alignment = positive * (-2 / graph.volume)
    return alignment + uniformity, (alignment, uniformity)


GRAPH_SPECTRAL_CONTRASTIVE = Form(
    "graph_spectral_contrastive",
    {"z": ROWS, "nested": COPY},
    (),
    _check_spectral,
    _spectral,
    terms=("alignment", "uniformity"),
    reduces=False,
    restore=_nested_of,
    graph="graph",
)


def _check_ls_simclr(z: Tensor, graph: PairGraph, center: bool, nested: Nested) -> Given:
    op = "ls_simclr"
    tensors = {**_given(op, z, graph), "nested": _nested_given(op, nested, z)}
    return Given(tensors, {"center": float(center)}, graph=graph)


def _ls_simclr(p: Problem) -> Result:
    x, weights, graph, n = p.rows("z"), p.tensors["nested"], p.relation, p.ranks.n
    norm = torch.full((), graph.frobenius_sq(), dtype=torch.float64, device=x.device)
    y = x
    if p.numbers["center"]:
        mean = sum_to_rows(x.sum(0, dtype=torch.float64), p.ranks) / n
        y = x - mean.to(x.dtype)  # and || H G H ||^2 of a symmetric G
        degrees = sum_over_ranks(graph.degree.square().sum(), p.ranks)
        norm = norm + (graph.volume / n) ** 2 - 2 / n * degrees
    positive, uniformity = _edges_and_gram(p, y, x)
    constant = (norm if weights is None else weights.double().sum() * norm).to(x.dtype)
    terms = -2 * positive, uniformity, constant
    return uniformity + terms[0] + constant, terms


def _target_of(arguments: dict[str, Any]) -> dict[str, Any]:
    return _nested_of(_center_of(arguments))


LS_SIMCLR = Form(
    "ls_simclr",
    {"z": ROWS, "nested": COPY},
    ("center",),
    _check_ls_simclr,
    _ls_simclr,
    terms=("alignment", "uniformity", "constant"),
    reduces=False,
    restore=_target_of,
    graph="graph",
)

"""InfoNCE on a graph whose rows are spread over ranks.

Formula: the file of the loss. Positives are sums over edges, with the rows of other ranks that the
edges point to; the log-sum-exps over all rows are those of `sums.log_sum_exp`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .... import _checks as check
from ....graph.over_ranks import partition
from ....graph.pair_graph import PairGraph
from ....primitives.pairwise.common import logaddexp
from ....primitives.rows.unit_rows import unit_rows
from ....primitives.sparse.edge_lse import edge_lse
from ....primitives.sparse.edge_softplus import edge_softplus
from ....ranks import Ranks, sum_to_rows, sum_to_value
from ....ranks.differentiable import sum_over_ranks
from ..._graph_queries import check_options
from ..._inputs import check_rows_of_graph
from ..._softmax import debiased, one_positive_rows, smoothing
from .._agreed import scale_given
from .._form import ROWS, SCALE, Form, Given, Problem, Result
from .._reduce import scale_of
from ..sums.log_sum_exp import Columns, log_sum_exp, self_log_sum_exp
from ._partners import by_ids, entries, no_partners, without_partners


def _check(
    z: Tensor,
    graph: PairGraph,
    temperature: float | Tensor,
    normalize: bool,
    negatives: str,
    ids: Any,
    reduction: str,
    sample_weight: Tensor | None,
    label_smoothing: float,
    tau_plus: float,
) -> Given:
    op = "graph_info_nce"
    check_rows_of_graph(op, z, graph, symmetric=False, nonnegative=True, min_rows=0)
    smooth, tau_plus = check_options(op, negatives, ids, label_smoothing, tau_plus)
    n = z.shape[0]
    tensors = {
        "z": z,
        "temperature": scale_given(op, "temperature", temperature, z),
        "ids": None if ids is None else check.ids(op, ids, z, n),
        "sample_weight": check.sample_weight(op, sample_weight, z, n, "sum"),
    }
    numbers = {"normalize": float(normalize), "label_smoothing": smooth, "tau_plus": tau_plus}
    return Given(tensors, numbers, choices={"negatives": negatives}, graph=graph)


def _graph_info_nce(p: Problem) -> Result:
    normalize, smooth, tau_plus = p.numbers.values()
    x, ids = p.rows("z"), p.tensors["ids"]
    graph = p.relation.without_diagonal()
    if graph.nnz == 0:
        raise ValueError(f"{p.op}: graph must have an edge off the diagonal, got only self loops")
    scale = scale_of(p, "temperature").reciprocal()
    degree = graph.degree.to(x.dtype)
    anchor = degree > 0
    u = unit_rows(x) if normalize else x
    half, by_itself = p.half, p.choices["negatives"] == "per_positive"
    positive = torch.zeros_like(degree)
    if p.wants_terms or not by_itself:
        positive = scale / torch.where(anchor, degree, 1.0) * graph.edge_dot(u, u)
    if by_itself:
        rows = _per_positive(p, u, scale, graph, half) / torch.where(anchor, degree, 1.0)
    elif p.choices["negatives"] == "non_positive":
        lse = _non_positive(p, u, scale, graph, half)
        _check_negatives(p, lse, anchor)
        rows = lse - positive
    elif ids is None and _is_two_view(graph, p.ranks):
        samples = p.ranks.with_counts([count // 2 for count in p.ranks.counts])
        columns = Columns(p.ranks, samples, 2, half)
        negatives = self_log_sum_exp(u, scale, columns)
        if tau_plus:
            negatives = debiased(negatives, positive, scale, p.ranks.n - 2, tau_plus)
        rows = one_positive_rows(negatives, positive)
    elif tau_plus:
        rows = _debiased_others(p, u, scale, graph, tau_plus, half) - positive
    else:
        rows = _others(p, u, scale, graph, half) - positive
    if smooth:
        total = scale * ((u * sum_to_rows(u.sum(0), p.ranks)).sum(1) - u.square().sum(1))
        rows = rows + smoothing(positive, total, p.ranks.n - 1, smooth)
    loss = _reduce(p, torch.where(anchor, rows, 0.0), degree, anchor)
    if not p.wants_terms:
        return loss, ()
    with torch.no_grad():
        alignment = _reduce(p, -positive.detach(), degree, anchor)
    return loss, (alignment, loss.detach() - alignment)


def _reduce(p: Problem, rows: Tensor, degree: Tensor, anchor: Tensor) -> Tensor:
    weight = p.tensors["sample_weight"]
    w = anchor.to(rows.dtype) if weight is None else weight * anchor
    rows = rows * w
    if p.reduction == "none":
        return rows
    if p.reduction == "sum":
        return sum_to_value((degree * rows).sum(), p.ranks)
    of_all = sum_to_value(w.sum(), p.ranks)
    if weight is not None and w.device.type == "cpu" and float(of_all.detach()) == 0:
        raise ValueError(
            f"{p.op}: sample_weight must have a positive sum over the rows with an edge of all "
            "ranks for reduction='mean', got 0"
        )
    return sum_to_value(rows.sum(), p.ranks) / of_all


def _is_two_view(graph: PairGraph, ranks: Ranks) -> bool:
    """Every row has exactly one positive of weight 1, the other view."""
    return graph.kind == "views" and graph.nnz == ranks.n and graph.volume == ranks.n


def _per_positive(p: Problem, u: Tensor, scale: Tensor, graph: PairGraph, half: bool) -> Tensor:
    """(n_r,) sum over j of G_ij log(1 + exp(a_i - s_ij)), a_i over the non-positives."""
    lse = _non_positive(p, u, scale, graph, half)
    stored, every = entries(graph, u)
    return edge_softplus(stored, _scaled(u, scale), every, -lse, targets=False)


def _non_positive(p: Problem, u: Tensor, scale: Tensor, graph: PairGraph, half: bool) -> Tensor:
    """(n_r,) log-sum-exp over k that are neither i, nor positives of i, nor of its id."""
    ids = p.tensors["ids"]
    if ids is None and graph.clique_ids is not None:
        return self_log_sum_exp(u, scale, no_partners(p, graph, half))
    return log_sum_exp(u, u, scale, without_partners(p, graph, half, ids))[0]


def _check_negatives(p: Problem, lse: Tensor, anchor: Tensor) -> None:
    """Looked at where that waits for nothing, with the same outcome on all ranks."""
    if lse.device.type != "cpu":
        return
    empty = torch.isneginf(lse.detach()) & anchor
    number = int(sum_over_ranks(empty.sum(), p.ranks))
    if number:
        raise ValueError(
            f"{p.op}: every row with a positive needs a negative, {number} of the {p.ranks.n} rows "
            "of all ranks have none"
        )


def _others(p: Problem, u: Tensor, scale: Tensor, graph: PairGraph, half: bool) -> Tensor:
    """(n_r,) log-sum-exp over every k != i but the same-id non-positives."""
    ids = p.tensors["ids"]
    if ids is None:
        return self_log_sum_exp(u, scale, Columns(p.ranks, p.ranks, 1, half))
    other_id = self_log_sum_exp(u, scale, by_ids(p, ids, half))
    return logaddexp(other_id, _edge_lse(p, u, scale, graph, ids))


def _debiased_others(
    p: Problem, u: Tensor, scale: Tensor, graph: PairGraph, tau_plus: float, half: bool
) -> Tensor:
    negatives = log_sum_exp(u, u, scale, without_partners(p, graph, half))[0]
    positives = _edge_lse(p, u, scale, graph, None)
    partners = graph.csr()[0].diff().to(u.dtype)
    mean_positive = positives - torch.log(partners.clamp(min=1))
    # isolated rows have no anchor term: any finite value will do, NaN would not
    mean_positive = torch.where(partners > 0, mean_positive, negatives)
    count = p.ranks.n - 1 - partners
    return logaddexp(
        debiased(negatives, mean_positive, scale, count, tau_plus),
        torch.where(partners > 0, positives, -torch.inf),
    )


def _edge_lse(p: Problem, u: Tensor, scale: Tensor, graph: PairGraph, ids: Tensor | None) -> Tensor:
    """(n_r,) log-sum-exp over the positives of each row (those with its id, given ids)."""
    stored = partition(graph)
    every = stored.extended(u)
    if ids is not None:  # integers below 2^32 are exact
        ids = stored.extended(ids.double()[:, None])[:, 0].to(ids.dtype)
    own = _scaled(u, scale)
    padded = torch.cat([own, every.new_zeros(len(every) - len(own), u.shape[1])])
    return edge_lse(stored.square(), padded, every, ids)[: len(u)]


def _scaled(u: Tensor, scale: Tensor) -> Tensor:
    return u * (scale if scale.dim() == 0 else scale[:, None])


GRAPH_INFO_NCE = Form(
    "graph_info_nce",
    {"z": ROWS, "temperature": SCALE, "ids": ROWS, "sample_weight": ROWS},
    ("normalize", "label_smoothing", "tau_plus"),
    _check,
    _graph_info_nce,
    terms=("alignment", "uniformity"),
    choices=("negatives",),
    graph="graph",
)

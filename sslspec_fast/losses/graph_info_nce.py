r"""InfoNCE on any graph: SimCLR, SupCon, DCL and NSCL are this loss on different graphs.

.. math::
    L = \frac{1}{|\{d_i > 0\}|} \sum_{i : d_i > 0}
        \Bigl( a_i - \frac{1}{d_i} \sum_j G_{ij} s_{ij} \Bigr),
    \qquad a_i = \log \sum_k M_{ik} e^{s_{ik}}, \quad s_{ij} = u_i \cdot u_j / \tau,

u the unit rows (or the rows themselves), M the mask of the denominator. ``reduction="sum"`` is the
paper's :math:`-\sum_{ij} G_{ij} \log \mathrm{softmax}_{ij}`, without 1/d_i and 1/n. With
``negatives="per_positive"`` each positive has a denominator of its own, itself and the rows that
are no positives: :math:`\frac{1}{d_i} \sum_j G_{ij} \log(1 + e^{a_i - s_{ij}})`. Gradient, on
the paper's form: :math:`\frac{1}{\tau} [B u - (G + G^\top) u]`, :math:`B_{ij} = M_{ij} d_i
e^{s_{ij} - a_i} + M_{ji} d_j e^{s_{ij} - a_j}`. The dense part is recomputed tile by tile, the
sparse part is a product with G: neither the logits nor a mask are stored.

Balestriero, LeCun (NeurIPS 2022, arXiv 2205.11508), section 2; decoupled: Yeh et al. (arXiv
2110.06848); same-class rows as no negatives: Luthra, Yang, Galanti (arXiv 2506.04411).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _checks as check
from .._dtypes import is_half
from ..fused import per_positive
from ..graph.pair_graph import PairGraph
from ..primitives import pairwise
from ..primitives.pairwise.common import logaddexp, pair_ids
from ..primitives.rows.unit_rows import unit_rows
from ..primitives.sparse.edge_lse import edge_lse
from ..primitives.sparse.edge_softplus import edge_softplus
from ..reference import graph_info_nce as reference
from ._common import LossOrTerms, dot_with_sum, row_ids, run_reference, self_lse, with_terms
from ._graph_queries import check_options
from ._inputs import dense, prepare_graph
from ._softmax import debiased, one_positive_rows, smoothing
from .over_ranks import over_ranks
from .over_ranks.graph_losses.info_nce import GRAPH_INFO_NCE


@over_ranks(GRAPH_INFO_NCE)
def graph_info_nce(
    z: Tensor,
    graph: PairGraph,
    *,
    temperature: float | Tensor = 0.1,
    normalize: bool = True,
    negatives: str = "others",
    ids: Tensor | None = None,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    tau_plus: float = 0.0,
    return_terms: bool = False,
    impl: str = "fused",
    group: Any = None,
) -> LossOrTerms:
    """InfoNCE of the rows z with the positives of a graph.

    Args:
        z: (n, d) float64, float32, bfloat16 or float16 (computed in float32).
        graph: weights >= 0, at least one edge off the diagonal; the diagonal is ignored, also in
            the degrees. May be directed: row i holds the positives of anchor i. Isolated rows
            have no anchor term and stay negatives of the others.
        temperature: a number, a 0-dim tensor or (n,) per anchor; a tensor may require a gradient.
        normalize: divide the rows by their norms first.
        negatives: "others": the denominator runs over every k != i; "non_positive": over those
            that are no positives of i (decoupled); "per_positive": over those and the positive in
            the numerator, for each positive by itself (pytorch-metric-learning's NTXentLoss).
        ids: (n,) integers that fit in 32 bits; rows with an equal id are no negatives of each
            other. Positives stay in the denominator of "others".
        reduction: "mean" over anchors with d_i > 0; "none": (n,) the same terms, 0 for isolated
            rows; "sum": the paper's L = sum of d_i times those.
        sample_weight: (n,); mean = sum of w l / sum of w over anchors with d_i > 0.
        label_smoothing: fraction of the target spread over the n - 1 columns of "others".
        tau_plus: class prior of the debiased loss (arXiv 2007.00224), with "others" only.
        return_terms: also return {"alignment": of the positive logits, "uniformity": of a_i}.
        impl: "fused", or "torch" for the plain reference.
        group: that of the graph, if its rows are spread over ranks (docs/distributed.md); may be
            left out.

    Returns:
        The loss, 0-dim, in the dtype of the rows (float32 for half precision), or (n,) with
        reduction="none"; (loss, terms) with return_terms.

    Raises:
        ValueError or TypeError: shapes, dtypes, devices or ranges that do not fit; ValueError if
            "non_positive" leaves a row with positives without any negative.

    >>> g = PairGraph.from_views(4)
    >>> round(float(graph_info_nce(torch.eye(4).repeat(2, 1), g, temperature=0.5)), 4)
    0.5944
    """
    op = "graph_info_nce"
    x = prepare_graph(op, z, graph, impl, group, symmetric=False, nonnegative=True)
    check.choice(op, "reduction", reduction, check.REDUCTIONS)
    label_smoothing, tau_plus = check_options(op, negatives, ids, label_smoothing, tau_plus)
    n = x.shape[0]
    graph = graph.without_diagonal()
    if graph.nnz == 0:
        raise ValueError(f"{op}: graph must have an edge off the diagonal, got only self loops")
    t = check.positive(op, "temperature", temperature, x, rows=(n,))
    ids = None if ids is None else check.ids(op, ids, x, n)

    scale = t.reciprocal()
    degree = graph.degree.to(x.dtype)
    anchor = degree > 0
    weight = check.sample_weight(op, sample_weight, x, n, reduction, anchor)
    per_edge = scale / torch.where(anchor, degree, 1.0)

    if impl == "torch":
        u, matrix = F.normalize(x) if normalize else x, dense(graph, x)
        positive = per_edge * run_reference(lambda g: (u * (g @ u)).sum(1), matrix)
        loss = run_reference(
            reference.graph_info_nce,
            x,
            matrix,
            temperature=t,
            normalize=normalize,
            negatives=negatives,
            ids=ids,
            reduction=reduction,
            sample_weight=weight,
            label_smoothing=label_smoothing,
            tau_plus=tau_plus,
        )
    else:
        u, half = unit_rows(x) if normalize else x, is_half(z)
        total = None
        if negatives == "per_positive" and reduction != "none" and ids is None:
            row_weight = _row_weights(degree, anchor, reduction, weight)
            total = _per_positive_total(u, scale, graph, row_weight, half)
        if total is not None and not return_terms:
            return total
        positive = per_edge * graph.edge_dot(u, u)
        if total is not None:
            loss = total
        else:
            if negatives == "per_positive":
                rows = _per_positive(u, scale, graph, ids, half) / torch.where(anchor, degree, 1.0)
            elif negatives == "non_positive":
                lse = _non_positive(u, scale, graph, ids, half)
                _check_negatives(op, lse, anchor)
                rows = lse - positive
            elif ids is None and _is_two_view(graph):
                rows = _two_view(u, scale, positive, tau_plus, half)
            else:
                rows = _others(u, scale, graph, ids, tau_plus, half) - positive
            if label_smoothing:
                logits = scale * (dot_with_sum(u, u) - u.square().sum(1))
                rows = rows + smoothing(positive, logits, n - 1, label_smoothing)
            loss = _reduce(torch.where(anchor, rows, 0.0), degree, anchor, reduction, weight)
    if not return_terms:
        return loss
    alignment = _reduce(-positive, degree, anchor, reduction, weight)
    return with_terms(loss, {"alignment": alignment, "uniformity": loss - alignment})


def _reduce(
    rows: Tensor, degree: Tensor, anchor: Tensor, reduction: str, weight: Tensor | None
) -> Tensor:
    w = anchor.to(rows.dtype) if weight is None else weight * anchor
    rows = rows * w
    if reduction == "none":
        return rows
    return (degree * rows).sum() if reduction == "sum" else rows.sum() / w.sum()


def _row_weights(degree: Tensor, anchor: Tensor, reduction: str, weight: Tensor | None) -> Tensor:
    """(n,) the factors of sums over the positives of a row in the mean or sum of `_reduce`."""
    w = anchor.to(degree.dtype) if weight is None else weight * anchor
    return w if reduction == "sum" else w / (torch.where(anchor, degree, 1.0) * w.sum())


def _is_two_view(graph: PairGraph) -> bool:
    """Every row has exactly one positive of weight 1, the other view."""
    return graph.kind == "views" and graph.nnz == graph.n and graph.volume == graph.n


def _two_view(u: Tensor, scale: Tensor, positive: Tensor, tau_plus: float, half: bool) -> Tensor:
    n = u.shape[0]
    negatives = self_lse(u, scale, pair_ids(n // 2, u.device), half)
    if tau_plus:
        negatives = debiased(negatives, positive, scale, n - 2, tau_plus)
    return one_positive_rows(negatives, positive)


def _per_positive_total(
    u: Tensor, scale: Tensor, graph: PairGraph, weight: Tensor, half: bool
) -> Tensor | None:
    """The sum of weight_i times row i of `_per_positive`, where one operator makes it."""
    classes = graph.clique_ids
    if classes is None or not per_positive.fits(u, scale, half):
        return None
    ids = _distinct(classes)
    return per_positive.per_positive_total(u, scale, weight, ids, graph.stored())


def _per_positive(
    u: Tensor, scale: Tensor, graph: PairGraph, ids: Tensor | None, half: bool
) -> Tensor:
    """(n,) sum over j of G_ij log(1 + exp(a_i - s_ij)), a_i over the non-positives."""
    lse = _non_positive(u, scale, graph, ids, half)
    scaled = u * (scale if scale.dim() == 0 else scale[:, None])
    return edge_softplus(graph.stored(), scaled, u, -lse, targets=False)


def _non_positive(
    u: Tensor, scale: Tensor, graph: PairGraph, ids: Tensor | None, half: bool
) -> Tensor:
    """(n,) log-sum-exp over k that are neither i, nor positives of i, nor of its id."""
    cliques = graph.clique_ids
    if cliques is not None and ids is None:
        lse = self_lse(u, scale, _distinct(cliques), half)
    else:
        indptr, indices, _ = graph.csr()
        same = None if ids is None else row_ids(ids)
        left_out = pairwise.LeftOut(same, same, indptr, indices.to(torch.int64), self_pairs=True)
        lse, _ = pairwise.lse(u, u, scale, left_out, half=half)
    return lse


def _distinct(classes: Tensor) -> Tensor:
    """int32: rows without a class, which are negative, have one of their own."""
    lonely = -1 - torch.arange(classes.shape[0], dtype=torch.int32, device=classes.device)
    return torch.where(classes < 0, lonely, row_ids(classes))


def _check_negatives(op: str, lse: Tensor, anchor: Tensor) -> None:
    """Looked at where that waits for nothing."""
    if not check.readable(lse):
        return
    empty = torch.isneginf(lse.detach()) & anchor
    if empty.any():
        row = int(empty.nonzero()[0, 0])
        raise ValueError(
            f"{op}: every row with a positive needs a negative, row {row} of {len(lse)} has none"
        )


def _others(
    u: Tensor, scale: Tensor, graph: PairGraph, ids: Tensor | None, tau_plus: float, half: bool
) -> Tensor:
    """(n,) log-sum-exp over every k != i but the same-id non-positives."""
    if tau_plus:
        return _debiased_others(u, scale, graph, tau_plus, half)
    if ids is None:
        return self_lse(u, scale, None, half)
    other_id = self_lse(u, scale, row_ids(ids), half)
    same_id = _edge_lse(u, scale, graph, ids)  # the positives that the ids took away
    return logaddexp(other_id, same_id)


def _debiased_others(
    u: Tensor, scale: Tensor, graph: PairGraph, tau_plus: float, half: bool
) -> Tensor:
    indptr, indices, _ = graph.csr()
    left_out = pairwise.LeftOut(indptr=indptr, indices=indices.to(torch.int64), self_pairs=True)
    negatives, _ = pairwise.lse(u, u, scale, left_out, half=half)
    positives = _edge_lse(u, scale, graph, None)
    partners = indptr.diff().to(u.dtype)
    mean_positive = positives - torch.log(partners.clamp(min=1))
    # isolated rows have no anchor term: any finite value will do, NaN would not
    mean_positive = torch.where(partners > 0, mean_positive, negatives)
    count = u.shape[0] - 1 - partners
    return logaddexp(
        debiased(negatives, mean_positive, scale, count, tau_plus),
        torch.where(partners > 0, positives, -math.inf),
    )


def _edge_lse(u: Tensor, scale: Tensor, graph: PairGraph, ids: Tensor | None) -> Tensor:
    """(n,) log-sum-exp over the positives of each row (those with its id, given ids)."""
    return edge_lse(graph.stored(), u * (scale if scale.dim() == 0 else scale[:, None]), u, ids)

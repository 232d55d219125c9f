r"""SigLIP with several positives per row: each pair is a decision, and a graph has the targets.

.. math::
    L = \frac{1}{n} \sum_{ij} -G_{ij} \log \sigma(\ell_{ij}) - (1 - G_{ij}) \log \sigma(-\ell_{ij}),
    \qquad \ell_{ij} = c\, x_i \cdot y_j + b,

G the weights of a graph in [0, 1], with 1 on its diagonal: the pair itself. The entries of G are
left out of the dense sum of softplus and added by themselves, since softplus(l) - l loses a sure
positive to rounding. Gradient: with :math:`\Sigma_{ij} = \sigma(\ell_{ij}) - G_{ij}`,
:math:`\partial L / \partial x_i = \frac{c}{n} \sum_j \Sigma_{ij} y_j` and
:math:`\partial L / \partial b = \frac{1}{n} \sum_{ij} \Sigma_{ij}`. It replaces the (n, n) logits
and targets.

Zhai, Mustafa, Kolesnikov, Beyer, "Sigmoid Loss for Language Image Pre-Training" (ICCV 2023, arXiv
2303.15343), section 3.2; its targets of several positives: UniCL (arXiv 2204.03610), section 3.1.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _checks as check
from .._dtypes import is_half, products
from ..graph._checks import check_graph
from ..graph.pair_graph import PairGraph
from ..primitives import pairwise
from ..primitives.pairwise.value_and_grad import softplus_total
from ..primitives.sparse.edge_softplus import edge_softplus
from ..reference import graph_siglip as reference
from ._common import Loss, LossOrTerms, reduce_rows, row_ids, row_weights, run_reference, with_terms
from ._inputs import dense, prepare_pair
from .over_ranks import over_ranks
from .over_ranks.graph_losses.siglip import GRAPH_SIGLIP


@over_ranks(GRAPH_SIGLIP)
def graph_siglip(
    image: Tensor,
    text: Tensor,
    graph: PairGraph,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor,
    *,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
    return_terms: bool = False,
    impl: str = "fused",
    group: Any = None,
) -> LossOrTerms:
    """SigLIP loss of n pairs of which several belong together; without edges it is `siglip`.

    Args:
        image, text: (n, d) unit rows, float64, float32, bfloat16 or float16 (computed in float32).
        graph: over the n pairs, weights in [0, 1]: how far text j is a positive of image i. May be
            directed. Its diagonal is ignored: text i is a positive of image i. Pairs with the same
            group id: ``PairGraph.from_labels(ids)``. Its entries are stored.
        logit_scale: c > 0, a number, a 0-dim tensor or (n,) per image; may require a gradient.
        logit_bias: b, a number or a 0-dim tensor; may require a gradient.
        reduction: "none": (n,) sums of the rows; "mean": their mean; "sum".
        sample_weight: (n,) per row; mean = sum of w l / sum of w.
        return_terms: also return {"positive": of the graph's and the own pairs, "negative": of the
            rest}.
        impl: "fused", or "torch" for the plain reference.
        group: that of the graph, if its rows are spread over ranks (docs/distributed.md); may be
            left out.

    Returns:
        The loss, 0-dim, in the dtype of the rows (float32 for half precision), or (n,) with
        reduction="none"; (loss, terms) with return_terms.

    Raises:
        ValueError or TypeError: shapes, dtypes, devices or ranges that do not fit.

    >>> x = torch.eye(4)[[0, 0, 1, 1]]
    >>> g = PairGraph.from_labels([0, 0, 1, 1])
    >>> round(float(graph_siglip(x, x, g, 20.0, -10.0)), 4)
    0.0002
    """
    op = "graph_siglip"
    pair = prepare_pair(
        op,
        ("image", "text"),
        image,
        text,
        impl=impl,
        group=group,
        reduction=reduction,
        weight=sample_weight,
        scale=("logit_scale", logit_scale),
    )
    check_graph(op, graph, image, symmetric=False, edges=False)
    graph = graph.without_diagonal()
    _check_weights(op, graph.csr()[2])
    (x, y), scale, weight = pair.rows(), pair.scale_tensor(), pair.weight
    bias = check.real(op, "logit_bias", logit_bias, x)

    if impl == "torch":
        given = x, y, dense(graph, x), scale, bias
        how = {"reduction": reduction, "sample_weight": weight}
        loss = run_reference(reference.graph_siglip, *given, **how)
        by_row = scale if scale.dim() == 0 else scale[:, None]
        positive = -F.logsigmoid((x * y).sum(1) * scale + bias)
        positive = positive + run_reference(_of_targets, given[2], x * by_row, y, bias)
    else:
        positive = edge_softplus(graph.stored().with_identity(), x, y, bias, scale=scale)
        a, b, left_out = products(x, image), products(y, text), _positives(graph)
        half = is_half(image)
        if reduction == "none":
            rows = pairwise.softplus(a, b, scale, bias, left_out, half=half) + positive
            loss = reduce_rows(rows, reduction, weight)
        else:
            row_weight = row_weights(positive.detach(), reduction, weight)
            loss = softplus_total(a, b, scale, bias, row_weight, left_out, half=half)
            loss = loss + reduce_rows(positive, reduction, weight)
    if not return_terms:
        return loss
    on = reduce_rows(positive, reduction, weight)
    return with_terms(loss, {"positive": on, "negative": loss - on})


def _of_targets(target: Tensor, x: Tensor, y: Tensor, bias: Tensor) -> Tensor:
    """`edge_softplus` of a dense matrix, whose entries other than 0 count."""
    logits = x @ y.T + bias
    terms = target * F.logsigmoid(logits) + (1 - target) * F.logsigmoid(-logits)
    return -terms.masked_fill(target == 0, 0.0).sum(1)


def _check_weights(op: str, weights: Tensor | None) -> None:
    """Looked at where that waits for nothing."""
    if weights is None or weights.numel() == 0 or not check.readable(weights):
        return
    low, high = float(weights.min()), float(weights.max())
    if low < 0 or high > 1:
        raise ValueError(f"{op}: graph must have weights in [0, 1], got {low:g} to {high:g}")


def _positives(graph: PairGraph) -> pairwise.LeftOut:
    """The pairs of a graph without a diagonal, and those of a row with itself."""
    if graph.nnz == 0:
        return pairwise.LeftOut(self_pairs=True)
    cliques = graph.clique_ids
    if cliques is None:
        indptr, indices, _ = graph.csr()
        return pairwise.LeftOut(indptr=indptr, indices=indices.to(torch.int64), self_pairs=True)
    lonely = -1 - torch.arange(graph.n, dtype=torch.int32, device=cliques.device)
    ids = torch.where(cliques < 0, lonely, row_ids(cliques))
    return pairwise.LeftOut(ids, ids, self_pairs=True)


class GraphSigLIPLoss(Loss):
    """`graph_siglip` as a module: ``forward(image, text, graph, logit_scale, logit_bias)``.

    Args:
        group: as in `graph_siglip`.
        options: further keywords of `graph_siglip`.

    Raises:
        TypeError: a keyword that `graph_siglip` does not have.
    """

    functional = staticmethod(graph_siglip)
    named = ("logit_scale", "logit_bias")

    def __init__(self, *, group: Any = None, **options: Any) -> None:
        super().__init__(group, options)

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        graph: PairGraph,
        logit_scale: float | Tensor,
        logit_bias: float | Tensor,
        *,
        sample_weight: Tensor | None = None,
    ) -> LossOrTerms:
        return graph_siglip(
            image,
            text,
            graph,
            logit_scale,
            logit_bias,
            sample_weight=sample_weight,
            group=self.group,
            **self.options,
        )

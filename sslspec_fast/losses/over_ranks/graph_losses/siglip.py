"""SigLIP with the positives of a graph whose rows are spread over ranks.

Formula: the file of the loss. The entries of a row are visited on its rank, with the texts of other
ranks that they point to; the dense sum of all other pairs is that of `sigmoid`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor

from ....graph._checks import check_graph
from ....graph.pair_graph import PairGraph
from ....primitives.pairwise import LeftOut
from ....primitives.sparse.edge_softplus import edge_softplus
from ....ranks.lockstep import ends
from ....ranks.pieces import Piece
from .._form import Form, Given, Problem, Result
from .._reduce import check_weight
from ..sigmoid import PAIRS_OF_SIGLIP, check_pairs, scale_and_bias, with_negatives
from ._partners import entries, no_partners


def _check(
    image: Tensor,
    text: Tensor,
    graph: PairGraph,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor,
    reduction: str,
    sample_weight: Tensor | None,
) -> Given:
    op = "graph_siglip"
    tensors = check_pairs(op, image, text, logit_scale, logit_bias, sample_weight)
    check_graph(op, graph, image, symmetric=False, edges=False)
    return Given(tensors, {}, graph=graph)


def _graph_siglip(p: Problem) -> Result:
    check_weight(p, p.tensors["sample_weight"])
    x, y, graph = p.rows("image"), p.rows("text"), p.relation.without_diagonal()
    _check_weights(p, graph)
    scale, bias = scale_and_bias(p)
    positive = -F.logsigmoid((x * y).sum(1) * scale + bias)
    if graph.nnz:
        stored, every = entries(graph, y)
        positive = positive + edge_softplus(stored, x, every, bias, scale=scale)
    columns = no_partners(p, graph, p.half)
    ids = columns.own_ids(x)

    def blocks(left: Tensor, right: Tensor, piece: Piece) -> Iterator[tuple[slice, slice, LeftOut]]:
        yield slice(None), slice(None), columns.left_out(left, right, ids, piece)

    return with_negatives(p, scale, bias, positive, blocks)


def _check_weights(p: Problem, graph: PairGraph) -> None:
    """Looked at where that waits for nothing, with the same outcome on all ranks."""
    if graph.device.type != "cpu":
        return
    weights = graph.csr()[2]
    low, high = math.inf, -math.inf
    if weights is not None and weights.numel():
        low, high = float(weights.min()), float(weights.max())
    low, high = ends(low, high, p.ranks.group)
    if low < 0 or high > 1:
        raise ValueError(f"{p.op}: graph must have weights in [0, 1], got {low:g} to {high:g}")


GRAPH_SIGLIP = Form(
    "graph_siglip",
    PAIRS_OF_SIGLIP,
    (),
    _check,
    _graph_siglip,
    terms=("positive", "negative"),
    graph="graph",
)

r"""Spectral contrastive loss on any graph.

.. math::
    L = -\frac{2}{vol} \sum_{ij} G_{ij} z_i^\top z_j
        + \sum_{ij} \frac{d_i d_j}{vol^2} (z_i^\top z_j)^2
      = \|F F^\top - A\|_F^2 - \|A\|_F^2,

with :math:`F = \mathrm{diag}(d / vol)^{1/2} Z` and A the normalised adjacency. Gradient:
:math:`-\frac{4}{vol} G Z + 4 P Z (Z^\top P Z)`, P = diag(d / vol). The second sum is
:math:`\|F^\top F\|_F^2`: O(n d min(n, d)) instead of the (n, n) Gram matrix.

HaoChen, Wei, Gaidon, Ma, "Provable Guarantees for Self-Supervised Deep Learning with Spectral
Contrastive Loss" (NeurIPS 2021, arXiv 2106.04156), section 3.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._dtypes import is_half, multiplies_half
from ..graph.pair_graph import PairGraph
from ..primitives import gram
from ..primitives.gram.nested import nested_sqnorm
from ..reference import graph_spectral_contrastive as reference
from ._common import LossOrTerms, run_reference, with_terms
from ._inputs import dense, prepare_graph
from ._nested import Nested, over_prefixes, prefix_weights, tails
from .over_ranks import over_ranks
from .over_ranks.graph_losses.quadratic import GRAPH_SPECTRAL_CONTRASTIVE


@over_ranks(GRAPH_SPECTRAL_CONTRASTIVE)
def graph_spectral_contrastive(
    z: Tensor,
    graph: PairGraph,
    *,
    nested: Nested = False,
    return_terms: bool = False,
    impl: str = "fused",
    group: Any = None,
) -> LossOrTerms:
    """Spectral contrastive loss of the rows z on a symmetric graph; rows are not normalised.

    Args:
        z: (n, d) float64, float32, bfloat16 or float16 (computed in float32).
        graph: symmetric, weights >= 0, at least one edge. Isolated rows have no effect.
        nested: True for the mean of the losses of all prefixes of the columns, or a weight >= 0
            for each of the d prefixes: their weighted sum. Its optimum is the eigenvectors in
            order, not only their span (arXiv 2510.24672). The (d, d) product is then stored.
        return_terms: also return {"alignment": the edge sum, "uniformity": the squared Gram sum}.
        impl: "fused", or "torch" for the plain reference.
        group: that of the graph, if its rows are spread over ranks (docs/distributed.md); may be
            left out.

    Returns:
        The loss, 0-dim, in the dtype of the rows (float32 for half precision); (loss, terms) with
        return_terms.

    Raises:
        ValueError or TypeError: shapes, dtypes or devices that do not fit, or a directed graph.

    >>> g = PairGraph.from_edges([0, 1], [1, 0], n=2)
    >>> round(float(graph_spectral_contrastive(torch.ones(2, 1), g)), 4)
    -1.0
    """
    op = "graph_spectral_contrastive"
    x = prepare_graph(op, z, graph, impl, group, nonnegative=True)
    weights = prefix_weights(op, nested, x)
    if impl == "torch":
        g = dense(graph, x)
        plain = reference.graph_spectral_contrastive
        loss = over_prefixes(lambda part: run_reference(plain, part, g), x, weights)
        if not return_terms:
            return loss
        with torch.no_grad():
            alignment = over_prefixes(
                lambda part: -2 / g.sum() * (part * (g @ part)).sum(), x, weights
            )
        return with_terms(loss, {"alignment": alignment, "uniformity": loss - alignment})

    rows = (graph.degree / graph.volume).to(x.dtype)[:, None].sqrt() * x
    if weights is None:
        # in float32 on a CPU: it would round the scaled rows, where a plain form has exact ones
        half = multiplies_half(rows, is_half(z))
        positive, uniformity = graph.edge_dot(x, x), gram.sqnorm(rows, half=half)
    else:
        tail = tails(weights, x)
        positive, uniformity = graph.edge_dot(x * tail, x), nested_sqnorm(rows, tail)
    alignment = positive.sum() * (-2 / graph.volume)
    terms = {"alignment": alignment, "uniformity": uniformity}
    return with_terms(alignment + uniformity, terms if return_terms else None)

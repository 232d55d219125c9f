r"""The covariance of an embedding, weighted by a graph.

.. math::
    C = Z^\top \hat G Z = \sum_{ij} G_{ij} z_i z_j^\top - \frac{1}{vol} (Z^\top d)(Z^\top d)^\top,
    \qquad \hat G = G - d d^\top / vol .

Gradient for an upstream (d, d) matrix W and a symmetric graph: :math:`\hat G Z (W + W^\top)`. It is
the numerator of graph Barlow Twins and of every linear closed form; it replaces ``z.T @ (G @ z)``
with its stored product, and the dense G - d d^T / vol.

Balestriero, LeCun, "Contrastive and Non-Contrastive Self-Supervised Learning Recover Global and
Local Spectral Embedding Methods" (NeurIPS 2022, arXiv 2205.11508), section 2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..graph.pair_graph import PairGraph
from ..reference import graph_covariance as reference
from ._common import run_reference
from ._inputs import dense, prepare_graph
from .over_ranks import over_ranks
from .over_ranks.graph_losses.quadratic import GRAPH_COVARIANCE


@over_ranks(GRAPH_COVARIANCE)
def graph_covariance(
    z: Tensor,
    graph: PairGraph,
    *,
    center: bool = True,
    impl: str = "fused",
    group: Any = None,
) -> Tensor:
    """Z^T (G - d d^T / vol) Z, or Z^T G Z without centring: (d, d), differentiable in z.

    Args:
        z: (n, d) float64, float32, bfloat16 or float16 (computed in float32).
        graph: at least one edge; symmetric if center; any weights with a volume other than 0.
        center: take out the degree-weighted mean.
        impl: "fused", or "torch" for the plain reference.
        group: that of the graph, if its rows are spread over ranks (docs/distributed.md); may be
            left out.

    Returns:
        (d, d), in the dtype of z (float32 for half precision).

    Raises:
        ValueError or TypeError: shapes, dtypes or devices that do not fit, or a directed graph with
            center=True.

    >>> g = PairGraph.from_edges([0, 1], [1, 0], n=2)
    >>> float(graph_covariance(torch.tensor([[1.0], [3.0]]), g, center=False))
    6.0
    """
    op = "graph_covariance"
    x = prepare_graph(op, z, graph, impl, group, symmetric=center)
    if center and graph.volume == 0:
        raise ValueError(f"{op}: graph must have a volume other than 0 to be centred, got 0")
    if impl == "torch":
        return run_reference(reference.graph_covariance, x, dense(graph, x), center=center)
    with torch.autocast(x.device.type, enabled=False):
        return graph.covariance(x, center=center)

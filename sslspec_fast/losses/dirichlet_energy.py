r"""Dirichlet energy of an embedding on a graph.

.. math::
    E = \mathrm{tr}(Z^\top L Z) = \tfrac12 \sum_{ij} G_{ij} \|z_i - z_j\|^2,
    \qquad L = \mathcal{D} - G.

Gradient: :math:`2 L Z`. It is the invariance term of every non-contrastive loss; it replaces the
gathered pairs of rows.

Belkin, Niyogi, "Laplacian Eigenmaps for Dimensionality Reduction and Data Representation"
(doi 10.1162/089976603321780317); Balestriero, LeCun (NeurIPS 2022, arXiv 2205.11508), section 2.
"""

from __future__ import annotations

from typing import Any

import torch  # noqa: F401  the docstring example
from torch import Tensor

from ..graph.pair_graph import PairGraph
from ..reference import dirichlet_energy as reference
from ._common import run_reference
from ._inputs import dense, prepare_graph
from .over_ranks import over_ranks
from .over_ranks.graph_losses.quadratic import DIRICHLET_ENERGY


@over_ranks(DIRICHLET_ENERGY)
def dirichlet_energy(
    z: Tensor, graph: PairGraph, *, impl: str = "fused", group: Any = None
) -> Tensor:
    """tr(Z^T L Z), a scalar.

    Args:
        z: (n, d) float64, float32, bfloat16 or float16 (computed in float32).
        graph: symmetric, at least one edge; weights of any sign; the diagonal has no effect.
        impl: "fused", or "torch" for the plain reference.
        group: that of the graph, if its rows are spread over ranks (docs/distributed.md); may be
            left out.

    Returns:
        The energy, 0-dim, in the dtype of z (float32 for half precision).

    Raises:
        ValueError or TypeError: shapes, dtypes or devices that do not fit, or a directed graph.

    >>> g = PairGraph.from_edges([0, 1], [1, 0], n=2)
    >>> float(dirichlet_energy(torch.tensor([[0.0], [3.0]]), g))
    9.0
    """
    x = prepare_graph("dirichlet_energy", z, graph, impl, group)
    if impl == "torch":
        return run_reference(reference.dirichlet_energy, x, dense(graph, x))
    return 0.5 * graph.edge_sqdist(x).sum()

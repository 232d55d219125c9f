"""Pairwise relations between samples."""

from torch import Tensor

from . import saved  # noqa: F401  (registers how graphs are pickled)
from .pair_graph import PairGraph

__all__ = ["PairGraph", "graph_covariance"]


def graph_covariance(x: Tensor, graph: PairGraph) -> Tensor:
    """(d, d): Xᵀ G X, not centred; `PairGraph.covariance` as a function."""
    return graph.covariance(x)

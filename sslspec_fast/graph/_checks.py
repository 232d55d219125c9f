"""The check of a graph beside the rows that it relates."""

from __future__ import annotations

from torch import Tensor

from .pair_graph import PairGraph


def check_graph(op: str, graph: PairGraph, z: Tensor, *, symmetric: bool = True) -> None:
    """graph: a PairGraph over the rows of z with at least one edge."""
    if not isinstance(graph, PairGraph):
        raise TypeError(f"{op}: graph must be a PairGraph, got {type(graph).__name__}")
    if graph.n != z.shape[0]:
        raise ValueError(f"{op}: graph.n must match the {z.shape[0]} rows of z, got {graph.n}")
    if graph.nnz == 0:
        raise ValueError(
            f"{op}: graph must have at least one edge, got nnz = 0 over {graph.n} rows"
        )
    if symmetric and not graph.is_symmetric:
        raise ValueError(
            f"{op}: graph must be symmetric, got a directed one; symmetrise it with "
            "PairGraph.from_edges(..., symmetrize=True)"
        )
    if graph.device != z.device:
        raise ValueError(
            f"{op}: graph must be on the device of z, {z.device}, got {graph.device}; "
            "use graph.to(z.device)"
        )

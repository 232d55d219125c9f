"""The check of a graph beside the rows that it relates."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..ranks import several, told_to_all
from .pair_graph import PairGraph


def check_graph(
    op: str, graph: PairGraph, z: Tensor, *, symmetric: bool = True, edges: bool = True
) -> None:
    """graph: a PairGraph over the rows of z, with at least one edge if `edges`."""
    if not isinstance(graph, PairGraph):
        raise TypeError(f"{op}: graph must be a PairGraph, got {type(graph).__name__}")
    if graph.n != z.shape[0]:
        raise ValueError(f"{op}: graph.n must match the {z.shape[0]} rows of z, got {graph.n}")
    if edges and graph.nnz == 0:
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


def group_of_graph(op: str, graph: Any, group: Any, *, needed: bool = True) -> Any:
    """The process group of a graph over ranks, which a caller may have named too; otherwise the one
    that was named, or None.

    needed: whether a graph beside a group must have its rows on the ranks of that group.
    """
    own = graph.group if isinstance(graph, PairGraph) else None
    given = several(op, group)
    if given is None or not isinstance(graph, PairGraph) or given is own:
        return own or given
    if own is None and not needed:
        return given
    with told_to_all(op, own or given):
        if own is None:
            raise ValueError(
                f"{op}: graph must have its rows on the ranks of the group, made with group=, "
                "got one whose rows are all in this process"
            )
        raise ValueError(f"{op}: group must be the one that the graph was made with")

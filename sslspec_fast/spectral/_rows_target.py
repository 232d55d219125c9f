"""The pairwise relation G whose rows are spread over ranks, as the closed forms use it.

Arrays of nodes hold this rank's; counts, sums and whatever is decided by them are those of all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from ..graph._checks import group_of_graph
from ..graph.build import scipy_from_torch
from ..graph.pair_graph import PairGraph
from ..operators import GroupVectors, SymmetricOperator, partitioned
from ..operators.partitioned import PartitionedOperator
from ..ranks import agree, several, told_to_all
from ..ranks.differentiable import start_gather
from ..ranks.lockstep import ends, ordered_sum
from ..ranks.traffic import broadcast, host_device
from ._target import Target

__all__ = ["RowsTarget", "target_of"]

Array = np.ndarray


def target_of(op: str, graph: Any, group: Any, options: Mapping[str, Any]) -> Target:
    """`Target` of a graph, or of this rank's rows of one; options: alike on all ranks."""
    if isinstance(graph, PairGraph) and graph.group is not None:
        group = group_of_graph(op, graph, group)
        graph = graph.to_scipy()
    group = several(op, group)
    return Target(graph) if group is None else RowsTarget(op, graph, group, options)


class RowsTarget(Target):
    """graph: (n_r, n) scipy or torch sparse, this rank's rows with global columns."""

    def __init__(self, op: str, graph: Any, group: Any, options: Mapping[str, Any]) -> None:
        with told_to_all(op, group):
            for name in ("features", "kernel"):
                if options.get(name) is not None:
                    raise NotImplementedError(f"{op}: {name} with a group is not supported")
            given = graph
            if isinstance(graph, torch.Tensor) and graph.layout != torch.strided:
                given = scipy_from_torch(graph, op)
            if not sp.issparse(given):
                raise TypeError(
                    f"{op}: graph must be the rows of this rank, (n_r, n) scipy or torch sparse, "
                    f"with a group; got {type(graph).__name__}"
                )
            matrix = sp.csr_array(given, dtype=np.float64)
            matrix.sum_duplicates()
            matrix.eliminate_zeros()  # no edges
        agree(op, group, {name: repr(value) for name, value in options.items()}, 0)
        self.group = group
        self.graph = self.dense_matrix = None
        self.device = graph.device if isinstance(graph, torch.Tensor) else None
        self.op: PartitionedOperator = partitioned(matrix, group, name=op)
        self.n, self.rows = self.op.n, self.op.rows
        if self.n == 0:
            raise ValueError("graph must have at least one node, got n = 0")

    # ------------------------------------------------------------------ sums
    def total(self, x: Any) -> Array:
        return ordered_sum(torch.from_numpy(np.asarray(x, dtype=np.float64)), self.group).numpy()

    def least(self, x: Array) -> float:
        return ends(float(x.min(initial=np.inf)), 0.0, self.group)[0]

    def alike(self, fit: Any) -> Any:
        """The first rank's: other processors may round, and search, in other ways."""
        device = host_device(self.group)
        arrays = [torch.from_numpy(np.ascontiguousarray(x)).to(device) for x in (fit.mix, fit.s)]
        mix, s = (broadcast(x, self.group).cpu().numpy() for x in arrays)
        return dataclasses.replace(fit, mix=mix, s=s)

    def groups(self, labels: Array, weights: Array | None, count: int) -> GroupVectors:
        scale = None if weights is None else torch.from_numpy(weights)
        return GroupVectors(torch.from_numpy(labels), scale, count, group=self.group)

    # ------------------------------------------------------------------ facts
    @cached_property
    def degree(self) -> Array:
        return self.op.row_sums().numpy()

    @cached_property
    def frobenius_sq(self) -> float:
        return float(self.total((self.op.entries()[2] ** 2).sum().item()))

    @cached_property
    def is_signed(self) -> bool:
        return self.least(self.op.entries()[2].numpy()) < 0.0

    @cached_property
    def usual_row(self) -> float:
        size = self.degree
        assert self.op.ranks is not None
        if self.is_signed:
            rows, _, values = self.op.entries()
            first = self.op.ranks.here.start
            size = np.bincount(
                rows.numpy() - first, weights=values.abs().numpy(), minlength=self.rows
            )
        every = start_gather(torch.from_numpy(size), self.op.ranks)().numpy()
        return float(np.median(every[every > 0])) if (every > 0).any() else 0.0

    @cached_property
    def components(self) -> tuple[int, Array]:
        count, labels = self.op.components()
        return count, labels.numpy()

    @cached_property
    def isolated(self) -> Array:
        count, labels = self.components
        sizes = self.total(np.bincount(labels, minlength=count))
        return np.flatnonzero(sizes[labels] == 1)

    # ------------------------------------------------------------------ operators
    def adjacency(self) -> SymmetricOperator:
        if self.is_signed:
            return self.op
        top = -self.least(-self.degree)
        return self.op.derived(bounds=(-top, top))

    def laplacian(self) -> SymmetricOperator:
        degree, bounds = torch.from_numpy(self.degree), None
        if not self.is_signed:  # Anderson and Morley 1985
            top = 0.0 if self.op.nnz() == 0 else self.op.top_of_pairs(degree) * (1 + 1e-14)
            bounds = 0.0, top
        return self.op.derived(diagonal=degree, sign=-1.0, bounds=bounds)

    def normalized(self) -> SymmetricOperator:
        scale = np.zeros(self.rows)
        np.divide(1.0, np.sqrt(self.degree), out=scale, where=self.degree > 0)
        return self.op.derived(scale=torch.from_numpy(scale), bounds=(-1.0, 1.0))

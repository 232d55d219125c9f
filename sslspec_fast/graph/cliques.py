"""Implicit relations that are unions of cliques: positives of multi-view batches and of class
labels.

A clique of weight w contributes w (11ᵀ − I) (or w 11ᵀ with self loops), so a product is a segment
sum and a gather: O(n b) work and O(cliques b) memory instead of Σ |clique|² entries. Squared
distances go through the clique's mean m,
    Σ_j ‖x_i − x_j‖² = s ‖x_i − m‖² + Σ_j ‖x_j − m‖²      (s = clique size),
which keeps the small differences that ‖x_i‖² + ‖x_j‖² − 2<x_i, x_j> would cancel.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..primitives.sparse.csr import Csr
from ..primitives.sparse.edges import edge_dot, edge_sqdist
from ..primitives.sparse.graph_cov import graph_cov
from ..primitives.sparse.spmm import spmm
from ..ranks import Ranks, gather_rows, sum_to_rows
from .relation import HubEdges, Relation, index_dtype, range_of

LabelWeight = Literal["uniform", "class_size"]


class Cliques(Relation):
    """Nodes with the same id >= 0 are joined; a negative id joins nothing.

    ids: (n,) int64 in [-1, n_cliques).  weights: (n_cliques,) float64, all of one sign per clique.
    every: over ranks, the ids of all rows, where a clique has rows of several ranks; else the ids
    number the cliques of this rank.
    """

    def __init__(
        self,
        kind: str,
        ids: Tensor,
        n_cliques: int,
        weights: Tensor,
        self_loops: bool,
        ranks: Ranks | None = None,
        every: Tensor | None = None,
    ) -> None:
        self.kind, self.ranks, self._every = kind, ranks, every
        self.n = ids.shape[0]
        self.device = ids.device
        self._ids = self.clique_ids = ids
        self._n_cliques = n_cliques
        self._weights = weights
        self._self_loops = self_loops
        all_ids = ids if every is None else every
        self._sizes = torch.bincount(all_ids[all_ids >= 0], minlength=n_cliques)
        own = self._sizes if every is None else torch.bincount(ids[ids >= 0], minlength=n_cliques)
        self._node_size = _gather(self._sizes, ids)  # (n,) size of the node's clique, 0 outside
        self._node_weight = _gather(weights, ids)  # (n,) float64
        self._gather_csr, self._sum_csr = _membership(ids, n_cliques, own)
        self._self_csr = _diagonal(self._node_weight)
        if ranks is not None and every is None:  # numbers that no other rank has
            self.clique_ids = torch.where(ids < 0, ids, ids + ranks.here.start)
        # Python values, for torch.compile: the number of entries of `csr`, and whether all are 1
        self._entries = int(self._partner_count().sum())
        self._unit = bool((weights == 1).all())
        self._pairs = _partners(self) if kind == "views" else None
        self._nnz = int(self.over_all(self._partner_count()[self._node_weight != 0].sum()))

    def _changed(self, weights: Tensor, self_loops: bool) -> Cliques:
        rest = self.ranks, self._every
        return Cliques(self.kind, self._ids, self._n_cliques, weights, self_loops, *rest)

    def _by_clique(self, x: Tensor, row_scale: Tensor | None = None) -> Tensor:
        """(n_cliques, b) sums of the rows of each clique; of all ranks where cliques cross them."""
        sums = spmm(self._sum_csr, x, row_scale=row_scale)
        if self.ranks is None or self._every is None:
            return sums
        return sum_to_rows(sums, self.ranks)

    def _partner_count(self) -> Tensor:
        return self._node_size if self._self_loops else (self._node_size - 1).clamp(min=0)

    @property
    def nnz(self) -> int:
        return self._nnz

    @property
    def has_negative(self) -> bool:
        return int(self.over_all((self._weights < 0).sum())) > 0 and self.nnz > 0

    @property
    def has_self_loops(self) -> bool:
        return self._self_loops and self.nnz > 0

    def _degree(self) -> Tensor:
        return self._node_weight * self._partner_count()

    def diagonal(self) -> Tensor:
        return self._node_weight if self._self_loops else torch.zeros_like(self._node_weight)

    def frobenius_sq(self) -> float:
        return float(self.over_all((self._degree() * self._node_weight).sum()))

    def matmul(self, x: Tensor) -> Tensor:
        if self._pairs is not None:
            return spmm(self._pairs, x)
        weight = self._node_weight.to(x.dtype)
        y = spmm(self._gather_csr, self._by_clique(x), row_scale=weight)
        return y if self._self_loops else y - weight[:, None] * x

    def edge_dot(self, x: Tensor, y: Tensor) -> Tensor:
        if self._pairs is not None:
            return edge_dot(self._pairs, x, y)
        r = edge_dot(self._gather_csr, x, self._by_clique(y)) * self._node_weight.to(x.dtype)
        return r if self._self_loops else r - edge_dot(self._self_csr, x, y)

    def edge_sqdist(self, x: Tensor) -> Tensor:
        if self._pairs is not None:
            return edge_sqdist(self._pairs, x, x)
        size = self._sizes.clamp(min=1).to(x.dtype)
        mean = self._by_clique(x, row_scale=size.reciprocal())
        spread = edge_sqdist(self._gather_csr, x, mean)  # (n,) ‖x_i − m‖²
        total = self._by_clique(spread[:, None])  # (n_cliques, 1)
        r = spread * self._node_size.to(x.dtype) + spmm(self._gather_csr, total)[:, 0]
        return r * self._node_weight.to(x.dtype)

    def covariance(self, x: Tensor, y: Tensor) -> Tensor:
        """Σ_c w_c (Σ_i x_i)(Σ_j y_j)ᵀ over the cliques, minus the diagonal's Σ_i w_i x_i y_iᵀ."""
        if self._pairs is not None:
            return graph_cov(self._pairs, x, y)
        weight = self._weights.to(x.dtype)[:, None]
        c = spmm(self._sum_csr, x).mT @ (weight * self._by_clique(y))
        return c if self._self_loops else c - graph_cov(self._self_csr, x, y)

    def scaled(self, weight: float) -> Cliques:
        return self._changed(self._weights * weight, self._self_loops)

    def weight_range(self) -> tuple[float, float]:
        return range_of(self._weights.abs())

    def to(self, device: torch.device) -> Cliques:
        if device == self.device:
            return self
        ids, weights = self._ids.to(device), self._weights.to(device)
        every = None if self._every is None else self._every.to(device)
        rest = self._self_loops, self.ranks, every
        return Cliques(self.kind, ids, self._n_cliques, weights, *rest)

    def without_diagonal(self) -> Cliques:
        if not self._self_loops:
            return self
        return self._changed(self._weights, False)

    def csr(self) -> Csr:
        """Partners in ascending order; no size depends on data, so torch.compile can trace it."""
        first, n_cols = (0, self.n) if self.ranks is None else (self.ranks.here.start, self.ranks.n)
        if self._every is None:  # cliques of rows of this rank
            starts, members = self._sum_csr.indptr[:-1], self._sum_csr.indices.long() + first
        else:
            starts = torch.nn.functional.pad(self._sizes.cumsum(0), (1, 0))[:-1]
            outside = int((self._every < 0).sum())
            members = torch.argsort(self._every, stable=True)[outside:]
        # members: clique by clique, ascending inside each
        start = _gather(starts, self._ids)  # (n,) where the node's clique starts
        count = self._partner_count()
        indptr = torch.nn.functional.pad(count.cumsum(0), (1, 0))
        rows = torch.arange(self.n, device=self.device).repeat_interleave(
            count, output_size=self._entries
        )
        at = start[rows] + torch.arange(self._entries, device=self.device) - indptr[rows]
        cols = members[at]
        if not self._self_loops:  # from the node itself on, the next member
            cols = torch.where(cols < rows + first, cols, members[at + 1])
        values = None if self._unit else self._node_weight[rows]
        whole = self.ranks is None
        return Csr(indptr, cols.to(index_dtype(n_cols)), values, n_cols, symmetric=whole)

    def entries(self, rows: Tensor, cols: Tensor) -> Tensor:
        first = 0 if self.ranks is None else self.ranks.here.start
        if self._every is not None:
            other = self._every[cols]
        else:  # rows of this rank are joined with each other only
            own = cols - first
            here = (own >= 0) & (own < self.n)
            other = torch.where(here, self._ids[torch.where(here, own, 0)], -1)
        joined = (self._ids[rows] == other) & (other >= 0)
        if not self._self_loops:
            joined &= rows + first != cols
        return self._node_weight[rows] * joined

    def hub_edges(self) -> HubEdges:
        nodes = torch.nonzero((self._ids >= 0) & (self._node_weight != 0))[:, 0]
        hubs = self._ids[nodes].cpu().numpy()
        if self.ranks is None or self._every is not None:
            return nodes.cpu().numpy(), hubs, self._n_cliques
        return nodes.cpu().numpy(), hubs + self.ranks.here.start, self.ranks.n  # rows are more

    def inner(self, other: Cliques) -> float:
        """Σ_ij A_ij B_ij of two clique unions, from the table of how many nodes each pair of
        cliques shares.
        """
        if self._every is None or other._every is None:  # what two cliques share is on one rank
            return float(self.over_all(self._inner(other, self._ids, other._ids)))
        return float(self._inner(other, self._every, other._every))

    def _inner(self, other: Cliques, own_ids: Tensor, other_ids: Tensor) -> Tensor:
        both = (own_ids >= 0) & (other_ids >= 0)
        pair = own_ids[both] * other._n_cliques + other_ids[both]
        keys, shared = pair.unique(return_counts=True)
        weight = self._weights[keys // other._n_cliques] * other._weights[keys % other._n_cliques]
        with_self = self._self_loops and other._self_loops
        pairs = shared * shared if with_self else shared * (shared - 1)
        return (pairs * weight).sum()


def views_relation(
    n_samples: int, n_views: int, device: torch.device, ranks: Ranks | None = None
) -> Cliques:
    """Rows stacked view-major: row v * n_samples + s is view v of sample s. ranks: of the rows."""
    ids = torch.arange(n_samples, device=device).repeat(n_views)
    weights = torch.ones(n_samples, dtype=torch.float64, device=device)
    return Cliques("views", ids, n_samples, weights, False, ranks)


def labels_relation(
    labels: Tensor, *, class_size_weight: bool, self_loops: bool, ranks: Ranks | None = None
) -> Cliques:
    """labels: (n,) integers; a negative label joins nothing. class_size_weight: 1/n_c instead of
    1. ranks: labels are those of this rank, and equal ones on any rank are joined.
    """
    every = labels if ranks is None else gather_rows(labels, ranks)
    ids = torch.full_like(every, -1, dtype=torch.int64)
    member = every >= 0
    classes, compact = every[member].unique(return_inverse=True)
    ids[member] = compact
    n_classes = classes.shape[0]
    weights = torch.ones(n_classes, dtype=torch.float64, device=labels.device)
    if class_size_weight:
        weights /= torch.bincount(compact, minlength=n_classes)
    if ranks is None:
        return Cliques("labels", ids, n_classes, weights, self_loops)
    return Cliques("labels", ids[ranks.here], n_classes, weights, self_loops, ranks, ids)


def _gather(per_clique: Tensor, ids: Tensor) -> Tensor:
    """(n,): per_clique[ids], and 0 where the id is negative."""
    if per_clique.shape[0] == 0:
        return torch.zeros(ids.shape[0], dtype=per_clique.dtype, device=ids.device)
    return per_clique[ids.clamp(min=0)] * (ids >= 0)


def _partners(cliques: Cliques) -> Csr | None:
    """The other view of every row, when there are two: n indices, no more than membership needs.

    One read of the partner instead of a sum that contains the row itself, so nothing cancels.
    """
    if cliques.n != 2 * cliques._n_cliques or cliques._n_cliques == 0:
        return None
    n, half = cliques.n, cliques._n_cliques
    indptr = torch.arange(n + 1, device=cliques.device)
    indices = ((indptr[:-1] + half) % n).to(index_dtype(n))
    values = None if cliques._unit else cliques._node_weight
    return Csr(indptr, indices, values, n, symmetric=True)


def _diagonal(weights: Tensor) -> Csr:
    """diag(node weights): what a clique's sums count for a node and itself."""
    n = weights.shape[0]
    indptr = torch.arange(n + 1, device=weights.device)
    return Csr(indptr, indptr[:-1].to(index_dtype(n)), weights, n, symmetric=True)


def _membership(ids: Tensor, n_cliques: int, sizes: Tensor) -> tuple[Csr, Csr]:
    """P (n, n_cliques) with P[i, ids[i]] = 1, and Pᵀ; each knows the other as its transpose."""
    n = ids.shape[0]
    index = index_dtype(max(n, n_cliques))
    member = ids >= 0
    gather_ptr = torch.zeros(n + 1, dtype=torch.int64, device=ids.device)
    torch.cumsum(member, 0, out=gather_ptr[1:])
    gather = Csr(gather_ptr, ids[member].to(index), None, n_cliques, symmetric=False)
    sum_ptr = torch.zeros(n_cliques + 1, dtype=torch.int64, device=ids.device)
    torch.cumsum(sizes, 0, out=sum_ptr[1:])
    order = torch.argsort(ids, stable=True)[n - int(sum_ptr[-1]) :]
    segment = Csr(sum_ptr, order.to(index), None, n, symmetric=False)
    gather._transposed, segment._transposed = segment, gather
    return gather, segment

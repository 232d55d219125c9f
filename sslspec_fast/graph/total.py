"""Sum of relations over the same nodes: weights add, entry by entry; no part is materialised."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from .._torch_private import constant_when_traced
from ..primitives.sparse.csr import Csr
from .build import csr_from_scipy
from .cliques import Cliques
from .partitioned import Partitioned, partitioned
from .relation import HubEdges, Relation, index_dtype
from .stored import CsrRelation

_numbers = itertools.count()


class SumRelation(Relation):
    """Σ_p G_p: any number of clique unions and at most one stored relation (stored ones are
    merged).
    """

    kind = "sum"

    def __init__(self, parts: tuple[Relation, ...]) -> None:
        self.parts = parts
        self._name = f"sum {next(_numbers)}"
        self.n, self.ranks = parts[0].n, parts[0].ranks
        self.device = parts[0].device

    @property
    def nnz(self) -> int:
        """Entries of all parts: a pair that two parts share is counted twice."""
        return sum(p.nnz for p in self.parts)

    @property
    def symmetric(self) -> bool:
        return all(p.symmetric for p in self.parts)

    @property
    def has_negative(self) -> bool:
        """Whether some part has a weight below zero (their sum may still be positive)."""
        return any(p.has_negative for p in self.parts)

    @property
    def has_self_loops(self) -> bool:
        return any(p.has_self_loops for p in self.parts)

    def _degree(self) -> Tensor:
        return _add([p.degree for p in self.parts])

    @property
    def column_degree(self) -> Tensor:
        return _add([p.column_degree for p in self.parts])

    def diagonal(self) -> Tensor:
        return _add([p.diagonal() for p in self.parts])

    def frobenius_sq(self) -> float:
        """Σ ‖G_p‖² + 2 Σ_{p<q} <G_p, G_q>."""
        total = sum(p.frobenius_sq() for p in self.parts)
        for i, p in enumerate(self.parts):
            total += 2 * sum(_inner(p, q) for q in self.parts[i + 1 :])
        return total

    def matmul(self, x: Tensor) -> Tensor:
        return _add([p.matmul(x) for p in self.parts])

    def edge_dot(self, x: Tensor, y: Tensor) -> Tensor:
        return _add([p.edge_dot(x, y) for p in self.parts])

    def edge_sqdist(self, x: Tensor) -> Tensor:
        return _add([p.edge_sqdist(x) for p in self.parts])

    def covariance(self, x: Tensor, y: Tensor) -> Tensor:
        return _add([p.covariance(x, y) for p in self.parts])

    def scaled(self, weight: float) -> SumRelation:
        return SumRelation(tuple(p.scaled(weight) for p in self.parts))

    def weight_range(self) -> tuple[float, float]:
        low, high = zip(*(p.weight_range() for p in self.parts), strict=True)
        return min(low), max(high)

    def to(self, device: torch.device) -> SumRelation:
        return (
            self if device == self.device else SumRelation(tuple(p.to(device) for p in self.parts))
        )

    def without_diagonal(self) -> SumRelation:
        return SumRelation(tuple(p.without_diagonal() for p in self.parts))

    def csr(self) -> Csr:
        return self._merged(self._name)

    @constant_when_traced
    def _merged(self, name: str) -> Csr:
        """The sum of the parts' entries. torch.compile guards the name, which no other sum has: a
        traced program never meets the entries of another graph.
        """
        merged = self.parts[0].csr().to_scipy()
        for part in self.parts[1:]:
            merged = merged + part.csr().to_scipy()
        symmetric = (self.symmetric or None) if self.ranks is None else False
        return csr_from_scipy(merged, symmetric=symmetric).to(self.device)

    def entries(self, rows: Tensor, cols: Tensor) -> Tensor:
        return _add([p.entries(rows, cols) for p in self.parts])

    def hub_edges(self) -> HubEdges:
        nodes, hubs, count = [], [], 0
        for part in self.parts:
            part_nodes, part_hubs, part_count = part.hub_edges()
            nodes.append(part_nodes)
            hubs.append(part_hubs + count)
            count += part_count
        return np.concatenate(nodes), np.concatenate(hubs), count


def add(a: Relation, b: Relation) -> Relation:
    """a + b, flattened; stored parts are merged into one."""
    parts = [*_parts(a), *_parts(b)]
    stored: list[Relation] = [p for p in parts if isinstance(p, (CsrRelation, Partitioned))]
    cliques = [p for p in parts if p not in stored]
    if len(stored) > 1:
        merged = stored[0].csr().to_scipy() + stored[1].csr().to_scipy()
        symmetric = True if all(p.symmetric for p in stored) else None
        if a.ranks is None:
            stored = [CsrRelation(csr_from_scipy(merged, symmetric=symmetric).to(a.device))]
        else:
            rows = csr_from_scipy(merged, symmetric=False).to(a.device)
            stored = [partitioned(rows, a.ranks, symmetric)]
    stored = [p for p in stored if p.nnz > 0 or not cliques]
    rest = (*cliques, *stored)
    return rest[0] if len(rest) == 1 else SumRelation(rest)


def nothing(like: Relation) -> Relation:
    """No pair between the rows of another relation."""
    size = like.n if like.ranks is None else like.ranks.n
    indptr = torch.zeros(like.n + 1, dtype=torch.int64, device=like.device)
    indices = torch.zeros(0, dtype=index_dtype(size), device=like.device)
    a = Csr(indptr, indices, None, size, symmetric=like.ranks is None)
    return CsrRelation(a) if like.ranks is None else partitioned(a, like.ranks, True)


def _parts(r: Relation) -> tuple[Relation, ...]:
    return r.parts if isinstance(r, SumRelation) else (r,)


def _add(terms: list[Tensor]) -> Tensor:
    out = terms[0]
    for term in terms[1:]:
        out = out + term
    return out


def _inner(a: Relation, b: Relation) -> float:
    if isinstance(a, Cliques) and isinstance(b, Cliques):
        return a.inner(b)
    if isinstance(a, (CsrRelation, Partitioned)):
        a, b = b, a
    pattern = b.csr()  # b is the stored one: nothing implicit is materialised
    values = a.entries(pattern.rows(), pattern.indices.long())
    values = values if pattern.values is None else values * pattern.values.double()
    return float(a.over_all(values.sum()))

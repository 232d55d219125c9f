"""Relation: what every representation of G must be able to do. One subclass per representation.

A relation is immutable and already checked; `PairGraph` is the public face, relations do the work.
Degrees, diagonals and norms are float64 whatever the weights are: they are cheap, and closed forms
need them exact.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import scipy  # its submodules load on first use
import torch
from torch import Tensor

from ..primitives.sparse.csr import Csr
from ..ranks import Ranks
from ..ranks.differentiable import sum_over_ranks

_F = TypeVar("_F", bound=Callable[..., Any])
HubEdges = tuple[np.ndarray, np.ndarray, int]


class Relation(ABC):
    """An (n, n) matrix of pair weights, or the n rows of it that this rank holds.

    ranks: who holds the rows, or None where one process holds all. With ranks, whatever has a value
    per row is that of this rank's rows, every other fact is that of all rows, and products and
    facts are to be asked for on all ranks.
    """

    kind: str
    n: int
    device: torch.device
    clique_ids: Tensor | None = None
    ranks: Ranks | None = None

    @property
    @abstractmethod
    def nnz(self) -> int:
        """Number of stored (or implied) non-zero entries."""

    @property
    def symmetric(self) -> bool:
        return True

    @property
    @abstractmethod
    def has_negative(self) -> bool:
        """Whether some weight is below zero."""

    @property
    @abstractmethod
    def has_self_loops(self) -> bool:
        """Whether some diagonal entry is stored."""

    @cached_property
    def degree(self) -> Tensor:
        """(n,) float64 row sums."""
        return self._degree()

    @property
    def column_degree(self) -> Tensor:
        """(n,) float64 column sums."""
        return self.degree

    @property
    def volume(self) -> float:
        """The sum of all weights."""
        return float(self.over_all(self.degree.sum()))

    def over_all(self, x: Tensor) -> Tensor:
        """x, a fact of this rank's rows, summed over ranks."""
        return x if self.ranks is None else sum_over_ranks(x, self.ranks)

    @abstractmethod
    def _degree(self) -> Tensor: ...

    @abstractmethod
    def diagonal(self) -> Tensor:
        """(n,) float64."""

    @abstractmethod
    def frobenius_sq(self) -> float:
        """Σ_ij G_ij²."""

    @abstractmethod
    def matmul(self, x: Tensor) -> Tensor:
        """G X, x: (n, b)."""

    @abstractmethod
    def edge_dot(self, x: Tensor, y: Tensor) -> Tensor:
        """(n,) Σ_j G_ij <x_i, y_j>."""

    @abstractmethod
    def edge_sqdist(self, x: Tensor) -> Tensor:
        """(n,) Σ_j G_ij ‖x_i − x_j‖²."""

    @abstractmethod
    def covariance(self, x: Tensor, y: Tensor) -> Tensor:
        """(d, e) Xᵀ G Y = Σ_ij G_ij x_i y_jᵀ; the part of this rank's rows."""

    def centred_covariance(self, x: Tensor) -> Tensor:
        """(d, d) Xᵀ (G − d dᵀ/vol) X, G symmetric."""
        weighted = (x * self.degree.to(x.dtype)[:, None]).sum(0)
        return self.covariance(x, x) - weighted[:, None] * weighted / self.degree.sum().to(x.dtype)

    @abstractmethod
    def scaled(self, weight: float) -> Relation:
        """weight * G, weight != 0."""

    @abstractmethod
    def weight_range(self) -> tuple[float, float]:
        """The smallest and the largest |weight|, (1, 1) without any."""

    @abstractmethod
    def to(self, device: torch.device) -> Relation: ...

    @abstractmethod
    def without_diagonal(self) -> Relation: ...

    @abstractmethod
    def csr(self) -> Csr:
        """G as stored entries: Σ of clique sizes squared for an implicit relation."""

    @abstractmethod
    def entries(self, rows: Tensor, cols: Tensor) -> Tensor:
        """(len(rows),) float64: G[rows, cols]."""

    @abstractmethod
    def hub_edges(self) -> HubEdges:
        """(nodes, hubs, number of hubs): a bipartite graph with the connected components of G and
        O(n + nnz) edges.

        Cliques become stars around a hub, so that components never need the materialised cliques.
        Over ranks the nodes are this rank's rows, and all ranks number the hubs alike.
        """


def rescaled(relation: Relation, weight: float) -> Relation:
    """weight * G, weight != 0; refused where a weight would become 0 or infinite."""
    out = relation.scaled(weight)
    low, high = out.weight_range()
    if not 0.0 < low <= high < math.inf:
        given = relation.weight_range()
        raise ValueError(
            f"PairGraph: w * g must fit in float64, got w = {weight:g} and weights of size "
            f"{given[0]:g} to {given[1]:g}"
        )
    return out


def range_of(sizes: Tensor) -> tuple[float, float]:
    """(smallest, largest) of absolute weights, (1, 1) without any."""
    return (float(sizes.min()), float(sizes.max())) if sizes.numel() else (1.0, 1.0)


def index_dtype(n: int) -> torch.dtype:
    """The narrowest index type for n columns: int32 halves what a product reads besides X."""
    return torch.int32 if n < 2**31 else torch.int64


def cuthill_mckee(a: Any, symmetric: bool) -> np.ndarray:
    """(n,) int64: the order of reverse Cuthill and McKee of a scipy CSR matrix with n >= 0 rows."""
    if a.shape[0] == 0:  # scipy asks for a row
        return np.zeros(0, dtype=np.int64)
    order = scipy.sparse.csgraph.reverse_cuthill_mckee(a, symmetric_mode=symmetric)
    return order.astype(np.int64)

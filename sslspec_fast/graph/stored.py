"""A stored relation: G as compressed sparse rows, with one scalar factor so that `w * g` copies
nothing.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..primitives.sparse.csr import Csr
from ..primitives.sparse.edges import edge_dot, edge_sqdist
from ..primitives.sparse.graph_cov import graph_cov, graph_cov_centred
from ..primitives.sparse.spmm import spmm
from .relation import HubEdges, Relation, range_of


class CsrRelation(Relation):
    """scale * A, A in compressed-row form with sorted, unique columns and no stored zeros."""

    kind = "csr"

    def __init__(self, a: Csr, scale: float = 1.0) -> None:
        self._a = a
        self._scale = scale
        self.n = a.n_rows
        self.device = a.device
        # looked at now, so that products under torch.compile meet no host code
        self._symmetric = a.symmetric

    @property
    def nnz(self) -> int:
        return self._a.nnz

    @property
    def symmetric(self) -> bool:
        return self._symmetric

    @property
    def has_negative(self) -> bool:
        if self._a.values is None or self.nnz == 0:
            return self._scale < 0 and self.nnz > 0
        worst = self._a.values.min() if self._scale > 0 else self._a.values.max()
        return bool(worst * self._scale < 0)

    @property
    def has_self_loops(self) -> bool:
        return bool((self.diagonal() != 0).any())

    def _degree(self) -> Tensor:
        return self._a.row_sums() * self._scale

    @property
    def column_degree(self) -> Tensor:
        return self.degree if self.symmetric else self._a.t().row_sums() * self._scale

    def diagonal(self) -> Tensor:
        return self._a.diagonal() * self._scale

    def frobenius_sq(self) -> float:
        if self._a.values is None:
            return self.nnz * self._scale**2
        return float(self._a.values.double().square().sum()) * self._scale**2

    def matmul(self, x: Tensor) -> Tensor:
        return spmm(self._a, x, alpha=self._scale)

    def edge_dot(self, x: Tensor, y: Tensor) -> Tensor:
        return self._rescale(edge_dot(self._a, x, y))

    def edge_sqdist(self, x: Tensor) -> Tensor:
        return self._rescale(edge_sqdist(self._a, x, x))

    def covariance(self, x: Tensor, y: Tensor) -> Tensor:
        return self._rescale(graph_cov(self._a, x, y))

    def centred_covariance(self, x: Tensor) -> Tensor:
        degree = self.degree if self._scale == 1.0 else self.degree / self._scale
        return self._rescale(graph_cov_centred(self._a, x, degree.to(x.dtype)))

    def _rescale(self, r: Tensor) -> Tensor:
        return r if self._scale == 1.0 else r * self._scale

    def scaled(self, weight: float) -> CsrRelation:
        return CsrRelation(self._a, self._scale * weight)

    def weight_range(self) -> tuple[float, float]:
        low, high = (1.0, 1.0) if self._a.values is None else range_of(self._a.values.abs())
        return low * abs(self._scale), high * abs(self._scale)

    def to(self, device: torch.device) -> CsrRelation:
        return self if device == self.device else CsrRelation(self._a.to(device), self._scale)

    def without_diagonal(self) -> CsrRelation:
        if not self.has_self_loops:
            return self
        a = self._a
        keep = a.rows() != a.indices
        indptr = torch.zeros_like(a.indptr)
        dropped = torch.zeros(self.n, dtype=torch.int64, device=self.device)
        dropped[a.indices[~keep].long()] = 1
        torch.cumsum(a.indptr.diff() - dropped, 0, out=indptr[1:])
        values = None if a.values is None else a.values[keep]
        return CsrRelation(Csr(indptr, a.indices[keep], values, self.n, a._symmetric), self._scale)

    def csr(self) -> Csr:
        return self._a.scaled(self._scale)

    def entries(self, rows: Tensor, cols: Tensor) -> Tensor:
        """Columns are sorted inside each row, so row * n + column is sorted: one binary search per
        pair.
        """
        keys = self._a.rows() * self.n + self._a.indices
        wanted = rows * self.n + cols
        at = torch.searchsorted(keys, wanted).clamp(max=max(self.nnz - 1, 0))
        if self.nnz == 0:
            return torch.zeros(rows.shape[0], dtype=torch.float64, device=self.device)
        found = (keys[at] == wanted).to(torch.float64)
        return (
            found * self._scale * (1.0 if self._a.values is None else self._a.values[at].double())
        )

    def hub_edges(self) -> HubEdges:
        """One hub per column that has an entry would do; using the column itself as hub keeps the
        ids simple.
        """
        rows = self._a.rows().cpu().numpy()
        cols = self._a.indices.cpu().numpy().astype(np.int64)
        ends = np.concatenate([rows, np.arange(self.n)])
        hubs = np.concatenate([cols, np.arange(self.n)])
        return ends, hubs, self.n

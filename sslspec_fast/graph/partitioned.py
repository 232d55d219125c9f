"""Stored relation of which every rank of a process group has some rows.

The columns of a rank's rows are its own rows and those of other ranks that the entries point to
(`Halo`). A product fetches those, and its gradient for them goes back to the ranks that hold them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy  # its submodules load on first use
import torch
from torch import Tensor

from ..primitives.sparse.csr import Csr
from ..primitives.sparse.edges import edge_dot, edge_sqdist
from ..primitives.sparse.graph_cov import graph_cov
from ..primitives.sparse.spmm import spmm
from ..ranks import Ranks
from ..ranks.halo import Halo
from ..ranks.lockstep import ends
from ..ranks.traffic import all_to_all
from .relation import HubEdges, Relation, index_dtype, range_of

__all__ = ["Partitioned", "exchanged", "partitioned"]


class Partitioned(Relation):
    """scale * A: a (n_r, n_r + h) holds the entries of this rank's rows, columns being those rows
    and then the h rows of `halo`. symmetric: whether the whole matrix is.
    """

    kind = "csr"

    def __init__(self, a: Csr, halo: Halo, symmetric: bool, scale: float = 1.0) -> None:
        self._a, self._halo, self._scale, self._symmetric = a, halo, scale, symmetric
        self.ranks: Ranks = halo.ranks
        self.n, self.device = a.n_rows, a.device
        # by rows of this rank, what other ranks send back for them
        order = torch.argsort(halo.asked, stable=True)
        counts = torch.bincount(halo.asked, minlength=self.n)
        indptr = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        width = len(halo.asked)
        self._returned = Csr(indptr, order.to(index_dtype(max(width, 1))), None, width, False)
        local = torch.tensor([a.nnz, int((self._own_diagonal() != 0).sum()), self._negatives()])
        self._nnz, self._loops, self._below = self.over_all(local).tolist()

    def _negatives(self) -> int:
        if self._a.values is None:
            return self._a.nnz if self._scale < 0 else 0
        return int((self._a.values * self._scale < 0).sum())

    def _own_diagonal(self) -> Tensor:
        return self._a.diagonal() if self.n else torch.zeros(0, dtype=torch.float64)

    # ---- facts

    @property
    def nnz(self) -> int:
        return self._nnz

    @property
    def symmetric(self) -> bool:
        return self._symmetric

    @property
    def has_negative(self) -> bool:
        return self._below > 0

    @property
    def has_self_loops(self) -> bool:
        return self._loops > 0

    def _degree(self) -> Tensor:
        if not self.n:
            return torch.zeros(0, dtype=torch.float64, device=self.device)
        return self._a.row_sums() * self._scale

    @property
    def column_degree(self) -> Tensor:
        if self._symmetric:
            return self.degree
        values = torch.ones_like(self._a.indices, dtype=torch.float64)
        values = values if self._a.values is None else self._a.values.double()
        sums = values.new_zeros(self._a.n_cols).index_add(0, self._a.indices.long(), values)
        own, others = sums.split([self.n, self._halo.size])
        returned: Tensor = _Returned.apply(others[:, None], self._halo, self._returned)
        return (own + returned[:, 0]) * self._scale

    def diagonal(self) -> Tensor:
        return self._own_diagonal().to(self.device) * self._scale

    def frobenius_sq(self) -> float:
        squares = torch.tensor(float(self._a.nnz), dtype=torch.float64, device=self.device)
        if self._a.values is not None:
            squares = self._a.values.double().square().sum()
        return float(self.over_all(squares)) * self._scale**2

    def weight_range(self) -> tuple[float, float]:
        low, high = (1.0, 1.0) if self._a.values is None else range_of(self._a.values.abs())
        low, high = ends(low, high, self.ranks.group)
        return low * abs(self._scale), high * abs(self._scale)

    # ---- products

    def extended(self, x: Tensor) -> Tensor:
        """(n_r + h, b): the rows that the columns of this rank's entries stand for."""
        fetched: Tensor = _Fetched.apply(x, self._halo, self._returned)
        return torch.cat([x, fetched])

    def matmul(self, x: Tensor) -> Tensor:
        return spmm(self._a, self.extended(x), alpha=self._scale)

    def edge_dot(self, x: Tensor, y: Tensor) -> Tensor:
        return edge_dot(self._a, x, self.extended(y)) * self._scale

    def edge_sqdist(self, x: Tensor) -> Tensor:
        return edge_sqdist(self._a, x, self.extended(x)) * self._scale

    def covariance(self, x: Tensor, y: Tensor) -> Tensor:
        return graph_cov(self._a, x, self.extended(y)) * self._scale

    # ---- other forms

    def scaled(self, weight: float) -> Partitioned:
        return Partitioned(self._a, self._halo, self._symmetric, self._scale * weight)

    def to(self, device: torch.device) -> Partitioned:
        if device == self.device:
            return self
        columns = self._halo.columns.to(device)
        halo = Halo(columns, self.ranks)
        return Partitioned(self._a.to(device), halo, self._symmetric, self._scale)

    def without_diagonal(self) -> Partitioned:
        if not self.has_self_loops:
            return self
        a = self._a
        rows = a.rows()
        keep = rows != a.indices
        counts = torch.bincount(rows[keep], minlength=self.n)
        indptr = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        values = None if a.values is None else a.values[keep]
        rest = Csr(indptr, a.indices[keep], values, a.n_cols, False)
        return Partitioned(rest, self._halo, self._symmetric, self._scale)

    def rows(self) -> Csr:
        """(n_r, n_r + h): the columns are those rows that `extended` gives."""
        return self._a.scaled(self._scale)

    def square(self) -> Csr:
        """A with an empty row for each of the halo: (n_r + h, n_r + h)."""
        a = self.rows()
        indptr = torch.cat([a.indptr, a.indptr[-1:].expand(self._halo.size)])
        return Csr(indptr, a.indices, a.values, a.n_cols, False)

    def csr(self) -> Csr:
        """This rank's rows with global columns: (n_r, N)."""
        a = self._a.scaled(self._scale)
        own = torch.arange(self.n, device=self.device) + self.ranks.here.start
        columns = torch.cat([own, self._halo.columns])[a.indices.long()]
        rows = a.rows()
        order = torch.argsort(rows * max(self.ranks.n, 1) + columns)
        values = None if a.values is None else a.values[order]
        n = self.ranks.n
        return Csr(a.indptr, columns[order].to(index_dtype(n)), values, n, False)

    def entries(self, rows: Tensor, cols: Tensor) -> Tensor:
        raise ValueError(f"PairGraph: this needs all rows in one process, got {_spread(self)}")

    def hub_edges(self) -> HubEdges:
        """As of `CsrRelation`, with the columns of all ranks as hubs."""
        a, own = self.csr(), np.arange(self.n)
        rows, columns = a.rows().cpu().numpy(), a.indices.cpu().numpy().astype(np.int64)
        hubs = np.concatenate([columns, own + self.ranks.here.start])
        return np.concatenate([rows, own]), hubs, self.ranks.n


def _spread(relation: Relation) -> str:
    assert relation.ranks is not None
    return f"rows over {relation.ranks.size} ranks"


class _Fetched(torch.autograd.Function):
    """The rows of other ranks in the halo; their gradient is sent back and added up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, halo: Halo, returned: Csr) -> Tensor:
        ctx.halo, ctx.returned = halo, returned
        fetched: Tensor = halo.start(x).wait()
        return fetched

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Returned.apply(grad, ctx.halo, ctx.returned), None, None


class _Returned(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, halo: Halo, returned: Csr) -> Tensor:
        ctx.halo, ctx.returned = halo, returned
        received = halo.send_back(x.contiguous())
        if not returned.nnz:
            return x.new_zeros(returned.n_rows, x.shape[1])
        return spmm(returned, received)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Fetched.apply(grad, ctx.halo, ctx.returned), None, None


def partitioned(a: Csr, ranks: Ranks, symmetric: bool | None = None) -> Partitioned:
    """Of this rank's rows (n_r, N) with global columns; symmetric: None to find out."""
    here = ranks.here
    indices = a.indices.long()
    near = (indices >= here.start) & (indices < here.stop)
    columns, place = torch.unique(indices[~near], return_inverse=True)
    local = torch.empty_like(indices)
    local[near] = indices[near] - here.start
    local[~near] = place + a.n_rows
    width = a.n_rows + len(columns)
    rows = a.rows()
    order = torch.argsort(rows * max(width, 1) + local)
    values = None if a.values is None else a.values[order]
    own = Csr(a.indptr, local[order].to(index_dtype(max(width, 1))), values, width, False)
    if symmetric is None:
        symmetric = _symmetric(a, ranks)
    return Partitioned(own, Halo(columns, ranks), symmetric)


def exchanged(
    rows: Tensor, cols: Tensor, values: Tensor, ranks: Ranks
) -> tuple[Tensor, Tensor, Tensor]:
    """Entries (global rows, global columns, float64 values), each now on the rank of its column."""
    last = torch.tensor([*ranks.offsets[1:], ranks.n], device=cols.device)
    owner = torch.searchsorted(last, cols, right=True)
    order = torch.argsort(owner, stable=True)
    wanted = torch.bincount(owner, minlength=ranks.size)
    ones = [1] * ranks.size
    received = all_to_all(wanted, ones, ones, ranks.group).tolist()
    send = wanted.tolist()
    pairs = torch.stack([rows, cols], 1)[order]
    pairs = all_to_all(pairs, send, received, ranks.group)
    values = all_to_all(values[order], send, received, ranks.group)
    return pairs[:, 0], pairs[:, 1], values


def _symmetric(a: Csr, ranks: Ranks) -> bool:
    """Whether the whole matrix is, up to the rounding of values."""
    rows, cols = a.rows() + ranks.here.start, a.indices.long()
    kind = np.float32 if a.values is not None and a.values.dtype == torch.float32 else np.float64
    values = torch.ones(len(rows), dtype=torch.float64, device=a.device)
    values = values if a.values is None else a.values.double()
    i, j, w = exchanged(rows, cols, values, ranks)  # entries of columns that are rows here
    shape = (a.n_rows, ranks.n)
    first = ranks.here.start
    arrays = (w.cpu().numpy(), ((j - first).cpu().numpy(), i.cpu().numpy()))
    flipped = scipy.sparse.coo_array(arrays, shape=shape).tocsr()
    flipped.sort_indices()
    own = a.to_scipy()
    same = np.array_equal(own.indptr, flipped.indptr) and np.array_equal(
        own.indices, flipped.indices
    )
    slack = 8 * np.finfo(kind).eps
    same = same and bool((np.abs(own.data - flipped.data) <= slack * np.abs(own.data)).all())
    return ends(float(same), 0.0, ranks.group)[0] == 1.0

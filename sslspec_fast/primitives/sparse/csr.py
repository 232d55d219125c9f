"""Csr: one checked sparse matrix in compressed-row form, the argument that `spmm`, `edges` and
`graph_cov` share.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import scipy  # its submodules load on first use
import torch
from torch import Tensor

from ..._register import grouping
from ..._seam import view


class Sparse(NamedTuple):
    """The arrays of A and of its transpose, which is absent when A is symmetric."""

    indptr: Tensor
    indices: Tensor
    values: Tensor | None = None
    t_indptr: Tensor | None = None
    t_indices: Tensor | None = None
    t_values: Tensor | None = None

    def view(self) -> tuple[Any, ...]:
        """A as the core takes it, CsrView of csrc/sparse/csr.h."""
        return view(self.indptr), view(self.indices), view(self.values)

    def t(self) -> Sparse:
        """The same of Aᵀ."""
        if self.t_indptr is None or self.t_indices is None:
            return self
        return Sparse(self.t_indptr, self.t_indices, self.t_values, *self[:3])


# In the schema of an operator, without and with the transpose, and in the body of one.
CSR_ARGS = "Tensor indptr, Tensor indices, Tensor? values"
SPARSE_ARGS = f"{CSR_ARGS}, Tensor? t_indptr, Tensor? t_indices, Tensor? t_values"
of_csr, of_sparse = grouping(3, lambda args: Sparse(*args)), grouping(6, Sparse._make)


class Csr:
    """A sparse (n_rows, n_cols) matrix `A`; the arrays are taken as they are and never modified.

    indptr: (n_rows + 1,) int64.  indices: (nnz,) int32 or int64, sorted and unique in each row.
    values: (nnz,) float32 or float64, or None when every stored entry is 1.
    symmetric: None when unknown; the first use of the property `symmetric` then compares A with its
    transpose.
    """

    __slots__ = (
        "_symmetric",
        "_transposed",
        "indices",
        "indptr",
        "n_cols",
        "n_rows",
        "values",
    )

    def __init__(
        self,
        indptr: Tensor,
        indices: Tensor,
        values: Tensor | None,
        n_cols: int,
        symmetric: bool | None = None,
    ) -> None:
        self.indptr = indptr
        self.indices = indices
        self.values = values
        self.n_rows = indptr.shape[0] - 1
        self.n_cols = n_cols
        self._symmetric = symmetric
        self._transposed: Csr | None = None

    def arrays(self) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.indptr, self.indices, self.values

    def view(self) -> tuple[Any, ...]:
        """As the core takes it, CsrView of csrc/sparse/csr.h."""
        return view(self.indptr), view(self.indices), view(self.values)

    def with_transpose(self) -> Sparse:
        """The leading arguments of an operator on A."""
        if self.symmetric:
            return Sparse(*self.arrays())
        return Sparse(*self.arrays(), *self.t().arrays())

    @property
    def nnz(self) -> int:
        return self.indices.shape[0]

    @property
    def device(self) -> torch.device:
        return self.indptr.device

    @property
    def symmetric(self) -> bool:
        if self._symmetric is None:
            self._symmetric = self.n_rows == self.n_cols and _equal(self, self._transpose())
            if self._symmetric:
                self._transposed = None  # A serves as its own transpose: drop the copy
        return self._symmetric

    def t(self) -> Csr:
        """Aᵀ, built once; `self` when A is known to be symmetric."""
        return self if self._symmetric else self._transpose()

    def _transpose(self) -> Csr:
        if self._transposed is None:
            self._transposed = _build_transpose(self)
        return self._transposed

    def rows(self) -> Tensor:
        """(nnz,) int64: the row of every stored entry."""
        counts = self.indptr.diff()
        ids = torch.arange(self.n_rows, device=self.device)
        return ids.repeat_interleave(counts, output_size=self.nnz)

    def row_sums(self) -> Tensor:
        """(n_rows,) float64: A 1."""
        if self.values is None:
            return self.indptr.diff().to(torch.float64)
        return torch.segment_reduce(self.values.double(), "sum", offsets=self.indptr, initial=0.0)

    def diagonal(self) -> Tensor:
        """(min(n_rows, n_cols),) float64: a_ii."""
        if self.device.type == "cpu":  # a search in each row, without an index per entry
            return torch.from_numpy(self._borrow().diagonal().astype(np.float64))
        out = torch.zeros(min(self.n_rows, self.n_cols), dtype=torch.float64, device=self.device)
        at = torch.nonzero(self.rows() == self.indices)[:, 0]
        out[self.indices[at].long()] = 1.0 if self.values is None else self.values[at].double()
        return out

    def _borrow(self) -> scipy.sparse.csr_array:
        """The host arrays as scipy's, without a copy where scipy's index types allow it."""
        values = np.ones(self.nnz, np.int8) if self.values is None else self.values.numpy()
        narrow = self.indices.dtype == torch.int32 and self.nnz < 2**31
        index = np.int32 if narrow else np.int64
        arrays = (
            values,
            self.indices.numpy().astype(index, copy=False),
            self.indptr.numpy().astype(index, copy=False),
        )
        return scipy.sparse.csr_array(arrays, shape=(self.n_rows, self.n_cols), copy=False)

    def scaled(self, weight: float) -> Csr:
        """weight * A with float64 values: what is computed from them is, and must agree."""
        if weight == 1.0:
            return self
        if self.values is None:
            values = torch.full((self.nnz,), weight, dtype=torch.float64, device=self.device)
        else:
            values = self.values.double() * weight
        return Csr(self.indptr, self.indices, values, self.n_cols, self._symmetric)

    def with_identity(self) -> Csr:
        """A + I for a square A without a diagonal."""
        out = _with_identity(self)
        if not self.symmetric:
            out._transposed = _with_identity(self.t())
        return out

    def to(self, device: torch.device) -> Csr:
        if device == self.device:
            return self
        values = None if self.values is None else self.values.to(device)
        arrays = (self.indptr.to(device), self.indices.to(device), values)
        return Csr(*arrays, self.n_cols, self._symmetric)

    def to_scipy(self) -> scipy.sparse.csr_array:
        """A copy in host memory, float64."""
        if self.values is None:
            values = np.ones(self.nnz)
        else:
            values = self.values.detach().cpu().numpy().astype(np.float64)
        arrays = (values, self.indices.cpu().numpy(), self.indptr.cpu().numpy())
        return scipy.sparse.csr_array(arrays, shape=(self.n_rows, self.n_cols), copy=True)

    def to_torch(self, dtype: torch.dtype | None = None) -> Tensor:
        """A copy as torch's sparse CSR tensor, in the dtype of the values (torch's default dtype
        when they are implicit) unless told otherwise.
        """
        if dtype is None:
            dtype = torch.get_default_dtype() if self.values is None else self.values.dtype
        if self.values is None:
            values = torch.ones(self.nnz, dtype=dtype, device=self.device)
        else:
            values = self.values.to(dtype, copy=True)
        index = self.indices.dtype if self.nnz < 2**31 else torch.int64
        pattern = self.indptr.to(index, copy=True), self.indices.to(index, copy=True)
        shape = (self.n_rows, self.n_cols)
        with warnings.catch_warnings():  # torch calls its sparse CSR support beta, once per process
            warnings.simplefilter("ignore", UserWarning)
            return torch.sparse_csr_tensor(*pattern, values, shape)


def _with_identity(a: Csr) -> Csr:
    """Entry k of row i moves i places on, and one more if it is behind the diagonal."""
    rows, own = a.rows(), torch.arange(a.n_rows, device=a.device)
    behind = a.indices > rows
    before = torch.nn.functional.pad(behind.cumsum(0), (1, 0))[a.indptr]
    at = torch.arange(a.nnz, device=a.device) + rows + behind
    diagonal = a.indptr[1:] + own - before.diff()
    indices = a.indices.new_empty(a.nnz + a.n_rows)
    indices[at], indices[diagonal] = a.indices, own.to(indices.dtype)
    values = None
    if a.values is not None:
        values = a.values.new_ones(a.nnz + a.n_rows)
        values[at] = a.values
    indptr = a.indptr + torch.arange(a.n_rows + 1, device=a.device)
    return Csr(indptr, indices, values, a.n_cols, a.symmetric)


def _build_transpose(a: Csr) -> Csr:
    """Stable counting sort by column on the host (scipy), stable argsort elsewhere."""
    if a.device.type == "cpu":
        flipped = a._borrow().tocsc()
        indptr = torch.from_numpy(flipped.indptr.astype(np.int64))
        indices = torch.from_numpy(flipped.indices).to(a.indices.dtype)
        new_values = None if a.values is None else torch.from_numpy(flipped.data)
    else:
        order = torch.argsort(a.indices, stable=True)
        counts = torch.bincount(a.indices, minlength=a.n_cols)
        indptr = torch.zeros(a.n_cols + 1, dtype=torch.int64, device=a.device)
        torch.cumsum(counts, 0, out=indptr[1:])
        indices = a.rows()[order].to(a.indices.dtype)
        new_values = None if a.values is None else a.values[order]
    return Csr(indptr, indices, new_values, a.n_rows, a._symmetric)


def _equal(a: Csr, b: Csr) -> bool:
    """Same pattern, and values equal up to the rounding of sums taken in another order."""
    if not (torch.equal(a.indptr, b.indptr) and torch.equal(a.indices, b.indices)):
        return False
    if a.values is None or b.values is None or a.nnz == 0:
        return True
    slack = 8 * torch.finfo(a.values.dtype).eps
    return bool(((a.values - b.values).abs() <= slack * a.values.abs()).all())

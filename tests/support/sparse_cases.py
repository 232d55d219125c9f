"""Sparse matrices that the tests of spmm, edges and graph_cov share, with their dense form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from sslspec_fast.primitives.sparse.csr import Csr

DTYPES = (torch.float64, torch.float32)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
# widths around one register, several registers, and the widest panel, at every instruction set
WIDTHS = (1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33, 48, 63, 64, 65, 100, 127, 128, 129, 200, 257)


def matrix(
    n: int, m: int, *, values: torch.dtype | None = None, wide: bool = False, seed: int = 0
) -> tuple[Csr, Tensor]:
    """A random (n, m) matrix with empty rows, one row longer than a batch, and its dense form."""
    rng = np.random.default_rng(seed)
    pattern = rng.random((n, m)) < min(1.0, 6 / max(m, 1))
    pattern[rng.random(n) < 0.2] = False
    if n > 2:
        pattern[n // 2] = True
    weights = rng.normal(size=(n, m)) if values is not None else np.ones((n, m))
    return pack(scipy.sparse.csr_array(weights * pattern), values, wide, symmetric=False)


def symmetric_matrix(
    n: int, *, values: torch.dtype | None = None, wide: bool = False, loops: bool = True
) -> tuple[Csr, Tensor]:
    """A random symmetric (n, n) matrix with empty rows and one full row and column."""
    rng = np.random.default_rng(n)
    pattern = rng.random((n, n)) < min(1.0, 4 / max(n, 1))
    empty = rng.random(n) < 0.2
    pattern[empty], pattern[:, empty] = False, False
    pattern[n // 2] = ~empty
    weights = rng.normal(size=(n, n)) if values is not None else np.ones((n, n))
    upper = np.triu(weights * pattern, 1)
    full = upper + upper.T
    if loops:
        full += np.diag(np.diag(weights) * (rng.random(n) < 0.5))
    return pack(scipy.sparse.csr_array(full), values, wide, symmetric=True)


def large(n: int) -> Csr:
    """A symmetric (n, n) matrix of ones with about 12 entries a row, too large for a dense form."""
    rng = np.random.default_rng(n)
    i, j = rng.integers(0, n, 6 * n), rng.integers(0, n, 6 * n)
    a = scipy.sparse.coo_array((np.ones(6 * n), (i, j)), shape=(n, n)).tocsr()
    a = (a + a.T).tocsr()
    a.sort_indices()
    indptr = torch.from_numpy(a.indptr.astype(np.int64))
    return Csr(indptr, torch.from_numpy(a.indices), None, n, symmetric=True)


def pack(
    a: scipy.sparse.csr_array, values: torch.dtype | None, wide: bool, symmetric: bool
) -> tuple[Csr, Tensor]:
    a.sort_indices()
    indptr = torch.from_numpy(a.indptr.astype(np.int64))
    indices = torch.from_numpy(a.indices.astype(np.int64 if wide else np.int32))
    data = None if values is None else torch.from_numpy(a.data).to(values)
    dense = torch.from_numpy(a.toarray())
    if values is not None:
        dense = dense.to(values).double()
    return Csr(indptr, indices, data, a.shape[1], symmetric), dense


def dense_rows(n: int, d: int, dtype: torch.dtype, seed: int = 1) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g, dtype=torch.float64).to(dtype)


def strided(x: Tensor) -> Tensor:
    """The same values in a view with a row stride that no alignment expects."""
    holder = torch.full((x.shape[0], x.shape[1] + 5), float("nan"), dtype=x.dtype)
    holder[:, 3 : 3 + x.shape[1]] = x
    return holder[:, 3 : 3 + x.shape[1]]


def assert_close(value: Tensor, exact: Tensor, scale: Tensor | None = None) -> None:
    """Relative error in the Frobenius norm; `scale` replaces the size of a result that cancels."""
    assert value.shape == exact.shape
    size = (exact if scale is None else scale).double().norm().clamp_min(1e-30)
    error = (value.double() - exact.double()).norm() / size
    assert error < TOLERANCE[value.dtype], f"relative error {error:.2e}"


def with_threads(count: int, function: Callable[[], Any]) -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        return function()
    finally:
        torch.set_num_threads(before)

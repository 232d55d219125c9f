"""as_operator: every accepted input becomes a `SymmetricOperator`, checked once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from sslspec_fast.operators.base import SymmetricOperator
from sslspec_fast.operators.composite import (
    CallableOperator,
    DenseOperator,
    LowRankOperator,
    SumOperator,
)
from sslspec_fast.operators.csr import CsrOperator
from sslspec_fast.operators.graph import adjacency

__all__ = ["array_kind", "as_operator", "from_array", "low_rank", "to_array"]

_FLOATS = (torch.float32, torch.float64)


def array_kind(A: Any) -> str:
    """ "numpy", "torch" or "cupy": the array type that results for `A` should have."""
    if isinstance(A, (Tensor, SymmetricOperator)) or _is_graph(A):
        return "torch"
    if type(A).__module__.split(".")[0] in ("cupy", "cupyx"):
        return "cupy"
    return "numpy"


def _is_graph(A: Any) -> bool:
    from sslspec_fast.graph import PairGraph

    return isinstance(A, PairGraph)


def from_array(x: Any) -> Tensor:
    """numpy, torch or cupy array as a tensor, without a copy where memory allows it."""
    if isinstance(x, Tensor):
        return x.detach()
    if type(x).__module__.split(".")[0] == "cupy":
        return torch.from_dlpack(x)
    return torch.from_numpy(np.ascontiguousarray(x))


def to_array(x: Tensor, kind: str) -> Any:
    if kind == "torch":
        return x
    if kind == "numpy":
        return x.cpu().numpy()
    import cupy  # type: ignore[import-not-found, unused-ignore]

    return cupy.from_dlpack(x)


def low_rank(factor: Any, coefficients: Any = None) -> SymmetricOperator:
    """U diag(c) U^T.   factor: (n, r); coefficients: (r,) or None for ones."""
    c = None if coefficients is None else from_array(coefficients)
    return LowRankOperator(from_array(factor), c)


def as_operator(A: Any, name: str = "eigsh") -> SymmetricOperator:
    """Operator, PairGraph, scipy / torch / cupy sparse, LinearOperator-like, or dense square.

    ValueError when A is not square, not symmetric or not finite; TypeError for complex data or an
    object that cannot multiply.
    """
    if isinstance(A, SymmetricOperator):
        return A
    if isinstance(A, (list, tuple)) and A and all(isinstance(p, SymmetricOperator) for p in A):
        return SumOperator(list(A))
    if _is_graph(A):
        return adjacency(A)
    shape = tuple(getattr(A, "shape", ()))
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(
            f"{name}: A must be square (n, n), got {type(A).__name__} of shape {shape}"
        )
    if "complex" in str(getattr(A, "dtype", "")):
        raise TypeError(f"{name}: A must be real, got dtype {A.dtype}")
    if scipy.sparse.issparse(A):
        return _from_scipy(A, name)
    if isinstance(A, Tensor):
        if A.layout != torch.strided:
            return _from_torch_sparse(A, name)
        return _from_dense(A.detach(), name)
    module = type(A).__module__
    if module.startswith("cupyx.scipy.sparse") and hasattr(A, "tocsr"):
        csr = A.tocsr()
        arrays = [torch.from_dlpack(x) for x in (csr.indptr, csr.indices, csr.data)]
        return _checked_csr(arrays[0], arrays[1], arrays[2], shape[0], name)
    if isinstance(A, np.ndarray) or module.split(".")[0] == "cupy":
        return _from_dense(from_array(A), name)
    product = getattr(A, "matmat", None) or getattr(A, "dot", None)
    if product is None and hasattr(A, "__matmul__"):
        product = A.__matmul__
    if product is None:
        raise TypeError(
            f"{name}: A must be an operator, PairGraph, sparse or dense matrix or have .matmat, "
            f"got {type(A).__name__}"
        )
    return CallableOperator(
        product, shape[0], torch.float64, torch.device("cpu"), array="numpy",
        bounds=(-math.inf, math.inf),
    )  # fmt: skip


def _from_scipy(A: Any, name: str) -> SymmetricOperator:
    if A.dtype.kind not in "fiub":
        raise TypeError(f"{name}: A must be real, got dtype {A.dtype}")
    matrix = scipy.sparse.csr_array(A)
    if not matrix.has_canonical_format:
        matrix = matrix.copy()
        matrix.sum_duplicates()
    data = matrix.data if matrix.dtype in (np.float32, np.float64) else matrix.data.astype(float)
    if not np.isfinite(data).all():
        raise ValueError(
            f"{name}: A must be finite, got {int((~np.isfinite(data)).sum())} bad values"
        )
    arrays = (data, matrix.indices, matrix.indptr)
    matrix = scipy.sparse.csr_array(arrays, shape=matrix.shape)
    # values that are all one need not be read by a product
    ones = bool(data.size) and bool((data == 1).all())
    values = None if ones else torch.from_numpy(data)
    indptr, indices = torch.from_numpy(matrix.indptr), torch.from_numpy(matrix.indices)
    op = CsrOperator(indptr, indices, values, n=matrix.shape[0])
    op.dtype = torch.float32 if data.dtype == np.float32 else torch.float64
    return _probe_symmetry(op, name)


def _checked_csr(
    indptr: Tensor, indices: Tensor, values: Tensor, n: int, name: str
) -> SymmetricOperator:
    values = values if values.dtype in _FLOATS else values.double()
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"{name}: A must be finite")
    op = CsrOperator(indptr, indices, values, n=n)
    return _probe_symmetry(op, name)


def _probe_symmetry(op: SymmetricOperator, name: str) -> SymmetricOperator:
    """x^T A y = y^T A x on random x, y: catches any asymmetry and needs no transpose of A."""
    if op.n == 0:
        return op
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(op.n, 2, dtype=torch.float64, generator=generator).to(op.device)
    y = op.matmat(x)
    a, b = float(x[:, 0] @ y[:, 1]), float(x[:, 1] @ y[:, 0])
    scale = max(float(x.norm() * y.norm()), 1e-300)
    if not abs(a - b) <= 64 * torch.finfo(op.dtype).eps * scale:
        raise ValueError(
            f"{name}: A must be symmetric, got x'Ay = {a:.10g} and y'Ax = {b:.10g} for random x, y"
        )
    return op


def _from_torch_sparse(A: Tensor, name: str) -> SymmetricOperator:
    csr = A.detach().to_sparse_csr() if A.layout != torch.sparse_csr else A.detach()
    if csr.device.type == "cpu":
        arrays = (csr.values().numpy(), csr.col_indices().numpy(), csr.crow_indices().numpy())
        return _from_scipy(scipy.sparse.csr_array(arrays, shape=tuple(csr.shape)), name)
    return _checked_csr(csr.crow_indices(), csr.col_indices(), csr.values(), csr.shape[0], name)


def _from_dense(A: Tensor, name: str) -> DenseOperator:
    A = A if A.dtype in _FLOATS else A.double()
    if A.numel() and not bool(torch.isfinite(A).all()):
        raise ValueError(
            f"{name}: A must be finite, got {int((~torch.isfinite(A)).sum())} bad values"
        )
    scale = float(A.abs().max()) if A.numel() else 0.0
    worst = float((A - A.T).abs().max()) if A.numel() else 0.0
    if worst > 64 * torch.finfo(A.dtype).eps * scale:
        raise ValueError(
            f"{name}: A must be symmetric, got max |A - A^T| = {worst:.3g}, max |A| = {scale:.3g}"
        )
    return DenseOperator(A)

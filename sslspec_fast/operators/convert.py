"""as_operator: every accepted input becomes a `SymmetricOperator`, checked once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from .. import _checks as check
from .._arrays import check_real, is_cupy, known_array, real_array
from ..graph import PairGraph
from ..graph.build import scipy_from_torch, summed
from .base import ShiftOperator, SymmetricOperator, refuse_grad
from .composite import (
    CallableOperator,
    CenteredOperator,
    DenseOperator,
    LowRankOperator,
)
from .csr import CsrOperator
from .graph import adjacency

__all__ = [
    "array_kind",
    "as_operator",
    "centered",
    "low_rank",
    "shift",
    "to_csr",
    "trial",
]

_FAR, _UP = 2.0**400, 500  # products beyond, or below the inverse, are made in another unit
_FOREIGN = 1e-6  # asymmetry that products in float32 may show


def array_kind(A: Any) -> str:
    """ "numpy", "torch" or "cupy": the array type that results for `A` should have."""
    if isinstance(A, (Tensor, SymmetricOperator, PairGraph)):
        return "torch"
    if type(A).__module__.split(".")[0] in ("cupy", "cupyx"):
        return "cupy"
    return "numpy"


def low_rank(factor: Any, coefficients: Any = None) -> SymmetricOperator:
    """The operator U diag(c) U^T.

    Args:
        factor: U (n, r), array or tensor, real and finite.
        coefficients: c (r,), or None for ones.

    Returns:
        `LowRankOperator`.

    Raises:
        ValueError or TypeError: shapes that do not fit, values that are not real and finite.
        NotImplementedError: a tensor that requires a gradient.
    """
    refuse_grad("low_rank", "factor", factor)
    refuse_grad("low_rank", "coefficients", coefficients)
    c = None if coefficients is None else real_array("low_rank", "coefficients", coefficients)
    return LowRankOperator(real_array("low_rank", "factor", factor), c)


def shift(op: Any, a: Any, b: Any) -> SymmetricOperator:
    """The operator a * A + b * I.

    Args:
        op: A, as `as_operator` takes it.
        a, b: finite numbers or 0-dim tensors.

    Returns:
        A `SymmetricOperator`.

    Raises:
        ValueError or TypeError: a or b is no finite number, or A as in `as_operator`.
        NotImplementedError: a tensor that requires a gradient.
    """
    for name, value in (("a", a), ("b", b)):
        refuse_grad("shift", name, value)
        check.number("shift", name, value.item() if getattr(value, "ndim", None) == 0 else value)
    return ShiftOperator(as_operator(op, "shift"), a, b)


def centered(op: Any) -> SymmetricOperator:
    """The operator H A H, H = I - 1 1^T / n (classical MDS, centred LS-SimCLR).

    Args:
        op: A, as `as_operator` takes it.

    Returns:
        A `SymmetricOperator`.

    Raises:
        ValueError, TypeError or NotImplementedError: as in `as_operator`.
    """
    return CenteredOperator(as_operator(op, "centered"))


def as_operator(A: Any, name: str = "eigsh") -> SymmetricOperator:
    """What `eigsh` multiplies by, from anything that stands for a symmetric matrix.

    Args:
        A: operator, `PairGraph`, scipy / torch / cupy sparse, LinearOperator-like, or dense (n, n):
            an array of NumPy, torch, CuPy or any library with DLPack.
        name: what errors begin with.

    Returns:
        A `SymmetricOperator`; A itself where it is one.

    Raises:
        ValueError: A is not square, not symmetric or not finite.
        TypeError: complex data, or an object that cannot multiply.
        NotImplementedError: a tensor that requires a gradient.
    """
    refuse_grad(name, "A", A)
    if isinstance(A, SymmetricOperator):
        return A
    if isinstance(A, PairGraph):
        return adjacency(A)
    if isinstance(A, (list, tuple)):
        raise TypeError(
            f"{name}: A must be one matrix or operator, got a {type(A).__name__}; np.asarray makes "
            "a matrix of nested lists, operators.SumOperator one operator of several"
        )
    A = known_array(A)
    products = (getattr(A, method, None) for method in ("matmat", "dot", "__matmul__"))
    product = next((p for p in products if p is not None), None)
    if product is None or not hasattr(A, "shape"):
        raise TypeError(
            f"{name}: A must be an operator, PairGraph, sparse or dense matrix or have .shape and "
            f".matmat, got {type(A).__name__}"
        )
    shape = tuple(A.shape)
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(
            f"{name}: A must be square (n, n), got {type(A).__name__} of shape {shape}"
        )
    if "complex" in str(getattr(A, "dtype", "")):
        raise TypeError(
            f"{name}: A must be real, got dtype {A.dtype}; a Hermitian A = R + iS has the "
            "eigenvalues of the symmetric [[R, -S], [S, R]], each twice"
        )
    check_real(name, "A", A)
    if scipy.sparse.issparse(A):
        return _from_scipy(A, name)
    if isinstance(A, Tensor):
        if A.layout != torch.strided:
            return _from_torch_sparse(A, name)
        return _from_dense(real_array(name, "A", A), name)
    module = type(A).__module__
    if module.startswith("cupyx.scipy.sparse") and hasattr(A, "tocsr"):
        csr = A.tocsr()
        arrays = [torch.from_dlpack(x) for x in (csr.indptr, csr.indices, csr.data)]
        return _checked_csr(arrays[0], arrays[1], arrays[2], shape[0], name)
    if isinstance(A, np.ndarray) or is_cupy(A):
        return _from_dense(real_array(name, "A", A), name)
    op = CallableOperator(product, shape[0], torch.float64, torch.device("cpu"), array="numpy")
    return _probe_symmetry(op, name, _FOREIGN)  # whatever the precision of its products


def _from_scipy(A: Any, name: str) -> SymmetricOperator:
    check.compressed_scipy(name, "A", A)
    matrix = A if A.format == "csr" else None
    if matrix is None or not A.has_canonical_format:
        matrix = summed(A)  # in a dtype that holds the sums
    values = real_array(name, "A", matrix.data)
    indptr, indices = torch.from_numpy(matrix.indptr), torch.from_numpy(matrix.indices)
    # values that are all one need not be read by a product
    ones = bool(values.numel()) and bool((values == 1).all())
    op = CsrOperator(indptr, indices, None if ones else values, n=matrix.shape[0], trusted=True)
    op.dtype = values.dtype
    return _probe_symmetry(op, name)


def _checked_csr(
    indptr: Tensor, indices: Tensor, values: Tensor, n: int, name: str
) -> SymmetricOperator:
    check.compressed(name, "A", indptr, indices, n, n)
    op = CsrOperator(indptr, indices, real_array(name, "A", values), n=n, trusted=True)
    return _probe_symmetry(op, name)


def _probe_symmetry(
    op: SymmetricOperator, name: str, rounding: float | None = None
) -> SymmetricOperator:
    """x^T A y = y^T A x on random x, y: catches any asymmetry and needs no transpose of A."""
    if op.n == 0:
        return op
    x, y, exponent = trial(op)
    a, b = float(x[:, 0] @ y[:, 1]), float(x[:, 1] @ y[:, 0])
    scale = float(x.norm() * y.norm())
    rounding = 64 * torch.finfo(op.dtype).eps if rounding is None else rounding
    if not abs(a - b) <= rounding * scale:
        rule = "symmetric" if math.isfinite(a - b) else "finite"
        unit = f" in units of 2^{exponent}" if exponent else ""
        raise ValueError(
            f"{name}: A must be {rule}, got x'Ay = {a:.10g} and y'Ax = {b:.10g}{unit} for random "
            "x, y"
        )
    return op


def trial(op: SymmetricOperator) -> tuple[Tensor, Tensor, int]:
    """(X, Y, e) with A X = 2^e Y for random X (n, 2): Y shows the size of A, wherever that is.

    e is 0 where the entries of A X are far from the ends of float64.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(op.n, 2, dtype=torch.float64, generator=generator).to(op.device)
    y, scale = op.matmat(x), 0
    size = float(y.abs().max())
    for up in (_UP, 2 * _UP, -_UP) if not 1 / _FAR <= size <= _FAR else ():
        other = op.matmat(x * 2.0**up)
        bound = float(other.abs().max())
        # an operator that works in float32 may overflow, or lose what it has
        if math.isfinite(bound) and (bound > 1 / _FAR or size == math.inf):
            y, scale, size = other, up, bound
            break
    exponent = 0
    if scale or 0.0 < size < 1 / _FAR or _FAR < size < math.inf:
        exponent = math.frexp(size)[1] if size else 0
        y = y * 2.0 ** -(exponent // 2) * 2.0 ** -(exponent - exponent // 2)
    return x, y, exponent - scale


def to_csr(A: Tensor, name: str) -> Tensor:
    """A sparse torch matrix in CSR layout."""
    if A.layout not in (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc):
        raise TypeError(f"{name}: A must be sparse COO, CSR or CSC, got layout {A.layout}")
    return A if A.layout == torch.sparse_csr else A.to_sparse_csr()


def _from_torch_sparse(A: Tensor, name: str) -> SymmetricOperator:
    A = A.detach()
    if A.device.type == "cpu":
        return _from_scipy(scipy_from_torch(A, name), name)
    # duplicates are added in a dtype that holds the sums
    narrow = A.dtype in (torch.float16, torch.bfloat16, torch.float32)
    csr = to_csr(A.to(torch.float32 if narrow else torch.float64), name)
    return _checked_csr(csr.crow_indices(), csr.col_indices(), csr.values(), csr.shape[0], name)


def _from_dense(A: Tensor, name: str) -> DenseOperator:
    scale = float(A.abs().max()) if A.numel() else 0.0
    worst = float((A - A.T).abs().max()) if A.numel() else 0.0
    if worst > 64 * torch.finfo(A.dtype).eps * scale:
        raise ValueError(
            f"{name}: A must be symmetric, got max |A - A^T| = {worst:.3g}, max |A| = {scale:.3g}"
        )
    return DenseOperator(A)

"""A x = lambda B x as an ordinary problem: B = b F F^T, (F^-1 A F^-T) y = b lambda y,
x = F^-T y / sqrt(b). b is a power of 4 that leaves F near 1, whatever the unit of B.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from ..._arrays import real_array
from ...graph.build import scipy_from_torch, summed
from ...operators.base import SymmetricOperator, refuse_grad
from ...operators.composite import CallableOperator, DenseOperator, ScaledOperator
from ..linalg.sparse_cholesky import NotPositiveDefinite, SparseCholesky
from .scaling import power_near

__all__ = ["ReducedPencil", "SparsePencil", "reduce"]

_ASYMMETRY = 1e-10  # of B, relative to its largest entry
_Map = Callable[[Tensor], Tensor]


@dataclass
class ReducedPencil:
    """op: F^-1 A F^-T. back: eigenvectors y of it to B-orthonormal x. into: F^T x, which takes x to
    a multiple of y. times: F y. size: b, by which the eigenvalues of op exceed those of the pencil.
    """

    op: SymmetricOperator
    back: _Map
    into: _Map
    times: _Map
    size: float


class SparsePencil(CallableOperator):
    """F^-1 A F^-T of a sparse B = F F^T. `inner` is A, `mass` B, `factor` F."""

    def __init__(self, inner: SymmetricOperator, mass: Any, factor: SparseCholesky) -> None:
        def apply(x: np.ndarray) -> np.ndarray:
            y = torch.from_numpy(factor.solve_transposed(x.astype(np.float64)))
            return factor.solve(inner.matmat(y).numpy())

        super().__init__(apply, inner.n, torch.float64, inner.device, array="numpy")
        self.inner, self.mass, self.factor = inner, mass, factor


def reduce(op: SymmetricOperator, B: Any) -> ReducedPencil:
    """B: (n,), sparse, or dense; symmetric positive definite."""
    n = op.n
    refuse_grad("eigsh", "B", B)
    if isinstance(B, Tensor) and B.layout != torch.strided:
        B = scipy_from_torch(B.detach(), "eigsh: B")
    if scipy.sparse.issparse(B):
        if B.shape != (n, n):
            raise ValueError(f"eigsh: B must be ({n}, {n}), got {B.shape}")
        B = summed(B)
        off = scipy.sparse.coo_array(B)
        if np.any((off.row != off.col) & (off.data != 0)):
            return _sparse(op, B)
        B = B.diagonal()
    if not isinstance(B, Tensor) and not hasattr(B, "__array__") and not hasattr(B, "__dlpack__"):
        raise TypeError(f"eigsh: B must be an array or a sparse matrix, got {type(B).__name__}")
    b = real_array("eigsh", "B", B).to(device=op.device, dtype=torch.float64)
    if b.shape == (n,):
        return _diagonal(op, b)
    if b.shape != (n, n):
        raise ValueError(f"eigsh: B must be ({n},) or ({n}, {n}), got {tuple(b.shape)}")
    return _dense(op, b)


def _diagonal(op: SymmetricOperator, b: Tensor) -> ReducedPencil:
    if op.n and not (bool(torch.isfinite(b).all()) and float(b.min()) > 0):
        raise ValueError(f"eigsh: B must be positive, got smallest entry {float(b.min()):.3g}")
    size = power_near(float(b.max())) if op.n else 1.0
    scale, unit = (b / size).rsqrt(), size**-0.5

    def times(x: Tensor) -> Tensor:
        return x / scale.to(x.dtype)[:, None]

    def back(y: Tensor) -> Tensor:
        return y * (scale * unit).to(y.dtype)[:, None]

    return ReducedPencil(ScaledOperator(op, scale), back, times, times, size)


def _sparse(op: SymmetricOperator, b: Any) -> ReducedPencil:
    """Beside an A on the host: SuperLU runs there."""
    if op.device.type != "cpu":
        raise NotImplementedError(f"eigsh: a sparse B must be on the CPU, got A on {op.device}")
    values = real_array("eigsh", "B", b.data)
    largest = float(values.abs().max())
    difference = abs(b - b.T)
    if difference.nnz and float(difference.max()) > _ASYMMETRY * largest:
        raise ValueError("eigsh: B must be symmetric")
    size = power_near(largest)
    unit = size**-0.5
    mass = scipy.sparse.csr_array(b, dtype=np.float64) / size
    try:
        factor = SparseCholesky(mass)
    except NotPositiveDefinite as failure:
        raise ValueError(f"eigsh: B must be positive definite, {failure}") from failure

    def back(y: Tensor) -> Tensor:
        return torch.from_numpy(factor.solve_transposed(y.double().numpy())).to(y) * unit

    def into(x: Tensor) -> Tensor:
        return torch.from_numpy(factor.times_transposed(x.double().numpy())).to(x)

    def times(y: Tensor) -> Tensor:
        return torch.from_numpy(factor.times(y.double().numpy())).to(y)

    return ReducedPencil(SparsePencil(op, mass, factor), back, into, times, size)


def _dense(op: SymmetricOperator, b: Tensor) -> ReducedPencil:
    n = op.n
    if float((b - b.T).abs().max()) > _ASYMMETRY * float(b.abs().max()):
        raise ValueError("eigsh: B must be symmetric")
    size = power_near(float(b.abs().max())) if n else 1.0
    unit = size**-0.5
    factor, failed = torch.linalg.cholesky_ex(b / size)
    if int(failed):
        raise ValueError(
            f"eigsh: B must be positive definite, Cholesky failed at row {int(failed) - 1} of {n}"
        )

    def solve(y: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(factor.T.to(y.dtype), y, upper=True)

    def back(y: Tensor) -> Tensor:
        return solve(y) * unit

    def into(x: Tensor) -> Tensor:
        return factor.T.to(x.dtype) @ x

    def times(y: Tensor) -> Tensor:
        return factor.to(y.dtype) @ y

    if isinstance(op, DenseOperator):
        half = torch.linalg.solve_triangular(factor, op.matrix.double(), upper=False)
        full = torch.linalg.solve_triangular(factor, half.T.contiguous(), upper=False)
        return ReducedPencil(DenseOperator((full + full.T) / 2), back, into, times, size)

    def apply(x: Tensor) -> Tensor:
        y = op.matmat(solve(x))
        return torch.linalg.solve_triangular(factor.to(x.dtype), y, upper=False)

    reduced = CallableOperator(apply, n, torch.float64, op.device)
    return ReducedPencil(reduced, back, into, times, size)

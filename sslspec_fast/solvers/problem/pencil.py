"""A x = lambda B x as an ordinary problem: B = b F F^T, (F^-1 A F^-T) y = b lambda y,
x = F^-T y / sqrt(b). b is a power of 4 that leaves F near 1, whatever the unit of B.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from ..._arrays import real_array
from ...graph.build import scipy_from_torch, summed
from ...operators.base import SymmetricOperator
from ...operators.composite import CallableOperator, DenseOperator, ScaledOperator
from ...operators.convert import refuse_grad
from .scaling import power_near

__all__ = ["reduce"]


Back = Callable[[Tensor], Tensor]


def reduce(op: SymmetricOperator, B: Any) -> tuple[SymmetricOperator, Back, float]:
    """(F^-1 A F^-T, y -> x, b). B: (n,) or diagonal sparse, or dense positive definite."""
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
            raise ValueError(
                "eigsh: B must be diagonal (array (n,) or diagonal sparse) or dense, got a sparse "
                "matrix with off-diagonal entries; pass B.toarray() if it fits in memory"
            )
        B = B.diagonal()
    if not isinstance(B, Tensor) and not hasattr(B, "__array__") and not hasattr(B, "__dlpack__"):
        raise TypeError(
            f"eigsh: B must be an array or a diagonal sparse matrix, got {type(B).__name__}"
        )
    b = real_array("eigsh", "B", B).to(device=op.device, dtype=torch.float64)
    if b.shape == (n,):
        if n and not (bool(torch.isfinite(b).all()) and float(b.min()) > 0):
            raise ValueError(f"eigsh: B must be positive, got smallest entry {float(b.min()):.3g}")
        size = power_near(float(b.max())) if n else 1.0
        scale, unit = (b / size).rsqrt(), size**-0.5
        return ScaledOperator(op, scale), lambda y: y * (scale * unit).to(y.dtype)[:, None], size
    if b.shape != (n, n):
        raise ValueError(f"eigsh: B must be ({n},) or ({n}, {n}), got {tuple(b.shape)}")
    if float((b - b.T).abs().max()) > 1e-10 * float(b.abs().max()):
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

    if isinstance(op, DenseOperator):
        half = torch.linalg.solve_triangular(factor, op.matrix.double(), upper=False)
        full = torch.linalg.solve_triangular(factor, half.T.contiguous(), upper=False)
        return DenseOperator((full + full.T) / 2), back, size

    def apply(x: Tensor) -> Tensor:
        y = op.matmat(solve(x))
        return torch.linalg.solve_triangular(factor.to(x.dtype), y, upper=False)

    return CallableOperator(apply, n, torch.float64, op.device), back, size

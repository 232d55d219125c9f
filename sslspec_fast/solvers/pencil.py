"""A x = lambda B x as an ordinary problem: B = F F^T, (F^-1 A F^-T) y = lambda y, x = F^-T y."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from sslspec_fast.operators.base import SymmetricOperator
from sslspec_fast.operators.composite import CallableOperator, DenseOperator, ScaledOperator
from sslspec_fast.operators.convert import real_array, refuse_grad

__all__ = ["reduce"]


def reduce(op: SymmetricOperator, B: Any) -> tuple[SymmetricOperator, Callable[[Tensor], Tensor]]:
    """(F^-1 A F^-T, y -> F^-T y). B: (n,) or diagonal sparse, or dense positive definite."""
    n = op.n
    refuse_grad("eigsh", "B", B)
    if isinstance(B, Tensor) and B.layout != torch.strided:
        entries = B.detach().cpu().to_sparse_coo().coalesce()
        rows, cols = entries.indices().numpy()
        B = scipy.sparse.coo_array((entries.values().numpy(), (rows, cols)), shape=tuple(B.shape))
    if scipy.sparse.issparse(B):
        if B.shape != (n, n):
            raise ValueError(f"eigsh: B must be ({n}, {n}), got {B.shape}")
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
        scale = b.rsqrt()
        return ScaledOperator(op, scale), lambda y: y * scale.to(y.dtype)[:, None]
    if b.shape != (n, n):
        raise ValueError(f"eigsh: B must be ({n},) or ({n}, {n}), got {tuple(b.shape)}")
    if float((b - b.T).abs().max()) > 1e-10 * float(b.abs().max()):
        raise ValueError("eigsh: B must be symmetric")
    factor, failed = torch.linalg.cholesky_ex(b)
    if int(failed):
        raise ValueError(
            f"eigsh: B must be positive definite, Cholesky failed at row {int(failed) - 1} of {n}"
        )

    def back(y: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(factor.T.to(y.dtype), y, upper=True)

    if isinstance(op, DenseOperator):
        half = torch.linalg.solve_triangular(factor, op.matrix.double(), upper=False)
        full = torch.linalg.solve_triangular(factor, half.T.contiguous(), upper=False)
        return DenseOperator((full + full.T) / 2), back

    def apply(x: Tensor) -> Tensor:
        y = op.matmat(back(x))
        return torch.linalg.solve_triangular(factor.to(x.dtype), y, upper=False)

    return CallableOperator(apply, n, torch.float64, op.device), back

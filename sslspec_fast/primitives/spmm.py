"""spmm: Y = alpha * s_r ⊙ (A (s_c ⊙ X)) for a sparse A in compressed-row form and a tall X.

Gradient: dX = alpha * s_c ⊙ (Aᵀ (s_r ⊙ dY)); for a symmetric A the same arrays serve both
directions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .csr import Csr


def spmm(
    a: Csr,
    x: Tensor,
    *,
    alpha: float = 1.0,
    row_scale: Tensor | None = None,
    col_scale: Tensor | None = None,
) -> Tensor:
    """alpha * row_scale ⊙ (A (col_scale ⊙ X)), differentiable in x.

    x: (a.n_cols, b) float32 or float64; row_scale: (a.n_rows,); col_scale: (a.n_cols,). Returns
    (a.n_rows, b).
    """
    if col_scale is not None:
        x = x * col_scale[:, None].to(x.dtype)
    y = _Spmm.apply(x, a)
    if row_scale is not None:
        y = y * row_scale[:, None].to(x.dtype)
    return y if alpha == 1.0 else y * alpha


class _Spmm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, a: Csr) -> Tensor:  # type: ignore[no-untyped-def, override]
        ctx.a = a
        return _product(a, x)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def, override]
        a: Csr = ctx.a
        return _Spmm.apply(grad, a if a.symmetric else a.t()), None


def _product(a: Csr, x: Tensor) -> Tensor:
    values = torch.ones(a.nnz, dtype=x.dtype, device=x.device) if a.values is None else a.values
    indptr = a.indptr.to(a.indices.dtype)
    matrix = torch.sparse_csr_tensor(
        indptr,
        a.indices,
        values.to(x.dtype),
        (a.n_rows, a.n_cols),
        check_invariants=False,
    )
    return matrix @ x

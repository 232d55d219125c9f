"""graph_cov: C = Xᵀ A Y = Σ_ij A_ij x_i y_jᵀ for a sparse A, without storing A Y."""

from __future__ import annotations

from torch import Tensor

from .csr import Csr
from .spmm import spmm


def graph_cov(a: Csr, x: Tensor, y: Tensor) -> Tensor:
    """(d, e): Σ_ij A_ij x_i y_jᵀ, differentiable in x (a.n_rows, d) and y (a.n_cols, e)."""
    return x.mT @ spmm(a, y)

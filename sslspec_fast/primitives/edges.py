"""edges: sums over the stored entries of a sparse A that look at both ends of an edge.

edge_dot     r_i = Σ_j A_ij <x_i, y_j>
edge_sqdist  r_i = Σ_j A_ij ‖x_i − y_j‖²
"""

from __future__ import annotations

import torch
from torch import Tensor

from .csr import Csr
from .spmm import spmm


def edge_dot(a: Csr, x: Tensor, y: Tensor) -> Tensor:
    """(a.n_rows,): r_i = Σ_j A_ij <x_i, y_j>, differentiable in x (a.n_rows, d) and y (a.n_cols,
    d).
    """
    return (x * spmm(a, y)).sum(1)


def edge_sqdist(a: Csr, x: Tensor, y: Tensor) -> Tensor:
    """(a.n_rows,): r_i = Σ_j A_ij ‖x_i − y_j‖², differentiable in x (a.n_rows, d) and y (a.n_cols,
    d).
    """
    distances = (x[a.rows()] - y[a.indices.long()]).square().sum(1)
    if a.values is not None:
        distances = distances * a.values.to(x.dtype)
    return torch.zeros(a.n_rows, dtype=x.dtype, device=x.device).index_add(0, a.rows(), distances)

"""What both parts of ``pairwise`` do before a call of the core."""

from __future__ import annotations

import torch
from torch import Tensor

from .._seam import _C, CODE

__all__ = ["through_scale", "workspace"]


def workspace(a: Tensor, b: Tensor | None, backward: bool) -> Tensor:
    """Scratch memory of one call, O((n + m) d): packed operands and statistics."""
    n, d = a.shape
    m = n if b is None else b.shape[0]
    return a.new_empty(_C.pairwise_workspace_size(n, m, d, CODE[a.dtype], b is None, backward))


def through_scale(a: Tensor, product: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of a and scale from sum_j W_ij b_j, which is overwritten."""
    if scale.ndim == 0:
        grad_scale = torch.dot(a.reshape(-1), product.reshape(-1))
        return product.mul_(scale), grad_scale
    grad_scale = (a * product).sum(1)
    return product.mul_(scale[:, None]), grad_scale

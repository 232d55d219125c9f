"""What both parts of ``pairwise`` do before a call of the core."""

from __future__ import annotations

import torch
from torch import Tensor

from ..._dtypes import computed_dtype
from ..._seam import _C, CODE, unit_stride

__all__ = ["multiplied", "pair_ids", "through_scale", "workspace"]


def pair_ids(n: int, device: torch.device) -> Tensor:
    """(2n,) int32: both views of a sample share its number."""
    return torch.arange(n, dtype=torch.int32, device=device).repeat(2)


def workspace(a: Tensor, b: Tensor | None, backward: bool) -> Tensor:
    """Scratch memory of one call, O((n + m) d): packed operands and statistics."""
    n, d = a.shape
    m = n if b is None else b.shape[0]
    size = _C.pairwise_workspace_size(n, m, d, CODE[a.dtype], b is None, backward)
    return a.new_empty(size, dtype=computed_dtype(a))


def multiplied(x: Tensor, scale: Tensor, half: bool) -> Tensor:
    """Rows as the softmax kernels of the CPU take them: those that are exact in bfloat16 (`half`)
    as that, where the processor multiplies it and one scale serves all.
    """
    half = half and x.dtype == torch.float32 and scale.ndim == 0 and _C.bf16_products()
    return unit_stride(x.bfloat16() if half else x)


def through_scale(a: Tensor, product: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of a and scale from sum_j W_ij b_j, which is overwritten."""
    if scale.ndim == 0:
        grad_scale = torch.dot(a.reshape(-1), product.reshape(-1))
        return product.mul_(scale), grad_scale
    grad_scale = (a * product).sum(1)
    return product.mul_(scale[:, None]), grad_scale

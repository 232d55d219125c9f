"""The operators of ``gram`` in plain torch: what a double backward differentiates.

On the cheaper side, but with its min(n, d)^2 matrix stored. Products of bfloat16 factors (`half`)
are for the fused kernels alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..._seam import _C

__all__ = ["barlow_twins", "sqnorm", "vicreg"]


def sqnorm(
    x: Tensor, y: Tensor | None, *, off_diagonal: bool, center: bool, half: bool = False
) -> Tensor:
    y = x if y is None else y
    if center:
        x, y = x - x.mean(0), y - y.mean(0)
    if _C.gram_uses_dual(x.shape[0], x.shape[1], off_diagonal):
        total = ((x @ x.T) * (y @ y.T)).sum()
        return total - (x * y).sum(0).square().sum() if off_diagonal else total
    c = x.T @ y
    return (c - torch.diag(c.diagonal()) if off_diagonal else c).square().sum()


def vicreg(
    x: Tensor,
    y: Tensor,
    *,
    invariance: float,
    variance: float,
    covariance: float,
    eps: float,
    half: bool = False,
) -> Tensor:
    n, d = x.shape
    loss = invariance * (x - y).square().mean()
    for z in (x, y):
        deviation = torch.sqrt(z.var(0) + eps)
        loss = loss + variance / 2 * torch.relu(1 - deviation).mean()
        off = sqnorm(z, None, off_diagonal=True, center=True)
        loss = loss + covariance / (d * (n - 1) ** 2) * off
    return loss


def barlow_twins(
    x: Tensor, y: Tensor, *, off_diagonal: float, eps: float, half: bool = False
) -> Tensor:
    x, y = ((z - z.mean(0)) * torch.rsqrt(z.var(0, unbiased=False) + eps) for z in (x, y))
    on = ((x * y).mean(0) - 1).square().sum()
    off = sqnorm(x, y, off_diagonal=True, center=False)
    return on + off_diagonal / x.shape[0] ** 2 * off

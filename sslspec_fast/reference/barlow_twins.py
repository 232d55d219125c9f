"""Barlow Twins in plain torch, with the d x d cross-correlation matrix."""

from torch import Tensor


def barlow_twins(
    z1: Tensor, z2: Tensor, *, off_diagonal: float = 5e-3, eps: float = 1e-5
) -> Tensor:
    n = z1.shape[0]
    x = (z1 - z1.mean(0)) / (z1.var(0, unbiased=False) + eps).sqrt()
    y = (z2 - z2.mean(0)) / (z2.var(0, unbiased=False) + eps).sqrt()
    c = x.T @ y / n
    off = c - c.diag().diag()
    return (c.diag() - 1).square().sum() + off_diagonal * off.square().sum()

"""Barlow Twins on a graph in plain torch: the d x d matrix C of weighted edge correlations."""

import torch
from torch import Tensor


def graph_barlow_twins(
    z: Tensor,
    graph: Tensor,
    *,
    off_diagonal: float = 1.0,
    center: bool = True,
    eps: float = 1e-12,
) -> Tensor:
    g = graph.to_dense().to(z.dtype)
    degree = g.sum(1)
    if center:
        z = z - (degree @ z) / degree.sum()  # then Z^T (G - d d^T / vol) Z = Z^T G Z
    least = max(eps**2, torch.finfo(z.dtype).tiny)  # the square of eps may underflow
    y = z / (degree @ z.square()).clamp_min(least).sqrt()
    c = y.T @ g @ y
    off = c - c.diag().diag()
    return (1 - c.diag()).square().sum() + off_diagonal * off.square().sum()

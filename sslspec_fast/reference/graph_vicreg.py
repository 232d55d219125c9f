"""VICReg on a graph in plain torch: dense G, dense d x d covariance."""

import torch
from torch import Tensor


def graph_vicreg(
    z: Tensor,
    graph: Tensor,
    *,
    variance: float = 1.0,
    covariance: float | None = None,
    invariance: float = 1.0,
    penalty: str = "hinge_std",
    measure: str = "uniform",
    eps: float = 0.0,
) -> Tensor:
    n = z.shape[0]
    g = graph.to_dense().to(z.dtype)
    degree = g.sum(1)
    if measure == "uniform":
        x = z - z.mean(0)
        c = x.T @ x / (n - 1)
        edges = degree.new_tensor(n)
    else:
        x = z - (degree @ z) / degree.sum()
        c = x.T @ (degree[:, None] * x) / degree.sum()
        edges = degree.sum()

    v = c.diag()
    if penalty.endswith("std"):
        safe = torch.where(v + eps > 0, v + eps, 1.0)
        root = torch.where(v + eps > 0, safe.sqrt(), 0.0)  # gradient 0, not NaN, at v = 0
        pen = (1 - root).relu() if penalty == "hinge_std" else (1 - root).square()
    else:
        pen = (1 - v).square() if penalty == "ls_var" else (1 - v).relu()

    off = c - v.diag()
    distance = (g * (z[:, None, :] - z[None, :, :]).square().sum(-1)).sum()
    beta = variance if covariance is None else covariance
    return variance * pen.sum() + beta * off.square().sum() + invariance * distance / edges

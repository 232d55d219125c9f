"""Graph covariance in plain torch: Z^T (G - d d^T / vol) Z with a dense G."""

import torch
from torch import Tensor


def graph_covariance(z: Tensor, graph: Tensor, *, center: bool = True) -> Tensor:
    g = graph.to_dense().to(z.dtype)
    if center:
        degree = g.sum(1)
        g = g - torch.outer(degree, degree) / degree.sum()
    return z.T @ g @ z

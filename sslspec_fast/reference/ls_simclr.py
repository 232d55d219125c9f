"""Least-squares SimCLR in plain torch: || Z Z^T - G ||_F^2, both n x n matrices formed."""

from torch import Tensor


def ls_simclr(z: Tensor, graph: Tensor, *, center: bool = False) -> Tensor:
    g = graph.to_dense().to(z.dtype)
    if center:
        g = g - g.mean(0, keepdim=True)
        g = g - g.mean(1, keepdim=True)
    return (z @ z.T - g).square().sum()

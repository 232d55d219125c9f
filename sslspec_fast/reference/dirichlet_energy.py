"""Dirichlet energy in plain torch: half the weighted squared distances over all pairs."""

from torch import Tensor


def dirichlet_energy(z: Tensor, graph: Tensor) -> Tensor:
    g = graph.to_dense().to(z.dtype)
    difference = z[:, None, :] - z[None, :, :]
    return 0.5 * (g * difference.square().sum(-1)).sum()

"""Spectral contrastive loss on a graph in plain torch, with the n x n Gram matrix."""

import torch
from torch import Tensor


def graph_spectral_contrastive(z: Tensor, graph: Tensor) -> Tensor:
    g = graph.to_dense().to(z.dtype)
    degree = g.sum(1)
    volume = degree.sum()
    gram = z @ z.T
    repulsion = (torch.outer(degree, degree) / volume**2 * gram.square()).sum()
    return repulsion - 2 / volume * (g * gram).sum()

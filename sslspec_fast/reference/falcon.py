"""FALCON (Sansone et al. 2025) in plain torch, with the n x c matrices of code probabilities."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def falcon(
    h1: Tensor, h2: Tensor, codes: Tensor, *, beta: float = 0.05, eps: float = 1e-8
) -> Tensor:
    n, f = h1.shape
    c = codes.shape[1]
    tau = f / (math.sqrt(n) * math.log((1 - eps * (c - 1)) / eps))

    def log_probabilities(h: Tensor) -> Tensor:
        return F.log_softmax(math.sqrt(f / n) * F.normalize(h, dim=1) @ codes / tau, dim=1)

    logp, logq = log_probabilities(h1), log_probabilities(h2)
    p, q = logp.exp(), logq.exp()

    def uniformity(p: Tensor) -> Tensor:  # KL(mean of p || uniform)
        mean = p.mean(0)
        return torch.special.xlogy(mean, c * mean).sum()

    prior = uniformity(p) + uniformity(q)
    cross = -(p * logq).sum(1).mean() - (q * logp).sum(1).mean()
    return 0.5 * (prior + beta * cross)

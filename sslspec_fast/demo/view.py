"""A 2-D view of a thousand points: exact t-SNE in a page of torch.

Minimises KL(P || Q) with Gaussian P of fixed perplexity in feature space and Student-t Q in the
plane (van der Maaten and Hinton, JMLR 9, 2008), by gradient descent with momentum, gains and early
exaggeration. Only for pictures: everything here is n x n.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as nnf
from torch import Tensor


def plane(features: Tensor, perplexity: float = 30.0, steps: int = 350) -> Tensor:
    """(n, d) features -> (n, 2), by cosine neighbourhoods; deterministic."""
    x = nnf.normalize(features.double(), dim=1)
    n = x.shape[0]
    p = _affinities(2 - 2 * (x @ x.T), min(perplexity, (n - 1) / 3)).float()
    centred = (x - x.mean(0)).float()
    left, size, _ = torch.linalg.svd(centred, full_matrices=False)
    y = left[:, :2] * size[:2]
    y = y / y.std() * 1e-2
    velocity, gains = torch.zeros_like(y), torch.ones_like(y)
    rate = max(n / 12 / 4, 50.0)
    for step in range(steps):
        early = step < 100
        difference = torch.cdist(y, y).square_().add_(1).reciprocal_()
        difference.fill_diagonal_(0)
        weight = ((12.0 if early else 1.0) * p - difference / difference.sum()) * difference
        gradient = 4 * (weight.sum(1, keepdim=True) * y - weight @ y)
        same = gradient.sign() == velocity.sign()
        gains = torch.where(same, gains * 0.8, gains + 0.2).clamp_min(0.01)
        velocity = (0.5 if early else 0.8) * velocity - rate * gains * gradient
        y = y + velocity
        y = y - y.mean(0)
    return y


def _affinities(squared: Tensor, perplexity: float) -> Tensor:
    """Symmetric joint probabilities; each row's bandwidth is bisected to the given perplexity."""
    n = squared.shape[0]
    squared = squared.clone().fill_diagonal_(math.inf)
    low, high = torch.full((n, 1), -20.0), torch.full((n, 1), 20.0)  # log of the inverse bandwidth
    low, high = low.double(), high.double()
    for _ in range(40):
        middle = (low + high) / 2
        logits = -squared * middle.exp()
        p = logits.softmax(1)
        entropy = -(p * p.clamp_min(1e-300).log()).sum(1, keepdim=True)
        too_flat = entropy > math.log(perplexity)
        low, high = torch.where(too_flat, middle, low), torch.where(too_flat, high, middle)
    return (p + p.T) / (2 * n)

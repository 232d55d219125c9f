"""Factors of the exponentials of negatives, in plain torch."""

import math

import torch
from torch import Tensor


def reweighted(negative: Tensor, log_weight: Tensor | None, hardness: float) -> Tensor:
    """Logits plus the logarithms of factors w, and of factors e^(b s) whose mean is 1."""
    log_weight = torch.zeros_like(negative[0]) if log_weight is None else log_weight
    log_weight = log_weight.masked_fill(negative == -math.inf, -math.inf)
    if hardness:
        harder = hardness * negative + log_weight
        mean = harder.logsumexp(1, keepdim=True) - log_weight.logsumexp(1, keepdim=True)
        # a row without negatives: -inf - -inf
        log_weight = harder - torch.where(mean.isnan(), 0.0, mean)
    return negative + log_weight

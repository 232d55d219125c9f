"""Means of columns, and Sinkhorn's iteration in the log domain, of a stored matrix."""

from __future__ import annotations

import torch
from torch import Tensor


def column_mean(logits: Tensor, weight: Tensor | None) -> Tensor:
    """logits (m, k); weight (m,)."""
    return logits.mean(0) if weight is None else weight @ logits / weight.sum()


def sinkhorn_bias(logits: Tensor, log_weight: Tensor, iterations: int, from_rows: bool) -> Tensor:
    """logits (m, k) over the temperature; log_weight (m,) of the sums of the rows."""
    log_codes = logits.log_softmax(1) if from_rows else logits
    bias = torch.zeros_like(logits[0])
    for _ in range(iterations):
        step = (log_codes + log_weight[:, None]).logsumexp(0)
        bias = bias - step
        log_codes = (log_codes - step).log_softmax(1)
    return bias

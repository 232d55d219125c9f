"""Supervised contrastive loss (L_out) in plain torch, with the n x n masks."""

import math

import torch
from torch import Tensor

from ._reduce import reduce_rows


def mean_positive(z: Tensor, labels: Tensor) -> Tensor:
    """(n,) the mean of z_i . z_j over the other rows with the label of i; 0 where there is none."""
    own = torch.eye(len(z), dtype=torch.bool, device=z.device)
    positive = ((labels[:, None] == labels) & (labels >= 0) & ~own).to(z.dtype)
    return (positive * (z @ z.T)).sum(1) / positive.sum(1).clamp(min=1)


def sup_con(
    z: Tensor,
    labels: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    base_temperature: float | None = None,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    n = z.shape[0]
    t = torch.as_tensor(temperature, dtype=z.dtype, device=z.device).reshape(-1, 1)
    own = torch.eye(n, dtype=torch.bool, device=z.device)
    positive = (labels[:, None] == labels) & (labels >= 0) & ~own
    logits = z @ z.T / t
    logp = logits - logits.masked_fill(own, -math.inf).logsumexp(1, keepdim=True)
    target = positive.to(z.dtype) / positive.sum(1, keepdim=True).clamp(min=1)
    if label_smoothing:
        others = (positive.any(1, keepdim=True) & ~own).to(z.dtype)
        target = (1 - label_smoothing) * target + label_smoothing / (n - 1) * others
    rows = -(target * logp).sum(1)  # anchors without positives: 0, and counted in the mean
    if base_temperature is not None:
        rows = rows * (t / base_temperature)[:, 0]

    return reduce_rows(rows, reduction, sample_weight)

"""MSN's and PMSN's loss in plain torch, with the codes of anchors and targets stored."""

from __future__ import annotations

import torch
from torch import Tensor

from ._codes import balanced, codes, log_codes


def msn(
    anchors: Tensor,
    targets: Tensor,
    prototypes: Tensor,
    *,
    temperature: float,
    sharpening: float,
    iterations: int,
    weight: float,
    prior: Tensor | None,
    normalize: bool = True,
) -> Tensor:
    """prior: (k,) that the mean code is to match; None: equal numbers."""
    with torch.no_grad():
        sharp = codes(targets, prototypes, temperature, normalize) ** (1 / sharpening)
        q = balanced(sharp / sharp.sum(1, keepdim=True), iterations)
    log_p = log_codes(anchors, prototypes, temperature, normalize)
    loss = -(q.repeat(len(anchors) // len(targets), 1) * log_p).sum(1).mean()
    mean = log_p.exp().mean(0)
    if prior is None:
        return loss + weight * torch.special.xlogy(mean, len(mean) * mean).sum()
    return loss + weight * (torch.special.xlogy(prior, prior) - prior * mean.log()).sum()

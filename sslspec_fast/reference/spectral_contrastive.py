"""Spectral contrastive loss (HaoChen et al. 2021) in plain torch, with the n x n products."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ._reduce import reduce_rows


def spectral_contrastive(
    z1: Tensor,
    z2: Tensor,
    *,
    mu: float = 1.0,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
) -> Tensor:
    n = z1.shape[0]

    def clip(z: Tensor) -> Tensor:  # rows longer than sqrt(mu) are shortened to it
        inside = z.norm(dim=1, keepdim=True) < mu**0.5
        return torch.where(inside, z, F.normalize(z, dim=1) * mu**0.5)

    s = clip(z1) @ clip(z2).T
    off = s - s.diag().diag()
    rows = (-2 * s.diag() + off.square().sum(1) / (n - 1)) / mu

    return reduce_rows(rows, reduction, sample_weight)

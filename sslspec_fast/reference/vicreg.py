"""VICReg in plain torch, with the d x d covariance of each view."""

import torch.nn.functional as F
from torch import Tensor


def vicreg(
    z1: Tensor,
    z2: Tensor,
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    eps: float = 1e-4,
) -> Tensor:
    n, d = z1.shape

    def spread(z: Tensor) -> Tensor:
        return F.relu(1 - (z.var(dim=0) + eps).sqrt()).mean()

    def redundancy(z: Tensor) -> Tensor:
        z = z - z.mean(dim=0)
        c = z.T @ z / (n - 1)
        return (c - c.diag().diag()).square().sum() / d

    return (
        invariance * F.mse_loss(z1, z2)
        + variance * 0.5 * (spread(z1) + spread(z2))
        + covariance * (redundancy(z1) + redundancy(z2))
    )

"""What the graph form of VICReg asks of the variance of a column."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def penalise(var: Tensor, penalty: str, eps: float) -> Tensor:
    """(d,) the penalty of each variance; eps is added inside the root."""
    if penalty == "ls_var":
        return (1 - var).square()
    if penalty == "hinge_var":
        return F.relu(1 - var)
    shifted = var + eps
    alive = shifted > 0  # the root has no derivative at 0: a constant column gets none
    root = torch.where(alive, torch.where(alive, shifted, 1.0).sqrt(), 0.0)
    return F.relu(1 - root) if penalty == "hinge_std" else (1 - root).square()

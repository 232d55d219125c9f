"""Gram anchoring in plain torch: the n x n cosines of student and teacher, per image."""

import torch.nn.functional as F
from torch import Tensor

from ._reduce import reduce_rows


def gram_anchor(
    student: Tensor, teacher: Tensor, *, clamp: bool = False, reduction: str = "mean"
) -> Tensor:
    """(images, patches, features) each."""
    u, v = F.normalize(student, dim=2), F.normalize(teacher, dim=2)
    own, target = u @ u.mT, v @ v.mT
    if clamp:
        own, target = own.clamp(min=0), target.clamp(min=0)
    images = (own - target).square().mean((1, 2))

    return reduce_rows(images, reduction, None)

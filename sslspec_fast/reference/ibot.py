"""iBOT's loss in plain torch: a cross-entropy for every token, and means by image."""

from __future__ import annotations

import torch
from torch import Tensor

from ._codes import codes, log_codes


def ibot(
    student: Tensor,
    teacher: Tensor,
    prototypes: Tensor | None,
    teacher_prototypes: Tensor | None,
    mask: Tensor,
    *,
    visible_weight: float | None = None,
    student_temperature: Tensor,
    teacher_temperature: Tensor,
    bias: Tensor | None = None,
    normalize: bool = True,
) -> Tensor:
    """mask: (images, tokens); the rows are its masked tokens, or all with a weight of the visible
    ones.
    """
    own = prototypes if teacher_prototypes is None else teacher_prototypes
    q = codes(teacher, own, teacher_temperature, normalize, bias)
    each = -(q * log_codes(student, prototypes, student_temperature, normalize)).sum(1)
    if visible_weight is None:
        image = mask.nonzero()[:, 0]
        sums = torch.zeros(len(mask), dtype=each.dtype, device=each.device)
        return (sums.index_add(0, image, each) / mask.sum(1).clamp(min=1)).mean()
    tokens = each.view(mask.shape)
    masked = (tokens * mask).sum(1) / mask.sum(1).clamp(min=1)
    visible = (tokens * ~mask).sum(1) / (~mask).sum(1).clamp(min=1)
    return (masked + visible_weight * visible).mean()

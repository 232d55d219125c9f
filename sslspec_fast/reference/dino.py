"""DINO's loss in plain torch: the codes of every view, and a cross-entropy for every pair."""

import torch
from torch import Tensor

from ._codes import codes, log_codes


def dino(
    students: Tensor,
    teachers: Tensor,
    prototypes: Tensor | None,
    teacher_prototypes: Tensor | None,
    *,
    student_temperature: Tensor,
    teacher_temperature: Tensor,
    bias: Tensor | None = None,
    normalize: bool = True,
) -> Tensor:
    """students, teachers: (views, n, d); without prototypes (views, n, k) logits."""
    own = prototypes if teacher_prototypes is None else teacher_prototypes
    log_p = [log_codes(x, prototypes, student_temperature, normalize) for x in students]
    q = [codes(x, own, teacher_temperature, normalize, bias) for x in teachers]
    pairs = [
        -(q_t * log_p_s).sum(1).mean()
        for s, log_p_s in enumerate(log_p)
        for t, q_t in enumerate(q)
        if s != t
    ]
    return torch.stack(pairs).mean()

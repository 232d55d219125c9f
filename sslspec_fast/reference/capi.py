"""CAPI's loss in plain torch: balanced codes of the tokens at each position, a cross-entropy."""

from __future__ import annotations

import torch
from torch import Tensor

from ._codes import log_codes, logits
from ._column_bias import sinkhorn_bias


def capi(
    student: Tensor,
    teacher: Tensor,
    prototypes: Tensor | None,
    teacher_prototypes: Tensor | None,
    index: Tensor,
    *,
    student_temperature: Tensor,
    teacher_temperature: float,
    iterations: int,
    normalize: bool = True,
) -> Tensor:
    """student: (b, p, d), teacher: (b, s, e), index: (b, p) the token of the teacher."""
    own = prototypes if teacher_prototypes is None else teacher_prototypes
    with torch.no_grad():
        targets = []
        for tokens in teacher.unbind(1):  # (b, e), of one position
            each = logits(tokens, own, teacher_temperature, normalize)
            bias = sinkhorn_bias(each, torch.zeros_like(each[:, 0]), iterations, False)
            targets.append((each + bias).softmax(1))
        q = torch.stack(targets, 1)
        q = q.gather(1, index[:, :, None].expand(-1, -1, q.shape[2]))
    log_p = log_codes(student.flatten(0, 1), prototypes, student_temperature, normalize)
    return -(q.flatten(0, 1) * log_p).sum(1).mean()

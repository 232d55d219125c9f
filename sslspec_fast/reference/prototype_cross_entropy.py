"""Cross-entropy between soft codes in plain torch: both matrices of codes, and dense pairs."""

import torch
from torch import Tensor

from ._codes import codes, log_codes
from ._reduce import reduce_rows


def prototype_cross_entropy(
    student: Tensor,
    teacher: Tensor,
    prototypes: Tensor | None,
    teacher_prototypes: Tensor | None,
    *,
    pairs: Tensor,
    student_temperature: Tensor,
    teacher_temperature: Tensor,
    bias: Tensor | None = None,
    normalize: bool = True,
    mean_entropy: float = 0.0,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
) -> Tensor:
    """pairs: (n, m) dense. Without prototypes the rows are logits."""
    own = prototypes if teacher_prototypes is None else teacher_prototypes
    if bias is not None and bias.dim() == 2:  # a bias for each of equal blocks of rows
        bias = bias.repeat_interleave(len(teacher) // len(bias), 0)
    target = pairs @ codes(teacher, own, teacher_temperature, normalize, bias)
    log_p = log_codes(student, prototypes, student_temperature, normalize)
    rows = -(target * log_p).sum(1)
    if reduction == "mean":
        degree = pairs.sum(1)
        norm = degree if sample_weight is None else degree * sample_weight
        loss = (rows if sample_weight is None else rows * sample_weight).sum() / norm.sum()
    else:
        loss = reduce_rows(rows, reduction, sample_weight)
    if mean_entropy:
        p = log_p.exp().mean(0)
        loss = loss + mean_entropy * torch.special.xlogy(p, len(p) * p).sum()
    return loss

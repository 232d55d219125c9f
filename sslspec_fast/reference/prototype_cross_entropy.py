"""Cross-entropy between soft codes in plain torch: both matrices of codes, and dense pairs."""

import torch
import torch.nn.functional as F
from torch import Tensor

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

    def logits(rows: Tensor, columns: Tensor | None, temperature: Tensor) -> Tensor:
        if columns is not None:
            if normalize:
                rows, columns = F.normalize(rows, dim=1), F.normalize(columns, dim=1)
            rows = rows @ columns.T
        return rows / temperature.reshape(-1, 1)

    with torch.no_grad():
        own = prototypes if teacher_prototypes is None else teacher_prototypes
        t = logits(teacher, own, teacher_temperature)
        if bias is not None:
            blocks = 1 if bias.dim() == 1 else bias.shape[0]
            t = t + bias.view(blocks, -1).repeat_interleave(len(t) // blocks, 0)
        target = pairs @ t.softmax(1)
    log_p = logits(student, prototypes, student_temperature).log_softmax(1)
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

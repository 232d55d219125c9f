"""Dense references for the CUDA kernels."""

from __future__ import annotations

import torch
from torch import Tensor


def left_out(
    n: int,
    m: int,
    ids: tuple[Tensor | None, Tensor | None] = (None, None),
    skip: tuple[Tensor | None, Tensor | None] = (None, None),
    skip_self: bool = False,
) -> Tensor:
    """(n, m) bool: the pairs that no statistic sees."""
    out = torch.zeros(n, m, dtype=torch.bool)
    if ids[0] is not None and ids[1] is not None:
        out |= ids[0].cpu()[:, None] == ids[1].cpu()[None, :]
    if skip[0] is not None and skip[1] is not None:
        rows = torch.repeat_interleave(torch.arange(n), skip[0].cpu().diff())
        out[rows, skip[1].cpu()] = True
    if skip_self:
        out |= torch.eye(n, m, dtype=torch.bool)
    return out


def softmax_statistics(a: Tensor, b: Tensor, scale: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    logits = (a @ b.T) * (scale[:, None] if scale.ndim else scale)
    logits = logits.masked_fill(out, -torch.inf)
    return logits.logsumexp(1), logits.logsumexp(0)


def softplus_sums(a: Tensor, b: Tensor, scale: Tensor, bias: Tensor, out: Tensor) -> Tensor:
    logits = (a @ b.T) * (scale[:, None] if scale.ndim else scale) + bias
    return torch.nn.functional.softplus(logits).masked_fill(out, 0.0).sum(1)

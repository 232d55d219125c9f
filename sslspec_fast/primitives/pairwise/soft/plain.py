"""Soft cross-entropy in plain torch: what its second derivatives are taken of, and its rows where
the logits are given.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...._dtypes import computed_dtype
from ...sparse.csr import Csr
from ...sparse.spmm import spmm_into

__all__ = ["columns_of", "given_logits", "plain_rows"]

_BLOCK = 1 << 20  # logits at once
_FLOOR = -1e30  # in place of a logit that is left out: finite, so that 0 times it is 0


def plain_rows(
    students: tuple[Tensor, Tensor | None],
    teachers: tuple[Tensor, Tensor | None, Tensor | None],
    weight: Tensor,
    pattern: tuple[Tensor | None, Tensor | None],
    skip_self: bool,
    unit: bool = False,
) -> Tensor:
    """The rows of students (a, w) and teachers (b, v, bias), from stored (n, k) matrices;
    differentiable in a and w. pattern: the row pointers and indices of G; unit: rows of w and v
    count as scaled to unit length.
    """
    (a, w), (b, v, bias), (indptr, indices) = students, teachers, pattern
    kind = computed_dtype(a)
    s, t = _logits(a, w, kind, unit), _logits(b, v, kind, unit) + _by_block(bias, b.shape[0], kind)
    if skip_self:
        own = torch.eye(*s.shape, dtype=torch.bool, device=s.device)
        s, t = s.masked_fill(own, _FLOOR), t.masked_fill(own, _FLOOR)
        q = t.softmax(1).masked_fill(own, 0)
    else:
        q = t.softmax(1)
    above = s.logsumexp(1, keepdim=True) - s
    weight = weight.to(kind)
    if indptr is None or indices is None:
        return weight * (q * above).sum(1)
    row = torch.repeat_interleave(indptr.diff(), output_size=indices.shape[0])
    target = torch.zeros_like(s).index_add(0, row, weight[:, None] * q[indices])
    return (target * above).sum(1)


def columns_of(w: Tensor, kind: torch.dtype, unit: bool) -> Tensor:
    """The rows of w in that dtype, and of unit length if asked."""
    return F.normalize(w.to(kind), dim=1) if unit else w.to(kind)


def _logits(x: Tensor, columns: Tensor | None, kind: torch.dtype, unit: bool) -> Tensor:
    return x.to(kind) if columns is None else x.to(kind) @ columns_of(columns, kind, unit).T


def _by_block(bias: Tensor | None, rows: int, kind: torch.dtype) -> Tensor | float:
    if bias is None:
        return 0.0
    if bias.dim() == 1:
        return bias.to(kind)
    return bias.to(kind).repeat_interleave(rows // max(1, bias.shape[0]), 0)


def given_logits(
    s: Tensor, t: Tensor, bias: Tensor | None, weight: Tensor, pairs: Csr | None, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """The rows (n,) and the entropies of the targets (m,); the gradient in s into `grad` (n, k),
    or an empty tensor. Memory beside: the targets, and blocks of rows.
    """
    kind = computed_dtype(s)
    rows, entropy = s.new_empty(s.shape[0], dtype=kind), s.new_empty(t.shape[0], dtype=kind)
    beta = _by_block(bias, t.shape[0], kind)
    step = max(1, _BLOCK // s.shape[1])
    q = t.to(kind, copy=True)
    q += beta
    for block, h in zip(q.split(step), entropy.split(step), strict=True):
        logs = block.log_softmax(1)
        torch.exp(logs, out=block)
        h.copy_(-torch.where(block > 0, logs, 0.0).mul_(block).sum(1))
    if pairs is None:
        degree, target = weight, q.mul_(weight[:, None])
    else:
        degree = pairs.row_sums().to(kind)
        target = spmm_into(pairs, q, q.new_empty(s.shape[0], s.shape[1]))
    for first in range(0, s.shape[0], step):
        some = slice(first, first + step)
        block = s[some].to(kind)
        above = block.logsumexp(1, keepdim=True) - block
        rows[some] = (target[some] * above).sum(1)
        if grad.numel():
            grad[some] = above.neg_().exp_().mul_(degree[some, None]).sub_(target[some])
    return rows, entropy

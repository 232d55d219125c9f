"""`soft` on a GPU: panels of logits by a library's products, all that is between them by kernels.

A panel has at most 2^22 logits each of students and of teachers, 16 MiB in float32; products of
bfloat16 rows are in bfloat16 with float32 sums. Nothing waits for the GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...._dtypes import computed_dtype
from ...._seam import _C, stream, view
from ..._matmul import add_mm_float32, mm_float32

__all__ = ["visit"]

_PANEL = 1 << 22

Side = tuple[Tensor, Tensor, "Tensor | None"]
Results = tuple[
    Tensor, "Tensor | None", "Tensor | None", "Tensor | None", "Tensor | None", bool, bool
]


def visit(
    student: Side,
    teacher: Side | None,
    weight: Tensor,
    tilt: Tensor | None,
    product: tuple[Tensor | None, Tensor | None],
    skip_self: bool,
    out: Results,
) -> None:
    """One visit of all rows: csrc/pairwise/soft.h."""
    x, c, bias = student
    rows, entropy, column_sum, sums, grad, first_visit, _ = out
    n, k = x.shape[0], c.shape[0]
    handle = stream(x)
    left, right = product
    if column_sum is not None:
        column_sum.zero_()
    if grad is not None and first_visit:
        grad.zero_()
    weighed = column_sum is not None or sums is not None or grad is not None or teacher is not None
    for first in range(0, n, step := max(1, _PANEL // k)):
        some = slice(first, first + step)
        logits = mm_float32(x[some], c.T).contiguous()
        lse, own = torch.empty_like(rows[some]), torch.empty_like(rows[some])
        _C.cuda_pairwise_soft_statistics(
            view(logits), view(bias), first, skip_self, view(lse), view(own), handle
        )
        targets, target_lse, beta = None, None, None
        if teacher is not None:
            b, v, beta = teacher
            targets, target_lse = mm_float32(b[some], v.T).contiguous(), torch.empty_like(lse)
            own = torch.empty_like(lse)
            _C.cuda_pairwise_soft_statistics(
                view(targets), view(beta), first, skip_self, view(target_lse), view(own), handle
            )
        else:
            rows[some] = lse
        if entropy is not None:
            entropy[some] = own
        if not weighed:
            continue
        if bias is not None:
            logits += bias
        _C.cuda_pairwise_soft_weights(
            (view(logits), view(lse)),
            (view(targets), view(target_lse), view(beta)),
            (view(weight[some]), view(tilt)),
            first,
            skip_self,
            view(rows[some]),
            handle,
        )
        if column_sum is not None:
            column_sum += logits.sum(0)
        if sums is not None and right is not None:
            sums[some] = mm_float32(logits.to(right.dtype), right)
        if grad is not None and left is not None:
            add_mm_float32(grad, logits.to(left.dtype).T, left[some])
    assert rows.dtype == computed_dtype(x)

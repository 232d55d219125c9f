r"""Primitive ``pairwise_nearest``: the rows of largest product with each row, never all products.

.. math::
    j_1(i), \dots, j_k(i) = \text{the } j \ne i \text{ of largest } u_i \cdot u_j,

in the group of row i and with another id. Blocks of 2^22 products; indices only, without a
gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..._register import register_op

__all__ = ["nearest"]

_BLOCK_ELEMENTS = 1 << 22


def _shapes(u: Tensor, ids: Tensor | None, k: int, group: int, begin: int, count: int) -> Tensor:
    return u.new_empty(count, k, dtype=torch.int64)


def _body(u: Tensor, ids: Tensor | None, k: int, group: int, begin: int, count: int) -> Tensor:
    out = _shapes(u, ids, k, group, begin, count)
    index = torch.arange(group, device=u.device)
    step = max(1, _BLOCK_ELEMENTS // max(1, group))
    for first in range(0, u.shape[0], max(1, group)):
        rows, own = u[first : first + group], None if ids is None else ids[first : first + group]
        low, high = max(begin - first, 0), min(begin + count - first, group)
        for start in range(low, high, step):
            block = slice(start, min(start + step, high))
            products = rows[block] @ rows.T
            left_out = index[block, None] == index
            if own is not None:
                left_out |= own[block, None] == own
            products.masked_fill_(left_out, -torch.inf)
            # of equal ones `max` takes the first
            best = products.max(1, keepdim=True) if k == 1 else products.topk(k, 1)
            found = torch.where(best.values == -torch.inf, -1, best.indices + first)
            out[first + start - begin : first + block.stop - begin] = found
    return out


_nearest = register_op(
    "pairwise_nearest(Tensor u, Tensor? ids, int k, int group, int begin, int count) -> Tensor",
    cpu=_body,
    cuda=_body,
    fake=_shapes,
)


def nearest(
    u: Tensor,
    k: int,
    *,
    ids: Tensor | None = None,
    group: int | None = None,
    rows: slice | None = None,
) -> Tensor:
    """(n, k) int64 indices, the largest product first; -1 where fewer than k rows are eligible.

    Args:
        u: (n, d) float32 or float64.
        k: 1 <= k < rows of a group.
        ids: (n,) integers; rows with the same id are not eligible.
        group: a divisor of n; a row is compared with the others of its group of so many
            consecutive rows. None: all rows are one group.
        rows: those that are asked for, by their first and last; None: all.
    """
    n = u.shape[0]
    begin, end = (0, n) if rows is None else (rows.start, rows.stop)
    out: Tensor = _nearest(u.detach(), ids, k, n if group is None else group, begin, end - begin)
    return out

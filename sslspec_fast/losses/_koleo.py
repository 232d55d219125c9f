"""What KoLeo computes of its rows and of their neighbours, wherever those are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _checks as check
from ._common import rows_at


def check_koleo(
    z: Tensor, k: int, ids: object, group_size: int | None, eps: float, min_rows: int
) -> tuple[int, Tensor | None, int | None, float]:
    """k, ids, group_size and eps of rows z, which are not yet all rows where min_rows is 0."""
    op = "koleo"
    check.matrix(op, "z", z, min_rows=min_rows)
    n = z.shape[0]
    if group_size is not None:
        group_size = check.count(op, "group_size", group_size, 2)
        if n % group_size:
            raise ValueError(f"{op}: group_size must divide the {n} rows of z, got {group_size}")
    k = check.count(op, "k", k, 1)
    if group_size is not None or min_rows:
        check_neighbours(k, n if group_size is None else group_size)
    if ids is not None:
        ids = check.integers(op, "ids", ids, z, n)
    return k, ids, group_size, check.number(op, "eps", eps, low=0.0, strict=True)


def check_neighbours(k: int, rows: int) -> None:
    if k >= rows:
        raise ValueError(f"koleo: k must be less than the {rows} rows of a group, got {k}")


def unit_or_shorter(x: Tensor, eps: float) -> Tensor:
    """Unit rows; shorter ones than eps divided by eps."""
    # The direction does not depend on the length, and squares of long rows would leave the dtype.
    largest = x.detach().abs().amax(1, keepdim=True)
    return F.normalize(x / torch.where((largest > 1e6) & (eps < 1), largest, 1.0), dim=1, eps=eps)


def mean_log_distances(
    u: Tensor, others: Tensor, index: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """(n,) minus the mean log distance of each row of u from the rows `index` (n, k) of others, -1
    for none; and whether a row has any.
    """
    found = index >= 0
    difference = u[:, None] - rows_at(others, index.clamp(min=0)) + eps
    logs = (torch.linalg.vector_norm(difference, dim=2) + eps).log()
    return -(logs * found).sum(1) / found.sum(1).clamp(min=1), found[:, 0]  # NaN rows stay NaN

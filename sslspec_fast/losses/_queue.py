"""The checks of MoCo's queue."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _checks as check
from .._dtypes import computed_dtype


def check_queue(op: str, queue: Tensor, query: Tensor) -> Tensor:
    """The queue, which is in the dtype of the query or the one that is computed in."""
    wide = computed_dtype(query)
    check.dense(op, "queue", queue)
    if queue.dim() != 2 or queue.shape[1] != query.shape[1]:
        raise ValueError(
            f"{op}: queue must be (rows, {query.shape[1]}), the features of query "
            f"{tuple(query.shape)}, got {tuple(queue.shape)}"
        )
    if queue.dtype not in (query.dtype, wide):
        rule = f"{query.dtype}" if query.dtype == wide else f"{query.dtype}, or {wide}"
        raise TypeError(f"{op}: queue must have the dtype of query, {rule}, got {queue.dtype}")
    if queue.device != query.device:
        raise ValueError(
            f"{op}: queue must be on the device of query, {query.device}, got {queue.device}"
        )
    check.refuse_grad(op, "queue", queue.requires_grad, "detach it")
    if check.readable(queue) and queue.shape[0]:
        some = queue.detach()[:: -(-queue.shape[0] // 64)].to(wide)
        length = torch.linalg.vector_norm(some, dim=1)
        wrong = length[~((length - 1).abs() <= 0.01)]
        if wrong.numel():
            raise ValueError(f"{op}: queue must have rows of unit length, got {wrong[0]:g}")
    return queue


def unit_queue(op: str, queue: Tensor, query: Tensor) -> Tensor:
    """The same in the dtype that is computed in."""
    return check_queue(op, queue, query).to(computed_dtype(query))


def check_queue_ids(
    op: str, ids: Any, queue_ids: Any, query: Tensor, queue: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """Of the queries and of the rows of the queue, both or neither."""
    if (ids is None) != (queue_ids is None):
        given, missing = ("ids", "queue_ids") if queue_ids is None else ("queue_ids", "ids")
        raise ValueError(f"{op}: {given} need {missing}, got None")
    if ids is None:
        return None, None
    ids = check.ids(op, ids, query, query.shape[0])
    return ids, check.ids(op, queue_ids, query, queue.shape[0], "queue_ids")

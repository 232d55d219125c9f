"""The vote of the k nearest rows, searched a piece at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..losses._common import numbered
from ..primitives._matmul import mm_wide

__all__ = ["Others", "right"]

_BLOCK = 1 << 22  # similarities held at once


class Others(NamedTuple):
    """Rows to search, unit and (m, d), with their labels; where they are those that are searched
    for: the latter's `own` rows are here from row `first` on.
    """

    rows: Tensor
    labels: Tensor
    own: slice
    first: int


def right(x: Tensor, y: Tensor, k: int, pieces: Iterator[Others], leave_out: bool) -> int:
    """How many rows of x, unit and of classes y, have the class that their neighbours vote for."""
    best: list[tuple[Tensor, Tensor]] = []  # by blocks of rows: similarities and labels
    step = 0
    for others in pieces:
        step = step or max(1, _BLOCK // max(others.rows.shape[0], 1))
        for block, start in enumerate(range(0, x.shape[0], step)):
            similarity = mm_wide(x[start : start + step], others.rows.T)
            if leave_out:
                own = torch.arange(similarity.shape[0], device=x.device) + start
                own = own[(own >= others.own.start) & (own < others.own.stop)]
                similarity[own - start, own - others.own.start + others.first] = -math.inf
            near = similarity.topk(min(k, similarity.shape[1]), dim=1)  # by descending similarity
            found = near.values, others.labels[near.indices]
            if block == len(best):
                best.append(found)
            else:
                values, labels = (torch.cat(p, 1) for p in zip(best[block], found, strict=True))
                near = values.topk(min(k, values.shape[1]), dim=1)
                best[block] = near.values, labels.gather(1, near.indices)
    correct = 0
    for block, (_, vote) in enumerate(best):
        same = _equal_in_row(vote)
        winner = vote.gather(1, same.argmax(1, keepdim=True))[:, 0]  # the first of the largest
        correct += int((winner == y[block * step : (block + 1) * step]).sum())
    return correct


def _equal_in_row(labels: Tensor) -> Tensor:
    """(n, k): how many of its row are equal to each entry, in (n, k) memory."""
    which = numbered(labels)
    count = torch.zeros_like(which).scatter_add_(1, which, torch.ones_like(which))
    return count.gather(1, which)

"""The center of a teacher's logits: a moving average over training steps and ranks."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from .. import _checks as check
from .._dtypes import computed_dtype
from ..ranks import told_to_all, world
from ._column_bias import column_mean

MODES = ("mean",)


class Center(torch.nn.Module):
    """A buffer ``center`` of as many leading dimensions of size 1 as lightly's, and k logits.

    update(rows, prototypes, group) moves it to momentum * center + (1 - momentum) * mean.
    """

    center: Tensor

    def __init__(self, op: str, shape: tuple[int, ...], mode: str, momentum: float) -> None:
        super().__init__()
        check.choice(op, "center_mode", mode, MODES)
        check.count(op, "output_dim", shape[-1], 1)
        self.mode, self.momentum = mode, check_momentum(op, momentum)
        self.register_buffer("center", torch.zeros(shape))

    @property
    def value(self) -> Tensor:
        """(k,)"""
        return self.center.flatten()

    def update(self, rows: Tensor, prototypes: Tensor | None = None, group: Any = None) -> None:
        follow(self.center, rows, prototypes, self.momentum, group)


def check_momentum(op: str, momentum: float) -> float:
    momentum = check.number(op, "center_momentum", momentum, low=0.0)
    if momentum > 1:
        raise ValueError(f"{op}: center_momentum must be in [0, 1], got {momentum}")
    return momentum


def _all_processes() -> Any:
    """The group of all processes, or None where there is one."""
    group = world()
    return group if group is not None and group.size() > 1 else None


def told_to_all_centers(op: str, group: Any) -> contextlib.AbstractContextManager[None]:
    """Around a loss of one process whose center `follow` then moves with those of all others: an
    error reaches them. A loss over a group tells its ranks itself.
    """
    return told_to_all(op, None if group is not None else _all_processes())


@torch.no_grad()
def follow(
    center: Tensor, rows: Tensor, prototypes: Tensor | None, momentum: float, group: Any
) -> None:
    """Move a center to the mean of the logits of rows, of all ranks of a group. Without one, but
    with several processes, to the mean of the means of all processes, as lightly's.
    """
    weight = None
    if group is None and (group := _all_processes()) is not None:
        n = rows.shape[0]
        weight = torch.full((n,), 1 / max(n, 1), dtype=computed_dtype(rows), device=rows.device)
    mean = column_mean(rows, prototypes, sample_weight=weight, group=group).to(center)
    center.copy_(center * momentum + mean.view_as(center) * (1 - momentum))

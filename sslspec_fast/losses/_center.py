"""The center of a teacher's logits: a moving average over training steps and ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _checks as check
from ..ranks.group import world
from ._column_bias import column_mean

MODES = ("mean",)


class Center(torch.nn.Module):
    """A buffer ``center`` of as many leading dimensions of size 1 as lightly's, and k logits.

    update(rows, prototypes) moves it to momentum * center + (1 - momentum) * mean; once
    torch.distributed is initialised, the mean is that of the means of all processes.
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

    def update(self, rows: Tensor, prototypes: Tensor | None = None) -> None:
        follow(self.center, rows, prototypes, self.momentum)


def check_momentum(op: str, momentum: float) -> float:
    momentum = check.number(op, "center_momentum", momentum, low=0.0)
    if momentum > 1:
        raise ValueError(f"{op}: center_momentum must be in [0, 1], got {momentum}")
    return momentum


@torch.no_grad()
def follow(center: Tensor, rows: Tensor, prototypes: Tensor | None, momentum: float) -> None:
    """Move a center to the mean of the logits of rows."""
    mean, group = column_mean(rows, prototypes).to(center), world()
    if group is not None and group.size() > 1:
        torch.distributed.all_reduce(mean, group=group)
        mean = mean / group.size()
    center.copy_(center * momentum + mean.view_as(center) * (1 - momentum))

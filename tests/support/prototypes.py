"""The fp64 inputs on which peers' losses over prototypes were evaluated."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .inputs import golden_rows


class Golden(NamedTuple):
    """Students z, teachers t, prototypes w of the student and v of the teacher."""

    z1: Tensor
    z2: Tensor
    z3: Tensor
    t1: Tensor
    t2: Tensor
    w: Tensor
    v: Tensor


def golden(n: int, d: int) -> Golden:
    """z1 and w require a gradient."""
    k = torch.arange(n * d, dtype=torch.float64).view(n, d)
    at = torch.arange(12 * d, dtype=torch.float64).view(12, d)
    z1, z2 = golden_rows(n, d)
    t1, w = torch.cos(0.5 * k + 0.2), torch.sin(0.37 * at + 0.5)
    t2, v = t1 + 0.2 * torch.sin(1.1 * k + 0.4), w + 0.1 * torch.cos(1.7 * at)
    return Golden(z1.requires_grad_(), z2, torch.sin(1.9 * k + 0.7), t1, t2, w.requires_grad_(), v)


def assert_values(loss: Tensor, leaves: list[Tensor], value: float, *norms: float) -> None:
    """The loss and the norms of its gradients to 1e-10, relative above 1."""
    grads = torch.autograd.grad(loss, leaves, retain_graph=True)
    got = (loss.item(), *(g.norm().item() for g in grads))
    for ours, theirs in zip(got, (value, *norms), strict=True):
        assert abs(ours - theirs) <= 1e-10 * max(1.0, abs(theirs)), (got, (value, *norms))

"""CPU body of ``two_views``: the mean or weighted sum of the losses and its gradients, by one call
of the core.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from .._dtypes import computed_dtype, widen
from .._seam import _C, CODE, rounds, threads, unit_stride, view

__all__ = ["gradients", "outputs", "total"]

SMALL = 1 << 15  # numbers of a view: a workspace of 4 MiB at most
FORMS = {"stacked": 0, "rows": 1, "both": 2, "sigmoid": 3}  # ViewForm of csrc/fused


class Arguments(NamedTuple):
    """Those of the operator; `two_views.py` says what they mean."""

    z1: Tensor
    z2: Tensor
    scale: Tensor | None
    bias: Tensor | None
    weight: Tensor | None
    number: float
    offset: float
    mean: bool
    form: str
    unit: bool
    half: bool
    gradient: bool
    of_z2: bool
    of_weight: bool

    def factor(self) -> float:
        """What the sum of the weighted losses is multiplied by. Weights of a mean add up to 1."""
        if not self.mean:
            return 0.5 if self.form == "both" else 1.0
        count = 1 if self.weight is not None else self.z1.shape[0]
        return (0.5 if self.form in ("stacked", "both") else 1.0) / count

    def threads(self) -> int:
        n, d = self.z1.shape
        return threads((16.0 if self.form == "stacked" else 4.0) * n * n * d)


def outputs(*args: Any) -> tuple[Tensor, list[Tensor]]:
    """The loss, and those of its gradients of z1, z2, scale, bias and weight that are made."""
    loss, every = _allocate(Arguments(*args))
    return loss, [grad for grad in every if grad is not None]


def _allocate(x: Arguments) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """The loss and all five gradients, None where one is not made."""
    z, kind = x.z1, computed_dtype(x.z1)
    n, d = z.shape  # integers: torch takes three times as long to read a torch.Size
    of_z1 = z.new_empty((n, d), dtype=kind) if x.gradient else None
    of_z2 = z.new_empty((n, d), dtype=kind) if x.of_z2 else None
    of_scale = z.new_empty((), dtype=kind) if x.gradient and x.scale is not None else None
    of_bias = z.new_empty((), dtype=kind) if x.gradient and x.bias is not None else None
    of_weight = z.new_empty((n,), dtype=kind) if x.of_weight else None
    return z.new_empty((), dtype=kind), (of_z1, of_z2, of_scale, of_bias, of_weight)


def gradients(grads: Sequence[Tensor], args: Sequence[Any]) -> list[Tensor | None]:
    """Those of z1, z2, scale, bias and weight, of which `outputs` has those that are made."""
    scale, bias, gradient, of_z2, of_weight = *args[2:4], *args[-3:]
    each = iter(grads)
    return [
        next(each) if gradient else None,
        next(each) if of_z2 else None,
        next(each) if gradient and scale is not None else None,
        next(each) if gradient and bias is not None else None,
        next(each) if of_weight else None,
    ]


def total(*args: Any) -> tuple[Tensor, list[Tensor]]:
    """All of `outputs`."""
    x = Arguments(*args)
    loss, every = _allocate(x)
    of_z1, of_z2, of_scale, of_bias, of_weight = every
    z1, z2, (n, d) = x.z1, x.z2, x.z1.shape
    half = x.half and rounds(x.half, loss.dtype)
    if not half:
        z1, z2 = widen(z1), widen(z2)
    options = FORMS[x.form], x.unit, half, x.gradient, x.factor()
    work = None  # the core keeps that of a small batch for the next one
    if n * max(d, 64) > SMALL:
        work = loss.new_empty(_C.two_views_workspace_size(n, d, CODE[z1.dtype], options))
    weight = None if x.weight is None else x.weight.contiguous()
    rows = view(unit_stride(z1)), view(unit_stride(z2))
    _C.two_views(
        (rows, view(x.scale), view(x.bias), x.number, x.offset, view(weight)),
        options,
        (view(loss), view(of_weight), (view(of_z1), view(of_z2)), view(of_scale), view(of_bias)),
        (view(work), x.threads()),
    )
    return loss, [grad for grad in every if grad is not None]

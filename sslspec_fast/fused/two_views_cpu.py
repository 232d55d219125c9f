"""CPU body of ``two_views``: the mean or weighted sum of the losses and its gradients, by one call
of the core.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .._dtypes import computed_dtype, widen
from .._seam import _C, CODE, rounds, threads, unit_stride, view, workspace

__all__ = ["outputs", "requested", "total"]

SMALL = 1 << 15  # numbers of a view: a workspace of 4 MiB at most
FORMS = {"stacked": 0, "rows": 1, "both": 2, "sigmoid": 3}  # ViewForm of csrc/fused


def outputs(*args: Any) -> tuple[Tensor, list[Tensor]]:
    """The loss, and those of its gradients of z1, z2, scale, bias and weight that are made. The
    arguments are those of the operator; `two_views.py` says what they mean.
    """
    loss, every = _allocate(args)
    return loss, [grad for grad in every if grad is not None]


def requested(args: Sequence[Any]) -> tuple[bool, ...]:
    """Which of the five gradients are requested."""
    scale, bias, gradient, of_z2, of_weight = *args[2:4], *args[-3:]
    return (
        gradient,
        of_z2,
        gradient and scale is not None,
        gradient and bias is not None,
        of_weight,
    )


def _allocate(args: Sequence[Any]) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """The loss and all five gradients, None where one is not made."""
    z, (of_z1, of_z2, of_scale, of_bias, of_weight) = args[0], requested(args)
    n, d = z.shape  # integers: torch takes three times as long to read a torch.Size
    kind = computed_dtype(z)
    return z.new_empty((), dtype=kind), (
        z.new_empty((n, d), dtype=kind) if of_z1 else None,
        z.new_empty((n, d), dtype=kind) if of_z2 else None,
        z.new_empty((), dtype=kind) if of_scale else None,
        z.new_empty((), dtype=kind) if of_bias else None,
        z.new_empty((n,), dtype=kind) if of_weight else None,
    )


def total(*args: Any) -> tuple[Tensor, list[Tensor]]:
    """All of `outputs`, in one function: a small batch pays microseconds for each further one."""
    loss, every = _allocate(args)
    of_z1, of_z2, of_scale, of_bias, of_weight = every
    z1, z2, scale, bias, weight, number, offset, mean, form, unit, half, gradient, *_ = args
    n, d = z1.shape
    half = half and rounds(half, loss.dtype)
    if not half and z1.dtype != loss.dtype:
        z1, z2 = widen(z1), widen(z2)
    # the sum of the weighted losses becomes the loss; weights of a mean add up to 1
    factor = 0.5 if form == "both" or (mean and form == "stacked") else 1.0
    if mean and weight is None:
        factor /= n
    options = FORMS[form], unit, half, gradient, factor
    work = None  # the core keeps that of a small batch for the next one
    if n * max(d, 64) > SMALL:
        work = workspace(loss, _C.two_views_workspace_size(n, d, CODE[z1.dtype], options))
    weight = None if weight is None else weight.contiguous()
    rows = view(unit_stride(z1)), view(unit_stride(z2))
    _C.two_views(
        (rows, view(scale), view(bias), number, offset, view(weight)),
        options,
        (view(loss), view(of_weight), (view(of_z1), view(of_z2)), view(of_scale), view(of_bias)),
        (view(work), threads((16.0 if form == "stacked" else 4.0) * n * n * d)),
    )
    return loss, [grad for grad in every if grad is not None]

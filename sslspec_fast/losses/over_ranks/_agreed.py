"""The agreement at the start of a loss over ranks: what its arguments must have in common."""

from __future__ import annotations

import functools
import operator
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import _checks as check
from ...graph.pair_graph import PairGraph
from ...ranks import Ranks, agree
from ...ranks.pieces import budget
from ._form import COPY, COUNTED, FURTHER, MORE, ROWS, SCALES, Form

# what a scale can be: a copy on every rank, or one per row, of one or of all views of a sample
ONE, PER_ROW, PER_ANCHOR = 1, 2, 4
_LAYOUTS = {ONE: "one value", PER_ROW: "one per row", PER_ANCHOR: "one per anchor"}


def wanted(x: Tensor | None) -> bool:
    """Whether autograd asks for the gradient of x."""
    return x is not None and x.requires_grad and torch.is_grad_enabled()


def scale_given(
    op: str,
    name: str,
    value: float | Tensor,
    like: Tensor,
    views: int = 1,
    rows: int | None = None,
) -> Tensor:
    """A checked temperature or scale, of the rows `like` or of so many other ones. The shape (1,)
    beside one row can mean a copy or one per row, and is kept until the other ranks have told what
    theirs is.
    """
    n = like.shape[0] if rows is None else rows
    scale = check.positive(op, name, value, like, rows=(n, views * n))
    ambiguous = isinstance(value, Tensor) and value.shape == (1,) and n == 1
    return scale.reshape(1) if ambiguous else scale


def _told(x: Tensor) -> str:
    """What is compared of a tensor that every rank has a copy of: its shape and, where looking at
    it waits for nothing, a sum over some of its rows.
    """
    shape = f"shape {tuple(x.shape)}"
    if x.device.type != "cpu" or x.numel() == 0:
        return shape
    rows = x.detach().reshape(-1) if x.dim() == 0 else x.detach()
    some = rows[:: -(-rows.shape[0] // 64)].double()
    return f"{shape} and sum {float(some.sum()):.17g}"


def _layouts(x: Tensor, n: int) -> int:
    if x.dim() == 0:
        return ONE
    if x.shape[0] == 0:
        return PER_ROW | PER_ANCHOR
    if x.shape[0] > n:
        return PER_ANCHOR
    return PER_ROW | ONE if n == 1 else PER_ROW


def _bits(x: Tensor) -> int:
    """Those of a float64, where looking at it waits for nothing."""
    if x.numel() != 1 or x.device.type != "cpu":
        return 0
    bits: int = struct.unpack("q", struct.pack("d", x.item()))[0]
    return bits


class Agreed(NamedTuple):
    ranks: Ranks
    more: Ranks
    further: Ranks
    layouts: dict[str, int]  # of the scales
    tensors: dict[str, Tensor | None]  # the scales in those layouts


def agreed(
    form: Form,
    group: Any,
    tensors: dict[str, Tensor | None],
    numbers: Sequence[float],
    choices: Sequence[str],
    graph: PairGraph | None,
    reduction: str,
    wants: Sequence[bool],
    impl: str,
    half: bool = False,
) -> Agreed:
    first = next(iter(tensors.values()))
    assert first is not None
    width = first.shape[1] if first.dim() == 2 else tuple(first.shape[1:])
    facts: dict[str, object] = {
        "the number of features" if first.dim() == 2 else "the shape of a sample": width,
        "dtype": first.dtype,
        "impl": impl,
        "set_float32_products": "torch.bfloat16" if half else "torch.float32",
        "reduction": reduction,
        "the buffer budget": budget(),
        **dict(zip(form.numbers, numbers, strict=True)),
        **dict(zip(form.choices, choices, strict=False)),
    }
    if form.graph:
        facts[form.graph] = "none over ranks" if graph is None else f"number {graph.number}"
    counts = {ROWS: 0, MORE: 0, FURTHER: 0}
    for (name, x), want in zip(tensors.items(), wants, strict=True):
        kind = form.tensors[name]
        facts[f"requires_grad of {name}"] = want
        facts[name] = "None" if x is None else "a tensor"
        if x is None:
            continue
        if kind == COPY:
            facts[name] = _told(x)
        elif kind in COUNTED:
            counts[COUNTED[kind]] = x.shape[0]
            if x.dim() > 1 and x is not first:
                facts[name] = f"rows of shape {tuple(x.shape[1:])} in {x.dtype}"
    scales = {name: SCALES[kind] for name, kind in form.tensors.items() if kind in SCALES}
    held = list(counts.values())
    for name, of in scales.items():
        x = tensors[name]
        held += (ONE, 0) if x is None else (_layouts(x, counts[of]), _bits(x))
    ranks, (more, further, *told) = agree(form.op, group, facts, *held)
    _check_rows(form, next(iter(tensors)), ranks.n)
    if form.fits is not None:
        form.fits(ranks, ranks.with_counts(more))
    layouts, tensors = {}, dict(tensors)
    for name, flags, values in zip(scales, told[::2], told[1::2], strict=True):
        x, layouts[name] = tensors[name], _common_layout(form.op, name, flags)
        if layouts[name] == ONE and x is not None:
            _check_same_bits(form.op, name, values)
            tensors[name] = x.reshape(())
    of_ranks = ranks, ranks.with_counts(more), ranks.with_counts(further)
    return Agreed(*of_ranks, layouts, tensors)


def _check_rows(form: Form, name: str, n: int) -> None:
    if n < form.min_rows:
        rows = "row" if form.min_rows == 1 else "rows"
        raise ValueError(
            f"{form.op}: {name} needs at least {form.min_rows} {rows} over all ranks of the group, "
            f"got {n}"
        )


def _check_same_bits(op: str, name: str, values: Sequence[int]) -> None:
    """values: of the ranks, float64 numbers as the integers of the same bits."""
    for rank, value in enumerate(values):
        if value != values[0]:
            a, b = (struct.unpack("d", struct.pack("q", v))[0] for v in (values[0], value))
            raise ValueError(
                f"{op}: {name} must be the same on all ranks of the group, rank 0 has {a}, rank "
                f"{rank} has {b}"
            )


def _common_layout(op: str, scale: str, flags: Sequence[int]) -> int:
    common = functools.reduce(operator.and_, flags)
    if common == 0:
        each = ", ".join(
            f"rank {rank} has {' or '.join(t for bit, t in _LAYOUTS.items() if bit & flag)}"
            for rank, flag in enumerate(flags)
        )
        raise ValueError(f"{op}: {scale} must be alike on all ranks of the group, {each}")
    return common & -common

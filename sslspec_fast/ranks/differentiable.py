"""Collectives with a gradient, for rows that are spread over ranks.

With obj_r what rank r back-propagates, each is differentiated as a function of all ranks' inputs to
all ranks' outputs: a gradient is that of sum_r obj_r. Every backward is made of these functions, so
that derivatives of any order exist.

Two sums differ in their gradient alone, and the wrong one gives right values and wrong gradients:
`sum_to_value` for a sum whose result is used in the same way on every rank (a loss), where the
gradients that come back are equal; `sum_to_rows` for one that meets the rows of a rank again (a
mean to subtract), where they differ and must be added up.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .agreement import Ranks
from .traffic import all_gather, all_reduce, all_to_all, start_all_gather

_SMALL = 1 << 20  # bytes; W copies of more than that would cost more than their fixed order gives


def sum_over_ranks(x: Tensor, ranks: Ranks) -> Tensor:
    """sum_r x_r without a gradient: the same bits on every rank, in rank order if it is small."""
    if x.numel() * x.element_size() > _SMALL:
        return all_reduce(x, ranks.group)
    return all_gather(x, ranks.group).sum(0)


def start_gather(x: Tensor, ranks: Ranks) -> Any:
    """A call that waits for `gather_rows` of x, without a gradient."""
    most, rows = max(ranks.counts), x.shape[0]
    padded = x.detach()
    if rows < most:
        padded = torch.cat([padded, padded.new_zeros(most - rows, *x.shape[1:])])
    pending = start_all_gather(padded, ranks.group)

    def wait() -> Tensor:
        every = pending.wait()
        if min(ranks.counts) == most:
            return every.flatten(0, 1)
        return torch.cat([block[:rows] for block, rows in zip(every, ranks.counts, strict=True)])

    return wait


def scatter_sum(x: Tensor, ranks: Ranks) -> Tensor:
    """`reduce_scatter_rows` without a gradient, added up in rank order."""
    own = ranks.counts[ranks.rank]
    received = all_to_all(x, ranks.counts, [own] * ranks.size, ranks.group)
    return received.unflatten(0, (ranks.size, own)).sum(0)


def scatter_logsumexp(x: Tensor, ranks: Ranks) -> Tensor:
    """(n_r,) log sum over ranks of exp of what each of them knows of the rows of this rank."""
    own = ranks.counts[ranks.rank]
    received = all_to_all(x, ranks.counts, [own] * ranks.size, ranks.group)
    return torch.logsumexp(received.unflatten(0, (ranks.size, own)), 0)


class _SumToValue(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Ranks) -> Tensor:
        ctx.size = ranks.size
        return sum_over_ranks(x, ranks)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.size, None


class _SumToRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return sum_over_ranks(x, ranks)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return sum_to_rows(grad, ctx.ranks), None


class _Replicated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ranks: Ranks, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.ranks = ranks
        return tuple(x.view_as(x) for x in parameters)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        wide = torch.stack(grads)  # of all parameters in one collective
        mean = sum_to_rows(wide, ctx.ranks) / ctx.ranks.size
        return None, *mean.unbind()


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        gathered: Tensor = start_gather(x, ranks)()
        return gathered

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return reduce_scatter_rows(grad, ctx.ranks), None


class _ReduceScatterRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return scatter_sum(x, ranks)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return gather_rows(grad, ctx.ranks), None


def sum_to_value(x: Tensor, ranks: Ranks) -> Tensor:
    """``y = sum_r x_r`` for a result that all ranks use in the same way; ``x_bar = W y_bar``.

    The backward sends nothing: it takes y_bar to be the same on all ranks.
    """
    out: Tensor = _SumToValue.apply(x, ranks)
    return out


def sum_to_rows(x: Tensor, ranks: Ranks) -> Tensor:
    """``y = sum_r x_r`` for a result that meets the rows of a rank; ``x_bar = sum_r y_bar_r``."""
    out: Tensor = _SumToRows.apply(x, ranks)
    return out


def replicated(ranks: Ranks, *parameters: Tensor) -> tuple[Tensor, ...]:
    """0-dim tensors of one dtype that every rank holds a copy of: ``y = x``,
    ``x_bar = mean_r y_bar_r``, so that every rank gets the whole gradient.
    """
    if not any(x.requires_grad for x in parameters):
        return parameters
    out: tuple[Tensor, ...] = _Replicated.apply(ranks, *parameters)
    return out


def gather_rows(x: Tensor, ranks: Ranks) -> Tensor:
    """(N, ...) the rows of all ranks in rank order; ``x_bar`` = `reduce_scatter_rows` of y_bar."""
    out: Tensor = _GatherRows.apply(x, ranks)
    return out


def reduce_scatter_rows(x: Tensor, ranks: Ranks) -> Tensor:
    """(n_r, ...) this rank's rows of ``sum_r x_r``, x_r (N, ...); ``x_bar`` = `gather_rows`."""
    out: Tensor = _ReduceScatterRows.apply(x, ranks)
    return out

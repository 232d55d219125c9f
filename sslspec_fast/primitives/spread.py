"""Blocks whose rows are spread over ranks: where the sums of `basis` become those of all rows.

Within `over_ranks`, `gram` and whatever else calls `total` add up over all ranks, with the same
bits on each, so that an algorithm made of such sums runs on every rank as it would on one process
that has all rows. Outside, where one variable is read, nothing happens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Protocol

import torch
from torch import Tensor

__all__ = [
    "Exchange",
    "current",
    "decided",
    "first_found",
    "highest",
    "meet",
    "over_ranks",
    "total",
]


class Exchange(Protocol):
    """What one rank needs of the others."""

    memory: float
    """Bytes of memory of the smallest of their machines."""

    def sum(self, x: Tensor) -> Tensor:
        """The sum over ranks, in the dtype and on the device of x."""

    def first(self, *x: Tensor) -> list[Tensor]:
        """float64 tensors of the first rank."""

    def gather(self, x: Tensor) -> Tensor:
        """(W, *x.shape) float64 on the host."""

    def meet(self, *numbers: float) -> None:
        """Raise on every rank if the ranks do not come here with the same numbers."""


_CURRENT: ContextVar[Exchange | None] = ContextVar("sslspec_fast_spread", default=None)


def current() -> Exchange | None:
    """How the rows of this call are spread; None: this process has them all."""
    return _CURRENT.get()


@contextlib.contextmanager
def over_ranks(exchange: Exchange | None) -> Iterator[None]:
    """Within it, blocks are this rank's rows of larger ones. None: all rows, whatever is around."""
    token = _CURRENT.set(exchange)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def total(x: Tensor) -> Tensor:
    """x, a sum over rows, as the sum over all rows."""
    exchange = _CURRENT.get()
    return x if exchange is None else exchange.sum(x)


def decided(*x: Tensor) -> tuple[Tensor, ...]:
    """Results of LAPACK on the host, as the first rank has them: another processor may round in
    another way, and all must go on with the same bits. float64.
    """
    exchange = _CURRENT.get()
    return x if exchange is None else tuple(exchange.first(*x))


def highest(x: Tensor) -> Tensor:
    """x, largest values over rows, as those over all rows."""
    exchange = _CURRENT.get()
    return x if exchange is None else exchange.gather(x).amax(0).to(x)


def first_found(found: Tensor, x: Tensor) -> Tensor:
    """(b,) x of the first rank that has found it; found: (b,) bool."""
    exchange = _CURRENT.get()
    if exchange is None:
        return x
    table = exchange.gather(torch.stack([found.to(x), x]))
    rank = table[:, 0].argmax(0, keepdim=True)
    return table[:, 1].gather(0, rank)[0].to(x)


def meet(*numbers: float) -> None:
    """Before products, in which a rank waits for others: all must come with the same numbers."""
    exchange = _CURRENT.get()
    if exchange is not None:
        exchange.meet(*numbers)

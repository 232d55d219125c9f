"""Rows of all ranks, a bounded piece at a time.

All rows are gathered at once where they and their gradient fit in the budget, and then kept for the
gradient. Otherwise every rank contributes the same fraction of its rows to each piece, and the next
piece is on its way while one is computed with. The budget decides alike on all ranks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import NamedTuple

from torch import Tensor

from .agreement import Ranks
from .differentiable import start_gather

_BUDGET: ContextVar[int] = ContextVar("sslspec_fast_buffer_bytes", default=1 << 30)


@contextlib.contextmanager
def buffer_bytes(budget: int) -> Iterator[None]:
    """Within it, rows gathered from other ranks and their gradients take about `budget` bytes at
    most.

    With less memory than all rows and their gradients take, the rows are gathered twice.

    Args:
        budget: bytes, the same on all ranks; 1 GiB outside.

    Returns:
        A context manager.

    Raises:
        ValueError: budget < 1.
    """
    if budget < 1:
        raise ValueError(f"buffer_bytes: budget must be >= 1, got {budget}")
    token = _BUDGET.set(int(budget))
    try:
        yield
    finally:
        _BUDGET.reset(token)


def budget() -> int:
    return _BUDGET.get()


class Piece(NamedTuple):
    """Rows of every rank: `parts` says which, `ranks` how many."""

    parts: tuple[slice, ...]
    ranks: Ranks

    @property
    def own(self) -> slice:
        return self.parts[self.ranks.rank]


def pieces_of(ranks: Ranks, row_bytes: int) -> list[Piece]:
    """The rows of all ranks in pieces; row_bytes: a row and its gradient."""
    number = min(-(-ranks.n * row_bytes // budget()), max(1, *ranks.counts))
    out = []
    for k in range(max(number, 1)):
        parts = []
        for count in ranks.counts:
            step = -(-count // max(number, 1))
            parts.append(slice(min(k * step, count), min((k + 1) * step, count)))
        counts = [part.stop - part.start for part in parts]
        out.append(Piece(tuple(parts), ranks.with_counts(counts)))
    return [piece for piece in out if piece.ranks.n] or out[:1]


def gathered_pieces(x: Tensor, pieces: list[Piece]) -> Iterator[tuple[Piece, Tensor]]:
    """Each piece with its rows of all ranks, without a gradient; the next gather has begun."""
    waiting = [start_gather(x[pieces[0].own], pieces[0].ranks)]
    for k, piece in enumerate(pieces):
        if k + 1 < len(pieces):
            following = pieces[k + 1]
            waiting.append(start_gather(x[following.own], following.ranks))
        yield piece, waiting.pop(0)()

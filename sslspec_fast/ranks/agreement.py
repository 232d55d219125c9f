"""One small exchange at the start of every call over ranks.

Each rank tells how many rows it holds, a checksum of what must be the same everywhere, and whether
its arguments are wrong. Texts follow only if something differs; then every rank raises.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NoReturn

import torch
from torch import Tensor

from .traffic import all_gather, host_device

_HELD = 7  # integers that a call can exchange
_TEXT = 2048  # bytes of a rank's text
_refused = contextvars.ContextVar("refused", default=False)


class ExchangeRefused(RuntimeError):
    """A call over ranks inside `without_exchange`."""


@contextlib.contextmanager
def without_exchange() -> Iterator[None]:
    """Calls over ranks raise ExchangeRefused here before they send anything: for a run on one rank
    that the others know nothing of.
    """
    token = _refused.set(True)
    try:
        yield
    finally:
        _refused.reset(token)


@dataclass(frozen=True)
class Ranks:
    """Who holds how many rows in one call.

    group: the process group; counts: rows of each rank. Immutable: the backward pass of an earlier
    call must find the counts of that call.
    """

    group: Any
    rank: int
    counts: tuple[int, ...]

    @property
    def size(self) -> int:
        """W, the number of ranks."""
        return len(self.counts)

    @property
    def n(self) -> int:
        """N, the rows of all ranks."""
        return sum(self.counts)

    @property
    def offsets(self) -> list[int]:
        """The global number of the first row of each rank."""
        return list(accumulate(self.counts[:-1], initial=0))

    @property
    def here(self) -> slice:
        """The rows of this rank among those of all."""
        start = sum(self.counts[: self.rank])
        return slice(start, start + self.counts[self.rank])

    def with_counts(self, counts: Sequence[int]) -> Ranks:
        """The same group with other rows per rank."""
        return Ranks(self.group, self.rank, tuple(counts))


def agree(
    op: str, group: Any, facts: Mapping[str, object], *held: int
) -> tuple[Ranks, list[tuple[int, ...]]]:
    """Exchange what the ranks hold; raise on every rank where any has other facts or has failed.

    Args:
        op: the name of the call, which must be the same on all ranks too.
        group: a ProcessGroup.
        facts: names and values that must be the same on all ranks.
        held: integers that may differ, the same number on all ranks; the first: rows.

    Returns:
        the ranks with their rows, and the others of `held`, each as one integer per rank.

    Errors: ValueError that names the fact, both values and their ranks; RuntimeError with the text
    of another rank's error.
    """
    words = {"operator": op, **facts}
    text = "\n".join(f"{k}\t{v}" for k, v in words.items())
    table = _exchange(op, group, text, False, held)
    rows, *others = zip(*table, strict=True)
    return Ranks(group, torch.distributed.get_rank(group), rows), others


def fail(op: str, group: Any, error: Exception) -> NoReturn:
    """Tell the other ranks, which wait in `agree`, that this one has failed; raise the error."""
    _exchange(op, group, f"{type(error).__name__}: {error}", True, ())
    raise error


def told_to_all(op: str, group: Any) -> contextlib.AbstractContextManager[None]:
    """Around the checks before `agree`: an exception reaches the other ranks, which wait there.

    group: a ProcessGroup, or None, where no rank waits. Under torch.compile arguments are checked
    while the graph is traced, and every rank raises on its own.
    """
    if group is None or torch.compiler.is_compiling():
        return contextlib.nullcontext()
    return _telling(op, group)


@contextlib.contextmanager
def _telling(op: str, group: Any) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        fail(op, group, error)


def _exchange(
    op: str, group: Any, text: str, failed: bool, held: tuple[int, ...]
) -> list[list[int]]:
    if _refused.get():
        raise ExchangeRefused(f"{op}: a call over ranks in a run of one rank")
    device = host_device(group)
    encoded = text.encode()
    numbers = [failed, zlib.crc32(encoded), *held, *[0] * (_HELD - len(held))]
    mine = torch.tensor(numbers, dtype=torch.int64, device=device)
    table: list[list[int]] = all_gather(mine, group).tolist()
    if any(row[0] for row in table) or any(row[1] != table[0][1] for row in table):
        texts = _texts(encoded, group, device)
        if not failed:
            _raise(op, texts, [bool(row[0]) for row in table])
    return [row[2 : 2 + len(held)] for row in table]


def _texts(encoded: bytes, group: Any, device: torch.device) -> list[str]:
    if len(encoded) > _TEXT:
        encoded = encoded[: _TEXT - 4] + b" ..."
    mine = torch.zeros(_TEXT, dtype=torch.uint8)
    mine[: len(encoded)] = torch.frombuffer(bytearray(encoded), dtype=torch.uint8)
    every: Tensor = all_gather(mine.to(device), group).cpu()
    return [bytes(row.tolist()).rstrip(b"\0").decode(errors="replace") for row in every]


def _raise(op: str, texts: list[str], failed: list[bool]) -> NoReturn:
    size = len(texts)
    for rank, text in enumerate(texts):
        if failed[rank]:
            raise RuntimeError(f"{op}: rank {rank} of {size} failed with {text}")
    first, *others = (dict(line.split("\t", 1) for line in text.split("\n")) for text in texts)
    for rank, other in enumerate(others, 1):
        for name, value in first.items():
            if other.get(name, value) != value:
                raise ValueError(
                    f"{op}: {name} must be the same on all ranks of the group, rank 0 has {value}, "
                    f"rank {rank} has {other[name]}"
                )
    raise ValueError(f"{op}: ranks of the group made different calls")


@functools.lru_cache(maxsize=16)
def sample_ids(
    counts: tuple[int, ...],
    parts: tuple[tuple[int, int], ...],
    views: int,
    device: torch.device,
) -> Tensor:
    """(rows,) int32: the global number of the sample of every row that the ranks hold.

    A rank with n samples holds `views` blocks of n rows, one row for each sample, and further rows
    that belong to no sample and get -1. parts: the rows of each rank that are asked for.
    """
    found, first = [], 0
    for count, (start, stop) in zip(counts, parts, strict=True):
        row = torch.arange(start, stop)
        found.append(torch.where(row < views * count, first + row % max(count, 1), -1))
        first += count
    return torch.cat(found).to(torch.int32).to(device)

"""Ranks that run one algorithm in step: sums and decisions with the same bits, and no hang.

Every exchange begins with one message of fixed size, which says what it is, how long, and a
checksum of everything that was decided so far, beside the first numbers of it. So ranks that have
come to different decisions see it in the next exchange, whatever each of them thinks that is, and
raise; so they do where one of them fails.
"""

from __future__ import annotations

import math
import struct
import zlib
from typing import Any, NoReturn

import torch
from torch import Tensor

from .agreement import Ranks
from .traffic import all_gather, all_reduce, broadcast, host_device

__all__ = ["Lockstep", "OtherRankError", "ends", "ordered_sum"]

_HEAD, _MESSAGE = 4, 1024  # float64 numbers of the header, and of the first message
_MANY = 1 << 17  # numbers, of which W copies would cost more than their fixed order gives
_KINDS = {"sum": 1.0, "first": 2.0, "gather": 3.0, "meet": 4.0}
_FAILED = 5.0


class OtherRankError(RuntimeError):
    """Raised on all ranks at once: no rank needs to be told."""


class Lockstep:
    """The exchanges of one run over the ranks of a group.

    op: the name of the run in messages; memory: bytes of memory of this rank's machine, then of the
    smallest of them.
    """

    def __init__(self, op: str, ranks: Ranks, memory: float = math.inf) -> None:
        self.op, self.ranks, self.count = op, ranks, 0
        self._device = host_device(ranks.group)
        self._checksum = 0
        self._over = False
        self.memory = float(self.gather(torch.tensor([memory], dtype=torch.float64)).min())

    def sum(self, x: Tensor) -> Tensor:
        """The sum over ranks, in rank order unless there are very many numbers."""
        flat = _flat(x)
        if len(flat) > _MANY:
            self._begin("sum", flat[:0], len(flat))
            out = self._traffic(all_reduce, flat)
        else:
            out = _added(self._all("sum", flat))
        return out.view(x.shape).to(x)

    def first(self, *x: Tensor) -> list[Tensor]:
        """float64 tensors of the first rank; their shapes are the same on all."""
        flat = torch.cat([_flat(t) for t in x])
        room = _MESSAGE - _HEAD
        out = self._begin("first", flat[:room], len(flat))[0]
        if len(flat) > room:
            out = torch.cat([out, self._traffic(broadcast, flat[room:])])
        self._note(out.numpy().tobytes())
        parts = out.split([t.numel() for t in x])
        return [part.view(t.shape) for part, t in zip(parts, x, strict=True)]

    def gather(self, x: Tensor) -> Tensor:
        """(W, *x.shape) float64 on the host."""
        return self._all("gather", _flat(x)).view(self.ranks.size, *x.shape)

    def meet(self, *numbers: float) -> None:
        """Raise on every rank if the ranks do not come here with the same numbers."""
        self._note(struct.pack(f"{len(numbers)}d", *numbers))
        self._begin("meet", torch.zeros(0, dtype=torch.float64), 0)

    def fail(self, error: BaseException) -> None:
        """Tell the others, in their next exchange, that this rank has failed."""
        if self._over or isinstance(error, OtherRankError):
            return
        text = f"{type(error).__name__}: {error}".encode()[: _MESSAGE - _HEAD]
        self._message(_FAILED, torch.tensor(list(text), dtype=torch.float64), len(text))

    def _note(self, what: bytes) -> None:
        self._checksum = zlib.crc32(what, self._checksum)

    def _all(self, kind: str, flat: Tensor) -> Tensor:
        """(W, numbers) of all ranks."""
        room = _MESSAGE - _HEAD
        out = self._begin(kind, flat[:room], len(flat))
        if len(flat) > room:
            out = torch.cat([out, self._traffic(all_gather, flat[room:])], 1)
        return out

    def _begin(self, kind: str, some: Tensor, size: int) -> Tensor:
        """(W, len(some)) of all ranks, which are all in this very exchange."""
        table = self._message(_KINDS[kind], some, size)
        for rank, row in enumerate(table):
            if row[0] == _FAILED:
                text = bytes(int(c) for c in row[_HEAD : _HEAD + int(row[1])])
                self._raise(f"rank {rank} failed with {text.decode(errors='replace')}")
        different = (table[:, :_HEAD] != table[0, :_HEAD]).any(1)
        if bool(different.any()):
            rank = int(different.int().argmax())
            self._raise(
                f"ranks must come to the same decisions, in exchange {self.count} rank 0 has "
                f"{_told(table[0])}, rank {rank} has {_told(table[rank])}"
            )
        return table[:, _HEAD : _HEAD + len(some)]

    def _message(self, kind: float, some: Tensor, size: int) -> Tensor:
        self.count += 1
        mine = torch.zeros(_MESSAGE, dtype=torch.float64)
        mine[:_HEAD] = torch.tensor([kind, size, self._checksum, self.count], dtype=torch.float64)
        mine[_HEAD : _HEAD + len(some)] = some
        return self._traffic(all_gather, mine)

    def _traffic(self, collective: Any, x: Tensor) -> Tensor:
        over, self._over = self._over, True  # a collective that raised has left the others behind
        out: Tensor = collective(x.to(self._device), self.ranks.group).cpu()
        self._over = over
        return out

    def _raise(self, text: str) -> NoReturn:
        self._over = True
        raise OtherRankError(f"{self.op}: {text}")


def ordered_sum(x: Tensor, group: Any) -> Tensor:
    """The sum over ranks, in rank order."""
    return _added(all_gather(_flat(x).to(host_device(group)), group).cpu()).view(x.shape).to(x)


def ends(low: float, high: float, group: Any) -> tuple[float, float]:
    """The least `low` and the largest `high` of all ranks."""
    mine = torch.tensor([low, high], dtype=torch.float64, device=host_device(group))
    table = all_gather(mine, group).cpu()
    return float(table[:, 0].min()), float(table[:, 1].max())


def _flat(x: Tensor) -> Tensor:
    return x.detach().to("cpu", torch.float64).reshape(-1)


def _added(table: Tensor) -> Tensor:
    """The sum of the rows, one after the other, whatever the processor."""
    out = table[0].clone()
    for row in table[1:]:
        out += row
    return out


def _told(row: Tensor) -> str:
    kinds = {number: name for name, number in _KINDS.items()}
    kind, size, checksum, count = row[:_HEAD].tolist()
    return f"a {kinds.get(kind, kind)} of {size:.0f} (number {count:.0f}, {int(checksum):08x})"

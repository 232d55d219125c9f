"""The rows of other ranks that a rank's rows of a sparse matrix point to."""

from __future__ import annotations

import torch
from torch import Tensor

from .agreement import Ranks
from .traffic import Pending, all_to_all, start_all_to_all

__all__ = ["Halo"]


class Halo:
    """columns: global numbers of other ranks' rows, ascending and each once."""

    def __init__(self, columns: Tensor, ranks: Ranks) -> None:
        self.ranks, self.columns, self.size = ranks, columns, len(columns)
        ends = torch.tensor([*ranks.offsets[1:], ranks.n], device=columns.device)
        reached = torch.searchsorted(columns, ends)
        wanted = torch.diff(reached, prepend=reached.new_zeros(1))
        every = all_to_all(wanted, [1] * ranks.size, [1] * ranks.size, ranks.group)
        self._receive: list[int] = wanted.tolist()
        self._send: list[int] = every.tolist()
        asked = all_to_all(columns, self._receive, self._send, ranks.group)
        self.asked = asked - ranks.here.start  # rows of this rank, by the ranks that ask for them

    def start(self, x: Tensor) -> Pending:
        """A pending (size, b): the rows at `columns` of the block of which x (n_r, b) is this
        rank's part.
        """
        return start_all_to_all(x[self.asked], self._send, self._receive, self.ranks.group)

    def send_back(self, x: Tensor) -> Tensor:
        """(len(asked), b): what other ranks have for the rows `asked`; x (size, b) is what this
        rank has for the rows at `columns`.
        """
        return all_to_all(x, self._receive, self._send, self.ranks.group)

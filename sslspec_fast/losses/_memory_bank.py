"""A first-in first-out store of rows: MoCo's queue, cross-batch memory, NNCLR's support set; and
the checks of a queue that a loss is given.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _checks as check
from .._dtypes import widen
from ..primitives._matmul import mm_wide
from ..primitives.rows.unit_rows import unit_rows
from ..ranks import Held, agree, gather_rows, several, told_to_all

_BLOCK_ELEMENTS = 1 << 22  # similarities at once


class MemoryBank(torch.nn.Module):
    """The last `size` rows that were given to `update`, as unit rows without a gradient.

    Args:
        size: how many rows are kept, >= 1.
        features: d, >= 1.
        ids: also keep an integer for each row.
        dtype: of the rows that are kept, float32 or float64.
        group: a process group or 1-D DeviceMesh: `update` stores the rows of all its ranks, in rank
            order, on each of them.

    ``bank.rows`` (m, d) and ``bank.ids`` (m,) are what is there, m <= size, without a copy and in
    no order; `update` overwrites the oldest. Call it after ``backward()``: autograd refuses a loss
    whose rows have changed since. Rows, their number and the place of the next one are part of
    ``state_dict()``.

    >>> bank = MemoryBank(4096, 8)
    >>> bank.update(torch.eye(3, 8))
    >>> bank.rows.shape
    torch.Size([3, 8])
    """

    stored: Tensor  # (size, d)
    stored_ids: Tensor | None  # (size,) int64

    def __init__(
        self,
        size: int,
        features: int,
        ids: bool = False,
        dtype: torch.dtype = torch.float32,
        *,
        group: Any = None,
    ) -> None:
        super().__init__()
        op = "MemoryBank"
        self._held = None if group is None else Held(op, group)
        self.size = check.count(op, "size", size, 1)
        self.features = check.count(op, "features", features, 1)
        if dtype not in (torch.float32, torch.float64):
            raise TypeError(f"{op}: dtype must be float32 or float64, got {dtype}")
        with torch.inference_mode(False):  # written to in later training steps
            self.register_buffer("stored", torch.zeros(self.size, self.features, dtype=dtype))
            numbers = torch.zeros(self.size, dtype=torch.int64) if ids else None
            self.register_buffer("stored_ids", numbers)
        self._filled, self._next = 0, 0

    def __len__(self) -> int:
        return self._filled

    def extra_repr(self) -> str:
        held = "" if self._held is None else f", group of {self._held.size}"
        ids = self.stored_ids is not None
        return f"size={self.size}, features={self.features}, ids={ids}{held}"

    @property
    def rows(self) -> Tensor:
        """(m, d) unit rows."""
        return self.stored[: self._filled]

    @property
    def ids(self) -> Tensor | None:
        """(m,) int64, or None for a bank without ids."""
        return None if self.stored_ids is None else self.stored_ids[: self._filled]

    @torch.no_grad()
    def update(self, rows: Tensor, ids: Any = None) -> None:
        """Store rows, normalised; of more than `size` the last ones. With a group, those of all
        ranks, to be called on all of them.

        Args:
            rows: (n, d).
            ids: (n,) integers, needed by a bank with ids and refused by one without.

        Raises:
            ValueError or TypeError: rows or ids that do not fit the bank.
        """
        op = "MemoryBank.update"
        group = None if self._held is None else several(op, self._held.group)
        with told_to_all(op, group):
            numbers = self._checked(op, rows, ids)
        fresh = widen(rows.detach())
        if group is not None:
            fresh, numbers = self._of_all(op, fresh, numbers, group)
        self._store(fresh, numbers)

    def _checked(self, op: str, rows: Tensor, ids: Any) -> Tensor | None:
        check.matrix(op, "rows", rows, min_rows=0)
        if rows.shape[1] != self.features:
            raise ValueError(
                f"{op}: rows must have the {self.features} features of the bank, "
                f"got {tuple(rows.shape)}"
            )
        if (ids is not None) != (self.stored_ids is not None):
            got = "none" if ids is None else "some"
            rule = "needs" if ids is None else "takes no"
            raise ValueError(f"{op}: a bank made with ids={ids is None} {rule} ids, got {got}")
        return None if ids is None else check.ids(op, ids, rows, rows.shape[0])

    def _of_all(
        self, op: str, rows: Tensor, numbers: Tensor | None, group: Any
    ) -> tuple[Tensor, Tensor | None]:
        """The rows and ids of all ranks, in rank order, once their banks are alike."""
        facts = {
            "size": self.size,
            "features": self.features,
            "ids": numbers is not None,
            "the dtype of rows": rows.dtype,
            "the rows that are stored": self._filled,
            "the place of the next row": self._next,
        }
        ranks, _ = agree(op, group, facts, rows.shape[0])
        return gather_rows(rows, ranks), None if numbers is None else gather_rows(numbers, ranks)

    def _store(self, rows: Tensor, numbers: Tensor | None) -> None:
        n = rows.shape[0]
        if n == 0:
            return
        kept = min(n, self.size)
        at = (self._next + torch.arange(kept, device=self.stored.device)) % self.size
        fresh = unit_rows(rows[n - kept :])
        self.stored.index_copy_(0, at, fresh.to(self.stored))
        if numbers is not None and self.stored_ids is not None:
            self.stored_ids.index_copy_(0, at, numbers[n - kept :].to(at.device))
        self._next = (self._next + kept) % self.size
        self._filled = min(self._filled + kept, self.size)

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        """For each row of z the stored row of largest cosine, of equal ones the first.

        What NNCLR puts in the place of a view.

        Args:
            z: (n, d).

        Returns:
            (n, d) in the dtype of the bank.

        Raises:
            ValueError or TypeError: z does not fit the bank, or the bank is empty.
        """
        op = "MemoryBank.nearest"
        check.matrix(op, "z", z)
        if z.shape[1] != self.features:
            raise ValueError(
                f"{op}: z must have the {self.features} features of the bank, got {tuple(z.shape)}"
            )
        if self._filled == 0:
            raise ValueError(f"{op}: the bank must hold at least 1 row, got 0")
        rows, x = self.rows, z.detach().to(self.stored)
        step, columns = max(1, _BLOCK_ELEMENTS // self._filled), widen(rows).T
        best = [mm_wide(block, columns).argmax(1) for block in x.split(step)]
        return rows[torch.cat(best)]

    def get_extra_state(self) -> dict[str, int]:
        return {"filled": self._filled, "next": self._next}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self._filled, self._next = int(state["filled"]), int(state["next"])

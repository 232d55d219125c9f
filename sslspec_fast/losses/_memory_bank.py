"""A first-in first-out store of rows: MoCo's queue, cross-batch memory, NNCLR's support set; and
the checks of a queue that a loss is given.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _checks as check
from .._dtypes import widen
from ..primitives.rows.unit_rows import unit_rows

_BLOCK_ELEMENTS = 1 << 22  # similarities at once


class MemoryBank(torch.nn.Module):
    """The last `size` rows that were given to `update`, as unit rows without a gradient.

    Args:
        size: how many rows are kept, >= 1.
        features: d, >= 1.
        ids: also keep an integer for each row.
        dtype: of the rows that are kept, float32 or float64.

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
        self, size: int, features: int, ids: bool = False, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        op = "MemoryBank"
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
        return f"size={self.size}, features={self.features}, ids={self.stored_ids is not None}"

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
        """Store rows, normalised; of more than `size` the last ones.

        Args:
            rows: (n, d).
            ids: (n,) integers, needed by a bank with ids and refused by one without.

        Raises:
            ValueError or TypeError: rows or ids that do not fit the bank.
        """
        op = "MemoryBank.update"
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
        n = rows.shape[0]
        numbers = None if ids is None else check.ids(op, ids, rows, n)
        if n == 0:
            return
        kept = min(n, self.size)
        at = (self._next + torch.arange(kept, device=self.stored.device)) % self.size
        fresh = unit_rows(widen(rows.detach()[n - kept :]))
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
        step = max(1, _BLOCK_ELEMENTS // self._filled)
        best = [(block @ rows.T).argmax(1) for block in x.split(step)]
        return rows[torch.cat(best)]

    def get_extra_state(self) -> dict[str, int]:
        return {"filled": self._filled, "next": self._next}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self._filled, self._next = int(state["filled"]), int(state["next"])


def unit_queue(op: str, queue: Tensor, query: Tensor, like: Tensor) -> Tensor:
    """The queue in the dtype of `like`, the widened query."""
    check.dense(op, "queue", queue)
    if queue.dim() != 2 or queue.shape[1] != query.shape[1]:
        raise ValueError(
            f"{op}: queue must be (rows, {query.shape[1]}), the features of query "
            f"{tuple(query.shape)}, got {tuple(queue.shape)}"
        )
    if queue.dtype not in (query.dtype, like.dtype):
        raise TypeError(
            f"{op}: queue must have the dtype of query, {query.dtype}, or {like.dtype}, "
            f"got {queue.dtype}"
        )
    if queue.device != query.device:
        raise ValueError(
            f"{op}: queue must be on the device of query, {query.device}, got {queue.device}"
        )
    check.refuse_grad(op, "queue", queue.requires_grad, "detach it")
    if check.readable(queue) and queue.shape[0]:
        some = queue.detach()[:: -(-queue.shape[0] // 64)].to(like.dtype)
        length = torch.linalg.vector_norm(some, dim=1)
        wrong = length[~((length - 1).abs() <= 0.01)]
        if wrong.numel():
            raise ValueError(f"{op}: queue must have rows of unit length, got {wrong[0]:g}")
    return queue.to(like.dtype)

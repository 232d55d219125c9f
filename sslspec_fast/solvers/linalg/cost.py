"""What products cost: the sizes behind every choice of block, degree and method."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = [
    "FILLED_ROWS",
    "LINE",
    "MACHINES",
    "Machine",
    "guards",
    "machine",
    "padded",
    "product_cost",
    "start_width",
]

# Columns of float32 in a cache line: a gather of them costs no more than one of 4. So it is on an
# H100 (4e6 rows, beyond its L2: 8 and 16 columns 2.4 and 2.6 ms, 24 and 32 columns 4.0 and 3.8).
LINE = 16
# Entries per row from which a factorisation fills in; grids and trees have fewer.
FILLED_ROWS = 8


@dataclass(frozen=True)
class Machine:
    """What depends on where the blocks are.

    together: Ritz pairs whose residuals are worth one more pass over the basis.
    share: entries of a block that keep a host thread busy for longer than it takes to wake it.
    """

    together: int
    share: int

    def threads(self, n: int, k: int) -> int:
        """Host threads for k pairs of n rows."""
        return max(n * max(k, LINE) // self.share, 1)


# On a GPU the host has the small matrices only, and its threads would wake for microseconds of
# work: one of them does it.
_CPU = Machine(together=8, share=1 << 15)
_GPU = Machine(together=128, share=1 << 62)
MACHINES = {"cpu": _CPU, "cuda": _GPU}


def machine(device: torch.device) -> Machine:
    return MACHINES.get(device.type, _CPU)


def product_cost(op: object, n: int) -> float:
    """Nanoseconds per column of a float32 product with a block (2 cores; ratios matter only)."""
    nnz = getattr(op, "nnz", lambda: None)()
    return 0.3 * (20 * n if nnz is None else nnz) + 1.5 * n


def padded(b: int) -> int:
    """Columns that a product with b float32 columns costs: the gather moves whole cache lines."""
    return LINE * -(-b // LINE)


def guards(k: int) -> int:
    """Fewest columns behind k wanted ones, so that the last of those converges."""
    return max(3, min(k // 8, 16))


def start_width(k: int, free: int) -> int:
    """Columns of the start block: k and some guards, in whole lines where that is near."""
    width = k + guards(k)
    up = padded(width)
    if up - width <= 0.3 * width or up == LINE:
        width = up
    elif up - LINE > k:
        width = up - LINE
    return min(width, free)

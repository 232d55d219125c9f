"""What products cost: the sizes behind every choice of block, degree and method."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = [
    "FILLED_ROWS",
    "FILTER_RESIDUAL",
    "LINE",
    "MACHINES",
    "MAX_DEGREE",
    "Machine",
    "balanced_degree",
    "guarded_width",
    "guards",
    "lanczos_block",
    "longest_first_filter",
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
# Residual, relative to the norm, that filters in float32 reach from a random start.
FILTER_RESIDUAL = 2e-6
MAX_DEGREE = 300  # of a filter
# Nanoseconds of a step beside its filter, on two cores: for each row and column of the basis, for
# each cube of its columns, and whatever the sizes are.
_ROW, _CUBE, _STEP = 5.0, 2.0, 2e6
_FILTER_PART = 2.5  # of the rest of a step: what its filter may take
_FIRST = (8.0, 60.0)  # shortest and longest filter of a start block where nothing else tells


@dataclass(frozen=True)
class Machine:
    """What depends on where the blocks are.

    residuals_per_pass: Ritz pairs whose residuals are worth one more pass over the basis.
    entries_per_thread: entries of a block that keep a host thread busy for longer than it takes to
        wake it.
    """

    residuals_per_pass: int
    entries_per_thread: int

    def threads(self, n: int, k: int) -> int:
        """Host threads for k pairs of n rows."""
        return max(n * max(k, LINE) // self.entries_per_thread, 1)


# On a GPU the host has the small matrices only, and its threads would wake for microseconds of
# work: one of them does it.
_CPU = Machine(residuals_per_pass=8, entries_per_thread=1 << 15)
_GPU = Machine(residuals_per_pass=128, entries_per_thread=1 << 62)
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


def guarded_width(k: int, free: int) -> int:
    """Columns of the start block of a method whose steps are narrow."""
    return min(k + max(2, min(k // 4, 8)), free)


def lanczos_block(k: int, free: int) -> int:
    """Columns of a step of block Lanczos."""
    return min(max(4, min(16, k // 4)), free)


def balanced_degree(op: object, b: int, size: int) -> float:
    """Degree of a filter of b columns from which the rest of a step, with a basis of `size`
    columns, is a minor part of it.
    """
    n: int = op.n  # type: ignore[attr-defined]
    product = product_cost(op, n) * padded(b)
    rest = _ROW * n * size + 3.0 * product + _STEP + _CUBE * size**3
    return _FILTER_PART * rest / product


def longest_first_filter(n: int, width: int, product: float, step: float) -> float:
    """Degree that a filter of the start block may have where the rate is unknown or low.

    product: nanoseconds of a product with the block; step: of what follows, whatever the sizes.
    """
    shortest, longest = _FIRST
    return max(shortest, min(longest, _FILTER_PART * (_ROW * n * width + step) / product))


def start_width(k: int, free: int) -> int:
    """Columns of the start block: k and some guards, in whole lines where that is near."""
    width = k + guards(k)
    up = padded(width)
    if up - width <= 0.3 * width or up == LINE:
        width = up
    elif up - LINE > k:
        width = up - LINE
    return min(width, free)

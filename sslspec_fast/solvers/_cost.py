"""What products cost: the sizes behind every choice of block, degree and method."""

from __future__ import annotations

__all__ = ["FILLED_ROWS", "LINE", "guards", "padded", "product_cost", "start_width"]

# Columns of float32 in a cache line: a gather of them costs no more than one of 4.
LINE = 16
# Entries per row from which a factorisation fills in; grids and trees have fewer.
FILLED_ROWS = 8


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
    """Columns of the start block: k and some guards, in whole cache lines where that is near."""
    width = k + guards(k)
    up = padded(width)
    if up - width <= 0.3 * width or up == LINE:
        width = up
    elif up - LINE > k:
        width = up - LINE
    return min(width, free)

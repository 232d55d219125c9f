"""What products cost: the sizes behind every choice of block, degree and method."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

# Columns of float32 in a cache line: a gather of them costs no more than one of 4. So it is on an
# H100 (4e6 rows, beyond its L2: 8 and 16 columns 2.4 and 2.6 ms, 24 and 32 columns 4.0 and 3.8).
LINE = 16
# Entries per row from which a factorisation fills in; grids and trees have fewer.
FILLED_ROWS = 8
# Nanoseconds of a product, for each entry and row of a column; entries of a row of a callable.
PRODUCT_ENTRY, PRODUCT_ROW, UNKNOWN_ENTRIES = 0.3, 1.5, 20

# ---- the filter of a start block, and those of later steps
# Residual, relative to the norm, that filters in float32 reach from a random start.
FILTER_RESIDUAL = 2e-6
MAX_DEGREE = 300  # of a filter
# Nanoseconds of a step beside its filter, on two cores: for each row and column of the basis, for
# each cube of its columns, and whatever the sizes are.
STEP_ROW, STEP_CUBE, STEP = 5.0, 2.0, 2e6
# What a filter may take, of the rest of its step. Over mnist5k, usa, pp50k-32 and pp100k-16 by
# chebyshev, tol 1e-4 and 1e-8: half of it takes 7 % longer (usa 2.3 times as long), twice of it
# 15 % less (pp50k-32 9 % more).
FILTER_PART = 2.5
FIRST_DEGREES = (8.0, 60.0)  # shortest and longest filter of a start block of unknown or low rate
# Ritz vectors: the edge of a dense spectrum takes the place of the Ritz value near it while a
# degree still gains this fraction of what it gains there. Over the same runs, half and twice of it
# take 2 and 4 % longer.
EDGE_RATE = 0.33
# Rates (log of the growth per degree) below which the edge, or the cut, has no gap behind it, and
# the fraction of such a rate that a filter attains.
OPEN_EDGE, OPEN_EDGE_RATE, OPEN_CUT = 0.6, 0.8, 0.8
SURE_RATE, SURE_DEGREE = 0.18, 36.0  # a rate that may be relied on, up to this degree
ONE_FILTER_RATE, ONE_FILTER = 0.4, 60  # of random columns: one filter is all that is needed
# A Krylov space of a filter: columns of a start from which it pays; degree, at most (12 takes a
# sixth more products than 8 and 0.8 of the basis: over seven graphs of 5,000 to 120,000 nodes 0.7
# to 1.08 of the time, on one of 17,565 nodes 1.2 in float32 and 0.8 in float64; 16 takes 1.25 and
# 1.04 there); log of the lead of the top over the last wanted value, by dtype of the products;
# columns of the basis for each one of the start, before the first check and at most; and restarts
# of it.
KRYLOV_WIDTH = 2 * LINE
KRYLOV_DEGREE = 12.0
LOG_LEAD = {torch.float32: math.log(1e4), torch.float64: math.log(1e9)}
KRYLOV_FIRST, KRYLOV_MOST, KRYLOV_RESTARTS = 3, 8, 4

# ---- the probe
PROBE_STEPS, PROBE_BLOCK = 8, 4  # of a run that is not kept
KEPT_BYTES = 1 << 30  # of a basis that is kept
RITZ_COLUMNS = 15  # columns that leave good Ritz vectors, for two wanted pairs
LONG_PROBE = 16  # steps that a kept run may take at least
PROJECTED_PART = 0.6  # (columns of the basis)^2 for a nanosecond of product: LAPACK is a minor part
PROJECTED_CUBE = 0.35  # nanoseconds of LAPACK for each cube of the columns
PASS_BYTE = 1.5  # nanoseconds of a pass over three blocks, for each byte of one
# A run by a polynomial of A: its degree, its products for each one of a run by A itself, and its
# fewest steps. 39 pairs of 120,000 nodes in 40 communities take 11 blocks of 16 and 33 products, by
# A itself 28 of either (degree 2: 15 and 30, 5: 8 and 40).
POLYNOMIAL_DEGREE, POLYNOMIAL_LOSS, POLYNOMIAL_STEPS = 3, 1.2, 4

# A Ritz value that rounding makes, where a run is not orthogonal to all of its blocks: the most
# that it has of the random start, where an eigenvalue has about 1 (of 8 columns one in 10^6 has
# less; those that rounding made had 1e-17 to 1e-5), and residuals of values below it, as a fraction
# of the spectrum, which show that it is not on its way.
GHOST_WEIGHT, GHOST_BEHIND = 0.02, 1e-3

# ---- a cluster of eigenvalues, of which only some are wanted
# A hole between Ritz values, as a fraction of the spectrum; by which factor it may be narrower than
# seen from higher up; the residuals above it, as a fraction of the mean distance there, with which
# they count the eigenvalues above the hole; and how far off, relatively, the estimate of that count
# from random columns may be.
HOLE, HOLE_EDGE, HOLE_RESIDUAL, HOLE_ODDS = 0.08, 0.7, 0.25, 0.3
# By which a filter that ends in the hole beats one that ends inside the cluster, for each column.
HOLE_RATE = 1.5
ONE_BLOCK = 1.5  # pairs, for each column of a block, of a cluster that comes with the first layers
CLUSTER_COLUMNS = 14  # of the probe, at most, for each pair of a cluster that is to be counted

# ---- a factor and the second one that counts: seconds whatever the sizes are, for each row, entry,
# predicted entry of L and multiplication; of a solve, for each row, column of the start and
# predicted entry. SuperLU on one core of an Intel Xeon: set on runs of 44 graphs with 8 and 30
# pairs, tol 1e-4, of which 73 of 88 are within 2x.
FACTOR_SECONDS, FACTOR_ROW, FACTOR_STORED = 8e-3, 0.36e-6, 0.36e-6
FACTOR_FILL, FACTOR_WORK = 0.07e-6, 5.7e-10
SOLVE_ROW, STEP_COLUMN, SOLVE_FILL = 17e-9, 1e-9, 2.5e-9

# ---- another order of the nodes
CACHE_BYTES = 1 << 20  # a block of 16 float32 columns below this is served by the L2 cache anyway
RENUMBERED_ENTRY = 240.0  # bytes of memory for an entry: the new matrix needs a quarter of that
LEAST_LEVELS = 16
SCATTERED = 4.0  # mean distance of neighbours, in levels' widths, from which a new order pays


@dataclass(frozen=True)
class Machine:
    """What depends on where the blocks are.

    residuals_per_pass: Ritz pairs whose residuals are worth one more pass over the basis.
    entries_per_thread: entries of a block that keep a host thread busy for longer than it takes to
        wake it.
    polynomial_bytes: of the blocks of a probe that is kept, from which one by a polynomial pays.
        32 of 50,000 nodes in float64 (92 MiB): 0.150 s with it and 0.135 without; 40 of 120,000
        (139): 0.55 and 0.49; 64 of 100,000 (183): 0.59 and 0.76.
    cluster_bytes: of those that count a cluster.
    """

    residuals_per_pass: int
    entries_per_thread: int
    polynomial_bytes: int
    cluster_bytes: int

    def threads(self, n: int, k: int) -> int:
        """Host threads for k pairs of n rows."""
        return max(n * max(k, LINE) // self.entries_per_thread, 1)


# On a GPU the host has the small matrices only, and its threads would wake for microseconds of
# work: one of them does it.
# There, what blocks take that were never touched is not what a polynomial would save.
_CPU = Machine(8, 1 << 15, polynomial_bytes=160 << 20, cluster_bytes=1 << 26)
_GPU = Machine(128, 1 << 62, polynomial_bytes=1 << 62, cluster_bytes=1 << 62)
MACHINES = {"cpu": _CPU, "cuda": _GPU}


def machine(device: torch.device) -> Machine:
    return MACHINES.get(device.type, _CPU)


def product_cost(op: object, n: int) -> float:
    """Nanoseconds per column of a float32 product with a block (2 cores; ratios matter only)."""
    nnz = getattr(op, "nnz", lambda: None)()
    return PRODUCT_ENTRY * (UNKNOWN_ENTRIES * n if nnz is None else nnz) + PRODUCT_ROW * n


def padded(b: int) -> int:
    """Columns that a product with b float32 columns costs: the gather moves whole cache lines."""
    return LINE * -(-b // LINE)


def guards(k: int) -> int:
    """Fewest columns behind k wanted ones, so that the last of those converges."""
    return max(3, min(k // 8, 16))


def guarded_width(k: int, free: int) -> int:
    """Columns of the start block of a method whose steps are narrow."""
    return min(k + max(2, min(k // 4, 8)), free)


def step_width(k: int) -> int:
    """Columns of a step of filters behind the first, at most."""
    return max(LINE, min(2 * LINE, k // 2))


def lanczos_block(k: int, free: int) -> int:
    """Columns of a step of block Lanczos."""
    return min(max(4, min(16, k // 4)), free)


def balanced_degree(op: object, b: int, size: int) -> float:
    """Degree of a filter of b columns from which the rest of a step, with a basis of `size`
    columns, is a minor part of it.
    """
    n: int = op.n  # type: ignore[attr-defined]
    product = product_cost(op, n) * padded(b)
    rest = STEP_ROW * n * size + 3.0 * product + STEP + STEP_CUBE * size**3
    return FILTER_PART * rest / product


def longest_first_filter(n: int, width: int, product: float, step: float) -> float:
    """Degree that a filter of the start block may have where the rate is unknown or low.

    product: nanoseconds of a product with the block; step: of what follows, whatever the sizes.
    """
    shortest, longest = FIRST_DEGREES
    return max(shortest, min(longest, FILTER_PART * (STEP_ROW * n * width + step) / product))


def whole_cluster_limit(k: int) -> int:
    """Pairs that filters are made for, at most, where k are wanted: four times the columns may cost
    less than the degrees that it takes to tell the values of a cluster apart.
    """
    return 4 * k + 8


def start_width(k: int, free: int) -> int:
    """Columns of the start block: k and some guards, in whole lines where that is near."""
    width = k + guards(k)
    up = padded(width)
    if up - width <= 0.3 * width or up == LINE:
        width = up
    elif up - LINE > k:
        width = up - LINE
    return min(width, free)

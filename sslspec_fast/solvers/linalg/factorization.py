"""The factor of a sparse symmetric sigma I - A, and what it would cost.

SuperLU with pivots on the diagonal, in the order of minimum degree on A + A^T. Where much fill is
predicted and pymetis is installed, the order is METIS's nested dissection (Karypis and Kumar 1998).

Whether a factorisation pays is read off a breadth-first level structure. The number of its levels
bounds from below the degree that any polynomial needs. The narrowest level s in the middle half is
a separator, and the first levels tell the dimension D of the graph: r of them hold about r^D nodes.
Nested dissection cuts pieces of m nodes by separators of m^(1 - 1/D), down from those that s cuts,
m = s^(D / (D - 1)), of which a long graph has several (George 1973; Lipton, Rose and Tarjan 1979):
n log m entries and n m^(1/2) multiplications in the plane, n m^(1/3) and n m in space.

In a lattice a level is as thin as a separator, and the levels tell more: a piece of m nodes is cut
by the level that cuts a ball of m nodes about a corner in half. A body has the dimension three up
to its thickness c and two beyond, where separators reach through it: c (m / c)^(1/2), not m^(1/2).
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from scipy.sparse.csgraph import (
    breadth_first_order,
    connected_components,
    structural_rank,
)
from scipy.sparse.linalg import splu

from .cost import (
    FACTOR_FILL,
    FACTOR_ROW,
    FACTOR_SECONDS,
    FACTOR_STORED,
    FACTOR_WORK,
    SOLVE_FILL,
    SOLVE_ROW,
    STEP_COLUMN,
)

__all__ = [
    "INT32_LIMIT",
    "Order",
    "OrderedFactor",
    "SingularFactor",
    "Structure",
    "order_of",
    "structurally_singular",
    "structure",
    "symmetric_factor",
    "symmetric_splu",
]

INT32_LIMIT = 2**31 - 1  # entries that SuperLU and scipy's graph routines can index
# Columns that SuperLU updates together. Its 20 serve dense factors; this one is for low fill:
# USA power grid 135 -> 95 ms, GeoNames 1150 -> 980, but MNIST-5k (fill 41x) 490 -> 530.
_PANEL = 4
# Predicted fill, over the entries of a triangle, from which METIS pays. Seconds of a factor in
# SuperLU's order, and in METIS's plus those of the order: MNIST-5k (fill 44) 0.43, 0.13 + 0.05; a
# grid of 40^3 nodes (54) 7.6, 3.7 + 0.4; USA power grid (7) 0.08, 0.04 + 0.25.
_DISSECTED_FILL = 24.0
_NUDGES = (0.0, 1e-10, 1e-8, 1e-6)  # of a sigma that is an eigenvalue, relative to the norm
# Nodes of the ball that tells the dimension, and the least and largest one it may have: graphs of
# more have separators of many nodes, which count by themselves.
_BALL, _DIMENSIONS = 2000, (1.2, 3.0)
_THIN_LEVEL = 0.97  # part of the nodes of a level that touch the next one, where it is thin
# Entries and multiplications, over those of the sums; part of a block of the separator's size that
# is filled; power of the part of the nodes that cycles go through. Over 63 graphs of 1,700 to
# 140,000 nodes the fill is within 2x of SuperLU's on 56: lattices 0.7 to 1.6 of it, neighbours of
# points in space 1.9. The others are thin clouds of points (0.3 to 0.5), one of 15 neighbours in
# the plane (0.4), Delaunay meshes (2.2, 8.6) and a path with shortcuts (0.5).
_DISSECTION_FILL, _DISSECTION_WORK, _SEPARATOR_PART, _CYCLIC_POWER = 1.3, 2.0, 0.7, 1.5


@dataclass
class Structure:
    """Level structure of the largest component: levels, separator width; stored entries outside the
    diagonal; predicted entries of L, and the squares of its columns' entries, which are the
    multiplications of a factorisation.
    """

    levels: int
    separator: int
    entries: int
    fill: float
    work: float

    @property
    def fill_ratio(self) -> float:
        """Predicted entries of L, over those of a triangle."""
        return self.fill / max(self.entries / 2, 1.0)

    def seconds(self, n: int, columns: int, width: int) -> float:
        """Factorisation, the one that counts, and `columns` solves with the steps of a basis whose
        start has `width`.
        """
        factor = FACTOR_SECONDS + FACTOR_ROW * n + FACTOR_STORED * self.entries
        factor += FACTOR_FILL * self.fill + FACTOR_WORK * self.work
        return factor + columns * ((SOLVE_ROW + STEP_COLUMN * width) * n + SOLVE_FILL * self.fill)


def structure(matrix: Any) -> Structure:
    """Two breadth-first searches from the far end of the largest component, O(nnz)."""
    n = matrix.shape[0]
    count, labels = connected_components(matrix, directed=False)
    root = 0 if count == 1 else int(np.flatnonzero(labels == np.bincount(labels).argmax())[0])
    order, _ = _levels(matrix, root)
    order, starts = _levels(matrix, int(order[-1]))
    widths = np.diff(starts)
    ends = starts[1:] / len(order)
    middle = widths[(ends > 0.25) & (ends < 0.75)]
    # too few levels to have a middle: no separator to speak of
    separator = max(int(middle.min()) if len(middle) else len(order) // 2, 1)
    entries = int(matrix.nnz - np.count_nonzero(matrix.diagonal()))
    # trees hang off the core and eliminate without fill: only the cycles of the graph count
    cyclic = min(max(entries / 2 - n + count, 0.0) / n, 1.0)
    separator = max(int(separator * cyclic), 1)
    core = n * cyclic**_CYCLIC_POWER
    if _is_lattice(matrix, order, starts):
        pieces = _halves(n * cyclic)
        cuts = _level_cuts(starts, pieces, separator, cyclic)
    else:
        dimension = _dimension(starts)
        pieces = _halves(min(n * cyclic, separator ** (dimension / (dimension - 1.0))))
        cuts = pieces ** (1.0 - 1.0 / dimension)
    inside = _DISSECTION_FILL * core * float((cuts**2 / pieces).sum())
    work = _DISSECTION_WORK * core * float((cuts**3 / pieces).sum())
    # a graph that no small separator cuts is a dense block behind all
    block = _SEPARATOR_PART * separator**2 * max(math.log2(max(n / separator, 2.0)), 1.0)
    fill = n + entries / 2 + max(inside, block)
    work = max(work, _SEPARATOR_PART * float(separator) ** 3)
    return Structure(len(widths), separator, entries, fill, work)


def _dimension(starts: np.ndarray) -> float:
    """From the radii of the balls of `_BALL` nodes, and a sixth of them, about the first node."""
    size = max(min(_BALL, starts[-1] // 4), 1)
    small, large = np.interp([size / 6, size], starts, np.arange(len(starts)))
    return float(min(max(math.log(6) / math.log(large / small), _DIMENSIONS[0]), _DIMENSIONS[1]))


def _halves(m: float) -> np.ndarray:
    """Nodes of the pieces of a dissection, one in another."""
    return max(m, 1.0) / 2.0 ** np.arange(int(math.log2(max(m, 1.0))) + 1)


def _is_lattice(matrix: Any, order: np.ndarray, starts: np.ndarray) -> bool:
    """Whether the levels are seen from a corner, and the middle one is one node thick: all of its
    nodes touch the next level. Levels of other graphs have more nodes than a separator needs.
    """
    degrees = np.diff(matrix.indptr)
    i = len(starts) // 2 - 1
    if i < 1 or degrees[order[0]] >= np.median(degrees[order]):
        return False
    behind = np.zeros(matrix.shape[0], dtype=bool)
    behind[order[starts[i + 1] : starts[i + 2]]] = True
    nodes = order[starts[i] : starts[i + 1]]
    rows = matrix[nodes] if matrix.format == "csr" else matrix[:, nodes]
    touching = np.logical_or.reduceat(behind[rows.indices], rows.indptr[:-1])
    return float(touching.mean()) >= _THIN_LEVEL


def _level_cuts(
    starts: np.ndarray, pieces: np.ndarray, separator: int, cyclic: float
) -> np.ndarray:
    """Separators of pieces of a lattice, the largest first."""
    widths = np.interp(pieces / 2, starts[1:], np.diff(starts)) * cyclic
    return np.maximum(np.minimum.accumulate(np.minimum(widths, separator)), 1.0)


def _levels(matrix: Any, root: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes in breadth-first order and the position where each level starts (plus the end)."""
    order, parent = breadth_first_order(matrix, root, directed=False)
    position = np.empty(matrix.shape[0], dtype=np.int64)
    position[order] = np.arange(len(order))
    parents = position[parent[order[1:]]]  # never decreases along the order
    starts = [0, 1]
    while starts[-1] < len(order):
        starts.append(1 + int(np.searchsorted(parents, starts[-1])))
    return order, np.array(starts)


class SingularFactor(ValueError):
    """sigma and its neighbours are eigenvalues, or SuperLU's pivots vanish."""


def _narrow(matrix: Any) -> None:
    """Indices of 32 bits, in place: SuperLU has no others, nor SciPy 1.12's structural rank."""
    matrix.indptr = matrix.indptr.astype(np.int32)
    matrix.indices = matrix.indices.astype(np.int32)


def structurally_singular(matrix: Any) -> bool:
    """Whether no values of the stored entries make the CSC matrix regular; SuperLU may crash then.

    A diagonal without zeros, as all but a few shifts leave one, is proof of the contrary.
    """
    if matrix.diagonal().all():
        return False
    _narrow(matrix)
    return bool(structural_rank(matrix) < matrix.shape[0])


class Order(NamedTuple):
    """rows: (n,) row in each place; name: of what found it."""

    rows: np.ndarray
    name: str


class OrderedFactor:
    """SuperLU of the rows and columns of a matrix in another order, with SuperLU's interface."""

    def __init__(self, factor: Any, order: Order) -> None:
        self._factor, self._order, self.name = factor, order.rows, order.name
        self.perm_r, self.perm_c = np.empty_like(factor.perm_r), np.empty_like(factor.perm_c)
        self.perm_r[order.rows], self.perm_c[order.rows] = factor.perm_r, factor.perm_c

    @property
    def L(self) -> Any:
        return self._factor.L

    @property
    def U(self) -> Any:
        return self._factor.U

    def solve(self, b: np.ndarray) -> np.ndarray:
        x = np.empty_like(b)
        x[self._order] = self._factor.solve(np.asfortranarray(b[self._order]))
        return x


def order_of(factor: Any) -> Order:
    """That of L and U, for other factors of the same pattern."""
    name = factor.name if isinstance(factor, OrderedFactor) else "minimum degree"
    return Order(np.argsort(factor.perm_c), name)


def _dissection(matrix: Any) -> Order | None:
    """METIS's order; None without pymetis, or where it does not pay."""
    if importlib.util.find_spec("pymetis") is None:
        return None
    if structure(matrix).fill_ratio < _DISSECTED_FILL:
        return None
    import pymetis

    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    off = rows != matrix.indices  # METIS takes no loops
    starts = np.concatenate([[0], np.cumsum(off)])[matrix.indptr].astype(np.int32)
    order, _ = pymetis.nested_dissection(pymetis.CSRAdjacency(starts, matrix.indices[off]))
    return Order(np.asarray(order, dtype=np.int64), "METIS")


def symmetric_splu(matrix: Any, order: Order | None = None) -> Any:
    """SuperLU of a symmetric CSC matrix with pivots on the diagonal where these are not 0.

    order: of an earlier factor of the same pattern, or None.
    """
    _narrow(matrix)
    order = _dissection(matrix) if order is None else order
    if order is None:
        return _splu(matrix, "MMD_AT_PLUS_A")
    return OrderedFactor(_splu(matrix[order.rows][:, order.rows], "NATURAL"), order)


def _splu(matrix: Any, order: str) -> Any:
    return splu(
        matrix,
        permc_spec=order,
        diag_pivot_thresh=0.0,
        panel_size=_PANEL,
        options={"SymmetricMode": True},
    )


def symmetric_factor(
    op: str,
    matrix: Any,
    sigma: float,
    norm: float,
    order: Order | None = None,
    mass: Any = None,
) -> tuple[Any, float]:
    """(SuperLU of sigma I - matrix, sigma); a sigma that meets an eigenvalue is moved up.

    mass: in the place of I. order: of an earlier factor with another sigma, `order_of` it, which
    saves a third of the time and more.
    """
    n = matrix.shape[0]
    mass = scipy.sparse.eye_array(n, format="csc") if mass is None else mass
    for nudge in _NUDGES:
        moved = sigma + nudge * norm
        shifted = scipy.sparse.csc_array(moved * mass - matrix)
        if max(shifted.nnz, n) > INT32_LIMIT:
            raise ValueError(
                f"{op}: SuperLU needs nnz < 2^31, got nnz = {shifted.nnz}; "
                "use method='chebyshev', without certify"
            )
        if structurally_singular(shifted):
            continue
        try:
            factor = symmetric_splu(shifted, order)
        except RuntimeError as failure:
            if "singular" not in str(failure):
                raise
        else:
            return factor, moved
    raise SingularFactor(
        f"{op}: A - sigma I must be regular, got a singular factor at sigma = {sigma} "
        f"and up to {moved}; use method='chebyshev'"
    )

"""The factor of a sparse symmetric sigma I - A, and what it would cost.

SuperLU with pivots on the diagonal, in the order of minimum degree on A + A^T. Where much fill is
predicted and pymetis is installed, the order is METIS's nested dissection (Karypis and Kumar 1998).

Whether a factorisation pays is read off a breadth-first level structure: the narrowest level s in
the middle half is a separator, a nested dissection with it fills about s^2 log2(n / s) entries,
and the number of levels D bounds from below the degree that any polynomial needs.
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

from .cost import FACTOR_CUBE, FACTOR_FILL, FACTOR_ROW, SOLVE_FILL, SOLVE_ROW

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
# SuperLU's order, and in METIS's plus those of the order: MNIST-5k (fill 59) 0.43, 0.13 + 0.05; a
# grid of 40^3 nodes (28) 7.6, 3.7 + 0.4; USA power grid (19) 0.08, 0.04 + 0.25.
_DISSECTED_FILL = 24.0
_NUDGES = (0.0, 1e-10, 1e-8, 1e-6)  # of a sigma that is an eigenvalue, relative to the norm


@dataclass
class Structure:
    """Level structure of the largest component: levels, separator width, predicted fill of L."""

    levels: int
    separator: int
    fill: float

    def seconds(self, n: int, columns: int) -> float:
        """Factorisation and `columns` solves."""
        factor = FACTOR_ROW * n + FACTOR_FILL * self.fill + FACTOR_CUBE * float(self.separator) ** 3
        return factor + columns * (SOLVE_ROW * n + SOLVE_FILL * self.fill)


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
    # trees hang off the core and eliminate without fill: only the cycles of the graph count
    cycles = max(matrix.nnz / 2 - n + count, 0.0)
    separator = max(int(separator * min(1.0, cycles / n)), 1)
    fill = matrix.nnz / 2 + float(separator) ** 2 * max(math.log2(max(n / separator, 2.0)), 1.0)
    return Structure(len(widths), separator, fill)


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
    if structure(matrix).fill < _DISSECTED_FILL * matrix.nnz / 2:
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

"""Rows of samples for the estimators: their magnitude, their neighbours, and finding them again."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

__all__ = ["check_size", "lookup", "neighbor_rows", "unit_of"]

Array = np.ndarray


def unit_of(X: Array) -> float:
    """A power of two that brings X near 1, where squared distances neither overflow nor vanish."""
    size = max(np.abs(X).max(), np.finfo(np.float64).smallest_normal)
    return float(np.ldexp(1.0, 2 - np.frexp(size)[1]))


def check_size(X: Array, unit: float = 1.0) -> None:
    limit = 0.25 * float(np.sqrt(np.finfo(np.float64).max / X.size)) / unit
    size = np.abs(X).max()
    if size > limit:
        raise ValueError(
            f"X must be at most {limit:.3g} in magnitude, or squares overflow, got {size:.3g}"
        )


def neighbor_rows(index: Array, weight: Array, n: int) -> sp.csr_array:
    """(m, n) matrix with weight[i, j] in column index[i, j] of row i."""
    start = np.arange(0, index.size + 1, index.shape[1])
    return sp.csr_array((weight.ravel(), index.ravel(), start), shape=(len(index), n))


def lookup(training: Array, rows: Array) -> Array:
    """(m,) index of the training row equal to each row, -1 where there is none."""
    table = {row.tobytes(): i for i, row in reversed(list(enumerate(training + 0.0)))}
    return np.array([table.get(row.tobytes(), -1) for row in rows + 0.0], dtype=np.int64)

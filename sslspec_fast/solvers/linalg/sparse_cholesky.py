"""B = F F^T of a sparse positive definite B, by SuperLU: P B P^T = L D L^T, F = P^T L D^1/2."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
from scipy.sparse.linalg import splu

from .factorization import INT32_LIMIT, symmetric_splu

__all__ = ["NotPositiveDefinite", "SparseCholesky"]


class NotPositiveDefinite(ValueError):
    """A pivot is not positive."""


class SparseCholesky:
    """The factor of a sparse symmetric `matrix`, whose symmetry the caller has checked.

    Raises:
        NotPositiveDefinite: B is not positive definite.
        ValueError: more entries than SuperLU can index.
    """

    def __init__(self, matrix: Any) -> None:
        n = matrix.shape[0]
        if max(matrix.nnz, n) > INT32_LIMIT:
            raise ValueError(f"eigsh: B must have nnz < 2^31, got nnz = {matrix.nnz}")
        if not (matrix.diagonal() > 0.0).all():
            raise NotPositiveDefinite(f"smallest diagonal entry {matrix.diagonal().min():.3g}")
        try:
            factor = symmetric_splu(scipy.sparse.csc_array(matrix))
        except RuntimeError as failure:
            if "singular" not in str(failure):
                raise
            raise NotPositiveDefinite("a pivot is 0") from failure
        pivots = factor.U.diagonal()
        # rows that were exchanged: the pivot on the diagonal was 0
        if not (np.array_equal(factor.perm_r, factor.perm_c) and (pivots > 0.0).all()):
            raise NotPositiveDefinite(f"smallest pivot {pivots.min():.3g}")
        self._order = np.argsort(factor.perm_r)  # row of B in each place
        self._root = np.sqrt(pivots)[:, None]
        self._lower = scipy.sparse.csr_array(factor.L)
        self._upper = scipy.sparse.csr_array(factor.L.T)
        # SuperLU of a triangular matrix is that matrix: it solves without fill
        self._triangle = splu(
            scipy.sparse.csc_array(factor.L),
            permc_spec="NATURAL",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )

    def _placed(self, x: np.ndarray) -> np.ndarray:
        """P^T x."""
        out = np.empty_like(x)
        out[self._order] = x
        return out

    def times(self, x: np.ndarray) -> np.ndarray:
        """F x; x (n, b) float64, as everywhere."""
        return self._placed(self._lower @ (self._root * x))

    def times_transposed(self, x: np.ndarray) -> np.ndarray:
        """F^T x."""
        return self._root * (self._upper @ x[self._order])

    def solve(self, x: np.ndarray) -> np.ndarray:
        """F^-1 x."""
        return self._triangle.solve(np.asfortranarray(x[self._order])) / self._root

    def solve_transposed(self, x: np.ndarray) -> np.ndarray:
        """F^-T x."""
        return self._placed(self._triangle.solve(np.asfortranarray(x / self._root), "T"))

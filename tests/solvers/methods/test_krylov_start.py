"""Many pairs of a dense spectrum: the start comes from a Krylov space of the filter."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from sslspec_fast.solvers import eigsh
from sslspec_fast.solvers.linalg.cost import LINE
from sslspec_fast.solvers.methods import _krylov_start

from ...support import graphs

N, CLUSTERS, K = 24_000, 20, 36


@pytest.fixture(scope="module")
def planted() -> tuple[sp.csr_array, np.ndarray]:
    """Communities, and more wanted pairs than communities: the last ones lie in the bulk."""
    a = graphs.blocks_graph(N, CLUSTERS)
    d = sp.diags_array(1.0 / np.sqrt(a.sum(1)))
    matrix = sp.csr_array(d @ a @ d)
    values = spla.eigsh(matrix, K, which="LA", tol=1e-10, v0=np.ones(N), ncv=4 * K)[0]
    return matrix, np.sort(values)[::-1]


def _check(matrix: sp.csr_array, exact: np.ndarray, result: object, tol: float) -> None:
    values, vectors, info = result.values, result.vectors.astype(float), result.info  # type: ignore[attr-defined]
    assert info.converged
    assert info.plan.first_filter.krylov
    residuals = np.linalg.norm(matrix @ vectors - vectors * values, axis=0)
    assert residuals.max() <= 1.01 * tol * info.norm
    # an error of a value is below its residual, and there is none missing
    np.testing.assert_allclose(values, exact, atol=tol)


@pytest.mark.parametrize(
    ("precision", "tol"), [("float32", 1e-4), ("mixed", 1e-4), ("mixed", 1e-9), ("float64", 1e-6)]
)
def test_pairs_of_the_bulk(planted: tuple, precision: str, tol: float) -> None:
    matrix, exact = planted
    _check(matrix, exact, eigsh(matrix, K, precision=precision, tol=tol), tol)


def test_columns_are_those_of_a_narrow_block(planted: tuple) -> None:
    """A filter of all columns needs the same degree of each: more than twice as many products."""
    matrix, _ = planted
    info = eigsh(matrix, K, tol=1e-4).info
    assert info.plan.first_filter.krylov
    assert info.n_matvec < 60 * info.plan.width


def test_a_basis_without_room_restarts(planted: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, exact = planted
    monkeypatch.setattr(_krylov_start, "KEPT_BYTES", 4 * N * 10 * LINE)
    _check(matrix, exact, eigsh(matrix, K, tol=1e-4), 1e-4)


def test_the_same_bits_twice(planted: tuple) -> None:
    matrix, _ = planted
    first, second = (eigsh(matrix, K, tol=1e-4) for _ in range(2))
    np.testing.assert_array_equal(first.vectors, second.vectors)

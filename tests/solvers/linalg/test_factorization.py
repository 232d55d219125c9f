"""Factors in METIS's order are those of the same matrix, with less fill."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from sslspec_fast import eigsh
from sslspec_fast.solvers.completeness.inertia import Inertia
from sslspec_fast.solvers.linalg import factorization
from sslspec_fast.solvers.linalg.factorization import (
    OrderedFactor,
    order_of,
    structure,
    symmetric_factor,
)
from sslspec_fast.solvers.linalg.sparse_cholesky import SparseCholesky

from ...support import graphs


def box(m: int) -> sp.csc_array:
    """Laplacian of a path, to the third power: the grid of m^3 nodes."""
    path = sp.diags_array([-np.ones(m - 1), 2.0 * np.ones(m), -np.ones(m - 1)], offsets=[-1, 0, 1])
    one = sp.eye_array(m)
    return sp.csc_array(
        sp.kron(sp.kron(path, one), one)
        + sp.kron(sp.kron(one, path), one)
        + sp.kron(sp.kron(one, one), path)
    )


def grid(*shape: int) -> sp.csr_array:
    """Adjacency of a grid."""
    total = sp.csr_array((1, 1))
    for m in shape:
        path = sp.diags_array([np.ones(m - 1), np.ones(m - 1)], offsets=[-1, 1])
        total = sp.kronsum(path, total)
    return sp.csr_array(total)


def cloud(n: int, axes: int) -> sp.csr_array:
    """Eight nearest neighbours of random points."""
    from scipy.spatial import cKDTree

    points = np.random.default_rng(0).random((n, axes))
    index = cKDTree(points).query(points, 9)[1][:, 1:]
    half = sp.coo_array((np.ones(8 * n), (np.repeat(np.arange(n), 8), index.ravel())), (n, n))
    return sp.csr_array(half + half.T)


@pytest.mark.parametrize(
    ("graph", "dimension"),
    [
        (grid(90, 90), 2.0),
        (grid(900, 9), 1.2),
        (grid(20, 20, 20), 2.8),
        (grid(60, 12, 12), 2.5),
        (cloud(8000, 2), 2.1),
        (cloud(8000, 3), 3.0),
    ],
)
def test_fill_and_work_follow_the_dimension(graph: sp.csr_array, dimension: float) -> None:
    """What is predicted, beside the factor of SuperLU: its entries, and squares of its columns."""
    order, _ = factorization._levels(graph, 0)
    _, starts = factorization._levels(graph, int(order[-1]))
    assert factorization._dimension(starts) == pytest.approx(dimension, abs=0.3)
    shape = structure(graph)
    n = graph.shape[0]
    shifted = sp.csc_array(30.0 * sp.eye_array(n, format="csc") - graph)
    columns = np.diff(factorization._splu(shifted, "MMD_AT_PLUS_A").L.indptr).astype(float)
    assert 0.45 < shape.fill / columns.sum() < 2.0
    assert 0.05 < shape.work / (columns**2).sum() < 4.0
    assert shape.seconds(n, 10, 12) < shape.seconds(n, 20, 12) < shape.seconds(n, 20, 24)


def l_shape() -> sp.csr_array:
    """An L of five layers."""
    inside = np.zeros((40, 40, 5), dtype=bool)
    inside[:, :14] = inside[:14] = True
    nodes = np.flatnonzero(inside)
    return sp.csr_array(grid(40, 40, 5)[nodes][:, nodes])


@pytest.mark.parametrize(
    "graph",
    [
        grid(60, 60, 5),
        grid(70, 50, 3),
        grid(120, 10, 10),
        grid(300, 5, 5),
        grid(300, 9, 3),
        grid(50, 20, 9),
        grid(700, 25),
        grid(100, 100),
        grid(15, 15, 15),
        l_shape(),
    ],
)
def test_separators_reach_through_a_thin_body(graph: sp.csr_array) -> None:
    """A slab has neither the separators of the plane nor those of space: fill was predicted as 0.25
    to 0.5 of SuperLU's for thin bodies, and the multiplications as 0.01 to 0.2.
    """
    shape = structure(graph)
    shifted = sp.csc_array(30.0 * sp.eye_array(graph.shape[0], format="csc") - graph)
    columns = np.diff(factorization._splu(shifted, "MMD_AT_PLUS_A").L.indptr).astype(float)
    assert 0.65 < shape.fill / columns.sum() < 1.75
    assert 0.25 < shape.work / (columns**2).sum() < 1.6


@pytest.mark.parametrize(
    ("graph", "lattice"),
    [
        (grid(40, 40), True),
        (grid(200, 5, 5), True),
        (cloud(5000, 2), False),
        (cloud(5000, 3), False),
    ],
)
def test_levels_of_a_lattice_are_one_node_thick(graph: sp.csr_array, lattice: bool) -> None:
    order, _ = factorization._levels(graph, 0)
    order, starts = factorization._levels(graph, int(order[-1]))
    assert factorization._is_lattice(graph, order, starts) == lattice
    assert factorization._is_lattice(sp.csc_array(graph), order, starts) == lattice


def test_a_closed_body_has_no_corner() -> None:
    graph, _ = graphs.torus(60, 40)
    order, starts = factorization._levels(graph, 0)
    assert not factorization._is_lattice(graph, order, starts)


def test_a_stored_diagonal_is_no_cycle_of_the_graph() -> None:
    rng = np.random.default_rng(0)
    parents = (rng.random(2999) * np.arange(1, 3000)).astype(int)
    half = sp.coo_array((np.ones(2999), (np.arange(1, 3000), parents)), (3000, 3000))
    tree = sp.csr_array(half + half.T)
    looped = sp.csr_array(tree + sp.eye_array(3000))
    assert structure(looped) == structure(tree)
    assert structure(tree).separator == 1
    assert structure(tree).fill < 3 * 3000
    assert not isinstance(symmetric_factor("test", tree, 90.0, 90.0)[0], OrderedFactor)


@pytest.fixture
def dissected(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pymetis")
    monkeypatch.setattr(factorization, "_DISSECTED_FILL", 0.0)


def test_the_order_is_that_of_metis_where_much_fill_is_predicted() -> None:
    pytest.importorskip("pymetis")
    half = sp.random_array((1200, 1200), density=5e-3, random_state=np.random.default_rng(0))
    dense, _ = symmetric_factor("test", half + half.T, -9.0, 9.0)
    assert isinstance(dense, OrderedFactor)
    sparse, _ = symmetric_factor("test", box(5), -9.0, 12.0)
    assert not isinstance(sparse, OrderedFactor)


@pytest.mark.usefixtures("dissected")
def test_the_order_of_metis_fills_in_less(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = box(20)
    found, _ = symmetric_factor("test", matrix, 3.01, 12.0)
    monkeypatch.setattr(factorization, "_DISSECTED_FILL", np.inf)
    usual, _ = symmetric_factor("test", matrix, 3.01, 12.0)
    assert found.L.nnz < 0.9 * usual.L.nnz


@pytest.mark.usefixtures("dissected")
def test_an_ordered_factor_solves_and_counts() -> None:
    matrix, sigma = box(7), 3.01
    factor, _ = symmetric_factor("test", matrix, sigma, 12.0)
    b = np.random.default_rng(0).standard_normal((343, 3))
    x = factor.solve(b)
    np.testing.assert_allclose(sigma * x - matrix @ x, b, atol=1e-11)
    np.testing.assert_allclose(factor.solve(b[:, 0]), x[:, 0], atol=1e-12)
    values = np.linalg.eigvalsh(matrix.toarray())
    assert np.array_equal(factor.perm_r, factor.perm_c)
    assert (factor.U.diagonal() < 0.0).sum() == (values > sigma).sum()
    order = np.argsort(factor.perm_c)  # that of L and U, so another factor may be made in it
    shifted = sigma * np.eye(343) - matrix.toarray()
    np.testing.assert_allclose(
        (factor.L @ factor.U).toarray(), shifted[order][:, order], atol=1e-11
    )


@pytest.mark.usefixtures("dissected")
def test_loops_and_loose_nodes_are_no_edges_of_the_order() -> None:
    loose = sp.csc_array(sp.block_diag([box(3), sp.diags_array([4.0, 5.0, 0.0])]))
    factor, _ = symmetric_factor("test", loose, -1.0, 12.0)
    b = np.arange(30.0)
    np.testing.assert_allclose(-factor.solve(b) - loose @ factor.solve(b), b, atol=1e-12)


@pytest.mark.usefixtures("dissected")
def test_a_cholesky_factor_may_be_ordered() -> None:
    matrix = box(5)
    factor, x = SparseCholesky(matrix), np.random.default_rng(1).standard_normal((125, 2))
    np.testing.assert_allclose(factor.times(factor.times_transposed(x)), matrix @ x, atol=1e-12)
    np.testing.assert_allclose(factor.solve(factor.times(x)), x, atol=1e-12)


@pytest.mark.usefixtures("dissected")
@pytest.mark.parametrize("options", [{"which": "SA", "method": "shift_invert"}, {"sigma": 3.1}])
def test_eigenvalues_do_not_depend_on_the_order(options: dict) -> None:
    matrix = box(9)
    values = np.linalg.eigvalsh(matrix.toarray())
    near = values[np.argsort(abs(values - options.get("sigma", 0.0)))[:8]]
    found = eigsh(matrix, k=8, certify=True, tol=1e-10, seed=0, **options)
    assert found.info.complete
    assert found.info.extra.get("order", "METIS") == "METIS"
    np.testing.assert_allclose(np.sort(found.values), np.sort(near), atol=1e-9)


class _Orders:
    """Orders that were looked for, of any factor, and those that a factor was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found, self.given = 0, 0
        real = factorization._splu

        def spy(matrix: Any, order: str) -> Any:
            self.found += order != "NATURAL"
            self.given += order == "NATURAL"
            return real(matrix, order)

        monkeypatch.setattr(factorization, "_splu", spy)


@pytest.mark.parametrize("fill", [0.0, np.inf])
def test_a_factor_takes_the_order_of_an_earlier_one(
    fill: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same pattern: METIS's and SuperLU's own. Same fill, same signs, right solutions."""
    if fill == 0.0:
        pytest.importorskip("pymetis")
    monkeypatch.setattr(factorization, "_DISSECTED_FILL", fill)
    matrix = box(8)
    first, _ = symmetric_factor("test", matrix, 3.01, 12.0)
    order = order_of(first)
    assert order.name == ("METIS" if fill == 0.0 else "minimum degree")
    orders = _Orders(monkeypatch)
    monkeypatch.setattr(factorization, "_dissection", None)  # is not asked
    again, sigma = symmetric_factor("test", matrix, 4.51, 12.0, order)
    assert (orders.found, orders.given) == (0, 1)
    assert order_of(again).name == order.name
    np.testing.assert_array_equal(order_of(again).rows, order.rows)
    assert again.L.nnz <= 1.05 * first.L.nnz
    b = np.random.default_rng(0).standard_normal((512, 2))
    x = again.solve(b)
    np.testing.assert_allclose(sigma * x - matrix @ x, b, atol=1e-10)
    values = np.linalg.eigvalsh(matrix.toarray())
    assert (again.U.diagonal() < 0.0).sum() == (values > sigma).sum()


def test_counts_of_one_matrix_order_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of each factor is measured against the matrix as it is, in whatever order."""
    matrix, orders = box(8), _Orders(monkeypatch)
    values = np.linalg.eigvalsh(matrix.toarray())
    inertia = Inertia(matrix, 12.0)
    for shift in (3.01, 4.51, 7.03):
        counted, at, error = inertia.above(shift)
        assert (counted, at) == ((values > shift).sum(), shift)
        assert 0.0 < error < 1e-6
    assert orders.found + orders.given == 3
    assert orders.given >= 2
    assert inertia.order is not None
    other = Inertia(matrix, 12.0, inertia.order)
    assert other.above(3.01)[:2] == ((values > 3.01).sum(), 3.01)
    assert orders.given >= 3


@pytest.mark.parametrize(
    "options",
    [{"which": "SA", "method": "shift_invert"}, {"sigma": 3.1}, {"sigma": 3.1, "B": True}],
)
def test_a_run_orders_its_matrix_once(options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the factor that solves, of one at another shift, and of those that count."""
    matrix = box(9)
    mass = sp.csc_array(sp.eye_array(729) + 0.01 * matrix) if options.get("B") else None
    options = {**options, "B": mass} if mass is not None else options
    orders = _Orders(monkeypatch)
    found = eigsh(matrix, k=8, tol=1e-9, seed=0, **options)
    assert found.info.complete
    assert found.info.extra["factorisations"] >= 2
    # B itself has a factor of its own, with the one of its triangle made elsewhere
    assert orders.found <= 1 + (mass is not None)
    assert orders.given >= found.info.extra["factorisations"] - 1

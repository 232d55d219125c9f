"""Pairs that are not one end of the spectrum, against every eigenvalue by LAPACK."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg as sla
import scipy.sparse as sp
import scipy.sparse.linalg as spla
import torch

import sslspec_fast.operators as ops
from sslspec_fast.graph import PairGraph
from sslspec_fast.solvers import eigsh
from sslspec_fast.solvers.result import ConvergenceWarning

from ..support import graphs


def _second_difference(n: int) -> sp.csr_array:
    return sp.csr_array(
        sp.diags_array([-np.ones(n - 1), 2 * np.ones(n), -np.ones(n - 1)], offsets=[-1, 0, 1])
    )


def _grid(rows: int, columns: int, shift: float = 0.0) -> tuple[sp.csr_array, np.ndarray]:
    """Laplacian of a rectangle with fixed sides, which has no equal eigenvalues, minus a shift."""
    a, b = _second_difference(rows), _second_difference(columns)
    matrix = sp.csr_array(sp.kronsum(a, b) - shift * sp.eye_array(rows * columns))
    x, y = np.linalg.eigvalsh(a.toarray()), np.linalg.eigvalsh(b.toarray())
    return matrix, np.sort((x[:, None] + y[None, :]).ravel()) - shift


def _wanted(values: np.ndarray, k: int, which: str, sigma: float | None) -> np.ndarray:
    if which == "BE":
        return np.r_[values[::-1][: k - k // 2], values[: k // 2][::-1]]
    distance = abs(values - (sigma or 0.0))
    order = np.argsort(-distance if which == "LM" and sigma is None else distance, kind="stable")
    return values[order[:k]]


def _check(result: Any, matrix: Any, expected: np.ndarray, b: Any = None) -> None:
    """Values in the order that the page promises, residuals and B-orthonormal vectors."""
    values, x = (np.asarray(part) for part in result)
    np.testing.assert_allclose(values, expected, atol=1e-8 * max(1.0, abs(expected).max()))
    bx = x if b is None else b @ x
    np.testing.assert_allclose(x.T @ bx, np.eye(len(values)), atol=1e-10)
    residual = np.linalg.norm(matrix @ x - bx * values, axis=0)
    assert residual.max() <= 1e-5 * result.info.norm
    assert result.info.converged


KINDS = {
    "grid": _grid(27, 30),  # positive definite, and known to be so
    "indefinite": _grid(27, 30, 3.1),
    "few rows": _grid(10, 11, 3.1),
    "dense": _grid(27, 30, 3.1),
}


@pytest.mark.parametrize("k", [1, 6, 7])
@pytest.mark.parametrize("which", ["LM", "SM", "BE", 3.05, -0.7, 0.0])
@pytest.mark.parametrize("kind", KINDS)
def test_selected_pairs(kind: str, which: Any, k: int) -> None:
    matrix, values = KINDS[kind]
    asked = {"which": which} if isinstance(which, str) else {"sigma": which}
    given = matrix.toarray() if kind == "dense" else matrix
    sigma = asked.get("sigma")
    result = eigsh(given, k, **asked)
    _check(result, matrix, _wanted(values, k, asked.get("which", "LM"), sigma))
    if len(values) > 600 and (sigma is not None or (which == "SM" and kind != "grid")):
        assert result.info.complete  # counted on both sides
        np.testing.assert_allclose(
            np.mean(result.info.extra["count_shift"]), sigma or 0.0, atol=1e-9
        )


def test_the_gap_ends_at_a_value_that_was_not_returned() -> None:
    matrix, values = KINDS["indefinite"]
    by_size = np.sort(abs(values))
    for asked, gap in (
        ({"which": "LM"}, by_size[-6] - by_size[-7]),
        ({"which": "SM"}, by_size[6] - by_size[5]),
        ({"which": "BE"}, min(values[-3] - values[-4], values[3] - values[2])),
        ({"sigma": 1.0}, np.diff(np.sort(abs(values - 1.0))[5:7])[0]),
    ):
        found = eigsh(matrix, 6, **asked, tol=1e-9).info
        assert 0.5 * gap < found.gap <= gap * (1 + 1e-6)
        assert not found.cluster_cut


def test_a_tie_in_magnitude_is_a_cut_inside_a_cluster() -> None:
    """A path is bipartite: its spectrum is symmetric, and an odd k leaves one of a pair out."""
    matrix, values = graphs.path(900)
    even, odd = (eigsh(matrix, k, which="LM", tol=1e-9) for k in (4, 5))
    np.testing.assert_allclose(np.sort(even.values), np.sort(np.r_[values[:2], values[-2:]]))
    assert not even.info.cluster_cut
    assert odd.info.cluster_cut
    assert odd.info.gap < 1e-8


def test_sigma_on_an_eigenvalue_of_many_copies() -> None:
    """sigma I - A is singular; fewer than all copies are wanted, so that any of them will do."""
    matrix, _ = graphs.cliques([20] * 40)
    result = eigsh(matrix, 5, sigma=19.0)
    np.testing.assert_allclose(result.values, 19.0, atol=1e-9)
    assert result.info.converged
    assert result.info.complete
    assert result.info.cluster_cut
    every = eigsh(matrix, 40, sigma=18.9)
    np.testing.assert_allclose(every.values, 19.0, atol=1e-9)
    assert every.info.complete
    assert every.info.gap > 10.0


def test_more_copies_than_a_block_holds_many_times_over() -> None:
    matrix, _ = graphs.cliques([4] * 200)
    result = eigsh(matrix, 150, sigma=3.2)
    np.testing.assert_allclose(result.values, 3.0, atol=1e-9)
    assert result.info.converged
    assert result.info.cluster_cut


def test_sigma_at_zero_of_a_graph_with_isolated_nodes() -> None:
    """Rows of zeros leave nothing to factorise; the shift moves."""
    matrix, _ = graphs.cliques([3, 5] * 60, isolated=7)
    result = eigsh(matrix, 7, sigma=0.0)
    np.testing.assert_allclose(result.values, 0.0, atol=1e-8)
    assert result.info.complete
    star, _ = graphs.star(700)
    result = eigsh(star, 3, which="SM")
    np.testing.assert_allclose(result.values, 0.0, atol=1e-8)
    assert result.info.cluster_cut


def test_sigma_next_to_an_eigenvalue_leaves_the_others_as_exact() -> None:
    matrix, values = KINDS["grid"]
    sigma = values[300] + 1e-13
    result = eigsh(matrix, 6, sigma=sigma, tol=1e-11)
    _check(result, matrix, _wanted(values, 6, "LM", sigma))
    assert result.info.residuals.max() <= 1e-11 * result.info.norm
    assert result.info.complete


def test_the_angle_is_enforced_around_sigma() -> None:
    matrix, values = KINDS["grid"]
    result = eigsh(matrix, 4, sigma=2.0, tol=1e-3, angle_tol=1e-8)
    exact = np.linalg.eigh(matrix.toarray())[1]
    wanted = exact[:, np.argsort(abs(values - 2.0))[:4]]
    assert result.info.angle_bound <= 1e-8
    assert np.sin(sla.subspace_angles(wanted, result.vectors)[0]) <= 1e-8


def test_pairs_that_a_start_does_not_hold_are_counted_and_found() -> None:
    """Two copies of a grid: with x0 in the first one, the second is invisible to products."""
    one, values = _grid(25, 26)
    matrix = sp.csr_array(sp.block_diag([one, one]))
    vectors = np.linalg.eigh(one.toarray())[1]
    nearest = np.argsort(abs(values - 2.0))[:3]
    x0 = np.concatenate([vectors[:, nearest], np.zeros((650, 3))])
    result = eigsh(matrix, 6, sigma=2.0, x0=x0)
    np.testing.assert_allclose(result.values, np.repeat(values[nearest], 2), atol=1e-9)
    assert result.info.complete


def test_sigma_needs_a_factor() -> None:
    big = spla.aslinearoperator(sp.eye_array(10_001))
    with pytest.raises(ValueError, match=r"sigma needs the entries of A .* n = 10001"):
        eigsh(big, 2, sigma=0.5)
    small = spla.aslinearoperator(KINDS["grid"][0])  # is made dense
    _check(eigsh(small, 3, sigma=1.0), *KINDS["grid"][:1], _wanted(KINDS["grid"][1], 3, "LM", 1.0))


def test_a_laplacian_has_its_smallest_magnitude_at_the_end() -> None:
    graph = PairGraph.from_sparse(graphs.path(900)[0])
    result = eigsh(ops.laplacian(graph), 4, which="SM", tol=1e-9)
    exact = 2 - 2 * np.cos(np.pi * np.arange(4) / 900)
    np.testing.assert_allclose(result.values, exact, atol=1e-10)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_units_of_the_matrix_are_those_of_sigma_and_the_result(scale: float) -> None:
    matrix, _ = KINDS["indefinite"]
    for asked in ({"sigma": 1.0}, {"which": "LM"}):
        plain = eigsh(matrix, 5, **asked)
        if "sigma" in asked:
            asked = {"sigma": scale}
        found = eigsh(matrix * scale, 5, **asked)
        np.testing.assert_allclose(found.values, plain.values * scale, rtol=1e-8)
        np.testing.assert_allclose(found.info.gap, plain.info.gap * scale, rtol=0.2)


def test_kinds_of_arrays_precision_and_values_alone() -> None:
    matrix, _ = KINDS["grid"]
    dense = torch.from_numpy(matrix.toarray()).float()
    result = eigsh(dense, 3, sigma=2.0, precision="float32")
    assert result.values.dtype == result.vectors.dtype == torch.float32
    assert eigsh(dense, 3, which="BE").vectors.dtype == torch.float64  # whatever that of A is
    alone = eigsh(matrix, 3, sigma=2.0, return_eigenvectors=False)
    assert isinstance(alone, np.ndarray)
    np.testing.assert_array_equal(alone, eigsh(matrix, 3, sigma=2.0).values)
    with pytest.raises(NotImplementedError, match="which must be 'LA' or 'SA' for gradients"):
        eigsh(dense.requires_grad_(), 2, which="LM")


def test_both_ends_are_certified() -> None:
    matrix, _ = KINDS["indefinite"]
    for which in ("BE", "LM"):
        assert eigsh(matrix, 5, which=which, certify=True).info.complete


def test_deflated_vectors_are_no_result() -> None:
    matrix, values = KINDS["indefinite"]
    nearest = np.argsort(abs(values - 1.0))
    exact = np.linalg.eigh(matrix.toarray())[1]
    result = eigsh(matrix, 4, sigma=1.0, deflate=exact[:, nearest[[0, 2]]])
    np.testing.assert_allclose(result.values, values[nearest[[1, 3, 4, 5]]], atol=1e-9)
    assert result.info.complete


def test_a_run_that_is_stopped_says_so() -> None:
    matrix, _ = KINDS["grid"]
    with pytest.warns(ConvergenceWarning, match="stopped by the callback") as caught:
        result = eigsh(matrix, 6, sigma=2.0, callback=lambda entry: True)
    assert caught[0].filename == __file__  # the line that calls eigsh
    assert not result.info.converged
    assert result.info.complete is None


# ---- A x = lambda B x


@pytest.fixture(scope="module")
def elements() -> tuple[sp.csr_array, sp.csr_array, np.ndarray, np.ndarray]:
    """Stiffness and mass of bilinear elements on a rectangle, values and B-orthonormal vectors."""
    stiff, mass = [], []
    for n in (25, 28):
        stiff.append(_second_difference(n) * (n + 1))
        mass.append(
            sp.diags_array([np.ones(n - 1), 4 * np.ones(n), np.ones(n - 1)], offsets=[-1, 0, 1])
            / (6 * (n + 1))
        )
    a = sp.csr_array(sp.kron(stiff[0], mass[1]) + sp.kron(mass[0], stiff[1]))
    b = sp.csr_array(sp.kron(*mass))
    return a, b, *sla.eigh(a.toarray(), b.toarray())


@pytest.mark.parametrize("asked", [{"which": "SA"}, {"which": "BE"}, {"sigma": 150.0}])
@pytest.mark.parametrize("kind", ["sparse", "torch", "dense"])
def test_a_mass_matrix_with_entries_off_the_diagonal(kind: str, asked: dict, elements: Any) -> None:
    a, b, values, _ = elements
    given = {
        "sparse": b,
        "dense": b.toarray(),
        "torch": torch.from_numpy(b.toarray()).to_sparse_coo(),
    }
    result = eigsh(a, 5, B=given[kind], **asked)
    expected = (
        values[:5]
        if asked == {"which": "SA"}
        else _wanted(values, 5, asked.get("which", "LM"), asked.get("sigma"))
    )
    _check(result, a, expected, b)
    assert result.info.complete or "sigma" not in asked


@pytest.mark.parametrize("kind", ["diagonal", "dense", "sparse"])
def test_start_and_deflated_vectors_of_a_pencil(kind: str, elements: Any) -> None:
    """Both are eigenvectors x of A x = lambda B x, as they are returned."""
    a, b, values, exact = elements
    given = {"dense": b.toarray(), "sparse": b, "diagonal": b.diagonal()}[kind]
    if kind == "diagonal":
        values, exact = sla.eigh(a.toarray(), np.diag(given))
    rest = eigsh(a, 4, B=given, which="SA", deflate=exact[:, [0, 2]])
    np.testing.assert_allclose(rest.values, values[[1, 3, 4, 5]], rtol=1e-8)
    cold = eigsh(a, 4, B=given, which="SA", tol=1e-8)
    warm = eigsh(a, 4, B=given, which="SA", tol=1e-8, x0=exact[:, :4])
    np.testing.assert_allclose(warm.values, values[:4], rtol=1e-8)
    assert warm.info.history[0]["converged"] > cold.info.history[0]["converged"]
    groups = ops.GroupVectors(torch.zeros(700, dtype=torch.int64), torch.from_numpy(exact[:, 0]))
    again = eigsh(a, 2, B=given, which="SA", deflate=groups)
    np.testing.assert_allclose(again.values, values[1:3], rtol=1e-8)


def test_a_preconditioner_saves_steps() -> None:
    matrix, values = _grid(27, 30)
    factor = spla.splu(sp.csc_array(matrix))
    plain = eigsh(matrix, 4, which="SA", method="lobpcg", preconditioner=lambda r: r)
    for given in (factor.solve, spla.LinearOperator(matrix.shape, factor.solve)):
        fast = eigsh(matrix, 4, which="SA", preconditioner=given)
        np.testing.assert_allclose(fast.values, values[:4], atol=1e-9)
        assert fast.info.method == "lobpcg"
        assert fast.info.extra["preconditioner"] == "given"
        assert 3 * fast.info.n_iter < plain.info.n_iter
    with pytest.raises(ValueError, match="preconditioner must return a finite"):
        eigsh(matrix, 4, which="SA", preconditioner=lambda r: r[:, :1])


@pytest.mark.parametrize("kind", ["diagonal", "sparse", "dense", "both dense"])
def test_a_preconditioner_is_that_of_the_pencil(kind: str) -> None:
    matrix, _ = _grid(27, 30)
    n = matrix.shape[0]
    ends, middle = np.ones(n - 1), np.linspace(3.0, 5.0, n)  # as the mass of finite elements
    sparse = sp.diags_array([ends, middle, ends], offsets=[-1, 0, 1]).tocsr()
    mass = {"diagonal": middle, "sparse": sparse}.get(kind, sparse.toarray())
    a = matrix.toarray() if kind == "both dense" else matrix
    exact = sla.eigh(matrix.toarray(), np.diag(mass) if mass.ndim == 1 else sparse.toarray())[0]
    factor = spla.splu(sp.csc_array(matrix))
    options: dict[str, Any] = {"B": mass, "which": "SA", "method": "lobpcg"}
    fast = eigsh(a, 4, preconditioner=factor.solve, **options)
    np.testing.assert_allclose(fast.values, exact[:4], rtol=1e-8)
    plain = eigsh(a, 4, preconditioner=lambda r: r, **options)
    assert 3 * fast.info.n_iter < plain.info.n_iter
    with pytest.raises(ValueError, match="preconditioner must return a finite"):
        eigsh(a, 4, preconditioner=lambda r: r[:3], **options)

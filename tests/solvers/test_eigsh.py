"""eigsh by definition: right eigenvalues with multiplicities, residuals, orthogonality, honesty."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as sla
import torch

import sslspec_fast.operators as ops
from sslspec_fast.graph import PairGraph
from sslspec_fast.solvers import ConvergenceWarning, EigResult, eigsh
from sslspec_fast.solvers.problem import watch

from ..support import graphs

ITERATIVE = ("lanczos", "chebyshev", "lobpcg", "shift_invert")
FAMILIES = {
    "path": lambda: graphs.path(150),
    "cycle": lambda: graphs.cycle(140),
    "torus": lambda: graphs.torus(12, 15),
    "complete": lambda: graphs.complete(90),
    "star": lambda: graphs.star(120),
    "hypercube": lambda: graphs.hypercube(8),
    "cliques": lambda: graphs.cliques([5] * 12 + [9, 13], isolated=7),
    "bipartite": lambda: graphs.bipartite(40, 70),
}


def check(result: EigResult, matrix, expected, tol: float, b=None) -> None:
    """Residuals, orthonormality and eigenvalues; the report must tell the same story."""
    values, x = np.asarray(result.values, float), np.asarray(result.vectors, float)
    bx = x if b is None else b @ x
    norm = max(np.abs(expected).max(), 1e-300)
    residuals = np.linalg.norm(matrix @ x - bx * values, axis=0)
    assert residuals.max() <= max(2 * tol * result.info.norm, 1e-12 * norm)
    assert np.abs(x.T @ bx - np.eye(len(values))).max() <= 1e-10
    np.testing.assert_allclose(values, expected[: len(values)], atol=max(5 * tol, 1e-9) * norm)
    assert result.info.residuals.shape == (len(values),)
    assert np.abs(residuals - result.info.residuals).max() <= 1e-10 * norm


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", [*ITERATIVE, "dense", "auto"])
def test_known_spectra_with_multiplicities(family: str, method: str) -> None:
    matrix, expected = FAMILIES[family]()
    for k in (1, 7, 20):
        result = eigsh(matrix, k, method=method, tol=1e-9)
        check(result, matrix, expected, 1e-9)
        assert result.info.converged, str(result.info)
        smallest = eigsh(matrix, k, which="SA", method=method, tol=1e-9)
        check(smallest, matrix, expected[::-1], 1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_largest_k(family: str) -> None:
    matrix, expected = FAMILIES[family]()
    n = matrix.shape[0]
    for k in (n - 1, n):
        check(eigsh(matrix, k), matrix, expected, 1e-10)


@pytest.mark.parametrize("method", ITERATIVE)
@pytest.mark.parametrize("precision", ["mixed", "float64", "float32"])
def test_precisions(method: str, precision: str) -> None:
    matrix = graphs.blocks_graph(900, 6)
    expected = np.linalg.eigvalsh(matrix.toarray())[::-1]
    tol = 1e-5 if precision == "float32" else 1e-11
    result = eigsh(matrix, 6, method=method, precision=precision, tol=tol)
    assert result.info.converged
    assert result.vectors.dtype == (np.float32 if precision == "float32" else np.float64)
    x, values = np.asarray(result.vectors, float), np.asarray(result.values, float)
    assert np.linalg.norm(matrix @ x - x * values, axis=0).max() <= 2 * tol * expected[0]
    np.testing.assert_allclose(values, expected[:6], rtol=tol)


@pytest.mark.parametrize("method", ["chebyshev", "lanczos", "shift_invert"])
def test_angle_tolerance_is_met(method: str) -> None:
    # six weakly joined communities: a cut of small gap, where a residual alone says nothing
    matrix = graphs.chain([graphs.blocks_graph(150, 1, seed=s) for s in range(6)])
    values, vectors = np.linalg.eigh(matrix.toarray())
    k = 4
    truth = vectors[:, ::-1][:, :k]
    result = eigsh(matrix, k, method=method, tol=1e-3, angle_tol=1e-6)
    assert result.info.converged, str(result.info)
    assert result.info.angle_bound <= 1e-6
    sine = np.linalg.norm(truth - result.vectors @ (result.vectors.T @ truth), 2)
    assert sine <= 1e-6
    gap = values[::-1][k - 1] - values[::-1][k]
    assert result.info.gap <= gap * (1 + 1e-9)


def test_cluster_cut_is_reported() -> None:
    matrix, _ = graphs.cliques([6] * 10)
    inside = eigsh(matrix, 4, method="chebyshev", tol=1e-8)
    assert inside.info.converged
    assert inside.info.cluster_cut
    clean = eigsh(matrix, 10, method="chebyshev", tol=1e-8)
    assert not clean.info.cluster_cut
    assert clean.info.gap == pytest.approx(6.0, rel=1e-4)  # less 4 residuals of the next
    with pytest.warns(ConvergenceWarning, match="inside a cluster"):
        asked = eigsh(matrix, 4, method="chebyshev", angle_tol=1e-6)
    assert not asked.info.converged


@pytest.mark.parametrize("method", ["chebyshev", "lanczos", "lobpcg"])
def test_not_converged_is_said(method: str) -> None:
    matrix, _ = graphs.path(2000)
    with pytest.warns(ConvergenceWarning, match="not converged"):
        result = eigsh(matrix, 5, method=method, tol=1e-13, max_iter=2)
    assert not result.info.converged
    assert "max_iter" in result.info.reason
    x, values = result.vectors, result.values
    honest = np.linalg.norm(matrix @ x - x * values, axis=0)
    known = np.isfinite(result.info.residuals)
    np.testing.assert_allclose(result.info.residuals[known], honest[known], atol=1e-9)


def test_identity_zero_and_small_matrices() -> None:
    for matrix, value in ((sp.eye_array(700, format="csr"), 1.0), (sp.csr_array((700, 700)), 0.0)):
        for method in ("auto", "chebyshev", "lanczos"):
            result = eigsh(matrix, 5, method=method)
            np.testing.assert_allclose(result.values, value, atol=1e-12)
            assert np.abs(result.vectors.T @ result.vectors - np.eye(5)).max() < 1e-10
            assert result.info.cluster_cut
    one = eigsh(np.array([[3.0]]), 1)
    assert one.values[0] == 3.0
    assert one.info.gap == np.inf
    for n in (2, 3, 7):
        for method in ("auto", *ITERATIVE):
            matrix, expected = graphs.path(n)
            check(eigsh(matrix, n, method=method), matrix, expected, 1e-6)


def test_duplicate_points() -> None:
    # ten copies of each of 80 points: blocks of equal rows, 720 exact zeros
    rng = np.random.default_rng(0)
    base = np.exp(-rng.random((80, 80)))
    base = base + base.T
    matrix = np.kron(base, np.ones((10, 10)))
    expected = np.linalg.eigvalsh(matrix)[::-1]
    for method in ("auto", "chebyshev", "lanczos"):
        check(eigsh(matrix, 9, method=method, tol=1e-9), matrix, expected, 1e-9)


def test_int64_indices_and_input_kinds() -> None:
    matrix = graphs.blocks_graph(800, 4)
    expected = np.sort(sla.eigsh(matrix, 4, which="LA", return_eigenvectors=False))[::-1]
    wide = sp.csr_array(
        (matrix.data, matrix.indices.astype(np.int64), matrix.indptr.astype(np.int64)),
        shape=matrix.shape,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        csr = torch.sparse_csr_tensor(
            torch.from_numpy(wide.indptr),
            torch.from_numpy(wide.indices),
            torch.from_numpy(wide.data),
            matrix.shape,
        )
    inputs = {
        "int64": wide,
        "csc": matrix.tocsc(),
        "coo": matrix.tocoo(),
        "dense": matrix.toarray(),
        "float32": matrix.astype(np.float32),
        "bool": matrix.astype(bool),
        "linear operator": sla.aslinearoperator(matrix),
        "torch csr": csr,
        "torch coo": csr.to_sparse_coo(),
        "torch dense": torch.from_numpy(matrix.toarray()),
        "graph": PairGraph.from_sparse(matrix),
        "operator": ops.as_operator(matrix),
    }
    for name, given in inputs.items():
        result = eigsh(given, 4, tol=1e-8)
        assert result.info.converged, name
        torch_like = name in ("torch csr", "torch coo", "torch dense", "graph", "operator")
        assert isinstance(result.vectors, torch.Tensor if torch_like else np.ndarray), name
        np.testing.assert_allclose(np.asarray(result.values), expected, rtol=1e-7, err_msg=name)


def test_repeatable_and_signed() -> None:
    matrix = graphs.blocks_graph(900, 5)
    for method in ITERATIVE:
        first = eigsh(matrix, 5, method=method)
        again = eigsh(matrix, 5, method=method)
        assert np.array_equal(first.vectors, again.vectors), method
        pivot = np.abs(first.vectors).argmax(0)
        assert (first.vectors[pivot, np.arange(5)] > 0).all()
    other = eigsh(matrix, 5, method="chebyshev", seed=3)
    assert not np.array_equal(other.vectors, eigsh(matrix, 5, method="chebyshev").vectors)
    np.testing.assert_allclose(np.abs(other.vectors), np.abs(first.vectors), atol=1e-3)


def test_warm_start_saves_work() -> None:
    ends = np.random.default_rng(0).integers(3000, size=(2, 6000))  # the same in every scipy
    half = sp.coo_array((np.ones(6000), ends), shape=(3000, 3000)).tocsr()
    matrix = sp.csr_array(half + half.T)
    cold = eigsh(matrix, 8, method="chebyshev", tol=1e-9)
    warm = eigsh(matrix, 8, method="chebyshev", tol=1e-9, x0=cold.vectors)
    assert warm.info.converged
    # what is left is the probe, and a search for directions that the start may lack
    assert warm.info.n_matvec < 0.9 * cold.info.n_matvec
    np.testing.assert_allclose(warm.values, cold.values, rtol=1e-9)


@pytest.mark.parametrize("method", [*ITERATIVE, "dense"])
def test_deflation(method: str) -> None:
    matrix = graphs.blocks_graph(700, 5)
    full = eigsh(matrix, 6, method="dense")
    rest = eigsh(matrix, 4, method=method, deflate=full.vectors[:, :2], tol=1e-9)
    np.testing.assert_allclose(rest.values, full.values[2:], atol=1e-7)
    assert np.abs(full.vectors[:, :2].T @ rest.vectors).max() < 1e-9


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("method", ["auto", "chebyshev", "lanczos", "shift_invert", "dense"])
def test_laplacian_null_vectors_are_exact(normalized: bool, method: str) -> None:
    parts = [graphs.blocks_graph(200, 1, seed=s) for s in range(3)]
    matrix = sp.csr_array(sp.block_diag([*parts, sp.csr_array((2, 2))]))  # two isolated nodes
    graph = PairGraph.from_sparse(matrix)
    operator = ops.laplacian(graph, normalized=normalized)
    expected = np.linalg.eigvalsh(operator.to_dense().numpy())
    components = 3 if normalized else 5
    assert (np.abs(expected[:components]) < 1e-10).all()
    for k in (2, components, components + 3):
        result = eigsh(operator, k, which="SA", method=method, tol=1e-9)
        assert result.info.converged
        np.testing.assert_allclose(result.values.numpy(), expected[:k], atol=1e-8)
        x = result.vectors.numpy()
        assert np.abs(x.T @ x - np.eye(k)).max() < 1e-10
        assert result.info.cluster_cut == (k < components)
    top = eigsh(ops.adjacency(graph, normalized=True), 3, method=method)
    np.testing.assert_allclose(top.values.numpy(), 1.0, atol=1e-14)


def test_implicit_graphs_match_their_matrices() -> None:
    labels = torch.arange(660) % 7
    graph = PairGraph.from_labels(labels) + 0.5 * PairGraph.from_views(330, 2)
    dense = graph.to_scipy().toarray()
    expected = np.linalg.eigvalsh(dense)[::-1]
    for method in ("auto", "chebyshev", "lanczos"):
        result = eigsh(graph, 7, method=method, tol=1e-9)
        check(result, dense, expected, 1e-9)
    centred = ops.centered(ops.adjacency(graph))
    h = np.eye(660) - 1 / 660
    check(eigsh(centred, 6, tol=1e-9), h @ dense @ h, np.linalg.eigvalsh(h @ dense @ h)[::-1], 1e-9)


@pytest.mark.parametrize("method", ["auto", "chebyshev", "dense"])
def test_generalised_problem(method: str) -> None:
    rng = np.random.default_rng(0)
    matrix = graphs.blocks_graph(650, 4)
    diagonal = 1 + rng.random(650)
    factor = rng.standard_normal((650, 650)) / 50
    dense = factor @ factor.T + np.eye(650)
    cases = (
        (diagonal, np.diag(diagonal)),
        (sp.diags_array(diagonal), np.diag(diagonal)),
        (dense, dense),
    )
    for given, b in cases:
        half = np.linalg.inv(np.linalg.cholesky(b))
        expected = np.linalg.eigvalsh(half @ matrix.toarray() @ half.T)[::-1]
        check(eigsh(matrix, 5, B=given, method=method, tol=1e-10), matrix, expected, 1e-9, b)


def test_callback_progress_and_report(capsys: pytest.CaptureFixture[str]) -> None:
    matrix, _ = graphs.path(1500)
    seen: list[dict] = []
    result = eigsh(matrix, 3, method="chebyshev", callback=seen.append, progress=True)
    assert len(seen) == result.info.n_iter == len(result.info.history)
    assert {"iteration", "residual", "converged", "n_matvec", "basis"} <= set(seen[0])
    assert "3/3 pairs" in capsys.readouterr().err
    assert "converged: chebyshev" in str(result.info)
    seen.clear()
    dense = eigsh(matrix, 3, method="dense", callback=seen.append, progress=True)
    assert len(seen) == dense.info.n_iter == len(dense.info.history) == 1
    assert set(seen[0]) == {*result.info.history[0], "k", "values"}
    assert capsys.readouterr().err.count("3/3 pairs") == 1
    with pytest.warns(ConvergenceWarning, match="callback"):
        stopped = eigsh(matrix, 3, method="chebyshev", tol=1e-12, callback=lambda entry: True)
    assert not stopped.info.converged
    values, vectors = result
    assert values is result.values
    assert vectors is result.vectors


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_is_lines_in_a_log_and_a_bar_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    if terminal:
        pytest.importorskip("tqdm")
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda _: terminal, raising=False)
    monkeypatch.setattr(watch, "_SECONDS", 0.0)
    matrix, _ = graphs.path(1500)
    result = eigsh(matrix, 3, method="chebyshev", progress=True)
    err = capsys.readouterr().err
    assert ("\r" in err) == terminal
    assert "3/3" in err
    assert err.endswith("\n")
    if not terminal:
        lines = err.splitlines()
        assert len(lines) == result.info.n_iter + 1  # a line each step, and the last one
        assert all(line.startswith("eigsh: ") and "nan" not in line for line in lines)


@pytest.mark.parametrize("method", ["dense", *ITERATIVE])
def test_the_smallest_eigenvalues_keep_their_sign(method: str) -> None:
    seen: list[dict] = []
    matrix = sp.diags_array(np.arange(700.0) + 5.0).tocsr()
    eigsh(matrix, 2, which="SA", method=method, callback=seen.append)
    np.testing.assert_allclose(seen[-1]["values"], [5.0, 6.0], rtol=1e-6)
    laplacian = ops.laplacian(PairGraph.from_views(9))
    null = eigsh(laplacian, 2, which="SA", method=method).values
    assert not torch.signbit(null).any()

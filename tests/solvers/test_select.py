"""`auto` on the graphs that break eigensolvers: right values, clean span, true report."""

from __future__ import annotations

import importlib.util
import math
import threading
import warnings
from typing import Any

import numpy as np
import pytest
import scipy.linalg as sla
import scipy.sparse as sp
import torch

import sslspec_fast.operators as ops
from sslspec_fast.graph import PairGraph
from sslspec_fast.solvers import eigsh
from sslspec_fast.solvers._threads import at_most_threads
from sslspec_fast.solvers.linalg.cost import machine, start_width
from sslspec_fast.solvers.linalg.factorization import Structure
from sslspec_fast.solvers.methods.shift_invert import ShiftedSolve
from sslspec_fast.solvers.problem.probe import probe
from sslspec_fast.solvers.problem.reorder import renumbering_pays
from sslspec_fast.solvers.problem.task import Task
from sslspec_fast.solvers.result import ConvergenceWarning

from ..support import graphs
from ..support.solvers import polynomials_everywhere


def _hadamard(n: int):
    """Symmetric, eigenvalues +-sqrt(n), each n / 2 times."""
    root = np.sqrt(float(n))
    return sla.hadamard(n).astype(float), np.r_[np.full(n // 2, root), np.full(n // 2, -root)]


def _duplicates():
    """Twelve copies of each of 80 points: 880 exact zeros."""
    base = np.exp(-np.random.default_rng(0).random((80, 80)))
    values = np.linalg.eigvalsh(base + base.T) * 12
    matrix = sp.csr_array(np.kron(base + base.T, np.ones((12, 12))))
    return matrix, np.sort(np.r_[values, np.zeros(880)])[::-1]


HARD = {
    "path": lambda: graphs.path(3000),
    "torus": lambda: graphs.torus(40, 41),
    "star": lambda: graphs.star(2500),
    "hypercube": lambda: graphs.hypercube(11),
    "hadamard": lambda: _hadamard(1024),
    "cliques and isolated nodes": lambda: graphs.cliques([5] * 150 + [9] * 20 + [13], 40),
    "bipartite": lambda: graphs.bipartite(300, 900),
    "complete": lambda: graphs.complete(900),
    "duplicates": _duplicates,
    "no entries": lambda: (sp.csr_array((900, 900)), np.zeros(900)),
}


@pytest.mark.parametrize("family", HARD)
@pytest.mark.parametrize("k", [1, 12, 30])
def test_auto_on_hard_spectra(family: str, k: int) -> None:
    matrix, expected = HARD[family]()
    result = eigsh(matrix, k, tol=1e-8)
    norm = max(np.abs(expected).max(), 1e-300)
    x = np.asarray(result.vectors)
    residual = np.linalg.norm(matrix @ x - x * result.values, axis=0).max()
    assert result.info.converged, str(result.info)
    assert residual <= 2e-8 * max(result.info.norm, norm)
    np.testing.assert_allclose(result.values, expected[:k], atol=1e-8 * norm)
    assert np.abs(x.T @ x - np.eye(k)).max() <= 1e-10
    inside = expected[k - 1] - expected[k] <= 1e-12 * norm
    assert result.info.cluster_cut or not inside, str(result.info)


@pytest.mark.parametrize("which", ["LA", "SA"])
@pytest.mark.parametrize("n", [40, 700])
def test_nearly_all_pairs(n: int, which: str) -> None:
    matrix = graphs.blocks_graph(n, 2)
    expected = np.sort(np.linalg.eigvalsh(matrix.toarray()))
    expected = expected[::-1] if which == "LA" else expected
    for k in (n // 5 + 1, n - 1, n):
        result = eigsh(matrix, k, which=which)
        np.testing.assert_allclose(result.values, expected[:k], atol=1e-10 * np.abs(expected).max())


def test_disconnected_normalised_graph() -> None:
    """More components than wanted vectors behind them: all of them, then the rest, exactly."""
    parts = [graphs.blocks_graph(400, 4, seed=s) for s in range(4)]
    matrix = sp.csr_array(sp.block_diag([*parts, sp.csr_array((5, 5))]))
    operator = ops.adjacency(PairGraph.from_sparse(matrix), normalized=True)
    expected = np.linalg.eigvalsh(operator.to_dense().numpy())[::-1]
    for precision, tol in (("mixed", 1e-9), ("float64", 1e-9), ("float32", 1e-5)):
        result = eigsh(operator, 16, tol=tol, precision=precision)
        assert result.info.converged, precision
        np.testing.assert_allclose(result.values.double().numpy(), expected[:16], atol=2 * tol)


def test_start_from_the_probe_agrees_with_a_random_start() -> None:
    matrix = graphs.blocks_graph(6000, 9)
    expected = eigsh(matrix, 9, method="lanczos", tol=1e-10)
    for precision, tol in (("mixed", 1e-9), ("float64", 1e-9), ("float32", 1e-5)):
        result = eigsh(matrix, 9, tol=tol, precision=precision)
        assert result.info.converged
        np.testing.assert_allclose(result.values, expected.values, rtol=2 * tol)
    small, large = (eigsh(matrix, 9, tol=tol).info.n_matvec for tol in (1e-3, 1e-10))
    assert small < large


def test_probe_keeps_a_basis_only_where_it_pays() -> None:
    def probed(matrix, k: int):
        op = ops.as_operator(matrix)
        task = Task(op, k, op.n, 1.0, 1e-6, None, 10, 0)
        return probe(task, keep=True)

    wide = probed(graphs.blocks_graph(6000, 9), 9)
    x = wide.vectors(16)
    assert x is not None
    assert x.shape == (6000, 16)
    assert float((x.T @ x - torch.eye(16)).abs().max()) < 1e-3
    assert wide.vectors(10_000) is None
    assert probed(graphs.path(6000)[0], 9).vectors(4) is None  # few entries a row
    assert probed(graphs.blocks_graph(6000, 9), 64).vectors(4) is None  # more wanted than it sees


def _tall_and_mixed(copies: int, separate: int, n: int, seed: int):
    """1 `copies` times, `separate` values well apart below, the rest in [-1, -0.3], rotated."""
    rng = np.random.default_rng(seed)
    top = np.r_[np.ones(copies), np.linspace(0.9, -0.2, separate)]
    values = np.r_[top, rng.uniform(-1, -0.3, n - len(top))]
    matrix = sp.csr_array(sp.diags(values))
    for _ in range(3):  # rotations of pairs of rows
        i, j = rng.permutation(n)[: n // 2 * 2].reshape(2, -1)
        angle = rng.uniform(0, 2 * np.pi, n // 2)
        c, s = np.cos(angle), np.sin(angle)
        rotation = sp.csr_array(
            (np.r_[c, c, s, -s], (np.r_[i, j, i, j], np.r_[i, j, j, i])), shape=(n, n)
        )
        matrix = rotation @ matrix @ rotation.T
    return sp.csr_array((matrix + matrix.T) / 2), top


@pytest.mark.parametrize("precision", ["float32", "mixed", "float64"])
@pytest.mark.parametrize(("copies", "k"), [(17, 17), (17, 20), (20, 18), (20, 24), (40, 28)])
@pytest.mark.parametrize("polynomial", [False, True])
def test_more_copies_than_the_block_of_the_probe(
    copies: int, k: int, precision: str, polynomial: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Krylov vectors from 16 columns never see copy 17, however good their residuals are."""
    if polynomial:
        polynomials_everywhere(monkeypatch)
    matrix, expected = _tall_and_mixed(copies, 30, 6000, seed=copies)
    found = eigsh(matrix, k, tol=1e-4, precision=precision, seed=2)
    assert found.info.converged, str(found.info)
    np.testing.assert_allclose(found.values, expected[:k], atol=1e-3)


def test_probe_goes_on_where_that_beats_a_filter() -> None:
    matrix = graphs.blocks_graph(40_000, 40, degree=20)
    operator = ops.adjacency(PairGraph.from_sparse(matrix), True)
    found = eigsh(operator, 40, tol=1e-4)
    assert found.info.converged
    assert found.info.extra["start_degree"] == 1  # nothing is left for a filter
    again = eigsh(operator, 40, tol=1e-6, method="chebyshev", seed=1)
    np.testing.assert_allclose(found.values.numpy(), again.values.numpy(), atol=1e-7)


def test_blocks_of_the_probe_are_cache_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 columns of float32, 8 of float64; 16 again where copies of many values could be missed."""
    door = importlib.import_module("sslspec_fast.solvers.eigsh")
    probe, seen = door.probe, []

    def spy(*args: Any, **settings: Any) -> Any:
        seen.append(probe(*args, **settings))
        return seen[-1]

    monkeypatch.setattr(door, "probe", spy)
    matrix = graphs.blocks_graph(40_000, 40, degree=20)
    for k, precision, width in (
        (12, "float32", 16),
        (12, "mixed", 16),
        (12, "float64", 8),
        (40, "float64", 16),
    ):
        found = eigsh(matrix, k, tol=1e-5, precision=precision)
        assert found.info.converged
        assert seen[-1].block == width
        assert {block.shape[1] for block in seen[-1].basis} == {width}


def test_start_blocks_fill_cache_lines() -> None:
    assert [start_width(k, 10**6) for k in (9, 13, 15, 63, 200)] == [16, 16, 16, 80, 224]
    assert start_width(9, 11) == 11
    gpu = machine(torch.device("cuda"))
    assert (gpu.threads(10**6, 64), machine(torch.device("cpu")).threads(10**6, 64)) == (1, 1953)
    for k in range(1, 200):
        assert start_width(k, 10**6) > k


def test_one_thread_for_small_problems_is_undone() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with at_most_threads(1), at_most_threads(1):
            assert torch.get_num_threads() == 1
        with at_most_threads(2):
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 2
        threads = [
            threading.Thread(target=eigsh, args=(graphs.blocks_graph(900, 3), 3)) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("method", ["auto", "chebyshev"])
@pytest.mark.parametrize("which", ["LA", "SA"])
def test_renumbering_changes_nothing_but_the_order(
    which: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Structure, "seconds", lambda *a: math.inf)  # no factorisation
    # two weighted grids of different size and two isolated nodes, numbered at random
    parts = [graphs.torus(100, 101)[0], graphs.torus(80, 90)[0], sp.csr_array((2, 2))]
    matrix = sp.csr_array(sp.block_diag(parts))
    shuffle = np.random.default_rng(0).permutation(matrix.shape[0])
    graph = PairGraph.from_sparse(sp.csr_array(matrix[shuffle][:, shuffle]) * 0.5)

    def solve():
        if which == "LA":
            return eigsh(ops.adjacency(graph, normalized=True), 6, tol=1e-6, method=method)
        return eigsh(ops.laplacian(graph), 8, which="SA", tol=1e-6, method=method)

    fast = solve()
    assert fast.info.extra["reordered"] == "reverse Cuthill-McKee"
    assert fast.info.plan.reordered
    plan = importlib.import_module("sslspec_fast.solvers.plan")
    monkeypatch.setattr(plan, "renumbering_pays", lambda *a: False)
    plain = solve()
    assert fast.info.converged
    assert "reordered" not in plain.info.extra
    np.testing.assert_allclose(fast.values.numpy(), plain.values.numpy(), atol=1e-9)
    op = ops.adjacency(graph, True) if which == "LA" else ops.laplacian(graph)
    residual = (op @ fast.vectors - fast.vectors * fast.values).norm(dim=0)
    assert float(residual.max()) <= 2e-6 * fast.info.norm


def test_no_order_for_graphs_without_one() -> None:
    natural = ops.as_operator(graphs.torus(130, 131)[0])
    assert not renumbering_pays(natural, 130)
    scattered = ops.as_operator(graphs.blocks_graph(20_000, 4))
    assert not renumbering_pays(scattered, 5)
    assert not renumbering_pays(ops.as_operator(graphs.path(2000)[0]), 2000)
    for op in (natural, scattered):  # the levels are to be counted
        assert not renumbering_pays(op)


def _paths() -> sp.csr_array:
    """30 paths of slightly different weight: all eigenvalues distinct, symmetric around 0."""
    return sp.csr_array(sp.block_diag([graphs.path(99)[0] * (1 + i * 0.01) for i in range(30)]))


@pytest.mark.parametrize("method", ["auto", "chebyshev", "lobpcg", "shift_invert", "lanczos"])
def test_a_start_of_wrong_eigenvectors_is_not_accepted(method: str) -> None:
    matrix = _paths()
    wrong = eigsh(matrix, 12, which="SA", tol=1e-10)
    found = eigsh(matrix, 4, x0=wrong.vectors, method=method, angle_tol=1e-6)
    assert found.info.converged
    exact = np.linalg.eigvalsh(matrix.toarray())[::-1][:4]
    np.testing.assert_allclose(found.values, exact, atol=1e-6)


@pytest.mark.parametrize("k", [12, 18, 22])
def test_factorisation_sees_multiplicities_wider_than_its_block(k: int) -> None:
    path = [graphs.path(n)[0] for n in (15, 40)]
    grid = sp.kronsum(path[0], path[1])
    matrix = sp.csr_array(sp.block_diag([grid] * 12))
    exact = np.sort(np.tile(np.linalg.eigvalsh(grid.toarray()), 12))[::-1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # most cuts lie inside a cluster
        found = eigsh(matrix, k, method="shift_invert", tol=1e-8, angle_tol=1e-6)
    np.testing.assert_allclose(found.values, exact[:k], atol=1e-8)
    assert found.info.cluster_cut == bool(exact[k - 1] - exact[k] < 1e-9)
    assert found.info.converged == (not found.info.cluster_cut)


def test_vectors_to_deflate_must_be_invariant() -> None:
    matrix, block = _paths(), np.random.default_rng(0).standard_normal((2970, 1))
    with pytest.warns(ConvergenceWarning, match="deflate is not invariant"):
        found = eigsh(matrix, 3, deflate=block, method="lanczos")
    assert not found.info.converged
    block[5] = np.nan
    with pytest.raises(ValueError, match="deflate must be finite"):
        eigsh(matrix, 3, deflate=block)


def test_all_wanted_pairs_known_leaves_an_honest_record() -> None:
    graph = PairGraph.from_sparse(graphs.path(2000)[0])
    found = eigsh(ops.laplacian(graph), 1, which="SA", tol=1e-8, angle_tol=1e-6)
    second = 2 - 2 * np.cos(np.pi / 2000)
    assert found.info.converged
    assert not found.info.cluster_cut
    assert found.info.gap == pytest.approx(second, rel=0.3)
    assert found.info.tol == pytest.approx(1e-8 * found.info.norm)
    assert found.info.angle_tol == 1e-6


def test_a_shift_that_meets_a_deflated_eigenvalue_is_moved() -> None:
    spectrum = np.r_[np.arange(1.0, 699.0), 8000.0, 9000.0]
    matrix = sp.csr_array(sp.diags_array(spectrum))
    task = Task(ops.as_operator(matrix), 3, 698, 9000.0, 1e-3, None, 10, 0)
    solver = ShiftedSolve(task, matrix, 8000.0)
    assert 0 < solver.sigma - 8000.0 <= 1e-6 * 9000
    x = torch.eye(700, 3, dtype=torch.float64)
    expected = x / (8000.0 - torch.arange(1.0, 4.0, dtype=torch.float64))
    torch.testing.assert_close(solver.solve(x), expected, rtol=1e-9, atol=0)
    for top in (8000.0, 698.0 + 1e-6 * 9000):  # wherever the shift of this run lands
        spectrum[-2] = top
        matrix = sp.csr_array(sp.diags_array(spectrum))
        result = eigsh(matrix, 3, method="shift_invert", deflate=np.eye(700)[:, -2:])
        assert result.info.converged
        np.testing.assert_allclose(result.values, [698.0, 697.0, 696.0], rtol=1e-6)


def test_a_factor_that_stays_singular_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def singular(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("Factor is exactly singular")

    monkeypatch.setattr("sslspec_fast.solvers.linalg.factorization.splu", singular)
    with pytest.raises(ValueError, match=r"singular factor at sigma = .* use method='chebyshev'"):
        eigsh(sp.eye_array(700).tocsr(), 3, method="shift_invert")

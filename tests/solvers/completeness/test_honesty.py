"""Runs that once ended as `converged` with something missing: right now, or they say so."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import scipy.linalg as sla
import scipy.sparse as sp
import scipy.sparse.linalg as spla
import torch

import sslspec_fast.operators as ops
from sslspec_fast.graph import PairGraph
from sslspec_fast.primitives.basis import random_block
from sslspec_fast.solvers import eigsh
from sslspec_fast.solvers.linalg.basis import orthonormalize
from sslspec_fast.solvers.result import ConvergenceWarning

N = 1000
LINE = sp.csr_array(sp.diags_array(np.linspace(0, 1, N)))
METHODS = ["auto", "lanczos", "chebyshev", "lobpcg", "shift_invert"]


def solve(*args: Any, **settings: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return eigsh(*args, **settings)


def right_or_honest(result: Any, exact: np.ndarray) -> None:
    """exact: all eigenvalues. Values, gap and bound hold where the run says that it converged."""
    info = result.info
    assert len(result.values) == len(info.residuals)
    assert np.isfinite(info.residuals).all()
    if not info.converged:
        return
    k, exact = len(result.values), np.sort(exact)[::-1]
    slack = 2 * float(info.residuals.max()) + 1e-12 * info.norm
    np.testing.assert_allclose(result.values, exact[:k], atol=slack)
    if k < len(exact):
        assert info.gap <= exact[k - 1] - exact[k] + slack
    if info.angle_tol is not None:
        assert info.angle_bound <= info.angle_tol * (1 + 1e-5)


@pytest.mark.parametrize("precision", ["mixed", "float32"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("k", "first", "last"), [(2, 980, 995), (2, 0, 50), (20, 979, 999)])
def test_eigenvectors_that_are_not_wanted_as_a_start(
    k: int, first: int, last: int, method: str, precision: str
) -> None:
    x0 = np.eye(N)[:, first:last][:, ::-1]
    for scale in (
        1.0,
        1000.0,
    ):  # a start far below the top must not overflow the search for the rest
        result = solve(LINE * scale, k, method=method, x0=x0, precision=precision, tol=1e-5)
        assert result.info.converged
        right_or_honest(result, scale * np.linspace(0, 1, N))


@pytest.mark.parametrize("method", METHODS)
def test_the_gap_behind_more_copies_than_wanted(method: str) -> None:
    rng = np.random.default_rng(3)
    n = 620
    q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    values = rng.random(n)
    values[:62] = 1.0
    matrix = (q * values) @ q.T
    matrix = sp.csr_array((matrix + matrix.T) / 2)
    right_or_honest(solve(matrix, 20, method=method, tol=1e-9), values)
    part = sp.random_array((40, 40), density=0.1, random_state=rng)
    blocks = sp.csr_array(sp.block_diag([part + part.T] * 16))
    exact = np.repeat(np.linalg.eigvalsh((part + part.T).toarray()), 16)
    for k in (1, 2, 5):
        for angle_tol in (None, 1e-6):
            result = solve(blocks, k, method=method, angle_tol=angle_tol)
            right_or_honest(result, exact)
            assert result.info.cluster_cut


@pytest.mark.parametrize("method", METHODS)
def test_a_start_that_the_filter_annihilates(method: str) -> None:
    star = sp.lil_array((2000, 2000))
    star[0, 1:] = star[1:, 0] = 1.0
    result = solve(sp.csr_array(star), 1, method=method)
    root = math.sqrt(1999)
    right_or_honest(result, np.r_[root, -root, np.zeros(1998)])


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_is_cut_short_proves_nothing(method: str) -> None:
    x0 = np.eye(N)[:, 979:999]
    for settings in ({"max_iter": 1}, {"callback": lambda entry: True}):
        for k in (8, 20, 40):
            for start in (None, x0):
                result = solve(LINE, k, method=method, x0=start, **settings)
                assert len(result.values) == k
                right_or_honest(result, np.linspace(0, 1, N))
                x = np.asarray(result.vectors)
                true = np.linalg.norm(LINE @ x - x * np.asarray(result.values), axis=0)
                np.testing.assert_allclose(result.info.residuals, true, rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize("method", [*METHODS, "dense"])
def test_float32_results_are_measured_as_they_are_returned(method: str) -> None:
    n = 800
    path = sp.diags_array(
        [np.full(n - 1, -1.0), np.full(n, 2.0), np.full(n - 1, -1.0)], offsets=[-1, 0, 1]
    )
    path = sp.csr_array(path)
    result = solve(
        path, 3, which="SA", method=method, precision="float32", tol=1e-4, angle_tol=1e-6
    )
    assert not result.info.converged  # the gap is 4e-5: float32 vectors do not resolve it to 1e-6
    x = result.vectors.astype(np.float64)
    true = np.linalg.norm(path @ x - x * result.values.astype(np.float64), axis=0)
    assert (result.info.residuals > 0.2 * true - 1e-7).all()
    tight = solve(path, 3, method="dense", precision="float32", tol=1e-10)
    assert not tight.info.converged
    assert "float32" in tight.info.reason


@pytest.mark.parametrize("method", [*METHODS, "dense"])
def test_no_angle_is_bounded_by_no_gap(method: str) -> None:
    exact = np.r_[np.full(40, 2.0), np.linspace(0, 1, 600)]
    result = solve(sp.csr_array(sp.diags_array(exact)), 7, method=method, angle_tol=1e-6)
    assert result.info.cluster_cut
    assert not result.info.converged
    weak = sp.block_diag([np.ones((40, 40))] * 2).tolil()
    weak[0, 79] = weak[79, 0] = 1e-10
    laplacian = ops.laplacian(PairGraph.from_sparse(sp.csr_array(weak)))
    result = solve(laplacian, 1, which="SA", angle_tol=1e-6, method=method)
    right_or_honest(result, np.zeros(0) if not result.info.converged else -np.ones(80))


def test_as_many_pairs_as_asked_for() -> None:
    path = sp.diags_array([np.ones(299), np.ones(299)], offsets=[-1, 1])
    result = eigsh(sp.csr_array(path), 300, method="chebyshev")
    assert result.info.converged
    exact = 2 * np.cos(np.pi * np.arange(1, 301) / 301)
    np.testing.assert_allclose(result.values, exact, atol=1e-6)
    zero = eigsh(sp.csr_array((1200, 1200)), 4, method="chebyshev", x0=np.ones((1200, 2)))
    assert zero.info.converged
    assert not zero.values.any()


@pytest.mark.parametrize("method", ["auto", "lanczos", "chebyshev", "lobpcg"])
def test_an_operator_that_uses_its_output_again(method: str) -> None:
    class Buffered:
        shape, dtype = (N, N), np.dtype(np.float64)

        def __init__(self) -> None:
            self.buffer: dict[tuple[int, ...], np.ndarray] = {}

        def matmat(self, x: np.ndarray) -> np.ndarray:
            out = self.buffer.setdefault(x.shape, np.empty(x.shape))
            out[:] = LINE @ x
            return out

    result = eigsh(Buffered(), 4, method=method, tol=1e-6, precision="float64")
    assert result.info.converged
    right_or_honest(result, np.linspace(0, 1, N))


def test_torch_operators_may_return_what_they_got() -> None:
    result = eigsh(torch.eye(700, dtype=torch.float64), 3, method="lanczos")
    assert torch.allclose(result.values, torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-150, 1e-30, 1e-22, 1e-17, 1e20, 1e150])
def test_matrices_far_from_norm_one(scale: float, method: str) -> None:
    """Squares that underflow once made rubbish orthonormal, and residuals 0."""
    rng = np.random.default_rng(0)
    upper = sp.random_array((700, 700), density=0.02, random_state=rng)
    plain = sp.csr_array((upper + upper.T) / 6)
    exact = np.linalg.eigvalsh(plain.toarray())
    seen: list[dict[str, Any]] = []
    for kind in (np.float32, np.float64):
        if kind == np.float32 and not 1e-35 < scale < 1e35:
            with pytest.raises(ValueError, match=r"precision='float32' must hold the eigenvalues"):
                eigsh(plain * scale, 4, method=method, precision="float32")
            continue
        matrix = (plain * scale).astype(kind)
        precision = "float32" if kind == np.float32 else "mixed"
        settings = {"method": method, "precision": precision, "tol": 1e-5}
        result = solve(matrix, 4, callback=seen.append, **settings)
        assert result.info.converged
        right_or_honest(result, scale * exact)
        x = result.vectors.astype(np.float64)
        assert np.abs(x.T @ x - np.eye(4)).max() < 1e-5
        values = result.values.astype(np.float64) / scale
        true = np.linalg.norm(matrix.astype(np.float64) / scale @ x - x * values, axis=0)
        assert (result.info.residuals / scale > 0.2 * true - 2e-7).all()
        assert result.info.norm / scale == pytest.approx(exact[-1], rel=0.5)
        assert float(seen[-1]["values"][0]) / scale == pytest.approx(exact[-1], rel=1e-3)


def test_columns_shorter_than_the_root_of_the_smallest_float32() -> None:
    x = random_block(650, 4, 0, torch.float32, torch.device("cpu"))
    for scale in (1e-20, 1e-23, 1e-30):
        q = orthonormalize(x * scale).double()
        assert float((q.T @ q - torch.eye(4)).abs().max()) < 1e-6
    complete = np.zeros((700, 700))
    complete[:250, 250:] = complete[250:, :250] = 1
    graph = PairGraph.from_sparse(sp.csr_array(complete))
    for seed in (2, 35, 40, 120):  # the filter takes e^-60 out of its start in advance
        settings = {"which": "SA", "precision": "float32", "tol": 1e-5, "seed": seed}
        result = solve(ops.laplacian(graph), 2, **settings)
        x = result.vectors.double()
        assert float((x.T @ x - torch.eye(2)).abs().max()) < 1e-5
        if result.info.converged:
            np.testing.assert_allclose(result.values.numpy(), [0, 250], atol=0.02)


@pytest.mark.parametrize("method", ["auto", "chebyshev", "lanczos"])
@pytest.mark.parametrize("angle_tol", [None, 1e-3])
@pytest.mark.parametrize("k", [15, 16, 19, 33])
def test_a_cut_inside_many_copies(k: int, angle_tol: float | None, method: str) -> None:
    """As many copies as wanted came out, and a mixture behind them looked like the next value."""
    cliques = sp.csr_array(sp.kron(sp.eye_array(50), np.ones((20, 20))) / 20)
    for seed in range(4):
        info = solve(cliques, k, method=method, angle_tol=angle_tol, seed=seed).info
        assert info.cluster_cut
        assert info.converged == (angle_tol is None)


def test_a_cut_inside_copies_next_to_a_larger_cluster() -> None:
    clique = np.ones((100, 100)) - np.eye(100)
    parts = [sp.csr_array(sp.kron(sp.eye_array(6), clique)), sp.csr_array((13, 13))]
    graph = PairGraph.from_sparse(sp.csr_array(sp.block_diag(parts)))
    for seed in range(4):  # 6 null vectors, 13 values 1 and, 1 % behind, 594 others
        settings = {"which": "SA", "method": "shift_invert", "tol": 1e-8, "seed": seed}
        info = solve(ops.laplacian(graph, normalized=True), 10, **settings).info
        assert info.cluster_cut
        assert info.gap == 0.0


@pytest.mark.parametrize("outlier", [10.0, 1000.0])
@pytest.mark.parametrize(("copies", "k"), [(17, 18), (24, 20), (40, 30)])
@pytest.mark.parametrize("tol", [1e-6, 1e-4])
def test_copies_below_an_outlier(copies: int, k: int, outlier: float, tol: float) -> None:
    # the outlier outgrew everything in the filters, those of the search for more copies among them
    n = 700
    rng = np.random.default_rng(copies)
    values = np.r_[outlier, np.ones(copies), rng.uniform(-1, 1 - 1e-3, n - copies - 1)]
    matrix = sp.csr_array(sp.diags_array(rng.permutation(values)))
    result = solve(matrix, k, tol=tol)
    assert result.info.converged
    right_or_honest(result, values)


@pytest.mark.parametrize("precision", ["mixed", "float64", "float32"])
@pytest.mark.parametrize("method", METHODS)
def test_a_start_from_one_component(method: str, precision: str) -> None:
    # exact eigenvectors, but another component of the graph has some of the wanted ones
    rng = np.random.default_rng(0)
    parts = []
    for m, density in ((600, 0.03), (300, 0.06)):
        half = sp.triu(sp.random_array((m, m), density=density, random_state=rng), 1)
        half.data[:] = 1.0
        parts.append(sp.csr_array(half + half.T))
    matrix = sp.csr_array(sp.block_diag(parts))
    x0 = np.zeros((900, 8))
    x0[:600] = np.linalg.eigh(parts[0].toarray())[1][:, -8:]
    result = solve(matrix, 6, x0=x0, method=method, precision=precision, tol=1e-5)
    assert result.info.converged
    right_or_honest(result, np.linalg.eigvalsh(matrix.toarray()))


@pytest.mark.parametrize("offset", [3.0, 10.0, 100.0])
@pytest.mark.parametrize("method", ["auto", "lobpcg"])
def test_the_norm_of_an_operator_without_bounds(method: str, offset: float) -> None:
    # products that are nearly parallel to their factor cancelled, and the norm came out at 1000 x
    values = np.random.default_rng(0).uniform(-1, 1, 1000) + offset

    class Diagonal:
        shape, dtype = (1000, 1000), np.dtype(float)

        def matmat(self, x: np.ndarray) -> np.ndarray:
            return values.astype(x.dtype)[:, None] * x

    for seed in range(3):
        result = solve(Diagonal(), 5, method=method, tol=1e-3, seed=seed)
        assert offset <= result.info.norm <= 1.1 * (offset + 1)
        right_or_honest(result, values)


@pytest.mark.parametrize("method", METHODS[:-1])
def test_a_sparse_matrix_with_a_dense_b(method: str) -> None:
    rng = np.random.default_rng(1)
    half = rng.standard_normal((900, 900))
    b = half @ half.T / 900 + np.eye(900)
    result = solve(LINE[:900, :900], 7, B=b, method=method, tol=1e-4)
    assert result.info.converged
    exact = sla.eigh(LINE[:900, :900].toarray(), b, eigvals_only=True)[::-1][:7]
    np.testing.assert_allclose(result.values, exact, atol=2e-4)


def test_a_tiny_laplacian_with_known_vectors() -> None:
    edges = sp.csr_array(sp.diags_array([np.ones(99), np.ones(99)], offsets=[1, -1]))
    graph = 1e-11 * PairGraph.from_sparse(edges)
    result = solve(ops.laplacian(graph), 4, which="SA")
    assert result.info.converged
    exact = 1e-11 * (2 - 2 * np.cos(np.pi * np.arange(4) / 100))
    np.testing.assert_allclose(result.values, exact, atol=1e-22)


def test_shift_invert_counts() -> None:
    result = solve(LINE, 5, method="shift_invert", tol=1e-4)
    assert result.info.complete  # no certificate was asked for
    assert result.info.extra["count"] == 5
    assert result.info.extra["factorisations"] >= 2
    crowd = np.sort(np.random.default_rng(4).uniform(0, 1, 300))[::-1]
    matrix = sp.csr_array(sp.diags_array(crowd * 1.0))
    for tol in (1e-1, 1e-2, 1e-3):  # values nearer than what the residuals tell
        right_or_honest(solve(matrix, 19, method="shift_invert", tol=tol), crowd)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_weighted_path_with_shortcuts(seed: int) -> None:
    """Its values are 1e-8 of the norm apart: the pair behind the wanted ones is good to a tenth of
    such a distance before the gap is judged, and the angle is met.
    """
    rng, n = np.random.default_rng(seed), 40_000
    ends = rng.integers(0, n, (2, 5))
    rows, cols = np.r_[np.arange(n - 1), ends[0]], np.r_[np.arange(1, n), ends[1]]
    half = sp.coo_array((np.r_[rng.uniform(0.5, 2.0, n - 1), np.ones(5)], (rows, cols)), (n, n))
    graph = sp.csr_array(half + half.T)
    laplacian = sp.csc_array(sp.diags_array(graph.sum(1)) - graph)
    found = eigsh(laplacian, 7, which="SA", tol=1e-10, angle_tol=1e-6)
    assert found.info.converged, str(found.info)
    assert found.info.complete
    assert found.info.angle_bound <= 1e-6
    values = spla.eigsh(laplacian, 9, sigma=-1e-6, which="LM", tol=1e-14)[0]
    np.testing.assert_allclose(np.sort(found.values), np.sort(values)[:7], atol=1e-14)
    assert found.info.gap <= (np.sort(values)[7] - np.sort(values)[6]) * (1 + 1e-6)

"""Runs that once ended as `converged` with something missing: right now, or they say so."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import sslspec_fast.operators as ops
from sslspec_fast.graph import PairGraph
from sslspec_fast.solvers import eigsh
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
    for scale in (1.0, 1000.0):  # a start far below the top must not overflow the look for the rest
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
    part = sp.random_array((40, 40), density=0.1, rng=rng)
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

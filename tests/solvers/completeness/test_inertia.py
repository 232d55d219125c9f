"""certify=True: the count of eigenvalues beyond the cut is right, and finds what a run missed."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import sslspec_fast.operators as ops
from sslspec_fast import PairGraph, eigsh, spectral
from sslspec_fast.operators.convert import as_operator
from sslspec_fast.solvers.completeness.inertia import Inertia, counting
from sslspec_fast.solvers.methods import METHODS
from sslspec_fast.solvers.problem.task import Outcome
from sslspec_fast.solvers.result import ConvergenceWarning

LINE = sp.csr_array(sp.diags_array(np.linspace(0, 1, 1000)))


def random_matrix(n: int, seed: int) -> sp.csr_array:
    half = sp.random_array(
        (n, n), density=min(1.0, 3 / n), random_state=np.random.default_rng(seed)
    )
    return sp.csr_array(half + half.T)


@pytest.mark.parametrize("n", [2, 17, 150])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dense", [False, True])
def test_inertia_counts_the_eigenvalues_above_a_shift(dense: bool, seed: int, n: int) -> None:
    matrix = random_matrix(n, seed)
    exact = np.linalg.eigvalsh(matrix.toarray())
    norm = float(abs(exact).max())
    for shift in np.random.default_rng(seed).uniform(-1.1 * norm, 1.1 * norm, 5):
        inertia = Inertia(matrix.toarray() if dense else matrix, norm)
        counted, at, error = inertia.above(float(shift))
        assert error < 1e-6 * norm
        assert counted == (exact > at).sum() or abs(exact - at).min() <= error


@pytest.mark.parametrize("method", ["chebyshev", "lanczos", "lobpcg", "shift_invert"])
@pytest.mark.parametrize("which", ["LA", "SA"])
def test_a_complete_run_is_proven_and_so_is_its_gap(which: str, method: str) -> None:
    info = eigsh(LINE, 5, which=which, method=method, tol=1e-7, certify=True).info
    assert info.converged
    assert info.complete
    assert info.extra["count"] == 5
    true_gap = 1 / 999
    assert 0.5 * true_gap < info.gap <= true_gap
    assert "proven complete" in str(info)
    beyond = 0.995 < info.extra["count_shift"] < 1 if which == "LA" else None
    assert beyond or 0 < info.extra["count_shift"] < 0.005


@pytest.mark.parametrize("which", ["LA", "SA"])
def test_what_a_method_missed_is_found(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(task: Any, *_: Any) -> Outcome:
        """Eigenpairs 1, 3, 4 of the four that were wanted, and another: all exact."""
        values, vectors = torch.linalg.eigh(task.op.to_dense())
        found = [-1, -3, -4, -5]
        return Outcome(
            values[found],
            vectors[:, found],
            torch.full((4,), 1e-14, dtype=torch.float64),
            1e-3,
            True,
            "tolerance met",
            1,
        )

    monkeypatch.setitem(METHODS, "chebyshev", forgetful)
    settings: dict[str, Any] = {"which": which, "method": "chebyshev"}
    assert eigsh(LINE, 4, **settings).info.converged  # it cannot know
    with pytest.warns(ConvergenceWarning, match="1 eigenvalues are missing: 5 eigenvalues beyond"):
        info = eigsh(LINE, 4, certify=True, **settings).info
    assert not info.converged
    assert info.complete is False
    assert info.gap == 0.0


def test_a_cut_inside_a_cluster_is_counted_above_it() -> None:
    cliques = sp.csr_array(sp.block_diag([np.ones((5, 5)) - np.eye(5)] * 200))
    info = eigsh(cliques, 7, certify=True).info
    assert info.cluster_cut
    assert info.complete
    assert info.extra["count"] == 0
    assert info.extra["count_shift"] > 4
    found = eigsh(cliques * 1e100, 7, certify=True).info  # solved at norm 1
    assert found.complete
    assert found.extra["count_shift"] > 4e100


def test_known_and_deflated_vectors_are_part_of_the_count() -> None:
    cliques = sp.csr_array(sp.block_diag([np.ones((5, 5)) - np.eye(5)] * 200))
    op = ops.adjacency(PairGraph.from_sparse(cliques), normalized=True)
    for k, count in ((7, 0), (200, 200), (203, 200)):  # some, all and more than the known ones
        info = eigsh(op, k, certify=True, method="chebyshev").info
        assert info.complete
        assert info.extra["count"] == count
    last = np.eye(1000)[:, [999, 500]]  # eigenvectors of 1 and of about 0.5
    result = eigsh(LINE, 5, deflate=last, certify=True)
    np.testing.assert_allclose(result.values, np.linspace(0, 1, 1000)[-2:-7:-1], atol=1e-6)
    assert result.info.complete
    assert result.info.extra["count"] == 6
    groups = ops.GroupVectors(torch.arange(1000))
    with pytest.raises(ValueError, match="at most 256 deflated vectors, got 1000"):
        counting(as_operator(LINE), groups, None)


def test_pencils_precisions_and_dense_matrices() -> None:
    assert eigsh(LINE, 5, B=np.full(1000, 2.0), certify=True).info.complete
    assert eigsh(LINE, 5, precision="float32", tol=1e-5, certify=True).info.complete
    assert eigsh(LINE.toarray(), 5, method="chebyshev", certify=True).info.extra["count"] == 5
    whole = eigsh(np.diag(np.arange(9.0)), 3, certify=True).info  # LAPACK finds all of them
    assert whole.complete
    assert "count" not in whole.extra
    assert eigsh(LINE, 5).info.complete is None
    form = spectral.vicreg(PairGraph.from_labels(np.arange(90) % 9), 12, certify=True)
    assert form.info.converged


def test_a_factor_that_is_too_inexact_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["sslspec_fast.solvers.completeness.inertia"]
    real = module.Inertia.above
    monkeypatch.setattr(module.Inertia, "above", lambda *a: (*real(*a)[:2], 1.0))
    with pytest.warns(ConvergenceWarning, match="not proven complete"):
        info = eigsh(LINE, 5, certify=True).info
    assert info.converged
    assert info.complete is False
    assert "completeness not proven" in info.reason


def test_what_cannot_be_counted_is_refused_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    n = 12_000
    wide = ops.LowRankOperator(torch.randn(n, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"needs the entries of A .* got LowRankOperator"):
        eigsh(wide, 2, certify=True)
    assert eigsh(ops.LowRankOperator(torch.randn(900, 3)), 2, certify=True).info.complete
    with pytest.raises(TypeError, match="certify must be True or False, got str"):
        eigsh(LINE, 2, certify="yes")  # type: ignore[arg-type]
    module = sys.modules["sslspec_fast.solvers.completeness.inertia"]
    shape = module.structure(LINE)
    monkeypatch.setattr(module, "structure", lambda _: replace(shape, fill=1e15))
    with pytest.raises(ValueError, match="within a quarter of the memory"):
        eigsh(LINE, 2, certify=True)

"""What filtered columns tell about eigenvalues that a run has not found."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from sslspec_fast.operators import as_operator
from sslspec_fast.operators.known import DenseVectors
from sslspec_fast.primitives.basis import random_block
from sslspec_fast.solvers import eigsh
from sslspec_fast.solvers.completeness.missed_pairs import FilteredSample, MissedPairSearch
from sslspec_fast.solvers.linalg.basis import Basis, orthonormalize
from sslspec_fast.solvers.linalg.chebyshev_filter import filter_block, growth_rate
from sslspec_fast.solvers.problem.task import Task
from sslspec_fast.solvers.result import ConvergenceWarning

from ...support import graphs

N, CUT = 400, 0.5


def sample_of(values: np.ndarray, degree: int, columns: int, seed: int) -> FilteredSample:
    op = as_operator(sp.csr_array(sp.diags_array(values)))
    x = random_block(N, columns, seed, torch.float64, torch.device("cpu"))
    size = math.exp(-degree * growth_rate(1.0, 0.0, CUT)) / math.sqrt(3.0)
    return FilteredSample(filter_block(op, x, 0.0, CUT, degree, 1.0), 0.0, CUT, degree, size)


def coordinates(count: int) -> DenseVectors:
    return DenseVectors(torch.eye(N, count, dtype=torch.float64))


@pytest.mark.parametrize("columns", [2, 8, 16])
@pytest.mark.parametrize("missing", [0.51, 0.6, 0.8, 0.95])
def test_an_eigenvalue_that_is_missing_lies_below_the_bound(missing: float, columns: int) -> None:
    values = np.r_[np.ones(5), missing, np.linspace(0, CUT, N - 6)]
    for seed in range(60):
        sample = sample_of(values, 12, columns, seed)
        assert sample.level(sample.growth([coordinates(5)])) >= missing


def test_with_all_that_is_above_found_the_bound_is_near_the_cut() -> None:
    values = np.r_[np.full(6, 0.95), np.linspace(0, CUT, N - 6)]
    sample = sample_of(values, 30, 16, 0)
    level = sample.level(sample.growth([coordinates(6)]))
    assert CUT < level < 0.6
    assert sample.level(sample.growth([coordinates(6)], leak=0.2)) > level
    assert sample.level(sample.growth([coordinates(3), coordinates(6)])) == pytest.approx(level)


def test_columns_that_overflowed_tell_nothing() -> None:
    sample = FilteredSample(torch.full((N, 4), math.nan), 0.0, CUT, 5, 1.0)
    assert sample.growth([]) == math.inf
    assert sample.level(math.inf) == math.inf


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("copies", [False, True])
def test_a_search_ends_in_the_gap_behind_a_cluster(copies: bool, known: bool) -> None:
    """10 of 24 pairs are wanted: what is missing among them is found with the degrees that the gap
    behind the 24 takes, whether the last wanted value is one of several copies or not.
    """
    top = np.full(24, 0.97) if copies else np.linspace(1.0, 0.95, 24)
    values = np.r_[top, np.linspace(CUT, 0, N - 24)]
    op = as_operator(sp.csr_array(sp.diags_array(values)))
    task = Task(op, 10, N, 1.0, 1e-6, None, 10, 0)
    basis = Basis(N, 60, torch.float64, op.device)
    held = [i for i in range(30) if known or i != 3]
    v = torch.eye(N, dtype=torch.float64)[:, held].contiguous()
    basis.append(v, op.matmat(v))
    search = MissedPairSearch(task, 0.0, 1.0, torch.float64, None, cluster=24)
    more, floor = search(basis, basis.ritz()[0], 5)
    assert CUT - 1e-3 <= floor < 0.95
    assert task.columns <= 16 * 40
    if more.shape[1]:
        more = orthonormalize(more, basis.v)
        basis.append(more, op.matmat(more))
    found = basis.ritz()[0]
    np.testing.assert_allclose(found[:10], top[:10], atol=1e-6)


def test_a_start_holds_as_many_copies_as_its_narrowest_random_block() -> None:
    op = as_operator(sp.csr_array(sp.diags_array(np.linspace(0, 1, N))))
    search = MissedPairSearch(Task(op, 10, N, 1.0, 1e-6, None, 10, 0), 0.0, 1.0, torch.float64, 16)
    values = torch.tensor([1.0, 0.9, *[0.8] * 5, 0.7, 0.6, 0.5, 0.1], dtype=torch.float64)
    assert not search.may_miss_copies(values)
    assert not search.may_miss_copies(values, 6)
    assert search.may_miss_copies(values, 5)
    search.multiplicity = None
    assert search.may_miss_copies(values, 16)


@pytest.mark.parametrize("precision", ["mixed", "float64"])
@pytest.mark.parametrize("seed", range(3))
def test_a_start_of_the_results_costs_less_than_none(precision: str, seed: int) -> None:
    a = graphs.blocks_graph(900, 6, seed=seed)
    root = sp.diags_array(1 / np.sqrt(np.maximum(a.sum(1), 1)))
    matrix = sp.csr_array(root @ a @ root)
    settings = {"tol": 1e-9, "precision": precision, "method": "chebyshev"}
    cold = eigsh(matrix, 4, **settings)
    warm = eigsh(matrix, 4, x0=cold.vectors, **settings)
    assert warm.info.converged
    assert warm.info.n_matvec < cold.info.n_matvec
    torch.testing.assert_close(warm.values, cold.values, rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", ["lanczos", "chebyshev", "lobpcg"])
@pytest.mark.parametrize("k", [2, 3])
def test_a_gap_below_rounding(k: int, method: str) -> None:
    # its share of the growth of a filter rounded to 0, and the search divided by it
    values = np.r_[2.0, np.full(2, 1 + 1e-6), np.ones(697)]
    matrix = sp.csr_array(sp.diags_array(values))
    result = eigsh(matrix, k, method=method, x0=np.eye(700)[:, :5], tol=1e-3)
    assert result.info.converged
    np.testing.assert_allclose(result.values, values[:k], atol=2e-3)


def test_copies_in_float32_are_copies() -> None:
    # rounding parts them by more than it does in float64, and the gap seemed to be the next step
    counts = {800.0: 82, 600.0: 76, 400.0: 80, 200.0: 83, 0.0: 79}
    steps = np.repeat(list(counts), list(counts.values()))
    for seed in range(5):
        values = np.random.default_rng(seed).permutation(steps)
        matrix = sp.csr_array(sp.diags_array(values))
        settings = {"precision": "float32", "tol": 1e-5, "seed": seed, "max_iter": 8}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            info = eigsh(matrix, 32, method="chebyshev", **settings).info
        assert not (info.converged and info.gap > 0.0)

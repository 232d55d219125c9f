"""Some pairs of a cluster: all of it is solved for, and what is returned are those asked for."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg as sla
import scipy.sparse as sp
import torch

from sslspec_fast.solvers import eigsh
from sslspec_fast.solvers.linalg.cost import whole_cluster_limit
from sslspec_fast.solvers.result import ConvergenceWarning

from ..support import graphs

CLUSTER = 24


@pytest.fixture(scope="module")
def planted() -> tuple[sp.csr_array, np.ndarray, np.ndarray]:
    """Communities, scaled as a normalised adjacency; its first pairs, more exactly than asked."""
    a = graphs.blocks_graph(38_400, CLUSTER)
    d = sp.diags_array(1.0 / np.sqrt(a.sum(1)))
    matrix = sp.csr_array(d @ a @ d)
    exact = eigsh(matrix, CLUSTER, tol=1e-12)
    assert exact.info.gap > 0.1
    return matrix, exact.values, exact.vectors


@pytest.mark.parametrize("k", [15, 20])
@pytest.mark.parametrize("precision", ["mixed", "float64", "float32"])
def test_part_of_a_cluster(planted: tuple, k: int, precision: str) -> None:
    matrix, values, vectors = planted
    seen: list[dict] = []
    tol = 1e-4 if precision == "float32" else 1e-7
    result = eigsh(matrix, k, precision=precision, tol=tol, callback=seen.append)
    info = result.info
    assert info.converged
    assert info.plan.reason.endswith(f"all {CLUSTER} pairs above a gap are solved for")
    assert info.extra["cluster"] == CLUSTER <= whole_cluster_limit(k)
    assert result.vectors.shape == (38_400, k)
    np.testing.assert_allclose(result.values, values[:k], atol=1e-5 if tol > 1e-5 else 1e-11)
    assert info.gap <= values[k - 1] - values[k] + 1e-6
    if tol < 1e-5:
        assert np.sin(sla.subspace_angles(vectors[:, :k], result.vectors)[0]) <= info.angle_bound
    for entry in seen:  # in the words of what was asked
        assert entry["k"] == k == len(entry["values"])
        assert entry["converged"] <= k


def test_the_angle_is_that_of_the_wanted_ones(planted: tuple) -> None:
    matrix, _, vectors = planted
    result = eigsh(matrix, 15, tol=1e-4, angle_tol=1e-6)
    assert result.info.converged
    assert result.info.extra["cluster"] == CLUSTER
    assert result.info.angle_bound <= 1e-6
    assert np.sin(sla.subspace_angles(vectors[:, :15], result.vectors)[0]) <= 1e-6


def test_the_cost_is_that_of_the_cluster(planted: tuple) -> None:
    """And not of a filter that tells its values apart, which is some ten times as much."""
    matrix, *_ = planted
    whole = eigsh(matrix, CLUSTER, tol=1e-6).info
    part = eigsh(matrix, 15, tol=1e-6).info
    assert part.n_matvec < 1.5 * whole.n_matvec


def test_more_than_twice_as_many_are_left_alone(planted: tuple) -> None:
    matrix, values, _ = planted
    result = eigsh(matrix, 6, tol=1e-6)
    assert "cluster" not in result.info.extra
    np.testing.assert_allclose(result.values, values[:6], atol=1e-10)


def test_copies_of_one_eigenvalue_are_a_cut_inside_a_cluster() -> None:
    """24 copies, of which 15 are wanted; an angle cannot be had."""
    block = graphs.blocks_graph(1500, 1)
    matrix = sp.csr_array(sp.block_diag([block] * CLUSTER))
    top = sla.eigh(block.toarray(), eigvals_only=True, subset_by_index=[1499, 1499])[0]
    with pytest.warns(ConvergenceWarning):
        result = eigsh(matrix, 15, tol=1e-6, angle_tol=1e-6)
    np.testing.assert_allclose(result.values, top, rtol=1e-9)
    assert result.info.cluster_cut


def test_the_same_bits_from_any_number_of_threads(planted: tuple) -> None:
    matrix, before = planted[0], torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(eigsh(matrix, 15))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(found[0].values, found[1].values)
    np.testing.assert_array_equal(found[0].vectors, found[1].vectors)

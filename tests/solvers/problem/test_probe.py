"""The probe by a short polynomial of A: fewer blocks, and what it tells is the same."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spla
import torch

from sslspec_fast.graph import PairGraph
from sslspec_fast.operators import adjacency, as_operator
from sslspec_fast.operators.base import SymmetricOperator
from sslspec_fast.solvers import eigsh
from sslspec_fast.solvers.linalg.chebyshev_filter import ChebyshevPolynomial
from sslspec_fast.solvers.linalg.cost import MACHINES, POLYNOMIAL_DEGREE, machine, start_width
from sslspec_fast.solvers.problem.probe import Probe, probe
from sslspec_fast.solvers.problem.probe import _read as read_probe
from sslspec_fast.solvers.problem.recurrence import Recurrence
from sslspec_fast.solvers.problem.task import Task

from ...support import graphs
from ...support.solvers import polynomials_everywhere

COMMUNITIES = 24


class _Planted(NamedTuple):
    op: SymmetricOperator
    values: np.ndarray  # of the 40 largest, the first of which is known
    span: np.ndarray  # of the communities


@pytest.fixture(scope="module")
def planted() -> _Planted:
    graph = graphs.blocks_graph(7200, COMMUNITIES, degree=20)
    op = adjacency(PairGraph.from_sparse(graph), normalized=True)
    values, vectors = spla.eigsh(op.assemble(), 40, which="LA", tol=1e-13)
    return _Planted(op, values[::-1], vectors[:, ::-1][:, :COMMUNITIES])


def _probed(op: SymmetricOperator, k: int, dtype: torch.dtype = torch.float32) -> Probe:
    (known,) = op.known()
    task = Task(op, k, op.n - 1, 1.0, 1e-4, None, 10, 0, known.vectors, low=dtype)
    return probe(task, keep=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fewer_blocks_tell_the_same(
    planted: _Planted, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    k = COMMUNITIES - 1
    plain = _probed(planted.op, k, dtype)
    polynomials_everywhere(monkeypatch)
    found = _probed(planted.op, k, dtype)
    assert len(found.basis) <= 0.6 * len(plain.basis)
    assert found.holds(start_width(k, planted.op.n - 1))
    # as good as a first filter would be to leave nothing to do, and the bounds hold
    assert float(found.residuals[:k].max()) <= 1e-4
    np.testing.assert_allclose(found.values[:k].numpy(), planted.values[1 : k + 1], atol=1e-5)
    assert planted.values[1] - 1e-6 <= found.hi <= planted.values[1] + 1e-2
    assert found.lo >= -1.0
    # number of values above the hole behind the communities, estimated from the random start
    assert float(found.counts[k - 1]) == pytest.approx(k, rel=0.3)


@pytest.mark.parametrize("precision", ["float32", "mixed", "float64"])
@pytest.mark.parametrize("k", [20, COMMUNITIES, 32])
def test_pairs_below_at_and_above_the_communities(
    planted: _Planted, k: int, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    polynomials_everywhere(monkeypatch)
    tol = 1e-4 if precision == "float32" else 1e-6
    result = eigsh(planted.op, k, tol=tol, precision=precision)
    info = result.info
    assert info.converged, str(info)
    np.testing.assert_allclose(result.values, planted.values[:k], atol=1e-5 if k < 32 else tol)
    if k == COMMUNITIES:
        found = result.vectors.double().numpy()
        outside = found - planted.span @ (planted.span.T @ found)
        assert np.linalg.norm(outside, 2) <= info.angle_bound
    if k < COMMUNITIES:
        assert info.gap <= planted.values[k - 1] - planted.values[k] + 1e-6


def test_a_cluster_is_counted_by_a_polynomial_where_that_takes_many_blocks(
    planted: _Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shortest run fits, and tells the interval to damp; those blocks that count do not."""
    k, column = 20, 4 * planted.op.n
    polynomials_everywhere(monkeypatch, 1 << 40)
    plain = _probed(planted.op, k)
    polynomials_everywhere(monkeypatch, 200 * column)
    found = _probed(planted.op, k)
    assert plain.whole == found.whole == COMMUNITIES - 1
    assert len(found.basis) <= 0.6 * len(plain.basis)
    polynomials_everywhere(monkeypatch, 400 * column)
    assert len(_probed(planted.op, k).basis) == len(plain.basis)


def test_first_steps_tell_a_cluster_and_cost_nothing_where_there_is_none(
    planted: _Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run that takes memory they are its own first steps: the same bits if it goes on."""
    polynomials_everywhere(monkeypatch, 1 << 40)
    plain = {k: _probed(planted.op, k) for k in (18, COMMUNITIES - 1)}
    polynomials_everywhere(monkeypatch, 1 << 40, cluster=0)
    whole = _probed(planted.op, COMMUNITIES - 1)
    assert whole.whole is None
    assert torch.equal(whole.values, plain[COMMUNITIES - 1].values)
    some = _probed(planted.op, 18)
    assert some.whole == plain[18].whole == COMMUNITIES - 1
    assert len(some.basis) <= 0.6 * len(plain[18].basis)


@pytest.mark.parametrize("steps", [10, 12])
def test_no_values_that_rounding_makes(planted: _Planted, steps: int) -> None:
    """The first vector is far above the others here, and blocks that are orthogonal to the last
    two alone bring it back.
    """
    op = as_operator(sp.csr_array(planted.op.assemble()))
    task = Task(op, 12, op.n, 1.0, 1e-4, None, 10, 0, low=torch.float32)
    polynomial = ChebyshevPolynomial(-0.6, 0.45, 3)
    run = Recurrence(task, 16, torch.float32, True, polynomial)
    run.run(steps)
    raw, found = run.ritz()[0], read_probe(task, run, -0.6)
    assert float(raw[1]) > 0.9 > float(found.values[1])
    np.testing.assert_allclose(found.values[:COMMUNITIES], planted.values[:COMMUNITIES], atol=1e-5)
    x = found.vectors(COMMUNITIES)
    assert x is not None
    cosines = np.linalg.svd(planted.span.T @ x.double().numpy(), compute_uv=False)
    assert cosines.min() > 0.9
    assert len(found.values) == len(found.counts) == len(found.residuals)


def test_only_where_the_blocks_take_much_memory_and_the_run_is_long(planted: _Planted) -> None:
    """Products are what small problems spend, and a polynomial takes a fifth more of them."""
    limit = MACHINES["cpu"].polynomial_bytes
    for k, n, long in ((23, 7200, False), (10, 400_000, False), (23, 400_000, True)):
        graph = graphs.blocks_graph(n, 24, degree=10)
        op = as_operator(sp.csr_array(graph))
        task = Task(op, k, n, 20.0, 1e-1, None, 10, 0)
        found = probe(task, keep=True)
        blocks = len(found.basis) * found.block
        assert bool(found.basis)
        assert (task.columns > blocks) == long
        assert (blocks * n * 4 * POLYNOMIAL_DEGREE > limit) or not long


def test_gpu_probes_run_by_the_matrix() -> None:
    """Memory that was never touched costs nothing there, and nothing else was measured."""
    assert machine(torch.device("cuda")).polynomial_bytes > 1 << 50


def test_polynomial_and_its_inverse() -> None:
    p = ChebyshevPolynomial(-0.4, 0.5, 3)
    values = torch.tensor([0.9, 0.6, 0.5, 0.2, -0.4], dtype=torch.float64)
    t = (values - 0.05) / 0.45
    filtered = 4.0 * t**3 - 3.0 * t
    expected = torch.tensor([0.9, 0.6, 0.5, 0.5, 0.5], dtype=torch.float64)
    torch.testing.assert_close(p.eigenvalues(filtered), expected)
    # a residual that lies in the middle of the damped interval: (A - t) x for x = v_t + s v_m
    told = p.residuals(filtered[:2], torch.tensor([filtered[0], filtered[1]]))
    torch.testing.assert_close(told, values[:2] - 0.05)

"""Building blocks: orthonormalisation with rank repair, filters in residual form, structure."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from sslspec_fast import PairGraph
from sslspec_fast.operators import adjacency, as_operator
from sslspec_fast.operators.known import DenseVectors, GroupVectors
from sslspec_fast.primitives.basis import random_block
from sslspec_fast.solvers.linalg.basis import Basis, orthonormalize
from sslspec_fast.solvers.linalg.chebyshev_filter import (
    ChebyshevPolynomial,
    filter_block,
    filter_residual,
)
from sslspec_fast.solvers.linalg.factorization import structure
from sslspec_fast.solvers.problem.recurrence import Recurrence
from sslspec_fast.solvers.problem.task import Task

from ...support.graphs import blocks_graph

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("condition", [1.0, 1e3, 1e7, 1e12])
def test_orthonormalize_repairs_rank(dtype: torch.dtype, condition: float) -> None:
    u = torch.linalg.qr(random_block(400, 12, 0, torch.float64, CPU))[0]
    v = u[:, :4].to(dtype).contiguous()
    mix = torch.linalg.qr(random_block(12, 12, 1, torch.float64, CPU))[0]
    t = (u * torch.logspace(0, -float(np.log10(condition)), 12).double()) @ mix
    t[:, 3] = t[:, 2]  # an exact repeat
    t[:, 5] = 0.0
    out = orthonormalize(t.to(dtype), [v[:, :1], v[:, 1:]])
    tight = 1e-13 if dtype == torch.float64 else 2e-6
    assert 0 < out.shape[1] <= 10
    assert torch.dist(out.T @ out, torch.eye(out.shape[1], dtype=dtype)) < 20 * tight
    assert (v.T @ out).abs().max() < 20 * tight


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("decades", [2, 4, 5, 6, 9])
def test_orthonormalize_where_no_pivot_tells(dtype: torch.dtype, decades: int) -> None:
    """Singular values that fall slowly: a product of moderate pivots is a large condition."""
    u = torch.linalg.qr(random_block(400, 40, 0, torch.float64, CPU))[0]
    mix = torch.linalg.qr(random_block(40, 40, 1, torch.float64, CPU))[0]
    t = (u * torch.logspace(0, -decades, 40).double()) @ mix
    out = orthonormalize(t.to(dtype))
    unit = torch.eye(out.shape[1], dtype=dtype)
    assert (out.T @ out - unit).abs().max() < (2e-13 if dtype == torch.float64 else 2e-6)


def test_orthonormalize_inside_the_span_gives_nothing() -> None:
    v = torch.linalg.qr(random_block(60, 6, 0, torch.float64, CPU))[0]
    t = v @ random_block(6, 3, 1, torch.float64, CPU)
    assert orthonormalize(t, [v]).shape[1] == 0
    assert orthonormalize(torch.full((60, 2), float("nan"), dtype=torch.float64), [v]).shape[1] == 0
    assert orthonormalize(torch.zeros(60, 0, dtype=torch.float64), [v]).shape[1] == 0


def test_filters_against_the_polynomial() -> None:
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.standard_normal((40, 40)))
    values = np.linspace(-1, 1, 40)
    matrix = torch.from_numpy((q * values) @ q.T)
    op = as_operator((matrix + matrix.T) / 2)
    lo, cut, degree = -1.0, 0.4, 9
    t = (values - (lo + cut) / 2) / ((cut - lo) / 2)
    growth = np.polynomial.chebyshev.chebval(t, [0] * degree + [1])
    x = torch.from_numpy(rng.standard_normal((40, 3)))
    out = filter_block(op, x.clone(), lo, cut, degree, 1.0).numpy()
    exact = (q * growth) @ (q.T @ x.numpy())
    scale = (out / exact).mean()
    np.testing.assert_allclose(out, scale * exact, rtol=1e-9)
    # residual form: C(A) X - X C(T), whatever X and T are
    theta = torch.tensor([0.9, 0.7, 0.1], dtype=torch.float64)
    residual = op.matmat(x) - x * theta
    z = filter_residual(op, residual, theta, lo, cut, degree).numpy()
    tt = (theta.numpy() - (lo + cut) / 2) / ((cut - lo) / 2)
    at = np.polynomial.chebyshev.chebval(tt, [0] * degree + [1])
    full = exact - x.numpy() * at
    ratio = z / full
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:1], ratio.shape), rtol=1e-8)


def test_basis_append_and_rotate_keep_the_projection() -> None:
    matrix = np.diag(np.arange(30.0))
    op = as_operator(matrix)
    basis = Basis(30, 12, torch.float64, CPU)
    for seed in range(3):
        t = orthonormalize(random_block(30, 4, seed, torch.float64, CPU), basis.v)
        basis.append(t, op.matmat(t))
    v = torch.cat(basis.v, 1)
    assert torch.allclose(basis.h, v.T @ torch.from_numpy(matrix) @ v)
    values, q = basis.ritz()
    assert (values.diff() <= 0).all()
    r = basis.residual(values[:2], q[:, :2])
    x = v @ q[:, :2]
    assert torch.allclose(basis.vectors(q[:, :2]), x)
    assert torch.allclose(r, op.matmat(x) - x * values[:2])
    basis.rotate(q[:, :5])
    assert basis.size == 5
    assert torch.allclose(basis.h[:5, :5], torch.diag(values[:5]), atol=1e-12)
    assert len(basis.v) == 1
    assert torch.allclose(basis.av[0], op.matmat(basis.v[0]), atol=1e-12)


def test_structure_reads_dimension() -> None:
    def line(n: int) -> sp.csr_array:
        return sp.csr_array(sp.diags_array([np.ones(n - 1), np.ones(n - 1)], offsets=[-1, 1]))

    chain = structure(line(500))
    assert (chain.levels, chain.separator) == (500, 1)
    square = structure(sp.csr_array(sp.kronsum(line(40), line(40))))
    assert square.levels == 79
    assert 15 <= square.separator <= 40
    full = structure(sp.csr_array(np.ones((60, 60)) - np.eye(60)))
    assert full.separator >= 30
    lonely = structure(sp.csr_array((5, 5)))
    assert lonely.levels == 1


@pytest.mark.parametrize("groups", [1, 3, 40])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_recurrence_in_walk_coordinates(dtype: torch.dtype, groups: int) -> None:
    """Krylov blocks orthonormal outside, without the known vectors, few or many; T = V^T A V."""
    rng = np.random.default_rng(groups)
    parts = [sp.random(60, 60, 0.3, random_state=rng, data_rvs=np.ones) for _ in range(groups)]
    graph = sp.block_diag([part + part.T + sp.eye(60) for part in parts]).tocsr()
    graph.data[:] = 1.0
    op = adjacency(PairGraph.from_sparse(graph), normalized=True)
    (known,) = op.known()
    assert known.vectors.count == groups
    task = Task(op, 4, op.n - groups, 1.0, 1e-6, None, 10, 0, known.vectors, dtype)
    run = Recurrence(task, 4, dtype, keep=True)
    run.run(3)
    run.run(6)
    assert (run.inner.t is not None) == (op.similar()[1] is not None)
    assert run.inner.t is not None
    v = torch.cat([run.inner.leave(block.clone()) for block in run.basis], 1).double()
    unit = 1e-12 if dtype == torch.float64 else 3e-5
    assert (v.T @ v - torch.eye(24)).abs().max() < unit
    assert (known.vectors.dense().T @ v).abs().max() < unit
    values = run.ritz()[0]
    small = torch.linalg.eigvalsh(v.T @ op.matmat(v)).flip(0)
    torch.testing.assert_close(values, small, rtol=0, atol=10 * unit)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_recurrence_of_a_polynomial(dtype: torch.dtype) -> None:
    """Krylov blocks of p(A), in the coordinates of the walk: T = V^T p(A) V, Ritz values are those
    of A, the cut for all that p damps, and residuals tell those of A above it.
    """
    op = adjacency(PairGraph.from_sparse(blocks_graph(1500, 6)), normalized=True)
    (known,) = op.known()
    dense = op.matmat(torch.eye(op.n, dtype=torch.float64))
    exact, vectors = torch.linalg.eigh(dense)
    polynomial = ChebyshevPolynomial(float(exact[0]), float(exact[-60]), 3)
    middle = (polynomial.cut + polynomial.lo) / 2
    t = (exact - middle) / polynomial.half
    filtered = (vectors * (4.0 * t**3 - 3.0 * t)) @ vectors.T
    task = Task(op, 5, op.n - 1, 1.0, 1e-6, None, 10, 0, known.vectors, dtype)
    run = Recurrence(task, 4, dtype, keep=True, polynomial=polynomial)
    run.run(5)
    assert task.columns == 5 * 4 * run.degree == 60
    v = torch.cat([run.inner.leave(block.clone()) for block in run.basis], 1).double()
    unit = 1e-11 if dtype == torch.float64 else 1e-4
    assert (v.T @ v - torch.eye(20)).abs().max() < unit
    values, q, residuals = run.ritz()
    small = torch.linalg.eigvalsh(v.T @ filtered @ v).flip(0)
    torch.testing.assert_close(values, polynomial.eigenvalues(small), rtol=0, atol=10 * unit)
    x = v @ q
    true = (dense @ x - x * values).norm(dim=0)
    assert (values >= polynomial.cut).all()
    told = (values > polynomial.cut + 0.05) & (true > 10 * unit)
    assert int(told.sum()) >= 2
    assert ((true / residuals)[told] < 1.5).all()
    assert ((true / residuals)[told] > 0.2).all()


def test_renumbering_deflated_vectors() -> None:
    p = torch.tensor([3, 0, 4, 1, 2])
    groups = GroupVectors(torch.tensor([0, 1, 0, -1, 1]), torch.tensor([1.0, 2.0, 3.0, 9.0, 4.0]))
    dense = DenseVectors(groups.dense())
    x = random_block(5, 3, 0, torch.float64, CPU)
    for vectors in (groups, dense):
        block = vectors.reordered(p).block(torch.float64)
        assert block is not None
        torch.testing.assert_close(block, groups.dense()[p])
        expected = x - block @ (block.T @ x)
        torch.testing.assert_close(vectors.reordered(p).remove_(x.clone()), expected)

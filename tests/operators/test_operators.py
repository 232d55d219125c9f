"""Operators against dense matrices: products with accumulation, bounds, assembled forms, shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import sslspec_fast.operators as ops
from sslspec_fast.graph import PairGraph


def _random(n: int, seed: int = 0, negative: bool = False) -> sp.csr_array:
    rng = np.random.default_rng(seed)
    a = sp.random_array((n, n), density=0.15, random_state=rng, format="csr")
    a = a + a.T
    if negative:
        a.data -= 0.5
    return sp.csr_array((a + a.T) / 2)


def _cases() -> dict:
    a = _random(37)
    graph = PairGraph.from_sparse(a)
    labels = PairGraph.from_labels(torch.tensor([0, 1, 2, 1, 0, -1, 2, 2, 1] * 4 + [-1]))
    d = a.sum(1)
    root = np.where(d > 0, 1 / np.sqrt(np.where(d > 0, d, 1)), 0)
    s = a.toarray() * root[:, None] * root[None, :]
    g = labels.to_scipy().toarray()
    dg = g.sum(1)
    h = np.eye(37) - 1 / 37
    u = np.random.default_rng(3).standard_normal((37, 4))
    c = np.array([1.0, -2.0, 0.5, 3.0])
    dense = torch.from_numpy(a.toarray())
    return {
        "sparse": (ops.as_operator(a), a.toarray()),
        "signed": (ops.as_operator(_random(37, 1, True)), _random(37, 1, True).toarray()),
        "dense": (ops.as_operator(dense), a.toarray()),
        "adjacency": (ops.adjacency(graph), a.toarray()),
        "normalized": (ops.adjacency(graph, normalized=True), s),
        "laplacian": (ops.laplacian(graph), np.diag(d) - a.toarray()),
        "normalized laplacian": (ops.laplacian(graph, normalized=True), np.eye(37) - s),
        "labels": (ops.adjacency(labels), g),
        "labels laplacian": (ops.laplacian(labels), np.diag(dg) - g),
        "sum graph": (ops.adjacency(graph + labels), a.toarray() + g),
        "centered": (ops.centered(graph), h @ a.toarray() @ h),
        "shift": (ops.shift(a, -2.0, 3.0), 3 * np.eye(37) - 2 * a.toarray()),
        "sum": (ops.SumOperator([ops.as_operator(a), ops.adjacency(labels)]), a.toarray() + g),
        "algebra": (
            2.0 * (ops.as_operator(a) - ops.adjacency(labels) / 4) + -ops.as_operator(a),
            a.toarray() - g / 2,
        ),
        "low rank": (ops.low_rank(u, c), (u * c) @ u.T),
        "scaled": (
            ops.ScaledOperator(ops.as_operator(a), torch.from_numpy(d + 1)),
            a.toarray() * (d + 1)[:, None] * (d + 1)[None, :],
        ),
    }


@pytest.mark.parametrize("name", _cases())
def test_products_bounds_and_assembly(name: str) -> None:
    op, matrix = _cases()[name]
    assert op.shape == matrix.shape
    rng = np.random.default_rng(1)
    for b in (1, 2, 7, 16):
        wide = torch.from_numpy(rng.standard_normal((37, 2 * b)))
        x, w = wide[:, :b].contiguous(), torch.from_numpy(rng.standard_normal((37, b)))
        expected = matrix @ x.numpy()
        np.testing.assert_allclose(op.matmat(x), expected, atol=1e-12)
        np.testing.assert_allclose(
            op.matmat(wide[:, ::2]), matrix @ wide[:, ::2].numpy(), atol=1e-12
        )
        y = torch.from_numpy(rng.standard_normal((37, b)))
        full = 2.0 * expected - 0.5 * y.numpy() + 3.0 * w.numpy()
        out = op.matmat(x, y, alpha=2.0, beta=-0.5, gamma=3.0, w=w)
        assert out is y
        np.testing.assert_allclose(out, full, atol=1e-11)
        own = op.matmat(x, None, alpha=2.0, gamma=-1.5, w=x)
        np.testing.assert_allclose(own, 2.0 * expected - 1.5 * x.numpy(), atol=1e-11)
        single = op.matmat(x.float())
        assert single.dtype == torch.float32
        np.testing.assert_allclose(single, expected, atol=1e-4 * max(np.abs(expected).max(), 1))
    vector = torch.from_numpy(rng.standard_normal(37))
    np.testing.assert_allclose(op @ vector, matrix @ vector.numpy(), atol=1e-12)
    np.testing.assert_allclose(op.to_dense(), matrix, atol=1e-12)
    values = np.linalg.eigvalsh(matrix)
    lo, hi = op.bounds()
    assert lo <= values[0] + 1e-10
    assert hi >= values[-1] - 1e-10
    assembled = op.assemble()
    if assembled is not None:
        np.testing.assert_allclose(assembled.toarray(), matrix, atol=1e-12)
    for pair in op.known():
        v = pair.vectors.dense()
        np.testing.assert_allclose(op.matmat(v), pair.value * v, atol=1e-10)
        np.testing.assert_allclose(v.T @ v, np.eye(v.shape[1]), atol=1e-12)


@pytest.mark.parametrize("name", _cases())
def test_similar_operators_have_the_same_polynomials(name: str) -> None:
    op, matrix = _cases()[name]
    x = torch.from_numpy(np.random.default_rng(4).standard_normal((37, 5)))
    inner, t = op.similar()
    if t is None:
        assert inner is op
        return
    t = t[:, None]
    y = x / t
    y = inner.matmat(inner.matmat(y), y.clone(), alpha=0.5, beta=-1.0, gamma=2.0, w=y)
    expected = 0.5 * matrix @ (matrix @ x.numpy()) + x.numpy()
    np.testing.assert_allclose(y * t, expected, atol=1e-12)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_implicit_entries_keep_their_scales_as_vectors(sign: float) -> None:
    a = sp.csr_array((_random(37) > 0.0).astype(float))
    a = a - sp.diags_array(a.diagonal())
    a.eliminate_zeros()
    a = sp.csr_array(sp.block_diag([a, sp.csr_array((2, 2))]))  # two isolated nodes
    op = (ops.adjacency if sign > 0 else ops.laplacian)(PairGraph.from_sparse(a), normalized=True)
    inner, t = op.similar()
    assert inner is not op
    assert t is not None
    d = a.sum(1)
    root = np.where(d > 0, 1 / np.sqrt(np.where(d > 0, d, 1)), 0)
    matrix = a.toarray() * root[:, None] * root[None, :]
    matrix = matrix if sign > 0 else np.eye(39) - matrix
    x = torch.from_numpy(np.random.default_rng(4).standard_normal((39, 3)))
    y = inner.matmat(x / t[:, None]) * t[:, None]
    np.testing.assert_allclose(y, matrix @ x.numpy(), atol=1e-12)
    moved, t = ops.shift(op, -2.0, 3.0).similar()
    y = moved.matmat(x / t[:, None]) * t[:, None]
    np.testing.assert_allclose(y, 3 * x.numpy() - 2 * matrix @ x.numpy(), atol=1e-12)
    np.testing.assert_allclose(op @ x, matrix @ x.numpy(), atol=1e-12)


def test_scales_that_hide_entries_have_no_similar_operator() -> None:
    edge = torch.tensor([0, 1, 2]), torch.tensor([1, 0])
    for scale in ([0.0, 1.0], [1e-20, 1.0]):
        op = ops.CsrOperator(*edge, None, n=2, scale=torch.tensor(scale).double())
        assert op.similar() == (op, None)


def test_group_vectors_project_like_their_dense_form() -> None:
    labels = torch.tensor([2, 0, 1, 0, -1, 2, 2])
    groups = ops.GroupVectors(labels, torch.arange(1.0, 8.0))
    v = groups.dense().numpy()
    x = torch.randn(7, 3, dtype=torch.float64)
    expected = x.numpy() - v @ (v.T @ x.numpy())
    np.testing.assert_allclose(groups.remove_(x), expected, atol=1e-14)
    np.testing.assert_allclose(groups.coefficients(x), 0, atol=1e-14)
    with pytest.raises(ValueError, match="non-zero weight"):
        ops.GroupVectors(torch.tensor([0, 2]))
    with pytest.raises(ValueError, match=r"labels must be \(n,\)"):
        ops.GroupVectors(torch.zeros(2, 2, dtype=torch.int64))


def test_bounds_are_the_known_ones() -> None:
    ring = sp.csr_array(sp.diags_array([np.ones(29), np.ones(29)], offsets=[-1, 1]))
    graph = PairGraph.from_sparse(ring)
    assert ops.adjacency(graph, normalized=True).bounds() == (-1.0, 1.0)
    lo, hi = ops.laplacian(graph).bounds()
    assert lo == 0.0
    assert hi == pytest.approx(4.0)
    assert ops.shift(ops.laplacian(graph), -1.0, 4.0).bounds()[1] == 4.0


def test_errors_name_the_rule() -> None:
    directed = PairGraph.from_edges([0], [1], n=2)
    signed = PairGraph.from_edges([0, 1], [1, 0], [-1.0, -1.0], n=2)
    for build in (ops.adjacency, ops.laplacian):
        with pytest.raises(ValueError, match="graph must be symmetric, got a directed graph"):
            build(directed)
        with pytest.raises(ValueError, match="needs non-negative weights"):
            build(signed, normalized=True)
    with pytest.raises(ValueError, match="share shape and device"):
        ops.SumOperator([ops.as_operator(np.eye(2)), ops.as_operator(np.eye(3))])
    with pytest.raises(ValueError, match="share shape and device"):
        ops.as_operator(np.eye(2)) - ops.as_operator(np.eye(3))
    for wrong in (lambda op: op + 1, lambda op: op - np.eye(2), lambda op: "2" * op):
        with pytest.raises(TypeError, match=r"unsupported operand|can.t multiply"):
            wrong(ops.as_operator(np.eye(2)))
    with pytest.raises(ZeroDivisionError):
        ops.as_operator(np.eye(2)) / 0
    with pytest.raises(ValueError, match=r"factor must be \(n, r\)"):
        ops.low_rank(np.ones(3))
    with pytest.raises(TypeError, match="A must be an operator"):
        ops.as_operator(type("Square", (), {"shape": (2, 2), "dtype": np.dtype(float)})())


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: ops.laplacian(_random(5)), TypeError, "g must be .* csr_array; .*from_sparse"),
        (lambda: ops.adjacency(np.eye(5)), TypeError, "g must be a PairGraph, got ndarray"),
        (lambda: ops.low_rank(np.full((5, 2), np.nan)), ValueError, "factor must be finite, got"),
        (lambda: ops.low_rank(np.ones((5, 2)), [1, np.inf]), ValueError, "coefficients must be f"),
        (
            lambda: ops.low_rank(np.ones((5, 2)), np.ones(3)),
            ValueError,
            r"coefficients must be \(r = 2,\), got \(3,\)",
        ),
        (lambda: ops.low_rank(np.ones((5, 2)) * 1j), TypeError, "factor must be real, got .*comp"),
        (lambda: ops.shift(np.eye(3), np.nan, 1.0), ValueError, "shift: a must be finite, got nan"),
        (lambda: ops.shift(np.eye(3), 1, np.float32("inf")), ValueError, "b must be finite, got"),
        (lambda: ops.shift(np.eye(3), "a", 1.0), TypeError, "shift: a must be a number, got str"),
        (lambda: ops.shift(np.ones((3, 4)), 1.0, 1.0), ValueError, "shift: A must be square"),
        (lambda: ops.as_operator(np.eye(3)) @ np.ones(3), TypeError, "x must be .*, got ndarray"),
        (lambda: ops.as_operator(np.eye(3)) @ torch.ones(3).long(), TypeError, "x must .* torch"),
        (
            lambda: ops.as_operator(np.eye(3)) @ torch.ones(4),
            ValueError,
            r"x must be \(n = 3,\) or \(3, b\), got \(4,\)",
        ),
    ],
)
def test_errors_name_the_argument(
    build: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        build()


def test_indices_that_leave_the_matrix() -> None:
    arrays = np.ones(4), np.array([1, 0, 500_000, 1]), np.arange(5)
    for build in (sp.csr_array, sp.csc_array):
        with pytest.raises(ValueError, match=r"A must have indices in \[0, 4\), got 500000"):
            ops.as_operator(build(arrays, shape=(4, 4)))
    indptr, indices = torch.tensor([0, 1]), torch.tensor([5])
    with pytest.raises(ValueError, match=r"CsrOperator: A must have indices in \[0, 1\), got 5"):
        ops.CsrOperator(indptr, indices, None, n=1)


def test_a_product_without_a_gradient_says_so() -> None:
    x = torch.ones(4, 2, dtype=torch.float64, requires_grad=True)
    edges = PairGraph.from_edges([0, 1], [1, 0], n=4)
    with pytest.raises(NotImplementedError, match="CsrOperator has no gradient in x; use graph @"):
        ops.adjacency(edges) @ x
    assert (ops.adjacency(PairGraph.from_views(2)) @ x).requires_grad
    with torch.no_grad():
        assert (ops.adjacency(edges) @ x).shape == (4, 2)

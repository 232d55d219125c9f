"""Every constructor and every method of PairGraph against dense matrices made entry by entry.

A drawn graph comes with its dense matrix and with the size of what was added to make it, which
scales the rounding that is allowed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.sparse
import torch
from scipy.sparse.csgraph import connected_components

pytest.importorskip("hypothesis")

from hypothesis import given
from hypothesis import strategies as st

from sslspec_fast import operators
from sslspec_fast.graph import PairGraph

from ..support.budget import budget

pytestmark = pytest.mark.filterwarnings("ignore:Sparse (CSR|CSC) tensor support is in beta")
EPS = {t: torch.finfo(t).eps for t in (torch.float64, torch.float32, torch.float16, torch.bfloat16)}
WEIGHTS = [1.0, 1.0, 2.0, 0.5, 0.1, -1.0, -0.1, 0.0, 1e12, -1e12, 1e-12]
HUGE = [1e100, -1e100, 1e-100]


class Drawn(NamedTuple):
    graph: PairGraph
    dense: np.ndarray
    size: np.ndarray  # sums of absolute values instead of values
    eps: float  # unit roundoff of the weights


@st.composite
def views(draw: Any, n: int) -> Drawn:
    count = draw(st.sampled_from([v for v in range(1, n + 1) if n % v == 0]), "n_views")
    g = PairGraph.from_views(n // count, count)
    sample = np.arange(n) % (n // count)
    dense = (sample[:, None] == sample).astype(float) - np.eye(n)
    return Drawn(g, dense, dense + np.eye(n), 2.0**-52)


@st.composite
def labels(draw: Any, n: int) -> Drawn:
    y = np.array(draw(st.lists(st.integers(-2, 4), min_size=n, max_size=n), "labels"), dtype=int)
    weight = draw(st.sampled_from(["uniform", "class_size"]), "weight")
    loops = draw(st.booleans(), "self_loops")
    given = draw(st.sampled_from([list, np.asarray, torch.as_tensor, np.int8]))(y)
    dense = ((y[:, None] == y) & (y >= 0)).astype(float)
    if weight == "class_size":
        dense /= np.maximum(dense.sum(1, keepdims=True), 1)
    size = dense.copy()
    if not loops:
        np.fill_diagonal(dense, 0)
    g = PairGraph.from_labels(given, weight=weight, self_loops=loops)
    return Drawn(g, dense, size, 2.0**-52)


def drawn_entries(draw: Any, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    count = draw(st.integers(0, 4 * n), "entries") if n else 0
    index = st.lists(st.integers(0, max(n - 1, 0)), min_size=count, max_size=count)
    weights = WEIGHTS + (HUGE if draw(st.integers(0, 3), "huge") == 0 else [])
    values = st.lists(st.sampled_from(weights), min_size=count, max_size=count)
    i, j = np.array(draw(index), dtype=int), np.array(draw(index), dtype=int)
    return i, j, np.array(draw(values), dtype=float)


def sums(n: int, i: np.ndarray, j: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    dense, size = np.zeros((n, n)), np.zeros((n, n))
    np.add.at(dense, (i, j), w)
    np.add.at(size, (i, j), abs(w))
    return dense, size


@st.composite
def edges(draw: Any, n: int) -> Drawn:
    i, j, w = drawn_entries(draw, n)
    kind = draw(st.sampled_from(["f8", "f4", "i8", "none"]), "weights")
    half = draw(st.booleans(), "symmetrize")
    if kind == "f4":
        w = np.where(abs(w) > 1e30, 3.0, w).astype(np.float32)
    elif kind == "i8":
        w = np.clip(w, -100, 100).astype(np.int8)
    elif kind == "none":
        w = np.ones(len(i))
    dense, size = sums(n, i, j, w.astype(float))
    if half:
        dense, size = (dense + dense.T) / 2, (size + size.T) / 2
    form = draw(st.sampled_from([list, np.asarray, torch.as_tensor]), "container")
    given = None if kind == "none" else (w if kind == "f4" and form is list else form(w))
    g = PairGraph.from_edges(form(i), form(j), given, n=n, symmetrize=half)
    return Drawn(g, dense, size, 2.0**-23 if kind == "f4" else 2.0**-52)


@st.composite
def sparse(draw: Any, n: int) -> Drawn:
    i, j, w = drawn_entries(draw, n)
    form = draw(st.sampled_from(["coo", "csr", "csc", "t.coo", "t.csr", "t.csc", "bsr"]), "format")
    if draw(st.booleans(), "float32"):
        w = np.where(abs(w) > 1e30, 3.0, w).astype(np.float32)
    eps = 2.0**-23 if w.dtype == np.float32 else 2.0**-52
    dense, size = sums(n, i, j, w.astype(float))
    a = scipy.sparse.coo_array((w, (i, j)), shape=(n, n))
    if form == "coo":
        return Drawn(PairGraph.from_sparse(a), dense, size, eps)
    if form == "t.coo":
        index = torch.from_numpy(np.stack([i, j]))
        t = torch.sparse_coo_tensor(index, torch.from_numpy(w), (n, n), check_invariants=True)
        return Drawn(PairGraph.from_sparse(t), dense, size, eps)
    # compressed by hand: duplicates and unsorted columns stay
    major, minor = (j, i) if form.endswith("csc") else (i, j)
    order = np.argsort(major, kind="stable")
    pointers = np.searchsorted(major[order], np.arange(n + 1))
    arrays = (w[order], minor[order], pointers)
    if form.startswith("t."):
        # torch asks for sorted, unique indices
        made = getattr(scipy.sparse, form[2:] + "_array")(arrays, shape=(n, n))
        made.sum_duplicates()
        index = (torch.tensor(x.tolist(), dtype=torch.int64) for x in (made.indptr, made.indices))
        parts = *index, torch.from_numpy(made.data.copy())
        make = torch.sparse_csc_tensor if form == "t.csc" else torch.sparse_csr_tensor
        return Drawn(
            PairGraph.from_sparse(make(*parts, (n, n), check_invariants=True)), dense, size, eps
        )
    kind = scipy.sparse.csc_array if form == "csc" else scipy.sparse.csr_array
    made = kind(arrays, shape=(n, n))
    return Drawn(PairGraph.from_sparse(made.tobsr() if form == "bsr" else made), dense, size, eps)


@st.composite
def graphs(draw: Any, n: int | None = None, depth: int = 2) -> Drawn:
    n = draw(st.integers(0, 14), "n") if n is None else n
    how = draw(st.integers(0, 5 if depth else 2), "how")
    if how == 3:
        a, b = draw(graphs(n, depth - 1)), draw(graphs(n, depth - 1))
        return Drawn(a.graph + b.graph, a.dense + b.dense, a.size + b.size, max(a.eps, b.eps))
    if how == 4:
        a, w = draw(graphs(n, depth - 1)), draw(st.sampled_from(WEIGHTS), "factor")
        scaled = w * a.graph if draw(st.booleans()) else a.graph * np.float64(w)
        return Drawn(scaled, w * a.dense, abs(w) * a.size, a.eps)
    if how == 5:
        a = draw(graphs(n, depth - 1))
        dense = a.dense - np.diag(a.dense.diagonal())
        return Drawn(a.graph.without_diagonal(), dense, a.size, a.eps)
    kinds = [edges, sparse, labels, views] if n else [edges, sparse, labels]
    return draw(draw(st.sampled_from(kinds))(n))


def near(found: Any, wanted: np.ndarray, size: np.ndarray, eps: float) -> None:
    """Entry by entry; size: what the values would be if nothing cancelled."""
    found = found.detach().double().numpy() if isinstance(found, torch.Tensor) else found
    assert np.shape(found) == np.shape(wanted)
    worst = abs(np.asarray(found) - wanted) - 64 * eps * size
    assert (worst <= 1e-300).all(), (found, wanted, size)


def smallest_first(label: np.ndarray) -> np.ndarray:
    first = {v: k for k, v in enumerate(dict.fromkeys(label.tolist()))}
    return np.array([first[v] for v in label.tolist()], dtype=int)


@budget(60)
@given(drawn=graphs())
def test_facts(drawn: Drawn) -> None:
    g, dense, size, eps = drawn
    n = len(dense)
    assert g.n == n
    near(g.to_scipy().toarray(), dense, size, eps)
    near(g.to_torch(torch.float64).to_dense(), dense, size, eps)
    stored = g.to_scipy().toarray()
    if g.kind != "sum":
        assert g.nnz == np.count_nonzero(stored)
        assert g.has_self_loops == bool(stored.diagonal().any())
        assert g.has_negative_weights == bool((stored < 0).any())
    near(g.degree, dense.sum(1), size.sum(1), eps)
    near(g.column_degree, dense.sum(0), size.sum(0), eps)
    near(g.volume, dense.sum(), size.sum(), eps)
    near(g.diagonal(), dense.diagonal(), size.diagonal(), eps)
    off = dense.sum(1) - dense.diagonal()
    near(g.degree_without_diagonal(), off, size.sum(1), eps)
    with np.errstate(over="ignore"):
        near(g.frobenius_sq(), (dense**2).sum(), (size @ size.T).sum(), eps)
    if g.is_symmetric:
        near(stored, stored.T, size, eps)
    else:
        assert (stored != stored.T).any()
    indptr, indices, values = g.csr()
    again = np.zeros((n, n))
    rows = np.repeat(np.arange(n), np.diff(indptr.numpy()))
    again[rows, indices.numpy()] = 1.0 if values is None else values.double().numpy()
    assert np.array_equal(again, stored)


@budget(40)
@given(drawn=graphs())
def test_components_and_order(drawn: Drawn) -> None:
    g, dense, size, eps = drawn
    joined = size if g.kind == "sum" else dense  # parts that cancel still join
    count, label = g.connected_components()
    if g.kind != "sum":
        wanted, partition = connected_components(scipy.sparse.csr_array(joined), directed=False)
        assert count == wanted
        assert np.array_equal(label.numpy(), smallest_first(partition))
        members = np.bincount(partition, minlength=max(wanted, 1))
        assert g.isolated.tolist() == np.flatnonzero(members[partition] == 1).tolist()
    else:
        assert np.array_equal(label.numpy(), smallest_first(label.numpy()))
        i, j = np.nonzero(g.to_scipy().toarray())
        assert (label[i] == label[j]).all()
    h, order = g.reorder()
    p = order.numpy()
    assert sorted(p.tolist()) == list(range(len(dense)))
    near(h.to_scipy().toarray(), dense[p][:, p], size[p][:, p], eps)


@budget(60)
@given(drawn=graphs(), data=st.data())
def test_products(drawn: Drawn, data: st.DataObject) -> None:
    g, dense, size, eps = drawn
    dtype = data.draw(st.sampled_from(list(EPS)), "dtype")
    if dtype != torch.float64 and size.max(initial=0) > 1e30:
        dtype = torch.float64  # the weights themselves are beyond float32
    n, d, e = len(dense), data.draw(st.integers(1, 9), "d"), data.draw(st.integers(1, 5), "e")
    rng = np.random.default_rng(data.draw(st.integers(0, 99), "seed"))
    scale = 10.0 ** data.draw(st.integers(-3, 2), "scale")
    x, y = (torch.from_numpy(scale * rng.standard_normal((n, k))).to(dtype) for k in (d, e))
    a, b = x.double().numpy(), y.double().numpy()
    # sums of half precision are made in float32 and rounded once
    eps = max(eps, 2.0**-23 if dtype != torch.float64 else 0.0)
    last = EPS[dtype] if dtype in (torch.float16, torch.bfloat16) else 0.0
    limit = torch.finfo(dtype).max

    def check(found: torch.Tensor, wanted: np.ndarray, bound: np.ndarray) -> None:
        assert found.dtype == dtype
        inside = bound < limit / 4  # a value beyond the range of the result's dtype is infinite
        slack = 64 * eps * bound + last * abs(wanted) + 2 * torch.finfo(dtype).smallest_normal
        assert (abs(found.detach().double().numpy() - wanted) <= slack)[inside].all()

    check(g.matmul(x), dense @ a, size @ abs(a))
    check(g @ x[:, 0], dense @ a[:, 0], size @ abs(a[:, 0]))
    other = torch.from_numpy(rng.standard_normal((n, d))).to(dtype)
    o = other.double().numpy()
    check(g.edge_dot(x, other), ((dense @ o) * a).sum(1), ((size @ abs(o)) * abs(a)).sum(1))
    gaps = ((a[:, None] - a[None]) ** 2).sum(2)
    room = ((abs(a[:, None]) + abs(a[None])) ** 2).sum(2)
    every = np.broadcast_to(room.max(1, initial=0)[:, None], room.shape)  # means of cliques
    check(g.edge_sqdist(x), (dense * gaps).sum(1), (size * np.maximum(room, every)).sum(1))
    check(g.covariance(x, y), a.T @ dense @ b, abs(a).T @ size @ abs(b))
    check(g.covariance(x), a.T @ dense @ a, abs(a).T @ size @ abs(a))
    degree, volume = dense.sum(1), dense.sum()
    if g.is_symmetric and volume > 1e-6 * size.sum() > 0:
        centred = dense - np.outer(degree, degree) / volume
        bound = size + np.outer(size.sum(1), size.sum(1)) / abs(volume)
        check(g.covariance(x, center=True), a.T @ centred @ a, 8 * abs(a).T @ bound @ abs(a))
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(g.matmul(leaf).double().sum(), leaf)
    check(grad, dense.sum(0)[:, None] * np.ones((1, d)), size.sum(0)[:, None] * np.ones((1, d)))


@budget(40)
@given(drawn=graphs())
def test_operators(drawn: Drawn) -> None:
    """G, L = D - G and their normalised forms; what they claim to know is true."""
    g, dense, size, eps = drawn
    n = len(dense)
    if g.is_directed:
        with pytest.raises(ValueError, match="symmetric"):
            operators.laplacian(g)
        return
    x = torch.eye(n, dtype=torch.float64)
    degree = dense.sum(1)
    wanted = {False: (dense, np.diag(degree) - dense)}
    total = np.diag(size.sum(1)) + size
    if not g.has_negative_weights:
        root = np.zeros(n)
        found = g.degree.numpy()
        root[found > 0] = found[found > 0] ** -0.5
        normal = root[:, None] * dense * root
        wanted[True] = (normal, np.eye(n) - normal)
    for normalized, matrices in wanted.items():
        for make, matrix in zip((operators.adjacency, operators.laplacian), matrices, strict=True):
            op = make(g, normalized)
            bound = root[:, None] * size * root + np.eye(n) if normalized else total
            near(op.matmat(x), matrix, bound, eps)
            if n == 0:
                continue
            low, high = op.bounds()
            values = np.linalg.eigvalsh((matrix + matrix.T) / 2)
            slack = 64 * eps * bound.sum(1).max()
            assert low - slack <= values[0]
            assert values[-1] <= high + slack
            for pair in op.known():
                v = pair.vectors.dense(pair.vectors.count).numpy()
                residual = matrix @ v - pair.value * v
                assert abs(residual).max(initial=0) <= slack
                near(v.T @ v, np.eye(v.shape[1]), np.ones((v.shape[1],) * 2), 2.0**-52)

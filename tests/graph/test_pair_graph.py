"""PairGraph against its dense matrix: every constructor, every fact, every product, every error."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import Tensor

from sslspec_fast.graph import PairGraph

from ..support.versions import traces_graphs

LABELS = [2, 5, 2, -1, 5, 5, 9, -3, 2, 2, 5, 7]
RNG = np.random.default_rng(0)
ROWS, COLS = RNG.integers(0, 12, 40), RNG.integers(0, 12, 40)
WEIGHTS = RNG.random(40) + 0.1


def edges(symmetrize: bool = True, dtype: type = np.float64) -> PairGraph:
    return PairGraph.from_edges(ROWS, COLS, WEIGHTS.astype(dtype), n=12, symmetrize=symmetrize)


def pairs(weight: float = 1.0) -> PairGraph:
    return weight * PairGraph.from_labels(LABELS)


GRAPHS: dict[str, Callable[[], PairGraph]] = {
    "two views": lambda: PairGraph.from_views(6),
    "two views, weighted": lambda: 0.25 * PairGraph.from_views(6),
    "three views": lambda: PairGraph.from_views(4, 3),
    "one view": lambda: PairGraph.from_views(5, 1),
    "labels": lambda: PairGraph.from_labels(LABELS),
    "labels, loops": lambda: PairGraph.from_labels(LABELS, self_loops=True),
    "labels, 1/n_c": lambda: PairGraph.from_labels(LABELS, weight="class_size"),
    "projector": lambda: PairGraph.from_labels(LABELS, weight="class_size", self_loops=True),
    "unlabelled": lambda: PairGraph.from_labels([-1, -2, -1]),
    "symmetric edges": edges,
    "directed edges": lambda: edges(symmetrize=False),
    "float32 edges": lambda: edges(dtype=np.float32),
    "unit edges": lambda: PairGraph.from_edges([0, 1, 3], [1, 0, 3], n=5),
    "scaled edges": lambda: 3 * edges(),
    "no edges": lambda: PairGraph.from_edges([], [], n=4),
    "no rows": lambda: PairGraph.from_edges([], [], n=0),
    "labels + views": lambda: pairs() + PairGraph.from_views(6),
    "three parts": lambda: pairs(0.5) + 2 * PairGraph.from_views(6) + PairGraph.from_views(3, 4),
    "edges + labels": lambda: 3 * (edges(symmetrize=False) + pairs()),
    "edges + edges": lambda: edges() + edges(symmetrize=False),
    "all": lambda: edges() + edges() + pairs() + PairGraph.from_labels([0] * 12, self_loops=True),
    "nothing + edges": lambda: 0 * pairs() + edges(),
}


@pytest.fixture(params=GRAPHS)
def graph(request: pytest.FixtureRequest) -> PairGraph:
    return GRAPHS[request.param]()


def dense(g: PairGraph) -> Tensor:
    return torch.from_numpy(g.to_scipy().toarray())


def rows(n: int, d: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g, dtype=torch.float64).requires_grad_()


def test_views_are_the_kronecker_product_of_the_paper() -> None:
    cliques = torch.kron(torch.ones(3, 3) - torch.eye(3), torch.eye(4)).double()
    g = PairGraph.from_views(4, 3)
    assert torch.equal(dense(g), cliques)
    assert (g.kind, g.n, g.nnz, g.volume) == ("views", 12, 24, 24.0)


def test_labels_follow_their_definition() -> None:
    y = torch.tensor(LABELS)
    same = ((y[:, None] == y[None]) & (y >= 0)).double()
    count = same.sum(1, keepdim=True).clamp_min(1)
    off = same - torch.diag(same.diag())
    for weight, scale in (("uniform", torch.ones(12, 1)), ("class_size", 1 / count)):
        assert torch.allclose(dense(PairGraph.from_labels(LABELS, weight=weight)), off * scale)
        looped = PairGraph.from_labels(torch.tensor(LABELS), weight=weight, self_loops=True)
        assert torch.allclose(dense(looped), same * scale)
    projector = dense(PairGraph.from_labels(LABELS, weight="class_size", self_loops=True))
    assert torch.allclose(projector @ projector, projector)


def test_edges_sum_duplicates_drop_zeros_and_symmetrize() -> None:
    g = PairGraph.from_edges([0, 0, 1, 2], [1, 1, 0, 2], [1.0, 2.0, 4.0, 0.0], n=3)
    assert dense(g).tolist() == [[0, 3, 0], [4, 0, 0], [0, 0, 0]]
    assert g.nnz == 2
    assert g.is_directed
    half = PairGraph.from_edges([0, 0, 1], [1, 1, 0], [1.0, 2.0, 4.0], n=3, symmetrize=True)
    assert dense(half).tolist() == [[0, 3.5, 0], [3.5, 0, 0], [0, 0, 0]]
    assert half.is_symmetric


@pytest.mark.parametrize("kind", [list, np.asarray, torch.as_tensor])
def test_edge_containers(kind: Callable[[list], object]) -> None:  # type: ignore[type-arg]
    g = PairGraph.from_edges(kind([0, 1]), kind([1, 0]), kind([2, 2]), n=2)
    assert dense(g).tolist() == [[0, 2], [2, 0]]


def test_sparse_containers() -> None:
    a = scipy.sparse.random(12, 12, 0.2, random_state=0, format="coo")
    wanted = torch.from_numpy(a.toarray())
    for form in ("coo", "csr", "csc", "lil", "dok", "bsr"):
        assert torch.equal(dense(PairGraph.from_sparse(a.asformat(form))), wanted)
        assert torch.equal(dense(PairGraph.from_sparse(scipy.sparse.csr_array(a))), wanted)
    index = torch.from_numpy(np.stack([a.row, a.col]).astype(np.int64))
    coo = torch.sparse_coo_tensor(index, torch.from_numpy(a.data), (12, 12), check_invariants=True)
    for tensor in (coo, coo.coalesce()):
        assert torch.equal(dense(PairGraph.from_sparse(tensor)), wanted)
    exported = PairGraph.from_sparse(a).to_torch()
    assert exported.layout == torch.sparse_csr
    assert torch.equal(dense(PairGraph.from_sparse(exported)), wanted)


def test_cupy_matrices_are_told_by_their_module() -> None:
    class Matrix:
        device = type("Device", (), {"id": 0})()

        def get(self) -> object:
            raise RuntimeError("asked for host memory")

    Matrix.__module__ = "cupyx.scipy.sparse._csr"
    with pytest.raises(RuntimeError, match="asked for host memory"):
        PairGraph.from_sparse(Matrix())


def test_graphs_without_rows_take_tensors_of_any_stride() -> None:
    g = PairGraph.from_edges([], [], n=0)
    x = torch.from_numpy(np.empty((0, 3)))  # numpy's strides are 0 where a length is
    assert g.matmul(x).shape == (0, 3)
    assert g.edge_dot(x, x).shape == g.edge_sqdist(x).shape == (0,)
    assert torch.equal(g.covariance(x), torch.zeros(3, 3, dtype=torch.float64))
    h, order = g.reorder()
    assert (h.n, order.shape) == (0, (0,))


@pytest.mark.parametrize("factor", [1e200, 1e-200])
@pytest.mark.parametrize("name", ["two views", "labels", "float32 edges", "edges + labels"])
def test_factors_that_lose_a_weight_are_refused(name: str, factor: float) -> None:
    once = factor * GRAPHS[name]()
    assert torch.allclose(dense(once) / factor, dense(GRAPHS[name]()))
    with pytest.raises(ValueError, match=r"w \* g must fit in float64, got w = 1e.200"):
        factor * once


def test_later_changes_of_the_input_do_not_reach_the_graph() -> None:
    a = scipy.sparse.csr_array(np.array([[0.0, 2.0], [2.0, 0.0]]))
    g = PairGraph.from_sparse(a)
    a.data[:] = 7
    labels = torch.tensor([0, 0])
    h = PairGraph.from_labels(labels)
    labels[0] = 1
    assert dense(g).tolist() == [[0, 2], [2, 0]]
    assert dense(h).tolist() == [[0, 1], [1, 0]]


def test_facts(graph: PairGraph) -> None:
    a = dense(graph)
    off = a - torch.diag(a.diag())
    assert torch.allclose(graph.degree, a.sum(1))
    assert torch.allclose(graph.column_degree, a.sum(0))
    assert graph.degree.dtype == torch.float64
    assert graph.volume == pytest.approx(float(a.sum()))
    assert torch.allclose(graph.diagonal(), a.diag())
    assert graph.has_self_loops == bool((a.diag() != 0).any())
    assert graph.is_symmetric == torch.allclose(a, a.T)
    assert graph.frobenius_sq() == pytest.approx(float(a.square().sum()))
    assert torch.allclose(graph.degree_without_diagonal(), off.sum(1))
    assert torch.allclose(dense(graph.without_diagonal()), off)
    assert not graph.has_negative_weights
    if graph.kind != "sum":
        assert graph.nnz == int((a != 0).sum())


def test_components_and_isolated_rows(graph: PairGraph) -> None:
    a = graph.to_scipy()
    count, labels = graph.connected_components()
    wanted, theirs = scipy.sparse.csgraph.connected_components(a, directed=False)
    assert count == wanted
    assert len(set(zip(labels.tolist(), theirs.tolist(), strict=True))) == count
    if graph.n:
        assert labels[0] == 0
    off = (a.toarray() != 0) & ~np.eye(graph.n, dtype=bool)
    assert graph.isolated.tolist() == np.flatnonzero(~(off | off.T).any(1)).tolist()


def test_products(graph: PairGraph) -> None:
    a, x, y = dense(graph), rows(graph.n, 5), rows(graph.n, 5, 1)
    assert torch.allclose(graph @ x, a @ x)
    assert torch.allclose(graph.matmul(x[:, 0]), a @ x[:, 0])
    assert torch.allclose(graph.edge_dot(x, y), (a * (x @ y.T)).sum(1))
    assert torch.allclose(graph.edge_dot(x, x), (a * (x @ x.T)).sum(1))
    assert torch.allclose(graph.edge_sqdist(x), (a * torch.cdist(x, x).square()).sum(1))
    assert torch.allclose(graph.covariance(x), x.T @ a @ x)
    assert torch.allclose(graph.covariance(x, y[:, :3]), x.T @ a @ y[:, :3])


def test_gradients(graph: PairGraph) -> None:
    if graph.n == 0:
        pytest.skip("nothing to differentiate")
    x, y = rows(graph.n, 2), rows(graph.n, 2, 1)
    check = torch.autograd.gradcheck
    assert check(graph.matmul, x)
    assert check(graph.edge_dot, (x, y))
    assert check(lambda x: graph.edge_dot(x, x), x)
    assert check(graph.edge_sqdist, x)
    assert check(graph.covariance, x)
    assert check(graph.covariance, (x, y))


@traces_graphs
@pytest.mark.parametrize("name", ["two views", "labels, 1/n_c", "directed edges", "three parts"])
def test_products_and_gradients_compile_in_one_graph(name: str) -> None:
    graph = GRAPHS[name]()
    torch.compiler.reset()

    def loss(x: Tensor) -> Tensor:
        products = graph.matmul(x), graph @ x[:, 1:], graph.covariance(x)
        terms = *products, graph.edge_dot(x, x), graph.edge_sqdist(x)
        return sum(t.square().sum() for t in terms) / (graph.volume + 1)

    x = rows(graph.n, 3)
    eager = torch.autograd.grad(loss(x), x)[0]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert torch.allclose(torch.autograd.grad(compiled(x), x)[0], eager)


@traces_graphs
def test_a_compiled_product_that_torch_shows_in_no_order_is_an_error() -> None:
    # torch.compile hands `G @ X` and `X @ G` over as the same call
    graph = GRAPHS["directed edges"]()
    for x in (rows(graph.n, graph.n).detach(), rows(graph.n, 1).detach()[:, 0]):
        torch.compiler.reset()
        compiled = torch.compile(lambda x: graph @ x, fullgraph=True, backend="aot_eager")
        with pytest.raises(Exception, match=r"call G\.matmul\(X\)"):
            compiled(x)
    with pytest.raises(TypeError):
        rows(3, graph.n).detach() @ graph


def test_exports(graph: PairGraph) -> None:
    a = dense(graph)
    indptr, indices, values = graph.csr()
    assert indptr.dtype == torch.int64
    assert indices.dtype == torch.int32
    for i in range(graph.n):
        row = indices[indptr[i] : indptr[i + 1]]
        assert bool((row.diff() > 0).all())
    data = np.ones(len(indices)) if values is None else values.numpy()
    again = scipy.sparse.csr_array((data, indices.numpy(), indptr.numpy()), shape=a.shape)
    assert np.allclose(again.toarray(), a)
    assert torch.allclose(graph.to_torch(torch.float64).to_dense(), a)
    assert f"n={graph.n}" in repr(graph)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_products_keep_the_dtype_of_the_rows(dtype: torch.dtype) -> None:
    g, x = edges(), rows(12, 4).detach().to(dtype)
    y = g @ x
    assert y.dtype == dtype
    assert torch.allclose(y.double(), dense(g) @ x.double(), rtol=0.02, atol=0.02)


def test_large_cliques_stay_implicit() -> None:
    # 10^5 rows in 4 classes: 2.5e9 entries if stored
    n = 100_000
    g = PairGraph.from_labels(torch.arange(n) % 4) + PairGraph.from_views(n // 2)
    x = torch.ones(n, 2)
    assert g.nnz == n * (n // 4 - 1) + n
    assert torch.equal((g @ x)[:, 0], g.degree.float())
    assert g.connected_components()[0] == 4
    assert g.frobenius_sq() == g.nnz + 2 * n  # rows i and i + n/2 share a class: weight 2


def test_views_of_two_do_not_cancel() -> None:
    # sums over the clique minus the row itself would lose the small partner
    x = torch.tensor([[1e8], [1.0], [1.0], [3.0]])
    assert torch.equal(PairGraph.from_views(2) @ x, torch.tensor([[1.0], [3.0], [1e8], [1.0]]))


def test_scaling_and_adding() -> None:
    g = edges()
    assert torch.allclose(dense(np.float64(2) * g), 2 * dense(g))
    assert torch.allclose(dense(torch.tensor(2.0) * g), 2 * dense(g))
    assert (-1 * g).has_negative_weights
    assert (pairs() + g).kind == "sum"
    assert (g + g).kind == "csr"
    assert (0 * pairs()).nnz == 0
    with pytest.raises(ValueError, match="needs equal n, got 12 and 4"):
        g + PairGraph.from_views(2)
    with pytest.raises(ValueError, match="needs a finite w, got nan"):
        float("nan") * g
    with pytest.raises(TypeError):
        g + 1  # type: ignore[operator]
    with pytest.raises(TypeError):
        "2" * g  # type: ignore[operator]


def test_moving_to_the_same_device_is_free() -> None:
    g = edges()
    assert g.to("cpu") is g
    assert g.device == torch.device("cpu")


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (([0], [3], [1.0]), ValueError, r"cols must lie in \[0, 3\), got 3"),
        (([-1], [0], [1.0]), ValueError, r"rows must lie in \[0, 3\), got -1"),
        (([0], [1, 2], None), ValueError, r"cols must match rows \(1,\), got \(2,\)"),
        (([0], [1], [1.0, 2.0]), ValueError, r"weights must match rows \(1,\), got \(2,\)"),
        (([0], [1], [float("nan")]), ValueError, "weights must be finite, got nan"),
        (([0, 1], [1, 0], [1.0, float("inf")]), ValueError, "got inf at entry 1"),
        (([0], [1], [1j]), TypeError, "weights must be real numbers, got dtype complex128"),
        (([0.5], [1], None), TypeError, "rows must be integers, got dtype float64"),
        (([[0]], [[1]], None), ValueError, r"rows must have shape \(E,\), got \(1, 1\)"),
    ],
)
def test_bad_edges(arguments: tuple[object, ...], error: type[Exception], text: str) -> None:
    for symmetrize in (False, True):
        with pytest.raises(error, match=text):
            PairGraph.from_edges(*arguments, n=3, symmetrize=symmetrize)


def test_bad_constructor_arguments() -> None:
    with pytest.raises(ValueError, match="n_samples must be at least 1, got 0"):
        PairGraph.from_views(0)
    with pytest.raises(TypeError, match="n_views must be an integer, got float"):
        PairGraph.from_views(4, 2.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"weight must be .uniform. or .class_size., got .x."):
        PairGraph.from_labels([0], weight="x")
    with pytest.raises(TypeError, match=r"labels must be integers, got torch\.float32"):
        PairGraph.from_labels(torch.ones(3))
    with pytest.raises(TypeError, match="labels must be integers or names, got dtype float64"):
        PairGraph.from_labels([0.5])
    with pytest.raises(ValueError, match=r"labels must have shape \(n,\), got \(1, 2\)"):
        PairGraph.from_labels(torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="n must be at least 0, got -1"):
        PairGraph.from_edges([], [], n=-1)
    with pytest.raises(ValueError, match=r"A must be square, got shape \(2, 3\)"):
        PairGraph.from_sparse(scipy.sparse.csr_array((2, 3)))
    with pytest.raises(TypeError, match="A must be a sparse matrix, got a dense tensor"):
        PairGraph.from_sparse(torch.eye(2))
    with pytest.raises(TypeError, match="must be a scipy, torch or cupyx sparse matrix, got list"):
        PairGraph.from_sparse([[1]])
    with pytest.raises(ValueError, match="weights must be finite, got nan"):
        PairGraph.from_sparse(scipy.sparse.csr_array([[0.0, np.nan]] * 2))
    with pytest.raises(TypeError, match="use from_views"):
        PairGraph(np.eye(2))  # type: ignore[arg-type]


def test_bad_rows() -> None:
    g = PairGraph.from_views(2)
    with pytest.raises(ValueError, match=r"matmul: X must have n = 4 rows, got shape \(3, 2\)"):
        g @ torch.ones(3, 2)
    with pytest.raises(TypeError, match="matmul: X must be a torch tensor, got ndarray"):
        g.matmul(np.ones((4, 2)))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"matmul: X must be a float tensor, got torch\.int64"):
        g @ torch.ones(4, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"edge_dot: y must match x \(4, 2\) torch.float32, got"):
        g.edge_dot(torch.ones(4, 2), torch.ones(4, 3))
    with pytest.raises(ValueError, match=r"edge_sqdist: x must have shape \(n, d\), got \(4,\)"):
        g.edge_sqdist(torch.ones(4))
    with pytest.raises(ValueError, match="graph's device cpu, got meta"):
        g @ torch.ones(4, 2, device="meta")
    with pytest.raises(ValueError, match="covariance: x and y must be"):
        g.covariance(torch.ones(4, 2), torch.ones(4, 2).double())


@pytest.mark.parametrize("layout", ["csr", "csc", "bsr"])
def test_indices_that_leave_the_matrix(layout: str) -> None:
    data = np.ones((4, 1, 1)) if layout == "bsr" else np.ones(4)
    build = getattr(scipy.sparse, f"{layout}_array")
    for worst in (4, -1, 500_000):
        matrix = build((data, np.array([1, 0, worst, 1]), np.arange(5)), shape=(4, 4))
        with pytest.raises(ValueError, match=rf"A must have indices in \[0, 4\), got {worst}"):
            PairGraph.from_sparse(matrix)
    matrix = build((data, np.array([1, 0, 3, 2]), np.array([0, 3, 2, 3, 4])), shape=(4, 4))
    with pytest.raises(ValueError, match=r"row pointers .* that rise from 0"):
        PairGraph.from_sparse(matrix)


def test_gradients_of_weights_are_refused_not_lost() -> None:
    weights = torch.ones(2, requires_grad=True)
    with pytest.raises(NotImplementedError, match="from_edges: weights must not require grad"):
        PairGraph.from_edges([0, 1], [1, 0], weights, n=2)
    matrix = torch.sparse_coo_tensor([[0, 1], [1, 0]], weights, (2, 2), check_invariants=True)
    with pytest.raises(NotImplementedError, match="from_sparse: A must not require grad"):
        PairGraph.from_sparse(matrix)
    with torch.no_grad():
        assert PairGraph.from_edges([0, 1], [1, 0], weights, n=2).nnz == 2


def test_kinds_of_numbers() -> None:
    half = PairGraph.from_edges([0, 1], [1, 0], np.array([0.5, 0.5], np.float16), n=2)
    assert float(half.volume) == 1.0
    hybrid = torch.sparse_coo_tensor(
        [[0, 1], [1, 0]], torch.ones(2, 3), (2, 2, 3), check_invariants=True
    )
    with pytest.raises(ValueError, match=r"A must be square, got shape|a number per entry"):
        PairGraph.from_sparse(hybrid)
    for labels in (np.array([2**63, 1], np.uint64), torch.tensor([2**63, 1], dtype=torch.uint64)):
        with pytest.raises(ValueError, match=f"labels must be < 2.63, got {2**63}"):
            PairGraph.from_labels(labels)


@pytest.mark.parametrize("kind", [list, np.array, lambda y: np.array(y, dtype=object)])
def test_names_are_labels(kind):
    """Rows of one name are joined; a negative integer in text means unlabelled, as in tables."""
    named = PairGraph.from_labels(kind(["cat", "dog", "cat", "-1", "dog"]))
    numbered = PairGraph.from_labels([0, 1, 0, -1, 1])
    assert np.array_equal(named.to_scipy().toarray(), numbered.to_scipy().toarray())
    with pytest.raises(ValueError, match="from_labels: labels must not hold None or NaN, got 1"):
        PairGraph.from_labels(["cat", None])

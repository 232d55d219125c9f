"""Nearest-neighbour graphs against distances in float64, scikit-learn and the definitions."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import Tensor

from sslspec_fast.graph import PairGraph
from sslspec_fast.graph.neighbours.nearest import neighbours


def points(n: int, d: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g, dtype=torch.float64)


def brute(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Indices and squared distances by full sort of differences in long double, ties by index."""
    y = x.numpy().astype(np.longdouble)
    sq = ((y[:, None] - y[None]) ** 2).sum(2)
    sq[np.arange(len(y)), np.arange(len(y))] = np.inf
    order = np.argsort(sq, axis=1, kind="stable")[:, :k]
    with np.errstate(over="ignore"):
        near = np.take_along_axis(sq, order, 1).astype(np.float64)
    return torch.from_numpy(order), torch.from_numpy(near)


@pytest.mark.parametrize(("n", "d", "k"), [(2, 1, 1), (17, 3, 16), (300, 5, 15), (900, 40, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neighbours_are_exact(n: int, d: int, k: int, dtype: torch.dtype) -> None:
    x = points(n, d).to(dtype)
    indices, lengths = neighbours(x, k)
    wanted, sq = brute(x, k)
    assert torch.equal(indices, wanted)
    assert torch.allclose(lengths.square(), sq, rtol=1e-14)


def graph_of(indices: Tensor, n: int) -> np.ndarray:
    directed = np.zeros((n, n))
    directed[np.arange(n)[:, None], indices.numpy()] = 1.0
    return (directed + directed.T) / 2


# What hides neighbours from sums of squares: far rows, far clusters, unlike columns, any scale.
HARD = {
    "outlier 1e12": lambda x: torch.cat([x[:-1], x[-1:] * 1e12]),
    "outlier 1e300": lambda x: torch.cat([x[:-1], x[-1:] * 1e300]),
    "clusters": lambda x: x + 1e10 * (torch.arange(len(x)) % 5)[:, None] ** 2,
    "unlike columns": lambda x: x * torch.tensor([1e9, 1.0, 1e-9], dtype=x.dtype),
    "one large column": lambda x: torch.cat([torch.full_like(x[:, :1], 1e300), x[:, 1:]], 1),
    "offset": lambda x: x + 1e13,
    "decimal grid": lambda x: (3 * x).round() * 0.1,
    "tiny": lambda x: x * 1e-300,
    "subnormal": lambda x: x * 1e-310,
    "huge": lambda x: x * 1e300,
}


@pytest.mark.parametrize("backend", ["exact", "faiss"])
@pytest.mark.parametrize("name", list(HARD))
def test_neighbours_are_exact_whatever_the_scale(name: str, backend: str) -> None:
    if backend == "faiss":
        pytest.importorskip("faiss")
    x = HARD[name](points(200, 3))
    indices, _ = brute(x, 5)
    got = PairGraph.from_knn(x, 5, backend=backend).to_scipy().toarray()
    assert np.array_equal(got, graph_of(indices, 200))
    heat = PairGraph.from_knn(x, 5, weight="heat", backend=backend).to_scipy()
    assert np.array_equal(heat.toarray() != 0, got != 0)
    assert np.isfinite(heat.data).all()


@pytest.mark.parametrize("name", ["outlier", "clusters"])
def test_float32_rows_that_float32_products_cannot_tell_apart(name: str) -> None:
    x = points(200, 3)
    x = torch.cat([x[:-1], x[-1:] * 1e30]) if name == "outlier" else x + 1e5 * (x[:, :1] > 0)
    assert torch.equal(neighbours(x.float(), 5)[0], brute(x.float(), 5)[0])


def test_cosine_has_no_unit() -> None:
    x = points(100, 4)
    wanted = PairGraph.from_knn(x, 5, metric="cosine").to_scipy().toarray()
    scale = torch.exp2(torch.arange(-500, 500, 10, dtype=torch.float64))[:, None]
    got = PairGraph.from_knn(x * scale, 5, metric="cosine").to_scipy().toarray()
    assert np.array_equal(got, wanted)


def test_arrays_of_other_kinds() -> None:
    x = points(20, 3).numpy()
    wanted = PairGraph.from_knn(x, 3).to_scipy().toarray()
    for dtype in (">f8", np.longdouble):
        got = PairGraph.from_knn(x.astype(dtype), 3).to_scipy().toarray()
        assert np.array_equal(got, wanted), dtype
    single = x.astype(np.float32)
    swapped = PairGraph.from_knn(single.astype(">f4"), 3).to_scipy()
    assert np.array_equal(swapped.toarray(), PairGraph.from_knn(single, 3).to_scipy().toarray())
    with pytest.raises(ValueError, match="X must be finite, got NaN or infinity in row 0"):
        PairGraph.from_knn(np.full((4, 1), np.longdouble(10) ** 400), 1)


def test_close_points_far_from_the_origin_are_told_apart() -> None:
    # the products alone have no correct digit of these distances in float32
    x = torch.arange(64, dtype=torch.float32)[:, None] * 2**-6 + 4096
    indices, _ = neighbours(x, 2)
    inner = indices[1:-1].sort(1).values
    middle = torch.arange(1, 63)
    assert torch.equal(inner, torch.stack([middle - 1, middle + 1], 1))


@pytest.mark.parametrize("backend", ["exact", "faiss"])
def test_connectivity_is_the_mean_of_both_directions(backend: str) -> None:
    if backend == "faiss":
        pytest.importorskip("faiss")
    x = points(200, 6)
    g = PairGraph.from_knn(x.float(), 5, backend=backend)
    directed = torch.zeros(200, 200, dtype=torch.float64)
    directed.scatter_(1, brute(x.float().double(), 5)[0], 1.0)
    assert torch.equal(torch.from_numpy(g.to_scipy().toarray()), (directed + directed.T) / 2)
    assert g.is_symmetric
    assert not g.has_self_loops
    mutual = PairGraph.from_knn(x.float(), 5, mutual=True, backend=backend)
    assert torch.equal(torch.from_numpy(mutual.to_scipy().toarray()), directed * directed.T)


def test_equals_scikit_learn() -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    x = points(300, 8).numpy()
    for metric in ("euclidean", "cosine"):
        a = neighbors.kneighbors_graph(x, 10, metric=metric, include_self=False)
        ours = PairGraph.from_knn(x, 10, metric=metric).to_scipy()
        assert abs(ours - 0.5 * (a + a.T)).max() == 0


def test_heat_weights_follow_their_formula() -> None:
    x = points(150, 4)
    indices, sq = brute(x, 6)
    sigma = sq[:, -1].sqrt()
    full = torch.zeros(150, 150, dtype=torch.float64)
    full.scatter_(1, indices, torch.exp(-sq / (sigma[:, None] * sigma[indices])))
    g = PairGraph.from_knn(x, 6, weight="heat")
    assert np.allclose(g.to_scipy().toarray(), ((full + full.T) / 2).numpy())
    mutual = PairGraph.from_knn(x, 6, weight="heat", mutual=True)
    assert np.allclose(mutual.to_scipy().toarray(), torch.minimum(full, full.T).numpy())


@pytest.mark.parametrize("weight", ["connectivity", "heat"])
def test_duplicates_are_neighbours_and_never_the_row_itself(weight: str) -> None:
    x = torch.cat([points(5, 2).repeat(6, 1), points(30, 2, 1)])
    g = PairGraph.from_knn(x, 4, weight=weight)
    a = g.to_scipy()
    assert a.diagonal().max() == 0
    assert np.isfinite(a.data).all()
    assert a.data.min() > 0
    assert np.diff(a.indptr).min() >= 4
    same = PairGraph.from_knn(torch.zeros(7, 3), 3, weight=weight)
    assert np.diff(same.to_scipy().indptr).min() >= 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["equal", "copies", "binary", "shell"])
def test_more_ties_than_candidates_go_to_the_lowest_index(name: str, dtype: torch.dtype) -> None:
    eye = torch.eye(40)
    x = {
        "equal": torch.zeros(99, 2),
        "copies": points(5, 3).repeat(40, 1),
        "binary": (points(300, 6) > 0).double(),
        "shell": torch.cat([0 * eye[:1], eye, -eye]),
    }[name].to(dtype)
    for k in (1, 6, 15):
        assert torch.equal(neighbours(x, k)[0], brute(x, k)[0])


def test_float16_and_integers_are_accepted() -> None:
    x = torch.arange(20)[:, None] ** 2
    wanted = PairGraph.from_knn(x.double(), 2).to_scipy().toarray()
    assert np.array_equal(PairGraph.from_knn(x, 2).to_scipy().toarray(), wanted)
    assert np.array_equal(PairGraph.from_knn(x.half(), 2).to_scipy().toarray(), wanted)


def test_bad_arguments() -> None:
    x = points(10, 2)
    with pytest.raises(ValueError, match=r"n_neighbors must lie in \[1, 9\] for 10 rows, got 10"):
        PairGraph.from_knn(x, 10)
    with pytest.raises(ValueError, match="n_neighbors must be at least 1, got 0"):
        PairGraph.from_knn(x, 0)
    with pytest.raises(ValueError, match=r"metric must be one of .* got 'l1'"):
        PairGraph.from_knn(x, 2, metric="l1")
    with pytest.raises(ValueError, match=r"weight must be one of .* got 'rbf'"):
        PairGraph.from_knn(x, 2, weight="rbf")
    with pytest.raises(ValueError, match=r"backend must be one of .* got 'annoy'"):
        PairGraph.from_knn(x, 2, backend="annoy")
    with pytest.raises(ValueError, match=r"X must have shape \(n, d\), got \(10,\)"):
        PairGraph.from_knn(x[:, 0], 2)
    with pytest.raises(ValueError, match=r"X must have at least one column, got \(10, 0\)"):
        PairGraph.from_knn(x[:, :0], 2)
    with pytest.raises(TypeError, match="mutual must be True or False, got str"):
        PairGraph.from_knn(x, 2, mutual="x")
    for bad, got in (
        ("text", "str of <U4"),
        (scipy.sparse.eye_array(9).tocsr(), "csr_array of object"),
        (x.numpy() * 1j, "ndarray of complex128"),
        (x.to_sparse(), "torch.sparse_coo of"),
    ):
        with pytest.raises(TypeError, match=f"X must be dense and real, got {got}"):
            PairGraph.from_knn(bad, 2)
    x[3, 1] = float("nan")
    with pytest.raises(ValueError, match="X must be finite, got NaN or infinity in row 3"):
        PairGraph.from_knn(x, 2)
    x[3] = 0
    with pytest.raises(ValueError, match="needs rows that are not zero, got row 3"):
        PairGraph.from_knn(x, 2, metric="cosine")


def test_reorder_keeps_the_graph_and_narrows_its_band() -> None:
    side = 30
    i = np.arange(side * side)
    right, down = i[i % side < side - 1], i[i < side * (side - 1)]
    rows, cols = np.concatenate([right, down]), np.concatenate([right + 1, down + side])
    shuffle = np.random.default_rng(0).permutation(side * side)
    g = PairGraph.from_edges(shuffle[rows], shuffle[cols], n=side * side, symmetrize=True)
    h, order = g.reorder()
    a, b = g.to_scipy(), h.to_scipy()
    assert abs(a[order.numpy()][:, order.numpy()] - b).max() == 0

    def bandwidth(m: scipy.sparse.csr_array) -> int:
        coo = m.tocoo()
        return int(abs(coo.row - coo.col).max())

    assert bandwidth(b) < bandwidth(a) / 10
    x = points(side * side, 3)
    out = torch.empty_like(x)
    out[order] = h @ x[order]
    assert torch.allclose(out, g @ x)


@pytest.mark.parametrize(("apart", "size"), [(30.0, 0.01), (1000.0, 0.01)])
def test_neighbours_within_tight_clusters_far_apart(apart: float, size: float) -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, size, (150, 3)), rng.normal(apart, size, (150, 3))])
    x = x.astype(np.float32)
    graph = PairGraph.from_knn(torch.from_numpy(x), n_neighbors=5, backend="exact", mutual=False)
    square = ((x[:, None].astype(float) - x[None]) ** 2).sum(-1)
    np.fill_diagonal(square, np.inf)
    nearest = np.argsort(square, axis=1, kind="stable")[:, :5]
    found = graph.to_scipy().toarray() > 0
    assert found[np.arange(300)[:, None], nearest].all()


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("weight", ["connectivity", "heat"])
@pytest.mark.parametrize(
    ("dtype", "powers"), [(torch.float32, (100, -100)), (torch.float64, (900, -900))]
)
def test_any_unit_of_the_features_will_do(
    metric: str, weight: str, dtype: torch.dtype, powers: tuple[int, int]
) -> None:
    """Their squares overflow or vanish; distances have no unit, so the graph is the same."""
    x = points(60, 3).to(dtype)
    wanted = PairGraph.from_knn(x, 5, metric=metric, weight=weight).to_scipy().toarray()
    for power in powers:
        found = PairGraph.from_knn(x * 2.0**power, 5, metric=metric, weight=weight)
        assert np.array_equal(found.to_scipy().toarray(), wanted)
    rows = 2.0 ** torch.linspace(*powers, 60, dtype=dtype).round()[:, None]
    if metric == "cosine":  # a unit for each row
        found = PairGraph.from_knn(x * rows, 5, metric=metric, weight=weight)
        assert np.array_equal(found.to_scipy().toarray(), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_largest_and_the_smallest_numbers_are_features_too(dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    x = torch.tensor([-1, -0.95, 0.9, 1], dtype=dtype)[:, None]
    for size in (info.max, info.smallest_normal):
        indices = PairGraph.from_knn(x * size, 1).to_scipy().tocoo()
        assert sorted(zip(indices.row, indices.col, strict=True)) == [
            (0, 1),
            (1, 0),
            (2, 3),
            (3, 2),
        ]

"""ClosedForm as an object: array types, transform, flags, optimality_gap, bad arguments."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import sslspec_fast.functional as F
from sslspec_fast import spectral
from sslspec_fast.graph import PairGraph
from sslspec_fast.solvers import ConvergenceWarning, eigsh
from sslspec_fast.spectral import _features

SOLVERS = {
    "vicreg": lambda g, k, **o: spectral.vicreg(g, k, invariance=0.1, **o),
    "degree": lambda g, k, **o: spectral.vicreg(g, k, invariance=0.3, measure="degree", **o),
    "mixed": lambda g, k, **o: spectral.vicreg(
        g, k, covariance=0.05, invariance=0.1, penalty="hinge_std", **o
    ),
    "simclr": spectral.simclr,
    "centred": lambda g, k, **o: spectral.simclr(g, k, center=True, **o),
    "contrastive": spectral.spectral_contrastive,
    "barlow": spectral.barlow_twins,
    "whitened": lambda g, k, **o: spectral.barlow_twins(g, k, whitened=True, **o),
}


# ------------------------------------------------------------------------- results
@pytest.mark.parametrize("name", list(SOLVERS))
def test_types_and_shapes_follow_the_input(lab, name):
    w = lab.random_weights(16, 0.4)
    solve = SOLVERS[name]
    of_graph, of_sparse = solve(lab.graph(w), 3), solve(sp.csr_array(w), 3)
    for value, shape in (("embedding", (16, 3)), ("eigenvalues", (3,)), ("filter", (3,))):
        tensor, array = getattr(of_graph, value), getattr(of_sparse, value)
        assert isinstance(tensor, torch.Tensor)
        assert isinstance(array, np.ndarray)
        assert tuple(tensor.shape) == array.shape == shape
        assert tensor.dtype == torch.float64
        assert np.allclose(tensor.numpy(), array, atol=1e-9)
    assert of_graph.loss == pytest.approx(of_sparse.loss, rel=1e-10, abs=1e-12)
    assert isinstance(of_graph.loss, float)
    assert of_graph.weights is None
    assert of_graph.info.converged
    assert of_graph.info.residuals.shape == (3,)
    assert solve(w, 3).loss == pytest.approx(of_graph.loss, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("name", list(SOLVERS))
def test_transform_reproduces_the_training_rows(lab, name):
    """The eigen-equation extends the embedding: training rows of G come back exactly."""
    w = lab.random_weights(16, 0.4)
    form = SOLVERS[name](lab.graph(w), 3)
    out = form.transform(torch.from_numpy(w[:5]))
    assert isinstance(out, torch.Tensor)
    assert torch.allclose(out, form.embedding[:5], atol=1e-9)
    assert torch.allclose(form.transform(sp.csr_array(w[:5])), form.embedding[:5], atol=1e-9)
    with pytest.raises(ValueError, match=r"rows must have 16 columns .* got shape \(2, 15\)"):
        form.transform(np.zeros((2, 15)))


@pytest.mark.parametrize("name", [n for n in SOLVERS if n not in ("simclr", "centred")])
def test_transform_of_a_row_without_edges_is_undetermined(lab, name):
    form = SOLVERS[name](sp.csr_array(lab.random_weights(16, 0.4)), 3)
    rows = np.zeros((2, 16))
    rows[1, 3] = 1.0
    out = form.transform(rows)
    if name in ("vicreg", "mixed"):  # (0 - lambda) u = 0 has the answer u = 0
        assert np.all(out[0] == 0)
    else:
        assert np.isnan(out[0]).all()
    assert np.isfinite(out[1]).all()


def test_transform_of_a_twin_lands_on_its_class():
    """A new node joined to one clique gets that clique's position."""
    graph = PairGraph.from_labels([0, 0, 0, 1, 1, 1])
    form = spectral.vicreg(graph, 1, invariance=0.01)
    edges = torch.tensor([[1.0, 1, 1, 0, 0, 0]], dtype=torch.float64)
    assert torch.allclose(form.transform(edges), form.embedding[:1])


def test_linear_transform_is_a_product(lab):
    x = np.random.default_rng(0).standard_normal((20, 4))
    form = spectral.vicreg(lab.graph(lab.knn_weights(x, 4)), 2, features=x, invariance=0.1)
    new = np.random.default_rng(1).standard_normal((3, 4))
    assert np.allclose(form.transform(new), new @ form.weights.numpy())
    assert isinstance(form.transform(torch.from_numpy(new)), torch.Tensor)
    with pytest.raises(ValueError, match=r"rows must have 4 columns"):
        form.transform(new[:, :3])


def test_isolated_nodes_are_flagged_and_legal(lab):
    w = np.zeros((18, 18))
    w[:16, :16] = lab.random_weights(16, 0.4)
    graph = lab.graph(w)
    for name, solve in SOLVERS.items():
        form = solve(graph, 3)
        assert form.info.isolated == 2
        assert form.info.components == 3
        if name in ("degree", "contrastive", "barlow", "whitened"):
            assert torch.all(form.embedding[16:] == 0)
    spike = spectral.vicreg(graph, 3, invariance=0.1)
    assert torch.all(spike.eigenvalues[:2] == 0)  # the modes that isolated nodes own come first
    lab.agree(spike, lambda z: F.graph_vicreg(z, graph, invariance=0.1, penalty="ls_var"))


@pytest.mark.parametrize("size", [4, 6])
def test_cut_cluster_is_flagged(size):
    """Complete graph: every eigenvalue of L is n, any k < n - 1 cuts the cluster."""
    graph = PairGraph.from_labels(np.zeros(size, dtype=int))
    assert spectral.vicreg(graph, 2, invariance=1e-3).info.cluster_cut
    assert not spectral.vicreg(graph, size - 1, invariance=1e-3).info.cluster_cut
    assert math.isinf(spectral.vicreg(graph, size - 1).info.gap)


def test_iterative_solver_agrees_with_the_dense_one(lab):
    """Planted partition of four blocks, disconnected in two: same modes from either solver."""
    rng = np.random.default_rng(0)
    block = np.repeat(np.arange(4), 50)
    near = (block[:, None] // 2 == block[None] // 2) * 0.02 + (block[:, None] == block[None]) * 0.3
    w = np.triu(rng.random((200, 200)) < near, 1).astype(float)
    graph = lab.graph(w + w.T)
    for solve in SOLVERS.values():
        dense, lanczos = solve(graph, 3, method="dense"), solve(graph, 3, method="lanczos")
        assert lanczos.info.method == "lanczos"
        assert lanczos.info.converged
        assert np.allclose(dense.eigenvalues.numpy(), lanczos.eigenvalues.numpy(), atol=1e-8)
        assert dense.loss == pytest.approx(lanczos.loss, rel=1e-8, abs=1e-8)
        assert lab.sine(dense.embedding, lanczos.embedding) < 1e-6
        warm = solve(graph, 3, method="lanczos", x0=dense.embedding)
        assert warm.loss == pytest.approx(lanczos.loss, rel=1e-8, abs=1e-8)
        assert warm.info.n_matvec <= 1.1 * lanczos.info.n_matvec  # the look for the rest remains


@pytest.mark.parametrize("name", list(SOLVERS))
@pytest.mark.parametrize("loops", [False, True])
@pytest.mark.parametrize("weight", ["uniform", "class_size"])
def test_cliques_are_solved_by_writing_them_down(name, weight, loops):
    """Labels: the known eigenpairs equal those of the materialised matrix, for every k."""
    labels = [0, 0, 0, 1, 1, 2, 2, 2, 2, -1, 3, -1]
    graph = PairGraph.from_labels(labels, weight=weight, self_loops=loops)
    for k in range(1, 13):
        known, solved = SOLVERS[name](graph, k), SOLVERS[name](graph.to_scipy(), k)
        assert known.info.method == "exact"
        assert known.loss == pytest.approx(solved.loss, rel=1e-8, abs=1e-8)
        assert known.rank == solved.rank
        assert known.info.cluster_cut == solved.info.cluster_cut
        finite = np.isfinite(solved.eigenvalues)
        assert np.allclose(known.eigenvalues.numpy()[finite], solved.eigenvalues[finite])


def test_large_clique_graphs_cost_nothing():
    """20,000 rows, embedding wider than the number of classes: no solver is asked."""
    labels = torch.arange(20_000) % 10
    graph = PairGraph.from_labels(labels)
    for solve in SOLVERS.values():
        form = solve(graph, 16, **({"starts": 1} if solve is spectral.barlow_twins else {}))
        assert form.info.method == "exact"
        assert form.info.cluster_cut or form.info.gap > 0
    assert spectral.simclr(graph, 16).rank == 10


# ------------------------------------------------------------------------- optimality gap
GAPS = {
    "vicreg": {"invariance": 0.2, "penalty": "ls_var"},
    "simclr": {},
    "barlow_twins": {"off_diagonal": 1.0},
    "spectral_contrastive": {},
}


@pytest.mark.parametrize("loss", list(GAPS))
def test_gap_is_zero_at_the_optimum_and_one_at_collapse(lab, loss):
    graph = lab.graph(lab.random_weights(16, 0.4))
    hyper = GAPS[loss]
    solve = getattr(spectral, loss)
    form = solve(graph, 3, **hyper)
    gap = spectral.optimality_gap(loss, form.embedding, graph, **hyper)
    assert gap.loss == pytest.approx(gap.optimum, rel=1e-9, abs=1e-10)
    assert gap.relative_gap == pytest.approx(0, abs=1e-9)
    assert gap.best_scale == pytest.approx(1, abs=1e-4)
    assert gap.angle < 1e-6
    assert gap.rank == form.rank
    collapsed = spectral.optimality_gap(loss, torch.zeros_like(form.embedding), graph, **hyper)
    assert collapsed.relative_gap == pytest.approx(1)
    assert collapsed.rank == 0
    noise = torch.randn(16, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    worse = spectral.optimality_gap(loss, noise, graph, **hyper)
    assert worse.relative_gap > 0
    assert 0 < worse.angle <= math.pi / 2
    nearer = spectral.optimality_gap(loss, worse.best_scale * noise, graph, **hyper)
    assert nearer.relative_gap <= worse.relative_gap + 1e-12


def test_gap_against_the_linear_optimum(lab):
    x = torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    graph = lab.graph(lab.knn_weights(x.numpy(), 4))
    form = spectral.vicreg(graph, 2, features=x, invariance=0.1, penalty="hinge_std")
    linear = spectral.optimality_gap("vicreg", form.embedding, graph, features=x, invariance=0.1)
    free = spectral.optimality_gap("vicreg", form.embedding, graph, invariance=0.1)
    assert linear.relative_gap == pytest.approx(0, abs=1e-9)
    assert free.optimum <= linear.optimum + 1e-12


def test_gap_uses_the_defaults_of_the_loss(lab):
    """F.graph_vicreg is a std hinge by default, and so is the optimum it is compared with."""
    graph = lab.graph(lab.random_weights(12, 0.4))
    z = torch.randn(12, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gap = spectral.optimality_gap("vicreg", z, graph)
    assert gap.loss == pytest.approx(F.graph_vicreg(z, graph).item())
    assert gap.optimum == pytest.approx(spectral.vicreg(graph, 2, penalty="hinge_std").loss)


@pytest.mark.parametrize("loss", ["vicreg", "degree", "simclr", "spectral_contrastive", "info_nce"])
def test_best_scale_is_the_minimum_along_the_ray(lab, loss):
    graph = lab.graph(lab.random_weights(12, 0.5))
    z = torch.randn(12, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    hyper = {}
    name, function = loss, "ls_simclr" if loss == "simclr" else f"graph_{loss}"
    if loss in ("vicreg", "degree"):
        name, function = "vicreg", "graph_vicreg"
        hyper = {"covariance": 0.1, "penalty": "ls_std", "eps": 0.01}
        hyper |= {"measure": "degree"} if loss == "degree" else {}
    if loss == "info_nce":
        w = np.random.default_rng(0).random((12, 12)) + 0.1
        graph = lab.graph((w + w.T) * (1 - np.eye(12)))
        hyper = {"temperature": 0.5, "normalize": False}
    scale = spectral.optimality_gap(name, z, graph, **hyper).best_scale
    at = [getattr(F, function)(t * scale * z, graph, **hyper).item() for t in (0.999, 1.0, 1.001)]
    assert at[1] <= min(at[0], at[2])


def test_gap_of_a_clique_optimum():
    graph = PairGraph.from_views(5)
    form = spectral.info_nce(graph, 4, temperature=0.2)
    gap = spectral.optimality_gap("info_nce", form.embedding, graph, temperature=0.2)
    assert gap.relative_gap == pytest.approx(0, abs=1e-9)
    assert gap.best_scale == 1
    assert gap.angle < 1e-6


def test_gap_where_collapse_is_optimal(lab):
    graph = lab.graph(lab.random_weights(12, 0.4))
    hyper = {"invariance": 1e3, "penalty": "ls_var"}
    zero = torch.zeros(12, 2, dtype=torch.float64)
    assert spectral.optimality_gap("vicreg", zero, graph, **hyper).relative_gap == 0
    assert (
        spectral.optimality_gap("vicreg", zero + torch.eye(12, 2), graph, **hyper).relative_gap
        == math.inf
    )


def test_gap_errors(lab):
    graph = lab.graph(lab.random_weights(12, 0.4))
    with pytest.raises(ValueError, match=r"loss must be one of .* got 'nt_xent'"):
        spectral.optimality_gap("nt_xent", torch.zeros(12, 2), graph)
    with pytest.raises(ValueError, match=r"z must have shape \(12, k\) .* got \(11, 2\)"):
        spectral.optimality_gap("simclr", torch.zeros(11, 2), graph)
    for loss in ("vicreg", "simclr", "barlow_twins", "spectral_contrastive"):
        with pytest.raises(ValueError, match=r"z must have at most .* 12, got shape \(12, 13\)"):
            spectral.optimality_gap(loss, torch.zeros(12, 13), graph)
    with pytest.raises(TypeError, match=r"unexpected keyword argument|unexpected keyword"):
        spectral.optimality_gap("simclr", torch.zeros(12, 2), graph, gamma=1)


# ------------------------------------------------------------------------- bad arguments
@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"k": 0}, ValueError, r"k must be between 1 and .* 12, got 0"),
        ({"k": 13}, ValueError, r"k must be between 1 and .* 12, got 13"),
        ({"k": 2.0}, TypeError, r"k must be an integer, got float"),
        ({"k": True}, TypeError, r"k must be an integer, got bool"),
        ({"variance": 0.0}, ValueError, r"variance must be positive, got 0"),
        ({"variance": "1"}, TypeError, r"variance must be a real number, got str"),
        ({"covariance": -1.0}, ValueError, r"covariance must be at least 0, got -1"),
        ({"invariance": math.nan}, ValueError, r"invariance must be at least 0, got nan"),
        ({"penalty": "hinge"}, ValueError, r"penalty must be one of .* got 'hinge'"),
        ({"measure": "volume"}, ValueError, r"measure must be one of .uniform., .degree.,"),
        ({"eps": 1.0, "penalty": "ls_std"}, ValueError, r"eps must be below 1"),
        ({"ridge": 1.0}, ValueError, r"ridge needs features= or kernel="),
        ({"sigma": 1.0}, TypeError, r"unexpected keyword 'sigma'"),
        ({"starts": -1}, ValueError, r"vicreg: starts must be at least 0, got -1"),
        ({"starts": 2.0}, TypeError, r"vicreg: starts must be an integer, got float"),
        ({"seed": "a"}, TypeError, r"seed must be an integer, got str"),
        ({"x0": np.ones((11, 2))}, ValueError, r"x0 must be \(n = 12, m >= 1\), got \(11, 2\)"),
        (
            {"features": np.zeros((11, 2))},
            ValueError,
            r"features must have one row per node: .* 12",
        ),
        ({"features": np.ones((12, 2))}, ValueError, r"features must vary"),
        ({"features": np.full((12, 2), np.nan)}, ValueError, r"features must be finite, got 24"),
        ({"features": np.zeros(12)}, ValueError, r"features must have 2 dimension"),
        ({"features": np.zeros((12, 1), dtype=complex)}, TypeError, r"features must be real"),
        ({"kernel": np.eye(11)}, ValueError, r"kernel must be \(12, 12\) .* \(11, 11\)"),
        ({"kernel": -np.eye(12)}, ValueError, r"kernel must be positive semi-definite"),
        ({"kernel": np.triu(np.ones((12, 12)))}, ValueError, r"kernel must be symmetric"),
        (
            {"kernel": np.eye(12), "features": np.eye(12)},
            ValueError,
            r"features= or kernel=, not both",
        ),
    ],
)
def test_bad_arguments(lab, options, error, match):
    graph = lab.graph(lab.random_weights(12, 0.4))
    options = dict(options)
    with pytest.raises(error, match=match):
        spectral.vicreg(graph, options.pop("k", 2), **options)


def test_bad_starts_of_barlow_twins(lab):
    with pytest.raises(ValueError, match=r"barlow_twins: starts must be at least 0, got -1"):
        spectral.barlow_twins(lab.graph(lab.random_weights(12, 0.4)), 2, starts=-1)


def test_bad_graphs(lab):
    directed = PairGraph.from_edges([0, 1], [1, 2], n=3)
    empty = PairGraph.from_edges([], [], n=3)
    for solve in SOLVERS.values():
        with pytest.raises(ValueError, match=r"graph must be symmetric .* directed graph of 3"):
            solve(directed, 1)
        with pytest.raises(TypeError, match=r"graph must be a PairGraph, .* got list"):
            solve([[0, 1], [1, 0]], 1)
    for name in ("degree", "contrastive", "barlow", "whitened"):
        with pytest.raises(ValueError, match=r"at least one edge|an edge"):
            SOLVERS[name](empty, 1)
    with pytest.raises(ValueError, match=r"graph must be symmetric, got max \|G - G\^T\| = 1"):
        spectral.simclr(np.array([[0.0, 1.0], [0.0, 0.0]]), 1)
    with pytest.raises(ValueError, match=r"graph must be square, got shape \(2, 3\)"):
        spectral.simclr(np.zeros((2, 3)), 1)
    with pytest.raises(ValueError, match=r"graph must be finite"):
        spectral.simclr(np.full((2, 2), np.inf), 1)
    with pytest.raises(ValueError, match=r"graph must have non-negative weights|degrees"):
        spectral.barlow_twins(np.array([[0.0, -1.0], [-1.0, 0.0]]), 1)
    with pytest.raises(ValueError, match=r"at least 2 nodes"):
        spectral.vicreg(np.zeros((1, 1)), 1)


def test_empty_graph_where_it_makes_sense():
    """No edge: VICReg whitens anything for free, LS-SimCLR fits zero."""
    empty = PairGraph.from_edges([], [], n=4)
    free = spectral.vicreg(empty, 2)
    assert free.loss == pytest.approx(0)
    assert free.info.isolated == 4
    assert spectral.simclr(empty, 2).loss == 0
    assert spectral.simclr(empty, 2).rank == 0


def test_a_row_that_the_equation_leaves_open_is_nan_even_alone():
    """Leaves of a star: delta - lambda = 0 for the only mode, up to rounding."""
    star = np.zeros((9, 9))
    star[0, 1:] = star[1:, 0] = 1.0
    form = spectral.vicreg(star, 1, invariance=0.3)
    out = form.transform(star)
    assert np.isnan(out[1:]).all()
    assert np.isfinite(out[0]).all()


def test_sparse_rows_stay_sparse():
    w = sp.random_array((60, 60), density=0.2, random_state=np.random.default_rng(0))
    w = sp.csr_array(w + w.T)
    form = spectral.spectral_contrastive(w, 3)
    np.testing.assert_allclose(form.transform(w), form.transform(w.toarray()))
    np.testing.assert_allclose(form.transform(w), form.embedding, atol=1e-7)


def test_gap_takes_what_the_closed_forms_take():
    w = sp.random_array((40, 40), density=0.2, random_state=np.random.default_rng(0))
    w = sp.csr_array(w + w.T)
    for graph in (w, w.toarray(), PairGraph.from_sparse(w)):
        z = spectral.simclr(graph, 3).embedding
        gap = spectral.optimality_gap("simclr", z, graph)
        assert abs(gap.relative_gap) < 1e-9
    with pytest.raises(ValueError, match="ridge must be 0"):
        spectral.optimality_gap("vicreg", z, graph, ridge=0.1)


@pytest.mark.parametrize("name", ["vicreg", "simclr", "barlow_twins", "spectral_contrastive"])
def test_nothing_is_proven_by_eigenvalues_that_did_not_converge(name: str) -> None:
    rows = np.arange(3000)
    ring = sp.coo_array((np.ones(3000), (rows, (rows + 1) % 3000)), shape=(3000, 3000)).tocsr()
    chords = np.random.default_rng(0).permutation(3000)
    more = sp.coo_array((np.ones(3000), (rows, chords)), shape=(3000, 3000)).tocsr()
    graph = ring + ring.T + more + more.T
    graph = graph - sp.diags_array(graph.diagonal())
    hyper = {"invariance": 0.01} if name == "vicreg" else {}
    with pytest.warns(ConvergenceWarning):
        form = getattr(spectral, name)(graph, 4, max_iter=1, method="lanczos", **hyper)
    assert not form.info.converged
    assert not form.info.certified
    assert form.info.lower_bound == -np.inf


def test_a_closed_form_carries_no_gradient() -> None:
    x = torch.randn(12, 4, dtype=torch.float64, requires_grad=True)
    graph = PairGraph.from_labels(torch.arange(12) % 3)
    form = spectral.vicreg(graph, 2, features=x, invariance=0.1)
    assert not form.embedding.requires_grad
    assert torch.equal(form.embedding, x.detach() @ form.weights)


def test_a_result_is_shown_as_a_summary(lab):
    """A notebook shows the shapes, the first and last values and the report, not the vectors."""
    graph = lab.graph(lab.knn_weights(np.random.default_rng(0).standard_normal((300, 3)), 5))
    form = spectral.simclr(graph, 20)
    shown = repr(form)
    assert shown.startswith(f"ClosedForm(embedding (300, 20), loss {form.loss:.6g}, rank 20, ")
    assert f"eigenvalues [{float(form.eigenvalues[0]):.6g}, " in shown
    assert str(form.info) in shown
    assert len(shown) < 800
    found = eigsh(graph, 20)
    assert repr(found).startswith(f"EigResult(20 pairs [{float(found.values[0]):.6g}, ")
    assert len(repr(found)) < 600
    assert repr(found.info) == f"EigInfo({found.info})"
    assert repr(form.info) == f"SpectrumInfo({form.info})"


@pytest.mark.parametrize("name", ["vicreg", "degree", "centred", "barlow"])
def test_a_kernel_asks_for_the_wanted_vectors_only(lab, monkeypatch, name):
    """The pencil's own eigenvectors: the same as without a limit on their number."""
    x = np.random.default_rng(0).standard_normal((80, 2))
    kernel = np.exp(-((x[:, None] - x[None]) ** 2).sum(-1) / 0.2)
    graph = lab.graph(lab.knn_weights(x, 8))
    every = SOLVERS[name](graph, 40, kernel=kernel)
    asked = []

    def spy(matrix, **options):
        asked.append(options.get("subset_by_index"))
        return eigh(matrix, **options)

    eigh = _features.sla.eigh
    monkeypatch.setattr(_features.sla, "eigh", spy)
    few = SOLVERS[name](graph, 3, kernel=kernel)
    assert asked[:2] == [None, None]  # the ranges of the kernel and of the metric
    assert np.ptp(asked[2]) == 2  # three of the pencil
    assert np.allclose(few.eigenvalues, every.eigenvalues[:3], rtol=1e-9)
    assert few.info.converged

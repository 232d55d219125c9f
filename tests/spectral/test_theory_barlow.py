"""Barlow Twins' closed forms: rows B0 to B3 and B6 to B8 of docs/closed_forms.md."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

import sslspec_fast.functional as F
from sslspec_fast import spectral
from sslspec_fast.graph import PairGraph


def loss_on(graph, **hyper):
    return lambda z: F.graph_barlow_twins(z, graph, **hyper)


def centred_eigenvalues(w):
    d = w.sum(1)
    root = np.sqrt(d)
    return np.linalg.eigvalsh(w / np.outer(root, root) - np.outer(root, root) / d.sum())[::-1]


def test_b0_cross_correlation_of_the_edge_list(lab):
    """C of the edge list = Z^T G Z / (p p^T); centring the list deflates d d^T / vol."""
    w = (lab.random_weights(14, 0.4) > 0).astype(float)
    graph = lab.graph(w)
    rows, cols = np.nonzero(w)
    z = torch.randn(14, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for center in (False, True):
        left, right = z[rows], z[cols]
        if center:
            left, right = left - left.mean(0), right - right.mean(0)
        c = (left / left.norm(dim=0)).T @ (right / right.norm(dim=0))
        off = c - c.diag().diag()
        expected = (1 - c.diag()).square().sum() + 0.3 * off.square().sum()
        found = F.graph_barlow_twins(z, graph, off_diagonal=0.3, center=center)
        assert torch.allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("k", [3, 4])
@pytest.mark.parametrize("kind", ["knn", "random"])
def test_b2_exact_loss_is_a_water_filling(lab, kind, k):
    """alpha = 1: b_k = (1 - kappa/lambda_k)_+, strictly below the eigenvector (CCA) point."""
    x = np.random.default_rng(0).standard_normal((24, 2))
    w = lab.knn_weights(x, 4) if kind == "knn" else lab.random_weights(24, 0.2)
    graph = lab.graph(w)
    lam = centred_eigenvalues(w)[:k]
    form = spectral.barlow_twins(graph, k)
    assert form.info.certified
    b = (form.filter.numpy() * lam).clip(0)
    assert form.loss == pytest.approx(((1 - b) ** 2).sum(), abs=1e-12)
    assert form.filter.sum().item() == pytest.approx(k)  # the budget sum b/lambda = K
    active = b > 0
    kappa = (1 - b[active]) * lam[active]
    assert np.allclose(kappa, kappa.mean())
    assert form.loss < ((1 - lam) ** 2).sum()
    lab.agree(form, loss_on(graph))
    best, z, _ = lab.minimise(loss_on(graph), (24, k), starts=2, iterations=500)
    lab.matched(best, form.loss)
    d = torch.from_numpy(w.sum(1))
    centred = z - (d @ z) / d.sum()
    norm = (d @ centred**2).sqrt()
    gram = (centred / norm) @ (centred / norm).T
    assert torch.allclose(gram, form.embedding @ form.embedding.T, atol=1e-4 * gram.abs().max())


@pytest.mark.parametrize(("alpha", "k"), [(0.2, 4), (0.05, 2)])
def test_b2_below_one_with_a_hadamard_rotation(lab, alpha, k):
    w = lab.random_weights(20, 0.25, seed=1)
    graph = lab.graph(w)
    form = spectral.barlow_twins(graph, k, off_diagonal=alpha)
    assert form.info.certified
    assert form.loss == pytest.approx(form.info.lower_bound, abs=1e-10)
    lab.agree(form, loss_on(graph, off_diagonal=alpha))
    best, _, _ = lab.minimise(loss_on(graph, off_diagonal=alpha), (20, k), iterations=500)
    lab.matched(best, form.loss)


def correlations(w, z):
    """C of the edge list, from the weights themselves."""
    d, z = w.sum(1), np.asarray(z)
    z = z - d @ z / d.sum()
    z = z / np.sqrt(d @ z**2)
    return z.T @ w @ z


def water_level(lam, alpha):
    """min K (1 - mean b)^2 + alpha (sum b^2 - K mean(b)^2), b >= 0, sum b / lambda <= K: SLSQP."""
    lam, k = np.array(lam), len(lam)

    def cost(b):
        return k * (1 - b.mean()) ** 2 + alpha * ((b**2).sum() - k * b.mean() ** 2)

    budget = {"type": "ineq", "fun": lambda b: k - (b / lam).sum()}
    run = minimize(
        cost,
        lam / 2,
        method="SLSQP",
        bounds=[(0, None)] * k,
        constraints=budget,
        options={"maxiter": 500, "ftol": 1e-15},
    )
    return run.fun, run.x


@pytest.mark.parametrize("alpha", [1.0, 0.4, 0.05])
@pytest.mark.parametrize("lam", [(0.9, 0.7, 0.6, 0.2), (0.5, 0.5, 0.5, 0.1), (0.8, 0.3)])
def test_b2_b7_the_water_level_is_a_convex_minimum(lab, lam, alpha):
    """`.loss` or `.info.lower_bound`, and `.filter`, against a constrained minimisation over b."""
    form = spectral.barlow_twins(lab.graph(lab.spectrum(lam, 12)), len(lam), off_diagonal=alpha)
    assert lab.close(form.eigenvalues, lam)
    bound, b = water_level(lam, alpha)
    assert form.info.lower_bound == pytest.approx(bound, rel=1e-6)
    if form.info.certified:
        assert form.loss == pytest.approx(bound, rel=1e-6)
        assert np.allclose(form.filter * form.eigenvalues, b, atol=1e-4)


def test_b2c_dimensional_collapse(lab):
    """lambda = (.5, .5, .5, .1): the fourth mode is not used, the optimum has rank 3."""
    graph = lab.graph(lab.spectrum([0.5, 0.5, 0.5, 0.1, -0.1, -0.1, -0.1], 8))
    form = spectral.barlow_twins(graph, 4)
    assert lab.close(form.eigenvalues, [0.5, 0.5, 0.5, 0.1])
    assert form.loss == pytest.approx(4 / 3)
    assert form.rank == 3
    assert lab.close(form.filter * form.eigenvalues, [2 / 3, 2 / 3, 2 / 3, 0])
    lab.agree(form, loss_on(graph))
    best, z, _ = lab.minimise(loss_on(graph), (8, 4), starts=3)
    lab.matched(best, form.loss)
    z = z - z.mean(0)  # every degree is 1
    assert np.linalg.matrix_rank(z / z.norm(dim=0), tol=1e-3) == 3


@pytest.mark.parametrize(
    ("lam", "alpha", "eigenvectors_win"),
    [
        ((0.6, 0.4, 0.3), 5.0, True),
        ((0.6, 0.4, 0.3), 1.3, True),
        ((0.6, 0.4, 0.3), 1.2, False),
        ((0.95, 0.85, 0.75), 50.0, False),
    ],
)
def test_b6_when_the_eigenvectors_are_optimal(lab, lam, alpha, eigenvectors_win):
    """Always stationary; a minimum only above a threshold, and never with two lambdas >= 2/3."""
    j, k = np.triu_indices(3, 1)
    lam = np.array(lam)
    h = lam**2 * (1 - lam)
    if h[0] > h[1] > h[2]:
        threshold = ((1 - lam[j]) * (1 - lam[k]) * (lam[j] - lam[k]) / (h[j] - h[k])).max()
        assert eigenvectors_win == (alpha > threshold)
    graph = lab.graph(lab.spectrum(lam, 10))
    cca = spectral.barlow_twins(graph, 3, off_diagonal=alpha, whitened=True)
    assert cca.loss == pytest.approx(((1 - lam) ** 2).sum())
    assert lab.gradient(loss_on(graph, off_diagonal=alpha), cca.embedding) < 1e-9
    form = spectral.barlow_twins(graph, 3, off_diagonal=alpha)
    if eigenvectors_win:
        assert form.loss == pytest.approx(cca.loss, rel=1e-9)
    else:
        assert form.loss < cca.loss * (1 - 1e-4)
    lab.agree(form, loss_on(graph, off_diagonal=alpha))
    best, _, _ = lab.minimise(loss_on(graph, off_diagonal=alpha), (10, 3), starts=4, iterations=500)
    lab.matched(best, form.loss)


@pytest.mark.parametrize(
    ("lam", "alpha"),
    [((0.9, 0.8, 0.6, 0.5, 0.3), 0.005), ((0.9, 0.5, 0.2), 0.2), ((0.95, 0.85, 0.75), 5.0)],
)
def test_b8_any_alpha_through_the_k_by_k_problem(lab, lam, alpha):
    """The span of the top modes is enough: descent over all of Z reaches the same value."""
    k = len(lam)
    graph = lab.graph(lab.spectrum(lam, k + 6))
    form = spectral.barlow_twins(graph, k, off_diagonal=alpha)
    assert lab.close(form.eigenvalues, lam)
    assert form.loss >= form.info.lower_bound - 1e-12
    lab.agree(form, loss_on(graph, off_diagonal=alpha))
    best, _, _ = lab.minimise(
        loss_on(graph, off_diagonal=alpha), (k + 6, k), starts=4, seed=1, iterations=800
    )
    lab.matched(best, form.loss)
    if alpha == 0.005:  # small alpha K: rank collapse
        assert form.rank == 2


def test_b7_no_hadamard_no_equality(lab):
    """alpha < 1, K = 3: the water-filling value is only a lower bound."""
    lam = (0.9, 0.5, 0.2)
    graph = lab.graph(lab.spectrum(lam, 10))
    form = spectral.barlow_twins(graph, 3, off_diagonal=0.2)
    bound, _ = water_level(lam, 0.2)
    assert form.info.lower_bound == pytest.approx(bound, rel=1e-6)
    assert form.loss > bound * 1.05
    assert not form.info.certified


@pytest.mark.parametrize("k", [5, 6, 12])
def test_b7_equal_diagonals_without_hadamard(lab, k):
    """Two diagonals are all that has to be equal, and larger K leave room for that."""
    w = lab.spectrum(np.linspace(0.9, 0.5, k), k + 3)
    form = spectral.barlow_twins(lab.graph(w), k, off_diagonal=0.3)
    assert form.info.certified
    assert form.loss == pytest.approx(form.info.lower_bound, abs=1e-9)
    diagonal = np.diag(correlations(w, form.embedding))
    np.testing.assert_allclose(diagonal, diagonal.mean(), atol=1e-4)


def test_the_value_at_one_bounds_every_larger_alpha(lab):
    graph = lab.graph(lab.spectrum([0.9, 0.7, 0.4], 8))
    forms = [spectral.barlow_twins(graph, 3, off_diagonal=alpha) for alpha in (1.0, 1.5, 4.0)]
    assert forms[0].info.certified
    for form in forms[1:]:
        assert form.info.lower_bound == pytest.approx(forms[0].loss)
        assert form.loss > form.info.lower_bound


@pytest.mark.parametrize("alpha", [1.0, 3.0, 0.2])
def test_b1_whitened_is_cca(lab, alpha):
    """Z^T D Z = I: eigenvectors; rotated to equal diagonal for alpha < 1."""
    w = lab.random_weights(20, 0.25, seed=1)
    graph, k = lab.graph(w), 4
    lam = centred_eigenvalues(w)[:k]
    form = spectral.barlow_twins(graph, k, off_diagonal=alpha, whitened=True)
    spread = (lam**2).sum() - k * lam.mean() ** 2
    expected = ((1 - lam) ** 2).sum() if alpha >= 1 else k * (1 - lam.mean()) ** 2 + alpha * spread
    assert form.loss == pytest.approx(expected, rel=1e-10)
    lab.agree(form, loss_on(graph, off_diagonal=alpha))
    d = torch.from_numpy(w.sum(1))
    metric = form.embedding.T @ (d[:, None] * form.embedding)
    assert torch.allclose(metric, torch.eye(k, dtype=torch.float64), atol=1e-10)
    root = d.sqrt()
    a = torch.from_numpy(w) / torch.outer(root, root) - torch.outer(root, root) / d.sum()

    def whitened(y):
        q = torch.linalg.qr(y)[0]
        c = q.T @ a @ q
        off = c - c.diag().diag()
        return (1 - c.diag()).square().sum() + alpha * off.square().sum()

    best, _, _ = lab.minimise(whitened, (20, k), starts=2, iterations=500)
    lab.matched(best, form.loss)


def test_b3_uncentred_the_constant_column_is_optimal(lab):
    """The paper's snippet does not centre: a constant column already has loss 0."""
    graph = lab.graph(lab.random_weights(16, 0.3))
    assert F.graph_barlow_twins(
        torch.ones(16, 1, dtype=torch.float64), graph, center=False
    ).item() == pytest.approx(0, abs=1e-12)
    form = spectral.barlow_twins(graph, 1, center=False)
    assert form.loss == pytest.approx(0, abs=1e-12)
    assert torch.allclose(form.embedding, form.embedding.mean().expand(16, 1))
    assert spectral.barlow_twins(graph, 1).loss > 1e-3


def test_zero_loss_on_components(lab):
    """lambda = 1 has multiplicity #components - 1: centred component indicators, loss 0."""
    blocks = [lab.random_weights(6, 0.6, seed=s) for s in range(4)]
    w = np.zeros((24, 24))
    for i, block in enumerate(blocks):
        w[6 * i : 6 * i + 6, 6 * i : 6 * i + 6] = block
    form = spectral.barlow_twins(lab.graph(w), 3)
    assert form.loss == pytest.approx(0, abs=1e-10)
    assert form.info.components == 4
    assert form.info.gap > 0
    assert not form.info.cluster_cut
    within = form.embedding.reshape(4, 6, 3)
    assert torch.allclose(within, within[:, :1].expand(4, 6, 3), atol=1e-10)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.0])
def test_more_columns_than_the_modes_can_fill(lab, alpha):
    """Three classes, five columns: two modes of correlation 1, the other columns are zero."""
    graph = PairGraph.from_labels(np.arange(12) % 3)
    form = spectral.barlow_twins(graph, 5, off_diagonal=alpha)
    lab.agree(form, loss_on(graph, off_diagonal=alpha))
    if alpha >= 1:
        assert form.loss == pytest.approx(3)
        assert form.info.certified
        assert form.rank == 2
    best, _, _ = lab.minimise(loss_on(graph, off_diagonal=alpha), (12, 5), starts=3, iterations=300)
    assert best >= form.loss - 1e-8


@pytest.mark.parametrize("alpha", [0.4, 1.0, 3.0])
def test_more_columns_than_the_budget(lab, alpha):
    """sum 1/lambda over the positive modes lies between two integers below k."""
    graph = lab.graph(lab.spectrum([0.9, 0.7, 0.6, -0.1, -0.1, -0.2], 7))
    form = spectral.barlow_twins(graph, 6, off_diagonal=alpha)
    assert form.loss >= form.info.lower_bound - 1e-12
    assert form.rank == np.linalg.matrix_rank(form.embedding.numpy(), tol=1e-3)
    if alpha == 1:  # 4.2 columns: one more takes what is left, the sixth stays empty
        assert form.info.certified
        assert form.rank == 3
        assert torch.all(form.embedding[:, 5] == 0)
    lab.agree(form, loss_on(graph, off_diagonal=alpha))
    best, _, _ = lab.minimise(loss_on(graph, off_diagonal=alpha), (7, 6), starts=5, iterations=300)
    assert best >= form.loss - 1e-8


def test_bipartite_takes_the_algebraically_largest():
    """Two views: A is a permutation with eigenvalues +-1; -1 must never be taken for the top."""
    form = spectral.barlow_twins(PairGraph.from_views(6), 5)
    assert np.allclose(np.asarray(form.eigenvalues), 1)
    assert form.loss == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("alpha", [0.0, 0.05, 0.7, 1.0, 4.0])
@pytest.mark.parametrize("k", [1, 3, 9, 10])
def test_loss_of_the_embedding(lab, alpha, k):
    """Every alpha and k, also beyond the number of positive eigenvalues."""
    graph = lab.graph(lab.random_weights(10, 0.5, seed=4))
    form = spectral.barlow_twins(graph, k, off_diagonal=alpha, starts=2)
    lab.agree(form, loss_on(graph, off_diagonal=alpha))
    nearby = form.embedding + 1e-3 * torch.randn(
        10, k, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    best, _, _ = lab.minimise(
        loss_on(graph, off_diagonal=alpha), (10, k), at=nearby, iterations=100
    )
    assert best >= form.loss - 1e-8

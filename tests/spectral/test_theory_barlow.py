"""Barlow Twins' closed forms: rows B0 to B8 of docs/closed_forms.md."""

from __future__ import annotations

import numpy as np
import pytest
import torch

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


def small(lam, k, alpha):
    return spectral._barlow_filter.barlow_filter(np.array(lam), k, alpha, 0, None)


def test_b2c_dimensional_collapse(lab):
    """lambda = (.5, .5, .5, .1): the fourth mode is not used, the optimum has rank 3."""
    lam = [0.5, 0.5, 0.5, 0.1]
    fit = small(lam, 4, 1.0)
    assert fit.value == pytest.approx(4 / 3)
    assert np.allclose(fit.s * lam, [2 / 3, 2 / 3, 2 / 3, 0])
    a = torch.diag(torch.tensor([*lam, -0.1, -0.1, -0.1, -0.1], dtype=torch.float64))
    best, _, _ = lab.minimise(lambda y: unit_loss(y, a, 1.0), (8, 4), starts=3)
    lab.matched(best, fit.value)


def unit_loss(y, a, alpha):
    y = y / y.norm(dim=0)
    c = y.T @ a @ y
    off = c - c.diag().diag()
    return (1 - c.diag()).square().sum() + alpha * off.square().sum()


@pytest.mark.parametrize(
    ("lam", "alpha", "eigenvectors_win"),
    [
        ((0.6, 0.4, 0.3), 5.0, True),
        ((0.6, 0.4, 0.3), 1.2, False),
        ((0.95, 0.85, 0.75), 50.0, False),
    ],
)
def test_b6_when_the_eigenvectors_are_optimal(lab, lam, alpha, eigenvectors_win):
    """Always stationary; a minimum only above a threshold, and never with two lambdas >= 2/3."""
    values = np.array(lam)
    point = ((1 - values) ** 2).sum()
    a = torch.diag(torch.tensor([*lam, 0.1, 0.0, -0.1, -0.2, -0.3], dtype=torch.float64))
    eigenvectors = torch.eye(8, dtype=torch.float64)[:, :3]
    assert lab.gradient(lambda y: unit_loss(y, a, alpha), eigenvectors) < 1e-12
    fit = small(lam, 3, alpha)
    if eigenvectors_win:
        assert fit.value == pytest.approx(point, rel=1e-9)
    else:
        assert fit.value < point * (1 - 1e-4)
    best, _, _ = lab.minimise(lambda y: unit_loss(y, a, alpha), (8, 3), starts=4, iterations=500)
    lab.matched(best, fit.value)


@pytest.mark.parametrize(
    ("lam", "alpha"),
    [((0.9, 0.8, 0.6, 0.5, 0.3), 0.005), ((0.9, 0.5, 0.2), 0.2), ((0.95, 0.85, 0.75), 5.0)],
)
def test_b8_any_alpha_through_the_k_by_k_problem(lab, lam, alpha):
    k = len(lam)
    a = torch.diag(torch.tensor([*lam, 0.1, 0.0, -0.1, -0.2, -0.3], dtype=torch.float64))
    fit = small(lam, k, alpha)
    assert fit.value >= fit.lower_bound - 1e-12
    best, _, _ = lab.minimise(
        lambda y: unit_loss(y, a, alpha), (k + 5, k), starts=3, seed=1, iterations=500
    )
    assert best >= fit.value * (1 - 1e-6)
    if alpha == 0.005:  # small alpha K: rank collapse
        assert (fit.s > 1e-4 * fit.s.max()).sum() == 2


def test_b7_no_hadamard_no_equality():
    """alpha < 1, K = 3: the water-filling value is only a lower bound."""
    fit = small([0.9, 0.5, 0.2], 3, 0.2)
    assert fit.value > fit.lower_bound * 1.05
    assert not fit.certified


@pytest.mark.parametrize("k", [5, 6, 12])
def test_b7_equal_diagonals_without_hadamard(k):
    """Two diagonals are all that has to be equal, and larger K leave room for that."""
    lam = np.linspace(0.9, 0.5, k)
    fit = small(lam, k, 0.3)
    assert fit.certified
    assert fit.value == pytest.approx(fit.lower_bound, abs=1e-9)
    unit = fit.mix / np.linalg.norm(fit.mix, axis=0)
    correlations = np.diag(unit.T @ (lam[:, None] * unit))
    np.testing.assert_allclose(correlations, correlations.mean(), atol=1e-4)


def test_the_value_at_one_bounds_every_larger_alpha():
    values = [small([0.9, 0.7, 0.4], 3, alpha) for alpha in (1.0, 1.5, 4.0)]
    assert values[0].certified
    for fit in values[1:]:
        assert fit.lower_bound == pytest.approx(values[0].value)
        assert fit.value > fit.lower_bound


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
    lam = np.array([0.9, 0.7, 0.6, -0.2, -0.3, -0.4])
    fit = spectral._barlow_filter.barlow_filter(lam, 6, alpha, 0, None)
    assert fit.value >= fit.lower_bound - 1e-12
    a = torch.diag(torch.tensor([*lam, -0.45], dtype=torch.float64))
    best, _, _ = lab.minimise(lambda y: unit_loss(y, a, alpha), (7, 6), starts=5, iterations=300)
    assert best >= fit.value - 1e-8


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

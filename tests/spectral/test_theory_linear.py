"""Linear and kernel regimes: rows V4, V5, S3, B4, B5, D1 and P1 of docs/closed_forms.md."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg as sla
import torch

import sslspec_fast.functional as F
from sslspec_fast import spectral
from sslspec_fast.graph import PairGraph

METHODS = {
    "vicreg": (spectral.vicreg, F.graph_vicreg, {"invariance": 0.3, "penalty": "ls_var"}),
    "degree": (
        spectral.vicreg,
        F.graph_vicreg,
        {"invariance": 0.8, "penalty": "ls_var", "measure": "degree"},
    ),
    "hinge": (
        spectral.vicreg,
        F.graph_vicreg,
        {"covariance": 0.08, "invariance": 0.2, "penalty": "hinge_std"},
    ),
    "simclr": (spectral.simclr, F.ls_simclr, {}),
    "simclr_centred": (spectral.simclr, F.ls_simclr, {"center": True}),
    "contrastive": (spectral.spectral_contrastive, F.graph_spectral_contrastive, {}),
    "barlow": (spectral.barlow_twins, F.graph_barlow_twins, {}),
    "barlow_0.3": (spectral.barlow_twins, F.graph_barlow_twins, {"off_diagonal": 0.3}),
}


def features(n, d, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + 2.0


def whitener(x):
    """P with (XP)^T (XP) = I: descent in well-conditioned coordinates."""
    return torch.from_numpy(np.linalg.inv(np.linalg.cholesky(x.T @ x)).T)


@pytest.mark.parametrize("kind", ["knn", "labels", "random"])
@pytest.mark.parametrize("name", list(METHODS))
def test_v4_s3_b5_linear_optimum(lab, name, kind):
    """embedding == features @ weights, stationary in W, never beaten by descent over W."""
    solve, function, hyper = METHODS[name]
    n, d, k = 40, 6, 3
    x = features(n, d)
    if kind == "labels":
        graph = 0.1 * PairGraph.from_labels(np.random.default_rng(0).integers(0, 4, n))
    else:
        w = lab.knn_weights(x, 5) if kind == "knn" else lab.random_weights(n, 0.15)
        graph = lab.graph(w)
    xt = torch.from_numpy(x)
    form = solve(graph, k, features=xt, **hyper)
    assert torch.equal(form.embedding, xt @ form.weights)
    assert form.weights.shape == (d, k)
    p = whitener(x)
    loss = lambda v: function(xt @ (p @ v), graph, **hyper)  # noqa: E731
    lab.agree(form, lambda z: function(z, graph, **hyper))
    optimum = torch.linalg.solve(p, form.weights)
    if name != "hinge":  # its optimum may sit on the kink
        assert lab.gradient(loss, optimum) < 1e-6 * max(1.0, float(optimum.abs().max()))
    steps = 100 if name == "hinge" else 800  # descent stalls on the kink
    best, _, _ = lab.minimise(loss, (d, k), starts=2, scale=3.0, iterations=steps)
    assert best >= form.loss - 1e-8 * max(1.0, abs(form.loss))
    if name in ("vicreg", "simclr", "contrastive", "barlow"):
        lab.matched(best, form.loss)


def test_v4_pencil_is_lpp(lab):
    """mu, W: the smallest pairs of (X^T L X / N, X^T H X / (N-1)); span = locality preserving."""
    n, d, k = 40, 6, 3
    x = features(n, d)
    w = lab.knn_weights(x, 5)
    h = np.eye(n) - 1 / n
    lap = np.diag(w.sum(1)) - w
    mu, vectors = sla.eigh(x.T @ lap @ x / n, x.T @ h @ x / (n - 1))
    form = spectral.vicreg(lab.graph(w), k, features=x, invariance=0.5 / mu[k - 1])
    assert np.allclose(form.eigenvalues, mu[:k])
    assert np.allclose(form.filter, 1 - 0.5 * mu[:k] / mu[k - 1])
    assert lab.sine(form.weights, vectors[:, :k]) < 1e-8


def test_s3_b5_pencils(lab):
    """(X^T G X, X^T X) and (X^T Ghat X, X^T Dhat X): the same minima with their eigenvalues."""
    x, k = features(40, 6), 3
    w = lab.knn_weights(x, 5)
    d = w.sum(1)
    lam = sla.eigh(x.T @ w @ x, x.T @ x, eigvals_only=True)[::-1][:k]
    form = spectral.simclr(lab.graph(w), k, features=x)
    assert np.allclose(form.eigenvalues, lam)
    assert form.loss == pytest.approx((w**2).sum() - (np.maximum(lam, 0) ** 2).sum())
    centre = np.outer(d, d) / d.sum()
    lam = sla.eigh(x.T @ (w - centre) @ x, x.T @ (np.diag(d) - centre) @ x, eigvals_only=True)[
        ::-1
    ][:k]
    kappa = ((1 / lam).sum() - k) / (1 / lam**2).sum()
    b = 1 - kappa / lam
    assert b.min() > 0  # no mode is dropped here
    form = spectral.barlow_twins(lab.graph(w), k, features=x)
    assert np.allclose(form.eigenvalues, lam)
    assert np.allclose(form.filter, b / lam)
    assert form.loss == pytest.approx(((1 - b) ** 2).sum())


@pytest.mark.parametrize("name", list(METHODS))
def test_collinear_features_are_restricted_to_their_range(lab, name):
    """X with a repeated, a constant and a zero column has the optimum of X."""
    solve, function, hyper = METHODS[name]
    x = features(30, 5)
    wide = np.c_[x, x[:, :1] + x[:, 1:2], 1e-3 * x[:, 2:3], np.zeros((30, 1))]
    graph = lab.graph(lab.knn_weights(x, 5))
    thin = solve(graph, 3, features=x, **hyper)
    form = solve(graph, 3, features=wide, **hyper)
    assert form.loss == pytest.approx(thin.loss, rel=1e-8, abs=1e-10)
    assert torch.equal(form.embedding, torch.from_numpy(wide) @ form.weights)
    lab.agree(form, lambda z: function(torch.as_tensor(z), graph, **hyper))


@pytest.mark.parametrize("name", ["vicreg", "simclr", "barlow"])
def test_more_features_than_rows_is_nonparametric(lab, name):
    """d > n in general position: every Z can be reached, up to what the loss does not see."""
    solve, _, hyper = METHODS[name]
    x = np.random.default_rng(0).standard_normal((16, 40))
    graph = lab.graph(lab.random_weights(16, 0.4))
    free = solve(graph, 3, **hyper)
    form = solve(graph, 3, features=x, **hyper)
    assert form.loss == pytest.approx(free.loss, rel=1e-8)
    assert form.weights.shape == (40, 3)


def test_k_beyond_the_features(lab):
    x = features(30, 3)
    graph = lab.graph(lab.knn_weights(x, 5))
    form = spectral.vicreg(graph, 5, features=torch.from_numpy(x), invariance=0.1)
    assert form.rank == 3
    assert torch.all(form.embedding[:, 3:] == 0)
    lab.agree(form, lambda z: F.graph_vicreg(z, graph, invariance=0.1, penalty="ls_var"))


@pytest.mark.parametrize("name", list(METHODS))
@pytest.mark.parametrize(
    "scales", [[1, 1e7, 1e-8, 1e3], [1, 1e15, 1, 1], [1e-200, 1, 1e100, 1]], ids=str
)
def test_no_column_is_lost_beside_a_larger_one(lab, name, scales):
    """The optimum over Z = X W is that of the span of the columns, whatever their scales."""
    solve, _, hyper = METHODS[name]
    x = features(40, 4)
    graph = lab.graph(lab.knn_weights(x, 5))
    reference = solve(graph, 3, features=x, **hyper)
    scaled = solve(graph, 3, features=x * scales, **hyper)
    assert scaled.loss == pytest.approx(reference.loss, rel=1e-8)
    assert scaled.info.extra["range"] == 4


@pytest.mark.parametrize("name", list(METHODS))
@pytest.mark.parametrize("small", [1e-20, 1e-200])
def test_no_direction_is_lost_among_more_columns_than_rows(lab, name, small):
    """Small columns that alone hold some directions count beside many large ones of low rank."""
    solve, _, hyper = METHODS[name]
    x = features(24, 12)
    graph = lab.graph(lab.knn_weights(x, 5))
    reference = solve(graph, 3, features=x, **hyper)
    wide = np.hstack(
        [x[:, :6] @ np.random.default_rng(3).standard_normal((6, 30)), x[:, 6:] * small]
    )
    scaled = solve(graph, 3, features=wide, **hyper)
    assert scaled.loss == pytest.approx(reference.loss, rel=1e-8)
    assert scaled.info.extra["range"] == 12
    again = torch.from_numpy(wide) @ scaled.weights
    torch.testing.assert_close(again, scaled.embedding, rtol=1e-7, atol=1e-7)


def test_features_of_any_scale_and_type(lab):
    """Columns of scale 1e6 and 1e-4 count alike; float32 features are used in float64."""
    x = features(30, 4)
    graph = lab.graph(lab.knn_weights(x, 5))
    reference = spectral.vicreg(graph, 3, features=x, invariance=0.1)
    scaled = spectral.vicreg(graph, 3, features=x * [1e6, 1.0, 1e-4, 10.0], invariance=0.1)
    assert scaled.loss == pytest.approx(reference.loss, rel=1e-9)
    single = spectral.vicreg(graph, 3, features=torch.from_numpy(x).float(), invariance=0.1)
    assert single.weights.dtype == torch.float64
    assert single.loss == pytest.approx(reference.loss, rel=1e-4)


@pytest.mark.parametrize("penalty", ["ls_var", "hinge_std"])
def test_v5_kernel_with_a_ridge(lab, penalty):
    """kappa tr(A^T K A): loss(K A) + penalty is minimal; the mean is no longer free."""
    n, k, kappa = 30, 3, 0.01
    x = np.random.default_rng(0).standard_normal((n, 3))
    kernel = np.exp(-((x[:, None] - x[None]) ** 2).sum(-1) / 2) + 1e-2 * np.eye(n)
    graph = lab.graph(lab.knn_weights(x, 5))
    hyper = {"invariance": 0.1, "penalty": penalty, "covariance": 0.1}
    form = spectral.vicreg(graph, k, kernel=kernel, ridge=kappa, **hyper)
    kt, lower = torch.from_numpy(kernel), torch.from_numpy(np.linalg.cholesky(kernel))
    weights = form.weights
    assert torch.allclose(form.embedding, kt @ weights)
    ridge = kappa * (weights * (kt @ weights)).sum()
    total = F.graph_vicreg(form.embedding, graph, **hyper) + ridge
    assert form.loss == pytest.approx(total.item(), rel=1e-9)

    def loss(v):  # Z = L V, A = K^-1 L V, tr A^T K A = |V|^2
        return F.graph_vicreg(lower @ v, graph, **hyper) + kappa * (v**2).sum()

    steps = 1500 if penalty == "ls_var" else 200
    best, _, _ = lab.minimise(loss, (n, k), starts=2, iterations=steps)
    assert best >= form.loss - 1e-8
    if penalty == "ls_var":
        lab.matched(best, form.loss)
    rows = kernel[:4]
    assert np.allclose(form.transform(rows), form.embedding[:4].numpy())


def test_v5_schur_complement_of_the_mean(lab):
    """(gamma/N) L + (kappa/2) K^-1 with the constant eliminated: s_k = (1 - (N-1) mu_k)_+."""
    n, k, kappa, gamma = 30, 3, 0.01, 0.1
    x = np.random.default_rng(0).standard_normal((n, 3))
    kernel = np.exp(-((x[:, None] - x[None]) ** 2).sum(-1) / 2) + 1e-2 * np.eye(n)
    w = lab.knn_weights(x, 5)
    both = gamma / n * (np.diag(w.sum(1)) - w) + kappa / 2 * np.linalg.inv(kernel)
    total = both.sum(1)
    basis = sla.null_space(np.ones((1, n)))
    reduced = basis.T @ (both - np.outer(total, total) / total.sum()) @ basis
    s = np.maximum(0, 1 - (n - 1) * np.linalg.eigvalsh(reduced)[:k])
    form = spectral.vicreg(lab.graph(w), k, kernel=kernel, ridge=kappa, invariance=gamma)
    assert lab.close(form.filter, s)
    assert form.loss == pytest.approx((1 - s**2).sum())


def test_v5_without_a_ridge_is_nonparametric(lab):
    x = np.random.default_rng(0).standard_normal((25, 3))
    kernel = np.exp(-((x[:, None] - x[None]) ** 2).sum(-1)) + 0.1 * np.eye(25)
    graph = lab.graph(lab.knn_weights(x, 5))
    for solve in (spectral.vicreg, spectral.simclr, spectral.barlow_twins):
        free, kernelised = solve(graph, 3), solve(graph, 3, kernel=kernel)
        assert kernelised.loss == pytest.approx(free.loss, rel=1e-8)


def test_linear_ridge(lab):
    """eta |W|^2: B -> B + eta/(2 gamma) I."""
    x = torch.from_numpy(features(30, 5))
    graph, eta = lab.graph(lab.knn_weights(x.numpy(), 5)), 0.05
    hyper = {"invariance": 0.1, "penalty": "ls_var"}
    form = spectral.vicreg(graph, 3, features=x, ridge=eta, **hyper)

    def loss(w):
        return F.graph_vicreg(x @ w, graph, **hyper) + eta * (w**2).sum()

    assert form.loss == pytest.approx(loss(form.weights).item(), rel=1e-9)
    assert lab.gradient(loss, form.weights) < 1e-8
    best, _, _ = lab.minimise(loss, (5, 3))
    lab.matched(best, form.loss)


def test_b4_eigenvalues_are_canonical_correlations(lab):
    """|lambda| of (X^T Ghat X, X^T Dhat X) = canonical correlations of the two ends of an edge."""
    x = features(40, 5)
    w = lab.knn_weights(x, 5)
    rows, cols = np.nonzero(w)
    left, right = x[rows] - x[rows].mean(0), x[cols] - x[cols].mean(0)

    def inverse_root(m):
        values, vectors = np.linalg.eigh(m)
        return vectors / np.sqrt(values) @ vectors.T

    whole = inverse_root(left.T @ left) @ (left.T @ right) @ inverse_root(right.T @ right)
    canonical = np.linalg.svd(whole)[1]
    form = spectral.barlow_twins(lab.graph(w), 5, features=x, whitened=True)
    assert np.allclose(np.sort(np.abs(form.eigenvalues.numpy()))[::-1], canonical, atol=1e-10)


def labelled(sizes, d=6):
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(len(sizes)), sizes)
    x = rng.standard_normal((len(y), d)) @ rng.standard_normal((d, d)) * 0.7
    return x + 1.2 * rng.standard_normal((len(sizes), d))[y], y


@pytest.mark.parametrize("weight", ["uniform", "uniform, self loops", "class_size"])
@pytest.mark.parametrize("sizes", [(20, 20, 20), (35, 20, 10)])
def test_d1_label_graph_is_lda(lab, sizes, weight):
    """Self loops and weight 1/n_c: all three methods are LDA; 0/1 weights only when balanced."""
    lda = pytest.importorskip("sklearn.discriminant_analysis").LinearDiscriminantAnalysis
    x, y = labelled(sizes)
    k = len(sizes) - 1
    reference = lda(solver="eigen").fit(x, y).scalings_[:, :k]
    graph = PairGraph.from_labels(
        y, weight=weight.split(",")[0], self_loops="loops" in weight or weight == "class_size"
    )
    centred = x - x.mean(0)
    sines = [
        lab.sine(reference, form.weights)
        for form in (
            spectral.barlow_twins(graph, k, features=x),
            spectral.vicreg(graph, k, features=x, invariance=1e-3),
            spectral.simclr(graph, k, features=centred),
        )
    ]
    exact = weight == "class_size" or len(set(sizes)) == 1
    assert max(sines) < 1e-7 if exact else max(sines) > 1e-3


def test_p1_supervised_limit(lab):
    """1/n_c label graph, K = C: span(X W) = span(X W_OLS), readout error = the supervised one."""
    x, y = labelled((40, 25, 15))
    graph = PairGraph.from_labels(y, weight="class_size", self_loops=True)
    form = spectral.simclr(graph, 3, features=x)
    targets = np.eye(3)[y]
    ols = np.linalg.lstsq(x, targets, rcond=None)[0]
    supervised = ((targets - x @ ols) ** 2).sum()
    z = form.embedding.numpy()
    error = ((targets - z @ np.linalg.lstsq(z, targets, rcond=None)[0]) ** 2).sum()
    assert error == pytest.approx(supervised, rel=1e-10)
    assert lab.sine(x @ ols, z) < 1e-8

"""VICReg's closed forms against descent: rows V0 to V3, V6, V7 and E of docs/closed_forms.md."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sslspec_fast.functional as F
from sslspec_fast import spectral
from sslspec_fast.graph import PairGraph


def loss_on(graph, **hyper):
    return lambda z: F.graph_vicreg(z, graph, **hyper)


def test_v0_official_invariance_is_the_graph_form():
    """MSE(z1, z2) = (1/K) (1/N) sum_ij G_ij |z_i - z_j|^2: gamma = 25/K."""
    z1, z2 = torch.randn(2, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    graph = PairGraph.from_views(7)
    z = torch.cat([z1, z2])
    form = 2 * F.dirichlet_energy(z, graph) / 14 / 5  # dirichlet_energy = tr Z^T L Z
    assert torch.allclose(((z1 - z2) ** 2).mean(), form, atol=1e-12)


@pytest.mark.parametrize(("alpha", "gamma"), [(1.0, 0.02), (1.0, 0.3), (2.5, 0.9)])
def test_v1_ls_var(lab, alpha, gamma):
    """s_k = (1 - gamma c lambda_k / alpha)_+, min = alpha sum (1 - s_k^2); all starts agree."""
    w = lab.random_weights(24, 0.3)
    graph, k = lab.graph(w), 4
    hyper = {"variance": alpha, "invariance": gamma, "penalty": "ls_var"}
    form = spectral.vicreg(graph, k, **hyper)
    lam, _ = lab.laplacian_modes(w)
    s = np.maximum(0, 1 - gamma * 23 / 24 * lam[:k] / alpha)
    assert lab.close(form.filter, s, atol=1e-10)
    assert lab.close(form.eigenvalues, lam[:k], atol=1e-10)
    assert form.loss == pytest.approx(alpha * (1 - s**2).sum(), rel=1e-12)
    assert form.rank == (s > 0).sum()
    assert form.info.converged
    assert form.info.certified
    lab.agree(form, loss_on(graph, **hyper))
    _, _, values = lab.minimise(loss_on(graph, **hyper), (24, k))
    assert np.abs(values - form.loss).max() <= 1e-6 * form.loss


def test_v1_clipped_modes_lose_rank(lab):
    w = lab.random_weights(24, 0.3)
    graph = lab.graph(w)
    lam, _ = lab.laplacian_modes(w)
    gamma = 24 / 23 / ((lam[2] + lam[3]) / 2)  # three modes below the cut-off, two above
    form = spectral.vicreg(graph, 5, invariance=gamma)
    assert form.rank == 3
    assert lab.close(form.filter[3:], 0)
    lab.agree(form, loss_on(graph, invariance=gamma, penalty="ls_var"))


def test_v1_everything_cut_is_the_constant_embedding(lab):
    graph = lab.graph(lab.random_weights(20, 0.3))
    form = spectral.vicreg(graph, 3, variance=2.0, invariance=100.0)
    assert form.rank == 0
    assert form.loss == pytest.approx(2.0 * 3)
    assert torch.all(form.embedding == 0)


@pytest.mark.parametrize("k", [11, 12])
def test_v1b_more_dimensions_than_modes(lab, k):
    """K > N - 1: surplus columns are zero and pay alpha each."""
    w = lab.random_weights(11, 0.4)
    graph = lab.graph(w)
    hyper = {"invariance": 0.05, "penalty": "ls_var"}
    if k == 12:
        with pytest.raises(ValueError, match=r"k must be between 1 and .* 11, got 12"):
            spectral.vicreg(graph, k, **hyper)
        return
    form = spectral.vicreg(graph, k, **hyper)
    assert torch.isinf(form.eigenvalues[-1])
    assert form.filter[-1] == 0
    lab.agree(form, loss_on(graph, **hyper))
    best, _, _ = lab.minimise(loss_on(graph, **hyper), (11, k))
    lab.matched(best, form.loss)


def test_v1c_signed_graph(lab):
    """Negative Laplacian eigenvalues: s_k > 1; a hinge would be unbounded below."""
    rng = np.random.default_rng(3)
    sign = np.triu(rng.choice([-1, 1], (20, 20)), 1)
    w = lab.random_weights(20, 0.4) * (sign + sign.T)
    form = spectral.vicreg(lab.graph(w), 3, invariance=0.2)
    assert form.filter[0] > 1
    assert form.loss < 0
    lab.agree(form, loss_on(lab.graph(w), invariance=0.2, penalty="ls_var"))
    best, _, _ = lab.minimise(
        loss_on(lab.graph(w), invariance=0.2, penalty="ls_var"), (20, 3), scale=2.0
    )
    lab.matched(best, form.loss)
    with pytest.raises(ValueError, match=r"non-negative Laplacian .* unbounded below"):
        spectral.vicreg(lab.graph(w), 3, penalty="hinge_std")


@pytest.mark.parametrize("beta", [3.0, 0.3, 0.04])
def test_v2_unequal_weights(lab, beta):
    """beta > alpha: axis aligned; beta < alpha: a rotation equalises the variances."""
    w = lab.random_weights(20, 0.3, seed=1)
    graph = lab.graph(w)
    hyper = {"covariance": beta, "invariance": 0.25, "penalty": "ls_var"}
    form = spectral.vicreg(graph, 4, **hyper)
    x = 0.25 * 19 / 20 * lab.laplacian_modes(w)[0][:4]
    level = float(form.filter.mean())
    s = 1 - x if beta >= 1 else (1 - (1 - beta) * level - x) / beta
    assert lab.close(form.filter, np.maximum(0, s))
    lab.agree(form, loss_on(graph, **hyper))
    z = form.embedding - form.embedding.mean(0)
    variance = (z**2).sum(0) / 19
    if beta < 1:
        assert torch.allclose(variance, variance.mean().expand(4), atol=1e-10)
    assert lab.gradient(loss_on(graph, **hyper), form.embedding) < 1e-9
    best, _, _ = lab.minimise(loss_on(graph, **hyper), (20, 4), starts=3)
    lab.matched(best, form.loss)


def graph_and_terms(lab, top, k=3):
    """A graph, gamma and x_k = gamma c lambda_k with x_K = top (the hinge saturates below 1/4)."""
    w = lab.random_weights(20, 0.25, seed=3)
    lam = lab.laplacian_modes(w)[0][:k]
    gamma = top / (19 / 20 * lam[-1])
    return lab.graph(w), gamma, gamma * 19 / 20 * lam


def beta_star(s, x):
    pairs = [
        (x[k] - x[j]) / (s[j] - s[k]) for j in range(len(x)) for k in range(len(x)) if x[k] > x[j]
    ]
    return max(pairs)


@pytest.mark.parametrize("penalty", ["hinge_std", "ls_std"])
def test_v3a_decorrelated_above_beta_star(lab, penalty):
    """Large beta: axis aligned; just below beta* it stops being optimal."""
    graph, gamma, x = graph_and_terms(lab, 0.7)
    k = 3
    t = np.minimum(1, 1 / (4 * x)) if penalty == "hinge_std" else 1 / (1 + 2 * x)
    star = beta_star(t**2, x)
    hyper = {"invariance": gamma, "penalty": penalty}
    form = spectral.vicreg(graph, k, covariance=1.1 * star, **hyper)
    assert form.info.regime == "decorrelated"
    assert lab.close(form.filter, t**2)
    lab.agree(form, loss_on(graph, covariance=1.1 * star, **hyper))
    # small starts: the std forms have an infinite slope at zero, far ones stall on the kink
    best, _, _ = lab.minimise(
        loss_on(graph, covariance=1.1 * star, **hyper), (20, k), starts=4, scale=0.6
    )
    lab.matched(best, form.loss)
    below = spectral.vicreg(graph, k, covariance=0.9 * star, **hyper)
    assert below.loss < form.loss * (1 - 1e-6)
    assert below.info.regime != "decorrelated"
    lab.agree(below, loss_on(graph, covariance=0.9 * star, **hyper))


@pytest.mark.parametrize("penalty", ["hinge_std", "ls_std"])
@pytest.mark.parametrize("beta", [0.125, 0.04])
def test_v3b_equal_variance_of_the_default_weights(lab, penalty, beta):
    """beta <= alpha/8 (official VICReg: .08): equal variances, correlated columns, proven."""
    graph, gamma, x = graph_and_terms(lab, 0.7)
    hyper = {"covariance": beta, "invariance": gamma, "penalty": penalty}
    form = spectral.vicreg(graph, 3, **hyper)
    level = float(form.filter.mean())
    pull = 0.5 / np.sqrt(level) if penalty == "hinge_std" else 1 / np.sqrt(level) - 1
    assert lab.close(form.filter, np.maximum(0, level + pull / (2 * beta) - x / beta))
    assert form.info.regime == "equal variance"
    assert form.info.certified
    lab.agree(form, loss_on(graph, **hyper))
    z = form.embedding - form.embedding.mean(0)
    c = (z.T @ z / 19).numpy()
    assert lab.close(np.diag(c), np.diag(c).mean(), atol=1e-10)
    assert np.abs(c - np.diag(np.diag(c))).max() > 1e-3
    best, _, _ = lab.minimise(loss_on(graph, **hyper), (20, 3), starts=3, scale=0.6, iterations=400)
    lab.matched(best, form.loss)


@pytest.mark.parametrize(("penalty", "beta"), [("hinge_std", 0.35), ("hinge_var", 0.3)])
def test_v3r_the_k_by_k_problem_is_enough(lab, penalty, beta):
    """Between the regimes: full-space descent never beats the k x k multistart."""
    graph, gamma, _ = graph_and_terms(lab, 0.7)
    hyper = {"covariance": beta, "invariance": gamma, "penalty": penalty}
    form = spectral.vicreg(graph, 3, **hyper)
    assert form.loss >= form.info.lower_bound
    lab.agree(form, loss_on(graph, **hyper))
    best, _, _ = lab.minimise(loss_on(graph, **hyper), (20, 3), starts=2, scale=0.6, iterations=300)
    assert best >= form.loss * (1 - 1e-6)


def test_v3v_hinge_on_the_variance(lab):
    """hinge_var, all saturated: C_kk = 1 and the spectrum is a water level."""
    graph, gamma, x = graph_and_terms(lab, 0.2)
    hyper = {"covariance": 0.3, "invariance": gamma, "penalty": "hinge_var"}
    form = spectral.vicreg(graph, 3, **hyper)
    expected = np.maximum(0, 1 + (x.mean() - x) / 0.3)
    assert lab.close(form.filter, expected, atol=1e-9)
    lab.agree(form, loss_on(graph, **hyper))


def test_v3s_saturated_std_hinge(lab):
    """Small gamma: all variances are 1, yet the columns stay correlated for every finite beta."""
    graph, gamma, x = graph_and_terms(lab, 0.1)
    beta = 1.0
    form = spectral.vicreg(graph, 3, covariance=beta, invariance=gamma, penalty="hinge_std")
    assert lab.close(form.filter, 1 + (x.mean() - x) / beta, atol=1e-6)
    decorrelated = 2 * x.sum()
    assert form.loss < decorrelated - 1e-8
    lab.agree(form, loss_on(graph, covariance=beta, invariance=gamma, penalty="hinge_std"))


def test_v3e_eps_inside_the_root(lab):
    """t = min(1, max(sqrt(eps), alpha/(4x))), s = t^2 - eps."""
    graph, gamma, x = graph_and_terms(lab, 0.7)
    eps = 0.05
    t = np.minimum(1, np.maximum(np.sqrt(eps), 1 / (4 * x)))
    hyper = {"covariance": 50.0, "invariance": gamma, "penalty": "hinge_std", "eps": eps}
    form = spectral.vicreg(graph, 3, **hyper)
    assert lab.close(form.filter, t**2 - eps)
    lab.agree(form, loss_on(graph, **hyper))
    best, _, _ = lab.minimise(loss_on(graph, **hyper), (20, 3), starts=3, scale=0.6, iterations=400)
    lab.matched(best, form.loss)


def test_v6_vicreg_is_mds_of_a_graph_filter(lab):
    """L_vic = (alpha/(N-1)^2) (|ZZ^T - M|^2 - |M|^2) + alpha K, M = (N-1) H (I - (gc/a) L) H."""
    n, k, alpha, gamma = 18, 4, 1.3, 0.4
    w = lab.random_weights(n, 0.3)
    h = np.eye(n) - 1 / n
    lap = np.diag(w.sum(1)) - w
    m = (n - 1) * h @ (np.eye(n) - gamma * (n - 1) / (alpha * n) * lap) @ h
    z = torch.randn(n, k, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    z -= z.mean(0)
    left = F.graph_vicreg(
        z, lab.graph(w), variance=alpha, invariance=gamma, penalty="ls_var"
    ).item()
    gram = (z @ z.T).numpy()
    right = alpha / (n - 1) ** 2 * (((gram - m) ** 2).sum() - (m**2).sum()) + alpha * k
    assert left == pytest.approx(right, rel=1e-12)
    dual = spectral.simclr(m, k)
    form = spectral.vicreg(lab.graph(w), k, variance=alpha, invariance=gamma)
    assert lab.close(
        dual.embedding @ dual.embedding.T, (form.embedding @ form.embedding.T).numpy(), atol=1e-8
    )
    assert isinstance(dual.embedding, np.ndarray)


def test_v7_two_views_are_degenerate(lab):
    """lambda = 0 has multiplicity N'-1: any k <= N'-1 has loss 0, and the cut is flagged."""
    graph = PairGraph.from_views(10)
    form = spectral.vicreg(graph, 4)
    assert form.loss == pytest.approx(0, abs=1e-12)
    assert lab.close(form.eigenvalues, 0)
    assert form.info.cluster_cut
    assert form.info.components == 10
    whole = spectral.vicreg(graph, 9)
    assert not whole.info.cluster_cut
    assert whole.info.gap == pytest.approx(2)
    assert torch.allclose(whole.embedding[:10], whole.embedding[10:])


@pytest.mark.parametrize("views", [2, 3])
def test_v7_spectrum_of_views(lab, views):
    """L of V views of N' samples: 0 (N'-1 times, besides the constant) and V (N'(V-1) times)."""
    graph = PairGraph.from_views(5, views)
    form = spectral.vicreg(graph, graph.n - 1)
    assert lab.close(form.eigenvalues, [0.0] * 4 + [views] * 5 * (views - 1))


def test_e1_e2_spectral_embedding(lab):
    """Same spans as scikit-learn's SpectralEmbedding: unnormalised = uniform, default = degree."""
    manifold = pytest.importorskip("sklearn.manifold")
    x = np.random.default_rng(0).standard_normal((60, 3))
    w = lab.knn_weights(x, 8)
    graph, k = lab.graph(w), 3
    uniform = spectral.vicreg(graph, k, invariance=1e-3)
    degree = spectral.vicreg(graph, k, invariance=0.3, measure="degree")
    plain, normed = (
        manifold.spectral_embedding(
            w, n_components=k, norm_laplacian=norm, drop_first=True, random_state=0
        )
        for norm in (False, True)
    )
    assert lab.sine(plain - plain.mean(0), uniform.embedding) < 1e-6
    assert lab.sine(normed, degree.embedding) < 1e-6
    assert lab.sine(normed, uniform.embedding) > 1e-3  # E2x: irregular graph, different metric
    hyper = {"invariance": 0.3, "measure": "degree", "penalty": "ls_var"}
    root = np.sqrt(w.sum(1))
    mu = np.linalg.eigvalsh(np.eye(60) - w / np.outer(root, root))[1 : k + 1]
    assert lab.close(degree.filter, np.maximum(0, 1 - 0.3 * mu))
    assert degree.loss == pytest.approx((1 - np.maximum(0, 1 - 0.3 * mu) ** 2).sum())
    lab.agree(degree, loss_on(graph, **hyper))
    best, _, _ = lab.minimise(loss_on(graph, **hyper), (60, k))
    lab.matched(best, degree.loss)


@pytest.mark.parametrize("penalty", ["ls_var", "ls_std", "hinge_std", "hinge_var"])
@pytest.mark.parametrize("measure", ["uniform", "degree"])
@pytest.mark.parametrize("beta", [3.0, 0.3, 0.05])
def test_every_regime_is_a_minimum_of_its_loss(lab, penalty, measure, beta):
    """`.loss` is the loss of `.embedding`, and descent started there finds nothing lower."""
    graph = lab.graph(lab.random_weights(16, 0.3, seed=2))
    hyper = {"covariance": beta, "invariance": 0.2, "penalty": penalty, "measure": measure}
    form = spectral.vicreg(graph, 3, starts=3, **hyper)
    lab.agree(form, loss_on(graph, **hyper))
    nearby = form.embedding + 1e-3 * torch.randn(
        16, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    best, _, _ = lab.minimise(loss_on(graph, **hyper), (16, 3), at=nearby, iterations=100)
    assert best >= form.loss - 1e-8


def test_no_covariance_weight_uses_one_mode(lab):
    graph = lab.graph(lab.random_weights(16, 0.3, seed=2))
    hyper = {"covariance": 0.0, "invariance": 0.2, "penalty": "hinge_std"}
    form = spectral.vicreg(graph, 3, **hyper)
    assert form.rank == 1
    lab.agree(form, loss_on(graph, **hyper))


@pytest.mark.parametrize(("penalty", "beta", "best"), [("hinge_var", 0.7, 0.875)])
def test_a_local_minimum_is_not_taken_for_the_global_one(penalty, beta, best):
    """Above beta* the decorrelated point is a local minimum; another one is lower here."""
    labels = np.repeat(np.arange(5), 4)
    graph = PairGraph.from_labels(labels)
    form = spectral.vicreg(graph, 5, penalty=penalty, covariance=beta)
    assert form.loss == pytest.approx(best)

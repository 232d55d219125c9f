"""LS-SimCLR, spectral contrastive and InfoNCE: rows S1, S4, H, N and G of docs/closed_forms.md."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import sslspec_fast.functional as F
from sslspec_fast import spectral
from sslspec_fast.graph import PairGraph


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------- least squares
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("kind", ["random", "knn", "labels"])
def test_s1_ls_simclr_is_mds(lab, kind, center):
    """Z* = U_K (Lambda_K)_+^{1/2}; zero-diagonal graphs are indefinite, label self loops PSD."""
    rng = np.random.default_rng(0)
    if kind == "labels":
        labels = np.arange(24) % 4
        graph = PairGraph.from_labels(labels, self_loops=True)
        w = (labels[:, None] == labels[None]).astype(float)
    else:
        w = (
            lab.random_weights(24, 0.3)
            if kind == "random"
            else lab.knn_weights(rng.standard_normal((24, 3)), 5)
        )
        graph = lab.graph(w)
    form = spectral.simclr(graph, 5, center=center)
    h = np.eye(24) - 1 / 24 if center else np.eye(24)
    lam = np.linalg.eigvalsh(h @ w @ h)[::-1]
    assert lab.close(form.eigenvalues, lam[:5])
    assert form.rank == (lam[:5] > 1e-9).sum()
    minimum = (lam**2).sum() - (np.maximum(lam[:5], 0) ** 2).sum()
    assert form.loss == pytest.approx(minimum, abs=1e-9)
    loss = lambda z: F.ls_simclr(z, graph, center=center)  # noqa: E731
    lab.agree(form, loss)
    best, _, _ = lab.minimise(loss, (24, 5), scale=0.4)
    lab.matched(best, form.loss)


def test_s1b_rank_is_the_number_of_positive_eigenvalues(lab):
    """Two views without self loops: rank G = 2N' but rank Z* = N'."""
    graph = PairGraph.from_views(7)
    form = spectral.simclr(graph, 10)
    assert form.rank == 7
    assert form.loss == pytest.approx(14 - 7)
    assert torch.all(form.embedding[:, 7:] == 0)
    best, _, _ = lab.minimise(lambda z: F.ls_simclr(z, graph), (14, 10), scale=0.4)
    lab.matched(best, form.loss)


def test_s4_isomap(lab):
    """G = -1/2 H D^2 H with geodesic distances: the embedding of sklearn's Isomap."""
    manifold = pytest.importorskip("sklearn.manifold")
    x = np.random.default_rng(0).standard_normal((60, 3)) * [3, 1, 0.2]
    isomap = manifold.Isomap(n_neighbors=8, n_components=3).fit(x)
    h = np.eye(60) - 1 / 60
    form = spectral.simclr(-0.5 * h @ isomap.dist_matrix_**2 @ h, 3)
    signs = np.sign((form.embedding * isomap.embedding_).sum(0))
    assert np.allclose(form.embedding * signs, isomap.embedding_, atol=1e-8)


@pytest.mark.parametrize("kind", ["random", "knn"])
def test_h1_spectral_contrastive(lab, kind):
    """min = -sum (lambda_k)_+^2 with the eigenvalues of A; the constant feature is included."""
    x = np.random.default_rng(1).standard_normal((24, 3))
    w = lab.random_weights(24, 0.3) if kind == "random" else lab.knn_weights(x, 5)
    graph = lab.graph(w)
    form = spectral.spectral_contrastive(graph, 4)
    root = np.sqrt(w.sum(1))
    lam = np.linalg.eigvalsh(w / np.outer(root, root))[::-1][:4]
    assert form.loss == pytest.approx(-(np.maximum(lam, 0) ** 2).sum())
    assert form.eigenvalues[0] == pytest.approx(1)
    column = form.embedding[:, 0]
    assert torch.allclose(column, column.mean().expand(24), atol=1e-10)
    loss = lambda z: F.graph_spectral_contrastive(z, graph)  # noqa: E731
    lab.agree(form, loss)
    assert lab.gradient(loss, form.embedding) < 1e-10
    best, _, _ = lab.minimise(loss, (24, 4))
    lab.matched(best, form.loss)


def test_g1_duality():
    """L_nc + sum |z_.k|^4 = L_c + sum |z_i|^4 (Garrido et al. 2022, Thm 3.3)."""
    z = normal(20, 6)
    graph = PairGraph.from_views(10)
    cross = 2 * F.graph_covariance(z, graph, center=False).trace().item()
    gram = F.ls_simclr(z, graph).item() + cross - graph.frobenius_sq()  # |Z Z^T|^2
    rows = float(((z**2).sum(1) ** 2).sum())
    columns = float(((z**2).sum(0) ** 2).sum())
    cov = z.T @ z
    dimension = float((cov**2).sum() - (cov.diag() ** 2).sum())
    contrastive = gram - rows
    assert dimension + columns == pytest.approx(contrastive + rows, rel=1e-12)


# ------------------------------------------------------------------------- InfoNCE
def test_n0_nt_xent_is_the_two_view_graph():
    z1, z2 = normal(9, 5), normal(9, 5, seed=1)
    graph = F.graph_info_nce(torch.cat([z1, z2]), PairGraph.from_views(9), temperature=0.3)
    assert torch.allclose(F.nt_xent(z1, z2, temperature=0.3), graph, atol=1e-12)


def positive_graph(lab, n=14):
    w = np.random.default_rng(0).random((n, n)) + 0.2
    w = w + w.T
    np.fill_diagonal(w, 0)
    return lab.graph(w)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_n1_log_g_attains_the_entropy_bound(lab, reduction):
    graph = positive_graph(lab)
    hyper = {"temperature": 0.7, "normalize": False, "reduction": reduction}
    form = spectral.info_nce(graph, 14, **hyper)
    assert form.loss == pytest.approx(spectral.entropy_bound(graph, reduction=reduction))
    lab.agree(form, lambda z: F.graph_info_nce(z, graph, **hyper))
    for normalize in (False, True):
        for seed in range(5):
            z = normal(14, 14, seed=seed)
            other = F.graph_info_nce(
                z, graph, temperature=0.7, normalize=normalize, reduction=reduction
            )
            assert other.item() >= form.loss


def test_n1x_mds_of_g_is_not_the_optimum(lab):
    graph = positive_graph(lab)
    bound = spectral.entropy_bound(graph)
    mds = spectral.simclr(graph, 14).embedding
    best = min(
        F.graph_info_nce(a * mds, graph, temperature=0.7, normalize=False).item()
        for a in np.geomspace(0.01, 3, 30)
    )
    assert best > bound * (1 + 1e-6)


@pytest.mark.parametrize(
    ("cliques", "size", "k", "tau"), [(6, 2, 5, 0.5), (6, 2, 8, 0.2), (4, 4, 3, 0.5)]
)
def test_n2_cliques_collapse_to_a_simplex(lab, cliques, size, k, tau):
    n = cliques * size
    labels = torch.arange(n) % cliques
    graph = PairGraph.from_labels(labels)
    form = spectral.info_nce(graph, k, temperature=tau, reduction="sum")
    together, apart = math.exp(1 / tau), math.exp(-1 / ((cliques - 1) * tau))
    paper = n * (size - 1) * (-1 / tau + math.log((size - 1) * together + (n - size) * apart))
    assert form.loss == pytest.approx(paper, rel=1e-12)
    same = (labels[:, None] == labels[None]).double()
    gram = form.embedding @ form.embedding.T
    assert torch.allclose(gram, cliques / (cliques - 1) * (same - 1 / cliques), atol=1e-12)
    loss = lambda z: F.graph_info_nce(z, graph, temperature=tau, reduction="sum")  # noqa: E731
    lab.agree(form, loss)
    best, z, _ = lab.minimise(loss, (n, k), starts=3)
    lab.matched(best, form.loss)
    unit = torch.nn.functional.normalize(z, dim=1)
    assert torch.allclose(unit @ unit.T, gram, atol=1e-3)
    mean = spectral.info_nce(graph, k, temperature=tau)
    lab.agree(mean, lambda z: F.graph_info_nce(z, graph, temperature=tau))


def test_n2_without_positives_among_the_negatives(lab):
    graph = PairGraph.from_labels(torch.arange(12) % 4)
    hyper = {"temperature": 0.4, "negatives": "non_positive"}
    form = spectral.info_nce(graph, 3, **hyper)
    lab.agree(form, lambda z: F.graph_info_nce(z, graph, **hyper))
    best, _, _ = lab.minimise(lambda z: F.graph_info_nce(z, graph, **hyper), (12, 3))
    lab.matched(best, form.loss)


def test_n2_only_balanced_cliques_have_the_formula(lab):
    with pytest.raises(ValueError, match=r"disjoint cliques of equal size"):
        spectral.info_nce(PairGraph.from_labels([0, 0, 0, 1, 1]), 3)
    with pytest.raises(ValueError, match=r"disjoint cliques of equal size"):
        spectral.info_nce(lab.graph(lab.random_weights(10, 0.5)), 3)
    with pytest.raises(ValueError, match=r"C - 1 = 4 for a simplex, got 3"):
        spectral.info_nce(PairGraph.from_views(5), 3)
    with pytest.raises(ValueError, match=r"k must be at least n - 1 = 13"):
        spectral.info_nce(positive_graph(lab), 5, normalize=False)
    with pytest.raises(ValueError, match=r"positive weights between all pairs"):
        spectral.info_nce(PairGraph.from_views(5), 9, normalize=False)


def test_n3_large_temperature_expansion(lab):
    """vol log(N-1) - (1/tau)[<G,S> - sum d_i mean_i] + (1/2 tau^2) sum d_i var_i + O(tau^-3)."""
    n = 20
    w = lab.random_weights(n, 0.3)
    graph, d = lab.graph(w), w.sum(1)
    z = torch.nn.functional.normalize(normal(n, 4), dim=1)
    s = (z @ z.T).numpy()
    off = 1 - np.eye(n)
    mean = (s * off).sum(1) / (n - 1)
    var = (s**2 * off).sum(1) / (n - 1) - mean**2
    error = []
    for tau in (100.0, 200.0, 400.0):
        expansion = (
            d.sum() * np.log(n - 1) - ((w * s).sum() - d @ mean) / tau + d @ var / (2 * tau**2)
        )
        loss = F.graph_info_nce(z, graph, temperature=tau, reduction="sum").item()
        error.append(abs(loss - expansion))
    assert np.log2(error[1] / error[2]) == pytest.approx(3, abs=0.1)


def test_n4x_mds_is_no_optimum_on_a_generic_graph(lab):
    w = lab.knn_weights(np.random.default_rng(0).standard_normal((30, 2)), 4)
    graph = lab.graph(w)
    loss = lambda z: F.graph_info_nce(z, graph, temperature=0.5)  # noqa: E731
    mds = spectral.simclr(graph, 3).embedding
    best, z, _ = lab.minimise(loss, (30, 3), iterations=300)
    assert loss(mds).item() > best * 1.001
    assert lab.sine(mds, z) > 0.1


def test_ns_nscl_bound():
    """NSCL <= DCL <= NSCL + log(1 + (n-1) e^{2/tau} / (N-n)) (Luthra et al. 2025, Thm 1)."""
    rng = np.random.default_rng(0)
    for tau in (1.0, 0.5):
        for seed in range(5):
            classes, size = int(rng.integers(2, 6)), int(rng.integers(2, 5))
            samples = classes * size
            y = torch.arange(classes).repeat_interleave(size).repeat(2)
            graph = PairGraph.from_views(samples)
            z = normal(2 * samples, 4, seed=seed) * float(rng.choice([0.1, 1, 3]))
            hyper = {"temperature": tau, "negatives": "non_positive"}
            dcl = F.graph_info_nce(z, graph, **hyper).item()
            nscl = F.graph_info_nce(z, graph, ids=y, **hyper).item()
            # A row is not its own positive here: that shifts both losses alike.
            bound = math.log1p((size - 1) * math.exp(2 / tau) / (samples - size))
            assert nscl <= dcl + 1e-12
            assert dcl <= nscl + bound + 1e-12

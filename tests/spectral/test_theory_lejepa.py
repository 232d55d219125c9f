"""LeJEPA's closed form against descent, and the Gaussian SIGReg against its definition: row L."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sslspec_fast.functional as F
from sslspec_fast import spectral
from sslspec_fast.graph import PairGraph
from sslspec_fast.spectral.filters.lejepa import curvature, gaussian_sigreg
from sslspec_fast.spectral.lejepa import gaussian_loss

T = torch.linspace(0, 3, 17, dtype=torch.float64)
PHI = torch.exp(-T.square() / 2)
WEIGHT = 2 * 3 / 16 * PHI
WEIGHT[[0, -1]] /= 2


def sphere(k: int, fine: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit directions whose mean is that over all directions, to rounding: a trapezoid of the
    circle, or Gauss rules in height times a circle.
    """
    count, rings = 32 * fine, 24 * fine
    angle = torch.arange(count, dtype=torch.float64) * (2 * np.pi / count)
    circle = torch.stack([angle.cos(), angle.sin()], 1)
    if k == 2:
        return circle, torch.full((count,), 1 / count, dtype=torch.float64)
    height, share = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(rings))
    radius = (1 - height.square()).sqrt()
    a = torch.cat(
        [radius[:, None, None] * circle, height[:, None, None].expand(rings, count, 1)], 2
    )
    return a.reshape(-1, 3), (share / 2).repeat_interleave(count) / count


def gaussian_form(mean: torch.Tensor, cov: torch.Tensor, fine: int = 1) -> torch.Tensor:
    """F by its definition: characteristic functions of the Gaussian along the directions."""
    a, share = sphere(len(cov), fine)
    variance, shift = ((a @ cov) * a).sum(1), a @ mean
    size = torch.exp(-T.square()[:, None] * variance / 2)
    gap = size.square() - 2 * PHI[:, None] * size * (T[:, None] * shift).cos()
    return ((gap + PHI.square()[:, None]) @ share) @ WEIGHT


def population(graph: PairGraph, weight: float, rows: int):
    """The loss of z whose law is taken to be Gaussian, in torch."""

    def loss(z: torch.Tensor) -> torch.Tensor:
        centred = z - z.mean(0)
        law = gaussian_form(z.mean(0), centred.T @ centred / len(z))
        return weight * rows * law + (1 - weight) * F.dirichlet_energy(z, graph) / z.numel()

    return loss


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, 6.0])
def test_gaussian_sigreg_is_its_definition(k, scale):
    rng = np.random.default_rng(k)
    s, mean = scale * rng.random(k), scale * rng.standard_normal(k)
    value, slope = gaussian_sigreg(s, mean)
    cov = torch.diag(torch.from_numpy(s)).requires_grad_()
    expected = gaussian_form(torch.from_numpy(mean), cov, fine=4)
    (wanted,) = torch.autograd.grad(expected, cov)
    assert value == pytest.approx(expected.item(), rel=1e-11, abs=1e-13)
    np.testing.assert_allclose(slope, wanted.diagonal().numpy(), rtol=1e-9, atol=1e-12)
    assert gaussian_sigreg(s)[0] <= value + 1e-13  # a mean never helps


@pytest.mark.parametrize("k", [1, 5, 128, 700])
def test_gaussian_sigreg_vanishes_at_the_normal_law_and_has_its_curvature(k):
    assert abs(gaussian_sigreg(np.ones(k))[0]) <= 1e-12
    e = 1e-3 * np.random.default_rng(0).standard_normal(k)
    model = curvature() * (2 * e @ e + e.sum() ** 2) / (k * (k + 2))
    assert gaussian_sigreg(1 + e)[0] == pytest.approx(model, rel=2e-2, abs=1e-13)
    collapse = float((WEIGHT * (1 - PHI).square()).sum())
    assert gaussian_sigreg(np.zeros(k))[0] == pytest.approx(collapse, rel=1e-12)


def test_population_sigreg_reads_the_law_and_not_its_axes():
    """A covariance, its eigenvalues or a rotation of both; the price of collapse, the slopes."""
    rng = np.random.default_rng(3)
    turn = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    s, mean = rng.random(5), rng.standard_normal(5)
    value = spectral.population_sigreg(s, mean)
    assert value == gaussian_sigreg(s, mean)[0]
    cov = torch.from_numpy(turn @ np.diag(s) @ turn.T)
    assert spectral.population_sigreg(cov, turn @ mean) == pytest.approx(value, rel=1e-12)
    assert spectral.population_sigreg(np.zeros(5)) == pytest.approx(0.40205, abs=5e-6)
    small = 1e-3 * mean  # A1 |mu|^2 / K and A2 (2 |E|^2 + (tr E)^2) / (K (K + 2))
    slope = spectral.population_sigreg(np.ones(5), small) / (small @ small) * 5
    assert slope == pytest.approx(0.482397, rel=1e-5)
    assert curvature() == pytest.approx(0.120592, rel=1e-5)
    for arguments, message in (
        ((np.zeros((2, 3)),), r"shape \(d, d\) or \(d,\), got \(2, 3\)"),
        ((np.array([[1.0, 1.0], [0.0, 1.0]]),), "symmetric, got max .* = 1"),
        ((np.array([1.0, -1.0]),), "eigenvalues >= 0, got -1"),
        ((np.eye(2), np.zeros(3)), r"mean must have shape \(2,\) like the covariance, got \(3,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            spectral.population_sigreg(*arguments)


def test_it_is_the_loss_of_gaussian_rows():
    """`F.sigreg` of many rows, per row, minus what n rows of N(0, C) have by chance."""
    n, cov = 3000, torch.diag(torch.tensor([1.6, 0.4, 0.9], dtype=torch.float64))
    z = torch.randn(4, n, 3, dtype=torch.float64) @ cov.sqrt()
    a, share = sphere(3)
    chance = WEIGHT @ ((1 - torch.exp(-T.square()[:, None] * ((a @ cov) * a).sum(1))) @ share)
    found = F.sigreg(z, slices=None, reduction="none")
    want = (n - 1) * gaussian_form(torch.zeros(3, dtype=torch.float64), cov) + chance
    assert abs(found.mean() - want) <= 5 * found.std() / 2
    assert found.mean() == pytest.approx(float(want), rel=0.2)


@pytest.mark.parametrize(("k", "weight"), [(2, 0.05), (3, 0.4), (3, 0.02)])
def test_descent_ends_at_the_optimum(lab, k, weight):
    """From every start, with a relative gap of 1e-8, and never below."""
    w = lab.random_weights(24, 0.3)
    graph, rows = lab.graph(0.01 * w), 60
    form = spectral.lejepa(graph, k, weight=weight, rows=rows)
    loss = population(graph, weight, rows)
    lab.agree(form, loss, rel=1e-10)
    assert lab.close(form.eigenvalues, 0.01 * lab.laplacian_modes(w)[0][:k])
    assert (np.diff(form.filter) <= 1e-12).all()
    _, z, values = lab.minimise(loss, (24, k), starts=3, iterations=3000)
    price = form.info.extra["collapse"]
    assert (values >= form.loss - 1e-10 * price).all()
    assert (values - form.loss).max() <= 1e-8 * (price - form.loss)
    gap = spectral.optimality_gap("lejepa", z, graph, weight=weight, rows=rows)
    assert abs(gap.relative_gap) <= 1e-8
    assert gap.best_scale == pytest.approx(1.0, abs=1e-4)
    assert gap.angle <= 1e-3
    zero = spectral.optimality_gap("lejepa", 0 * z, graph, weight=weight, rows=rows)
    assert zero.relative_gap == pytest.approx(1.0)
    assert zero.loss == pytest.approx(price)


def test_linear_descent_ends_at_the_optimum(lab):
    """Locality preserving projections under LeJEPA's filter."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((40, 6)) @ rng.standard_normal((6, 6))
    x -= x.mean(0)
    graph = lab.graph(0.05 * lab.knn_weights(x, 5))
    form = spectral.lejepa(graph, 3, weight=0.1, rows=50, features=x)
    design, loss = torch.from_numpy(x), population(graph, 0.1, 50)
    lab.agree(form, loss, rel=1e-9)
    _, _, values = lab.minimise(
        lambda v: loss(design @ v), (6, 3), starts=4, scale=0.3, iterations=3000
    )
    assert (values >= form.loss - 1e-9).all()
    assert values.min() - form.loss <= 1e-8 * form.info.extra["collapse"]


def test_second_order_is_vicreg_with_a_trace_penalty(lab):
    """alpha on |C - I|^2, half of it on tr(C - I)^2; near the exact filter where SIGReg rules."""
    graph = lab.graph(0.1 * lab.random_weights(24, 0.3))
    k, weight, rows = 3, 0.2, 500
    form = spectral.lejepa(graph, k, weight=weight, rows=rows, order="second")
    alpha = 2 * curvature() * weight * rows / (k * (k + 2))

    def model(z):
        centred = z - z.mean(0)
        off = centred.T @ centred / len(z) - torch.eye(k, dtype=torch.float64)
        law = alpha * (off.square().sum() + off.trace().square() / 2)
        return law + (1 - weight) * F.dirichlet_energy(z, graph) / z.numel()

    assert form.info.certified
    lab.agree(form, model)
    best, _, _ = lab.minimise(model, (24, k), starts=3, iterations=2000)
    lab.matched(best, form.loss, rel=1e-8)
    exact = spectral.lejepa(graph, k, weight=weight, rows=rows)
    np.testing.assert_allclose(form.filter, exact.filter, atol=1e-3)


def test_the_smoothest_modes_are_over_weighted(lab):
    """Unlike in VICReg: SIGReg prefers a large variance beside a small one to a small one alone."""
    w = np.zeros((20, 20))
    w[:10, :10], w[10:, 10:] = lab.random_weights(10, 0.5), lab.random_weights(10, 0.5, seed=1)
    form = spectral.lejepa(lab.graph(0.02 * w), 3, rows=60)
    assert form.filter[0] > 1 > form.filter[1] >= form.filter[2] > 0
    assert form.eigenvalues[0] == 0


def test_a_mode_and_then_all_of_them_die_at_a_finite_price(lab):
    """SIGReg is bounded: where the energy costs more, the optimum is collapse, of known loss."""
    graph = lab.graph(lab.random_weights(16, 0.4))
    ranks = [spectral.lejepa(graph * c, 2, weight=0.05, rows=20).rank for c in (1e-3, 1.0, 1e3)]
    assert ranks[0] == 2
    assert ranks[-1] == 0
    dead = spectral.lejepa(graph * 1e3, 2, weight=0.05, rows=20)
    assert dead.loss == pytest.approx(dead.info.extra["collapse"])
    assert torch.all(dead.embedding == 0)


def test_views_are_a_graph_of_weight_one_over_their_number():
    z = torch.randn(3, 7, 4, dtype=torch.float64)
    graph = PairGraph.from_views(7, 3) * (1 / 3)
    want = F.lejepa(z, weight=0.0, slices=None)
    flat = z.flatten(0, 1)
    torch.testing.assert_close(F.dirichlet_energy(flat, graph) / flat.numel(), want)
    law = gaussian_loss(flat.numpy(), graph, weight=0.3, rows=7)
    law -= 0.7 * float(want)
    mean, cov = flat.mean(0).numpy(), np.cov(flat.numpy().T, bias=True)
    s, axes = np.linalg.eigh(cov)
    assert law == pytest.approx(0.3 * 7 * gaussian_sigreg(s, mean @ axes)[0])


def ornstein_uhlenbeck(rho: float, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss points of N(0, 1), and the joint weights of two views whose correlation is rho."""
    x, share = np.polynomial.hermite_e.hermegauss(points)
    share = share / share.sum()
    square = x[:, None] ** 2 + x**2
    density = np.exp((2 * rho * np.outer(x, x) - rho**2 * square) / (2 * (1 - rho**2)))
    return x, share[:, None] * density / np.sqrt(1 - rho**2) * share


@pytest.mark.parametrize("loss", ["vicreg", "barlow_twins", "spectral_contrastive"])
def test_correlated_gaussian_latents_are_recovered(loss):
    """The Ornstein-Uhlenbeck relation: eigenvalues rho^n, and the first mode is the latent."""
    rho = 0.8
    x, weights = ornstein_uhlenbeck(rho, 40)
    hyper = {"measure": "degree", "invariance": 0.1} if loss == "vicreg" else {}
    constant = int(loss == "spectral_contrastive")  # its first mode
    form = getattr(spectral, loss)(weights, 3 + constant, **hyper)
    values = np.asarray(form.eigenvalues)[constant:]
    values = 1 - values if loss == "vicreg" else values
    np.testing.assert_allclose(values, rho ** np.arange(1, 4), atol=1e-8)
    inner = np.abs(x) < 4
    columns = np.column_stack([np.ones(len(x)), np.asarray(form.embedding)])[inner]
    left_over = x[inner] - columns @ np.linalg.lstsq(columns, x[inner], rcond=None)[0]
    assert (left_over**2).sum() <= 1e-12 * (x[inner] ** 2).sum()
    one = np.asarray(getattr(spectral, loss)(weights, 1 + constant, **hyper).embedding)[:, -1]
    assert abs(np.corrcoef(one[inner], x[inner])[0, 1]) >= 1 - 1e-8


def test_two_latents_are_recovered_up_to_a_rotation(lab):
    """Equal correlations share an eigenvalue, which rho - rho^2 parts from the rest."""
    rho = 0.7
    x, one = ornstein_uhlenbeck(rho, 24)
    weights = np.kron(one, one)
    latents = np.column_stack([np.repeat(x, 24), np.tile(x, 24)])
    form = spectral.barlow_twins(weights, 2, method="dense")
    assert np.asarray(form.eigenvalues) == pytest.approx([rho, rho], abs=1e-8)
    root = np.sqrt(weights.sum(1))[:, None]
    assert lab.sine(root * np.asarray(form.embedding), root * latents) <= 1e-6
    assert form.info.gap == pytest.approx(rho - rho**2, abs=1e-6)


def test_lejepa_of_correlated_gaussian_latents():
    """Linear encoders of rotated Gaussian latents: the slowest latents, however they were mixed."""
    generator = torch.Generator().manual_seed(0)
    n, rho = 4000, torch.tensor([0.95, 0.9, 0.3, 0.2], dtype=torch.float64)
    latents, noise = torch.randn(2, n, 4, dtype=torch.float64, generator=generator)
    views = torch.cat([latents, rho * latents + (1 - rho.square()).sqrt() * noise])
    views -= views.mean(0)
    mixing = torch.randn(4, 4, dtype=torch.float64, generator=generator)
    graph = PairGraph.from_views(n) * 0.5
    form = spectral.lejepa(graph, 2, weight=0.9, rows=n, features=views @ mixing)
    assert form.rank == 2
    part = views[:, :2]
    residual = form.embedding - part @ torch.linalg.lstsq(part, form.embedding).solution
    assert residual.square().sum() <= 5e-3 * form.embedding.square().sum()


def test_bad_arguments(lab):
    graph = lab.graph(lab.random_weights(12, 0.4))
    for keyword, value, error, message in (
        ("weight", 0.0, ValueError, "weight must be positive, got 0"),
        ("weight", 1.5, ValueError, r"weight must be in \(0, 1\], got 1.5"),
        ("rows", 0, ValueError, "lejepa: rows must be at least 1, got 0"),
        ("knots", 1, ValueError, "lejepa: knots must be at least 2, got 1"),
        ("t_max", 0, ValueError, "t_max must be positive, got 0"),
        ("order", "third", ValueError, "order must be 'exact' or 'second', got 'third'"),
        ("gamma", 1, TypeError, "unexpected keyword 'gamma'"),
    ):
        with pytest.raises(error, match=message):
            spectral.lejepa(graph, 2, **{keyword: value})
    with pytest.raises(ValueError, match=r"features .* must be centred for lejepa, got a column"):
        spectral.lejepa(graph, 2, features=1 + np.random.default_rng(0).random((12, 3)))
    signed = lab.graph(-lab.random_weights(12, 0.4))
    with pytest.raises(ValueError, match=r"non-negative Laplacian for lejepa, .* unbounded below"):
        spectral.lejepa(signed, 2)

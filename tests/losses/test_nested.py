"""Nested spectral losses: sums over prefixes, ordered eigenvectors as the optimum, arguments."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

import sslspec_fast as sf
import sslspec_fast.functional as F

from ..support.inputs import pair_rows, weighted_graph

IMPLEMENTATIONS = ("fused", "torch")
LOSSES = [
    (F.graph_spectral_contrastive, {}),
    (F.ls_simclr, {}),
    (F.ls_simclr, {"center": True}),
    (F.graph_vicreg, {"penalty": "ls_var", "invariance": 0.3}),
    (F.graph_vicreg, {"variance": 2.0, "covariance": 0.5, "measure": "degree", "eps": 1e-3}),
]
WEIGHTS = [0.5, 0.0, 2.0, 1.0]


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize(("loss", "options"), LOSSES)
@pytest.mark.parametrize("nested", [True, WEIGHTS])
def test_is_the_sum_over_prefixes(loss, options, nested, impl):
    z, graph = pair_rows(20, 4)[0].requires_grad_(), weighted_graph(20)
    c = [0.25] * 4 if nested is True else nested
    parts = [loss(z[:, : m + 1], graph, return_terms=True, **options) for m in range(4)]
    want = sum(weight * part[0] for weight, part in zip(c, parts, strict=True))
    got, terms = loss(z, graph, nested=nested, return_terms=True, impl=impl, **options)
    torch.testing.assert_close(got, want)
    for name, value in terms.items():
        expected = sum(weight * part[1][name] for weight, part in zip(c, parts, strict=True))
        torch.testing.assert_close(value, expected)
    ours, wanted = (torch.autograd.grad(x, z, retain_graph=True)[0] for x in (got, want))
    torch.testing.assert_close(ours, wanted)


@pytest.mark.parametrize(
    ("loss", "form"),
    [
        (F.graph_spectral_contrastive, sf.spectral.spectral_contrastive),
        (F.ls_simclr, sf.spectral.simclr),
    ],
)
def test_descent_finds_the_eigenvectors_in_order(loss, form):
    """The value and, up to signs, every column of the closed form; the plain loss fixes a span."""
    n, k = 18, 3
    graph = weighted_graph(n, isolated=False) + sf.PairGraph.from_edges(
        torch.arange(n), torch.arange(n), torch.linspace(1, 4, n, dtype=torch.float64), n=n
    )  # with a heavy diagonal, the first eigenvalues are positive and apart
    best = form(graph, k, nested=True)
    optimum = best.loss
    assert optimum == pytest.approx(np.mean([form(graph, m).loss for m in (1, 2, 3)]), rel=1e-12)

    def cost(flat):
        z = torch.from_numpy(flat.reshape(n, k)).requires_grad_()
        value = loss(z, graph, nested=True)
        return value.item(), torch.autograd.grad(value, z)[0].numpy().ravel()

    for seed in range(4):
        start = np.random.default_rng(seed).standard_normal(n * k)
        options = {"maxiter": 3000, "ftol": 1e-16, "gtol": 1e-11}
        run = minimize(cost, start, jac=True, method="L-BFGS-B", options=options)
        assert -1e-12 * abs(optimum) <= run.fun - optimum <= 1e-8 * abs(optimum)
        found, wanted = run.x.reshape(n, k), np.asarray(best.embedding)
        cosine = (found * wanted).sum(0) / np.linalg.norm(found, axis=0)
        np.testing.assert_allclose(np.abs(cosine) / np.linalg.norm(wanted, axis=0), 1, atol=1e-6)


@pytest.mark.parametrize("hyper", [{}, {"center": True}, {"features": True}])
def test_the_closed_form_is_the_sum_over_prefixes(hyper):
    """Any weights, a prefix of weight 0 and more columns than positive modes included."""
    graph, x = weighted_graph(20), pair_rows(20, 5)[1].double()
    hyper = {"features": x} if hyper.get("features") else hyper
    found = sf.spectral.simclr(graph, 4, nested=WEIGHTS, **hyper)
    parts = [c * sf.spectral.simclr(graph, m, **hyper).loss for m, c in enumerate(WEIGHTS, 1)]
    assert found.loss == pytest.approx(sum(parts), rel=1e-11)
    options = {key: value for key, value in hyper.items() if key == "center"}
    at = F.ls_simclr(found.embedding, graph, nested=WEIGHTS, **options)
    assert float(at) == pytest.approx(found.loss, rel=1e-11)
    gap = sf.spectral.optimality_gap("simclr", found.embedding, graph, nested=WEIGHTS, **hyper)
    assert abs(gap.relative_gap) <= 1e-10
    assert gap.best_scale == pytest.approx(1, abs=1e-6)
    swapped = sf.spectral.optimality_gap(
        "simclr", found.embedding.flip(1), graph, nested=WEIGHTS, **hyper
    )
    assert swapped.relative_gap > 0.01  # the plain loss does not see the order
    assert swapped.angle <= 1e-6


@pytest.mark.parametrize(
    "hyper",
    [
        {},
        {"measure": "degree", "covariance": 2.0, "variance": 0.5},
        {"features": True},
        {"invariance": 1.55},  # the last columns are zero
    ],
)
def test_the_closed_form_of_vicreg_is_the_sum_over_prefixes(hyper):
    graph, x = weighted_graph(20, isolated=False), pair_rows(20, 5)[1].double()
    hyper = {"invariance": 0.2, **hyper}
    hyper |= {"features": x} if "features" in hyper else {}
    found = sf.spectral.vicreg(graph, 4, nested=WEIGHTS, **hyper)
    parts = [c * sf.spectral.vicreg(graph, m, **hyper).loss for m, c in enumerate(WEIGHTS, 1)]
    assert found.loss == pytest.approx(sum(parts), rel=1e-11)
    assert found.info.regime == "nested"
    options = {key: value for key, value in hyper.items() if key != "features"}
    options |= {"penalty": "ls_var", "nested": WEIGHTS}
    at = F.graph_vicreg(found.embedding, graph, **options)
    assert float(at) == pytest.approx(found.loss, rel=1e-10)
    gap = sf.spectral.optimality_gap("vicreg", found.embedding, graph, **{**hyper, **options})
    assert abs(gap.relative_gap) <= 1e-10
    assert gap.best_scale == pytest.approx(1, abs=1e-5)
    swapped = sf.spectral.optimality_gap(
        "vicreg", found.embedding.flip(1), graph, **{**hyper, **options}
    )
    assert swapped.relative_gap > 1e-3  # the plain loss does not see the order
    assert swapped.angle <= 1e-6
    z = 2 * found.embedding.flip(1)  # the scale that the gap finds is that of the loss
    off = sf.spectral.optimality_gap("vicreg", z, graph, **{**hyper, **options})
    losses = [F.graph_vicreg(z * t * off.best_scale, graph, **options) for t in (0.99, 1, 1.01)]
    assert losses[1] < min(losses[0], losses[2])


@pytest.mark.parametrize(
    "hyper", [{"penalty": "hinge_std"}, {"covariance": 0.5}, {"ridge": 0.1, "features": True}]
)
def test_where_nested_vicreg_has_no_closed_form(hyper):
    hyper |= {"features": torch.eye(20, 4)} if "features" in hyper else {}
    with pytest.raises(ValueError, match="nested has a closed form for penalty='ls_var'"):
        sf.spectral.vicreg(weighted_graph(20), 3, nested=True, **hyper)


def test_descent_on_nested_vicreg_finds_the_eigenvectors_in_order():
    """Least-squares variances, equal coefficients: every column is that of the closed form."""
    n, k = 18, 3
    graph = weighted_graph(n, isolated=False)
    best = sf.spectral.vicreg(graph, k, invariance=0.1, nested=True)
    optimum = best.loss

    def cost(flat):
        z = torch.from_numpy(flat.reshape(n, k)).requires_grad_()
        value = F.graph_vicreg(z, graph, penalty="ls_var", invariance=0.1, nested=True)
        return value.item(), torch.autograd.grad(value, z)[0].numpy().ravel()

    for seed in range(3):
        start = np.random.default_rng(seed).standard_normal(n * k)
        options = {"maxiter": 5000, "maxfun": 20000, "ftol": 1e-16, "gtol": 1e-11}
        run = minimize(cost, start, jac=True, method="L-BFGS-B", options=options)
        assert abs(run.fun - optimum) <= 1e-8 * abs(optimum)
        found = run.x.reshape(n, k)
        found, wanted = found - found.mean(0), np.asarray(best.embedding)
        cosine = (found * wanted).sum(0) / np.linalg.norm(found, axis=0)
        np.testing.assert_allclose(np.abs(cosine) / np.linalg.norm(wanted, axis=0), 1, atol=1e-6)


def test_bad_weights():
    z, graph = torch.zeros(6, 2), weighted_graph(6)
    for loss in (F.graph_spectral_contrastive, F.ls_simclr, F.graph_vicreg):
        for nested, error, message in (
            (
                [1.0],
                ValueError,
                "nested must have one weight for each of the 2 columns of z, got 1",
            ),
            ([1.0, -1.0], ValueError, "nested must be finite and >= 0, not all 0, got -1.0"),
            ([0.0, 0.0], ValueError, "not all 0, got only zeros"),
            ("ab", TypeError, "nested must be True, False or a sequence of numbers, got str"),
            (None, TypeError, "a sequence of numbers, got NoneType"),
        ):
            with pytest.raises(error, match=f"{loss.__name__}: .*{message}"):
                loss(z, graph, nested=nested)
    with pytest.raises(ValueError, match="simclr: nested must have one weight for each of the 3"):
        sf.spectral.simclr(graph, 3, nested=[1.0])

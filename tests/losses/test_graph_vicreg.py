"""Graph VICReg: the four penalties, both measures, zero variance, the closed-form minimum."""

import pytest
import torch

import sslspec_fast.functional as F
from sslspec_fast.graph import PairGraph
from sslspec_fast.losses import GraphLoss

from ..support.inputs import directed_graph, pair_rows, weighted_graph

IMPLEMENTATIONS = ("fused", "torch")
PENALTY = {
    "hinge_std": lambda v: (1 - v.sqrt()).relu(),
    "ls_var": lambda v: (1 - v).square(),
    "ls_std": lambda v: (1 - v.sqrt()).square(),
    "hinge_var": lambda v: (1 - v).relu(),
}


def dense(graph):
    return torch.as_tensor(graph.to_scipy().toarray())


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("penalty", PENALTY)
def test_uniform_measure(penalty, impl):
    graph = weighted_graph(30)
    z = 0.8 * pair_rows(30, 4)[0] + 3
    c = torch.cov(z.T)
    off = (c - c.diag().diag()).square().sum()
    edges = (dense(graph) * torch.cdist(z, z).square()).sum()
    expected = 2 * PENALTY[penalty](c.diag()).sum() + 0.3 * off + 0.7 / 30 * edges
    loss = F.graph_vicreg(
        z, graph, variance=2.0, covariance=0.3, invariance=0.7, penalty=penalty, impl=impl
    )
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("penalty", PENALTY)
def test_degree_measure(penalty, impl):
    graph = weighted_graph(30)
    z = 0.8 * pair_rows(30, 4)[0] + 3
    g = dense(graph)
    d, vol = g.sum(1), g.sum()
    c = z.T @ (d.diag() - torch.outer(d, d) / vol) @ z / vol
    off = (c - c.diag().diag()).square().sum()
    edges = (g * torch.cdist(z, z).square()).sum()
    expected = 2 * PENALTY[penalty](c.diag()).sum() + 0.3 * off + 0.7 / vol * edges
    loss = F.graph_vicreg(
        z,
        graph,
        variance=2.0,
        covariance=0.3,
        invariance=0.7,
        penalty=penalty,
        measure="degree",
        impl=impl,
    )
    torch.testing.assert_close(loss, expected)


def test_covariance_defaults_to_variance():
    graph, z = weighted_graph(12), pair_rows(12, 3)[0]
    both = F.graph_vicreg(z, graph, variance=3.0, covariance=3.0, penalty="ls_var")
    torch.testing.assert_close(F.graph_vicreg(z, graph, variance=3.0, penalty="ls_var"), both)


def test_equal_weights_are_a_squared_distance_to_the_identity():
    """ls_var with alpha = beta: alpha ||C - I||^2 + (2 gamma / N) tr Z^T L Z."""
    graph, z = weighted_graph(20), pair_rows(20, 4)[0]
    gap = (torch.cov(z.T) - torch.eye(4)).square().sum()
    expected = 1.5 * gap + 2 * 0.4 / 20 * F.dirichlet_energy(z, graph)
    loss = F.graph_vicreg(z, graph, variance=1.5, invariance=0.4, penalty="ls_var")
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_closed_form_minimum(impl):
    """Z = sqrt(N - 1) Q sqrt(s), s = (1 - gamma c lambda / alpha)_+: alpha sum (1 - s^2)."""
    n, k, gamma = 25, 4, 0.05
    graph = weighted_graph(n, isolated=False)
    g = dense(graph)
    values, vectors = torch.linalg.eigh(g.sum(1).diag() - g)
    s = (1 - gamma * (n - 1) / n * values[1 : k + 1]).clamp(min=0)
    z = (n - 1) ** 0.5 * vectors[:, 1 : k + 1] * s.sqrt()
    z.requires_grad_()
    loss = F.graph_vicreg(z, graph, invariance=gamma, penalty="ls_var", impl=impl)
    torch.testing.assert_close(loss, (1 - s.square()).sum())
    (grad,) = torch.autograd.grad(loss, z)
    assert grad.abs().max() <= 1e-12


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("measure", ["uniform", "degree"])
@pytest.mark.parametrize("penalty", PENALTY)
def test_zero_variance_has_gradient_zero_and_no_nan(penalty, measure, impl):
    graph = weighted_graph(10)
    z = torch.full((10, 3), 2.0, dtype=torch.float64, requires_grad=True)
    loss = F.graph_vicreg(z, graph, penalty=penalty, measure=measure, impl=impl)
    loss.backward()
    assert loss.item() == pytest.approx(3)
    assert z.grad.abs().max() <= 1e-14  # also excludes NaN


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_eps_is_inside_the_root(impl):
    graph, z = weighted_graph(20), pair_rows(20, 4)[0]
    hyper = {"covariance": 0.0, "invariance": 0.0, "eps": 0.05, "impl": impl}
    expected = (1 - (0.25 * torch.cov(z.T).diag() + 0.05).sqrt()).relu().sum()
    torch.testing.assert_close(F.graph_vicreg(0.5 * z, graph, **hyper), expected)


def test_isolated_rows_move_only_the_covariance():
    z = pair_rows(9, 3)[0]
    graph = PairGraph.from_edges([0, 1], [1, 0], n=9)
    loss = F.graph_vicreg(z, graph, variance=0.0)
    torch.testing.assert_close(loss, 2 / 9 * (z[0] - z[1]).square().sum())


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_terms(impl):
    graph, z = weighted_graph(12), pair_rows(12, 3)[0]
    for measure in ("uniform", "degree"):
        loss, terms = F.graph_vicreg(
            z,
            graph,
            variance=2.0,
            covariance=0.5,
            invariance=3.0,
            measure=measure,
            return_terms=True,
            impl=impl,
        )
        total = 2 * terms["variance"] + 0.5 * terms["covariance"] + 3 * terms["invariance"]
        torch.testing.assert_close(total, loss)


def test_module():
    graph, z = weighted_graph(12), pair_rows(12, 3)[0]
    expected = F.graph_vicreg(z, graph, penalty="ls_var", invariance=2.0)
    for name in ("graph_vicreg", "vicreg"):
        module = GraphLoss(name, penalty="ls_var", invariance=2.0)
        torch.testing.assert_close(module(z, graph), expected)
    assert "ls_var" in repr(module)


def test_module_rejects_what_it_does_not_know():
    with pytest.raises(TypeError, match=r"GraphLoss: graph_vicreg has no keyword 'temperature'"):
        GraphLoss("graph_vicreg", temperature=0.1)
    with pytest.raises(ValueError, match=r"GraphLoss: name must be one of .* got 'byol'"):
        GraphLoss("byol")


def test_errors():
    z = pair_rows(8, 3)[0]
    with pytest.raises(ValueError, match=r"graph_vicreg: graph must be symmetric"):
        F.graph_vicreg(z, directed_graph(8))
    with pytest.raises(ValueError, match=r"penalty must be one of 'hinge_std', .* got 'l2'"):
        F.graph_vicreg(z, weighted_graph(8), penalty="l2")
    with pytest.raises(ValueError, match=r"measure must be one of 'uniform', 'degree', got 'x'"):
        F.graph_vicreg(z, weighted_graph(8), measure="x")
    signed = PairGraph.from_edges([0, 1], [1, 0], [-1.0, -1.0], n=8)
    with pytest.raises(ValueError, match=r"graph_vicreg: graph must have weights >= 0"):
        F.graph_vicreg(z, signed, measure="degree")

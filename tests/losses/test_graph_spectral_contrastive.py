"""Graph spectral contrastive loss: factorisation identity, optimum, terms, errors."""

import pytest
import torch

import sslspec_fast.functional as F
from sslspec_fast.graph import PairGraph

from ..support.inputs import directed_graph, labels_of, pair_rows, weighted_graph

IMPLEMENTATIONS = ("fused", "torch")


def normalized_adjacency(graph):
    g = torch.as_tensor(graph.to_scipy().toarray())
    d = g.sum(1)
    root = torch.where(d > 0, d, 1).rsqrt()
    return root[:, None] * g * root, d


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_is_a_factorisation_of_the_adjacency(impl):
    """L = ||F F^T - A||^2 - ||A||^2 with F = diag(d / vol)^(1/2) Z."""
    for graph in (
        weighted_graph(30),
        PairGraph.from_labels(labels_of(30)),
        PairGraph.from_views(15) + PairGraph.from_labels(labels_of(30), self_loops=True),
    ):
        z = pair_rows(30, 4)[0]
        a, d = normalized_adjacency(graph)
        f = (d / d.sum()).sqrt()[:, None] * z
        expected = (f @ f.T - a).square().sum() - a.square().sum()
        loss = F.graph_spectral_contrastive(z, graph, impl=impl)
        torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_minimum(impl):
    """min = -sum of (lambda_k)_+^2 over the top eigenvalues of A."""
    graph = weighted_graph(25, isolated=False)
    a, d = normalized_adjacency(graph)
    values, vectors = torch.linalg.eigh(a)
    top = values[-4:].clamp(min=0)
    z = ((d / d.sum()).rsqrt()[:, None] * vectors[:, -4:] * top.sqrt()).requires_grad_()
    loss = F.graph_spectral_contrastive(z, graph, impl=impl)
    torch.testing.assert_close(loss, -top.square().sum())
    (grad,) = torch.autograd.grad(loss, z)
    assert grad.abs().max() <= 1e-12


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_terms(impl):
    graph, z = weighted_graph(12), pair_rows(12, 3)[0]
    loss, terms = F.graph_spectral_contrastive(z, graph, return_terms=True, impl=impl)
    torch.testing.assert_close(terms["alignment"] + terms["uniformity"], loss)
    g = torch.as_tensor(graph.to_scipy().toarray())
    torch.testing.assert_close(terms["alignment"], -2 / g.sum() * (g * (z @ z.T)).sum())


def test_errors():
    z = pair_rows(8, 3)[0]
    with pytest.raises(ValueError, match=r"graph_spectral_contrastive: graph must be symmetric"):
        F.graph_spectral_contrastive(z, directed_graph(8))
    signed = PairGraph.from_edges([0, 1], [1, 0], [-1.0, -1.0], n=8)
    with pytest.raises(ValueError, match=r"graph must have weights >= 0"):
        F.graph_spectral_contrastive(z, signed)

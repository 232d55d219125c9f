"""Dirichlet energy: definition, gradient, null space."""

import pytest
import torch

import sslspec_fast.functional as F
from sslspec_fast.graph import PairGraph

from ..support.inputs import directed_graph, labels_of, pair_rows, weighted_graph


@pytest.mark.parametrize("impl", ["fused", "torch"])
def test_is_the_quadratic_form_of_the_laplacian(impl):
    graph = weighted_graph(30)
    z = pair_rows(30, 4)[0].requires_grad_()
    g = torch.as_tensor(graph.to_scipy().toarray())
    laplacian = g.sum(1).diag() - g
    energy = F.dirichlet_energy(z, graph, impl=impl)
    torch.testing.assert_close(energy, torch.trace(z.T @ laplacian @ z))
    (grad,) = torch.autograd.grad(energy, z)
    torch.testing.assert_close(grad, 2 * laplacian @ z.detach())


def test_constant_on_components_costs_nothing():
    y = labels_of(20)
    z = y.double()[:, None].expand(-1, 3).contiguous()
    assert F.dirichlet_energy(z, PairGraph.from_labels(y)).item() <= 1e-12


def test_the_diagonal_has_no_effect():
    y = labels_of(15)
    z = pair_rows(15, 2)[0]
    with_loops = F.dirichlet_energy(z, PairGraph.from_labels(y, self_loops=True))
    torch.testing.assert_close(with_loops, F.dirichlet_energy(z, PairGraph.from_labels(y)))


def test_directed_graphs_are_refused():
    with pytest.raises(ValueError, match=r"dirichlet_energy: graph must be symmetric"):
        F.dirichlet_energy(pair_rows(8, 3)[0], directed_graph(8))

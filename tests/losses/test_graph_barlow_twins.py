"""Graph Barlow Twins: the edge-list form, centring, zero columns, scale invariance."""

import pytest
import torch

import sslspec_fast.functional as F
from sslspec_fast.graph import PairGraph

from ..support.inputs import directed_graph, pair_rows, weighted_graph

IMPLEMENTATIONS = ("fused", "torch")


def edge_list(graph):
    g = graph.to_scipy().tocoo()
    rows, cols = torch.as_tensor(g.row).long(), torch.as_tensor(g.col).long()
    return rows, cols, torch.as_tensor(g.data)


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("size", [1e19, 1e30, 1e38])
def test_columns_whose_squares_leave_float32(size, center):
    """The correlations do not depend on the scale of a column: no column may count as 0."""
    graph, z = weighted_graph(12), pair_rows(12, 5)[0].float()
    z[:, 2] *= size / z[:, 2].abs().max()
    exact = z.double().requires_grad_()
    expected = F.graph_barlow_twins(exact, graph, center=center, impl="torch")
    z.requires_grad_()
    value = F.graph_barlow_twins(z, graph, center=center)
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    grads = [torch.autograd.grad(v, x)[0] for v, x in ((value, z), (expected, exact))]
    torch.testing.assert_close(grads[0].double(), grads[1], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("center", [False, True])
def test_is_the_correlation_of_the_edge_list(center, impl):
    """The paper's Z_left, Z_right with weights."""
    graph, z = weighted_graph(30), pair_rows(30, 4)[0] + 1
    rows, cols, w = edge_list(graph)
    left, right = z[rows], z[cols]
    if center:
        left = left - (w @ left) / w.sum()
        right = right - (w @ right) / w.sum()
    norm_l, norm_r = (w @ left.square()).sqrt(), (w @ right.square()).sqrt()
    c = left.T @ (w[:, None] * right) / torch.outer(norm_l, norm_r)
    off = (c - c.diag().diag()).square().sum()
    expected = (1 - c.diag()).square().sum() + 0.3 * off
    loss = F.graph_barlow_twins(z, graph, off_diagonal=0.3, center=center, impl=impl)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_two_views_are_barlow_twins(impl):
    """On two views with equal column moments the graph form is the original loss at eps -> 0."""
    z = pair_rows(20, 4)[0]
    a, b = z, z[torch.randperm(20, generator=torch.Generator().manual_seed(0))]
    symmetric_1, symmetric_2 = torch.cat([a, b]), torch.cat([b, a])
    original = F.barlow_twins(symmetric_1, symmetric_2, off_diagonal=0.1, eps=1e-30, impl=impl)
    graph = PairGraph.from_views(20)
    loss = F.graph_barlow_twins(torch.cat([a, b]), graph, off_diagonal=0.1, impl=impl)
    torch.testing.assert_close(loss, original)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_columns_may_be_scaled(impl):
    graph, z = weighted_graph(20), pair_rows(20, 4)[0]
    scaled = z * torch.tensor([1e-3, 1.0, 50.0, 2.0])
    expected = F.graph_barlow_twins(z, graph, impl=impl)
    torch.testing.assert_close(F.graph_barlow_twins(scaled, graph, impl=impl), expected)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("center", [False, True])
def test_zero_column_has_no_correlation_and_no_gradient(center, impl):
    graph = weighted_graph(20)
    z = pair_rows(20, 4)[0].clone()
    z[:, 1] = 0
    z.requires_grad_()
    loss = F.graph_barlow_twins(z, graph, center=center, impl=impl)
    (grad,) = torch.autograd.grad(loss, z)
    rest = F.graph_barlow_twins(z[:, [0, 2, 3]], graph, center=center, impl=impl)
    torch.testing.assert_close(loss, rest + 1)
    assert torch.isfinite(grad).all()


def test_constant_feature_is_free_only_without_centring():
    """z = 1 gives C_kk = 1 if nothing is centred."""
    graph = weighted_graph(20)
    ones = torch.ones(20, 1, dtype=torch.float64)
    assert F.graph_barlow_twins(ones, graph, center=False).item() <= 1e-24
    assert F.graph_barlow_twins(ones, graph).item() == pytest.approx(1)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_terms(impl):
    graph, z = weighted_graph(12), pair_rows(12, 3)[0]
    loss, terms = F.graph_barlow_twins(z, graph, off_diagonal=0.2, return_terms=True, impl=impl)
    torch.testing.assert_close(terms["on_diagonal"] + 0.2 * terms["off_diagonal"], loss)


def test_isolated_rows_have_no_effect():
    z = pair_rows(9, 3)[0]
    graph = PairGraph.from_edges([0, 1, 1, 2], [1, 0, 2, 1], n=9)
    moved = z.clone()
    moved[5] += 100
    expected = F.graph_barlow_twins(z, graph)
    torch.testing.assert_close(F.graph_barlow_twins(moved, graph), expected)


def test_errors():
    z = pair_rows(8, 3)[0]
    with pytest.raises(ValueError, match=r"graph_barlow_twins: graph must be symmetric"):
        F.graph_barlow_twins(z, directed_graph(8))
    signed = PairGraph.from_edges([0, 1], [1, 0], [-1.0, -1.0], n=8)
    with pytest.raises(ValueError, match=r"graph_barlow_twins: graph must have weights >= 0"):
        F.graph_barlow_twins(z, signed)

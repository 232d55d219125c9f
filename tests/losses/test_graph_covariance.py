"""Graph covariance: definition, centring, directed graphs, gradient."""

import pytest
import torch

import sslspec_fast.functional as F
from sslspec_fast.graph import PairGraph

from ..support.inputs import directed_graph, labels_of, pair_rows, weighted_graph


def dense(graph):
    return torch.as_tensor(graph.to_scipy().toarray())


@pytest.mark.parametrize("impl", ["fused", "torch"])
@pytest.mark.parametrize("center", [False, True])
def test_definition(center, impl):
    graph = weighted_graph(30)
    z = pair_rows(30, 4)[0] + 2.0
    g = dense(graph)
    d = g.sum(1)
    if center:
        g = g - torch.outer(d, d) / d.sum()
    c = F.graph_covariance(z, graph, center=center, impl=impl)
    torch.testing.assert_close(c, z.T @ g @ z)


def test_directed_without_centring():
    graph = directed_graph(12)
    z = pair_rows(12, 3)[0]
    c = F.graph_covariance(z, graph, center=False)
    torch.testing.assert_close(c, z.T @ dense(graph) @ z)
    with pytest.raises(ValueError, match=r"graph_covariance: graph must be symmetric"):
        F.graph_covariance(z, graph)


def test_gradient_of_both_sides():
    graph = directed_graph(12)
    z = pair_rows(12, 3)[0].requires_grad_()
    w = torch.arange(9, dtype=torch.float64).view(3, 3)
    (grad,) = torch.autograd.grad((F.graph_covariance(z, graph, center=False) * w).sum(), z)
    g, x = dense(graph), z.detach()
    torch.testing.assert_close(grad, g @ x @ w.T + g.T @ x @ w)


def test_label_graph_gives_the_scatter_between_classes():
    """Weight 1 / n_c with self loops: Z^T G Z centred is S_B of discriminant analysis."""
    y = labels_of(20).clamp(min=0)
    z = pair_rows(20, 3)[0]
    graph = PairGraph.from_labels(y, weight="class_size", self_loops=True)
    between = torch.zeros(3, 3, dtype=torch.float64)
    for c in y.unique():
        gap = z[y == c].mean(0) - z.mean(0)
        between += (y == c).sum() * torch.outer(gap, gap)
    torch.testing.assert_close(F.graph_covariance(z, graph), between)


def test_zero_volume_cannot_be_centred():
    signed = PairGraph.from_edges([0, 1, 2, 3], [1, 0, 3, 2], [1.0, 1.0, -1.0, -1.0], n=4)
    with pytest.raises(
        ValueError, match=r"graph_covariance: graph must have a volume other than 0"
    ):
        F.graph_covariance(pair_rows(4, 2)[0], signed)

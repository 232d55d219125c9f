"""Least-squares SimCLR: identity, centring, optimum, terms, errors."""

import pytest
import torch

import sslspec_fast.functional as F
from sslspec_fast.graph import PairGraph

from ..support.inputs import directed_graph, labels_of, pair_rows, weighted_graph

IMPLEMENTATIONS = ("fused", "torch")


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("center", [False, True])
def test_value_by_definition(center, impl):
    z = pair_rows(30, 4)[0]
    graph = weighted_graph(30)
    g = torch.as_tensor(graph.to_scipy().toarray())
    h = torch.eye(30, dtype=torch.float64) - 1 / 30
    target = h @ g @ h if center else g
    expected = (z @ z.T - target).square().sum()
    torch.testing.assert_close(F.ls_simclr(z, graph, center=center, impl=impl), expected)


@pytest.mark.parametrize("center", [False, True])
def test_diagonal_and_implicit_graphs_count(center):
    y = labels_of(20)
    z = pair_rows(20, 3)[0]
    for graph in (
        PairGraph.from_labels(y, self_loops=True),
        PairGraph.from_labels(y, weight="class_size", self_loops=True),
        PairGraph.from_views(10) + 0.5 * PairGraph.from_labels(y),
    ):
        fused = F.ls_simclr(z, graph, center=center)
        torch.testing.assert_close(fused, F.ls_simclr(z, graph, center=center, impl="torch"))


def test_minimum_is_the_positive_part_of_the_spectrum():
    """min = ||G||^2 - sum of (lambda_k)_+^2, at U sqrt(lambda_+)."""
    graph = weighted_graph(25)
    g = torch.as_tensor(graph.to_scipy().toarray())
    values, vectors = torch.linalg.eigh(g)
    top = values[-5:].clamp(min=0)
    z = vectors[:, -5:] * top.sqrt()
    expected = g.square().sum() - top.square().sum()
    torch.testing.assert_close(F.ls_simclr(z, graph), expected)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_terms(impl):
    z, graph = pair_rows(12, 3)[0], weighted_graph(12)
    loss, terms = F.ls_simclr(z, graph, return_terms=True, impl=impl)
    torch.testing.assert_close(terms["uniformity"], (z.T @ z).square().sum())
    assert terms["constant"].item() == pytest.approx(graph.frobenius_sq())
    torch.testing.assert_close(sum(terms.values()), loss)


def test_errors():
    z = pair_rows(8, 3)[0]
    with pytest.raises(ValueError, match=r"ls_simclr: graph must be symmetric, got a directed"):
        F.ls_simclr(z, directed_graph(8))
    with pytest.raises(ValueError, match=r"ls_simclr: graph.n must match the 8 rows of z, got 6"):
        F.ls_simclr(z, weighted_graph(6))
    empty = PairGraph.from_edges([], [], n=8)
    with pytest.raises(ValueError, match=r"ls_simclr: graph must have at least one edge, got nnz"):
        F.ls_simclr(z, empty)
    with pytest.raises(TypeError, match=r"ls_simclr: graph must be a PairGraph, got Tensor"):
        F.ls_simclr(z, torch.eye(8))

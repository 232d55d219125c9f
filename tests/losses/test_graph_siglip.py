"""SigLIP on a graph: the dense binary cross-entropy, SigLIP as its special case, sure positives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

import sslspec_fast.functional as F
from sslspec_fast import GraphSigLIPLoss, PairGraph

from ..support.golden import assert_golden
from ..support.inputs import directed_graph, golden_rows, graphs, pair_rows, unit

IMPLEMENTATIONS = ("fused", "torch")


def dense(graph: PairGraph) -> Tensor:
    target = torch.tensor(graph.to_scipy().todense()).double()
    return target.fill_diagonal_(1.0)


def in_range(graph: PairGraph) -> PairGraph:
    """With weights of at most 1."""
    return (1 / max(1.0, float(dense(graph.without_diagonal()).max()))) * graph


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("kind", graphs(8))
def test_binary_cross_entropy_of_every_pair(kind: str, reduction: str, impl: str) -> None:
    graph = in_range(graphs(12)[kind])
    x, y = (unit(z).requires_grad_() for z in pair_rows(12, 5))
    c = torch.linspace(2, 9, 12, dtype=torch.float64, requires_grad=True)
    b = torch.tensor(-3.0, dtype=torch.float64, requires_grad=True)
    w = torch.linspace(0, 2, 12, dtype=torch.float64)
    logits = c[:, None] * (x @ y.T) + b
    pairs = nnf.binary_cross_entropy_with_logits(logits, dense(graph), reduction="none")
    rows = w * pairs.sum(1)
    expected = {"mean": rows.sum() / w.sum(), "sum": rows.sum(), "none": rows}[reduction]
    loss = F.graph_siglip(x, y, graph, c, b, reduction=reduction, sample_weight=w, impl=impl)
    torch.testing.assert_close(loss, expected)
    of = x, y, c, b
    ours, wanted = (torch.autograd.grad(z.sum(), of) for z in (loss, expected))
    torch.testing.assert_close(ours, wanted)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_golden_without_edges(impl: str) -> None:
    """open_clip's SigLIP, from a graph without edges or with self loops alone."""
    for loops in (False, True):

        def loss(a: Tensor, b: Tensor, loops: bool = loops) -> Tensor:
            graph = PairGraph.from_labels(torch.arange(len(a)), self_loops=loops)
            return F.graph_siglip(unit(a), unit(b), graph, 10.0, -10.0, impl=impl)

        assert_golden("siglip", loss)


# the cross-entropy of every pair in plain torch, labels 0 0 1 1 2 2 3 0 as positives, c = 10
GOLDEN = {
    (8, 5): (20.10989391213, 1.520294832473, 1.427487423992),
    (6, 16): (9.343317326268, 1.397596926878, 1.362797167493),
}


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize(("n", "d"), GOLDEN)
def test_group_ids(n: int, d: int, impl: str) -> None:
    """Rows of one label are positives; unlabelled rows have their own pair alone."""
    a, b = (z.requires_grad_() for z in golden_rows(n, d))
    ids = torch.tensor([0, 0, 1, 1, 2, 2, 3, 0])[:n]
    loss = F.graph_siglip(unit(a), unit(b), PairGraph.from_labels(ids), 10.0, -10.0, impl=impl)
    found = [loss, *(g.norm() for g in torch.autograd.grad(loss, (a, b)))]
    torch.testing.assert_close(
        torch.stack(found), torch.tensor(GOLDEN[n, d], dtype=torch.float64), rtol=1e-10, atol=0
    )
    ids[2:] = -1
    sign = 2 * torch.eye(n, dtype=torch.float64) - 1
    sign[0, 1] = sign[1, 0] = 1
    pairs = -nnf.logsigmoid(sign * (10 * unit(a) @ unit(b).T - 10))
    got = F.graph_siglip(unit(a), unit(b), PairGraph.from_labels(ids), 10.0, -10.0, impl=impl)
    torch.testing.assert_close(got, pairs.sum() / n)


def test_sure_positives_keep_their_digits() -> None:
    """Logits of 30: softplus(l) - l would lose everything below 1e-6 in float32."""
    x = torch.eye(4)[[0, 0, 1, 1]].requires_grad_()
    for graph in (
        PairGraph.from_labels([0, 0, 1, 1]),
        PairGraph.from_edges([0, 1, 2, 3], [1, 0, 3, 2], torch.ones(4).double(), n=4),
    ):
        loss = F.graph_siglip(x, x.detach(), graph, 60.0, -30.0)
        torch.testing.assert_close(loss.item(), 4 * 9.357622968839e-14, rtol=1e-5, atol=0)
        (grad,) = torch.autograd.grad(loss, x)
        assert 0 < grad[0, 1] < 1e-11


def test_directed_graphs_are_rows_of_images() -> None:
    a, b = (unit(z) for z in pair_rows(9, 4))
    graph = 0.5 * directed_graph(9)
    target = dense(graph)
    assert not torch.equal(target, target.T)
    pairs = nnf.binary_cross_entropy_with_logits(5 * a @ b.T - 1, target, reduction="none")
    torch.testing.assert_close(F.graph_siglip(a, b, graph, 5.0, -1.0), pairs.sum(1).mean())


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_terms_and_module(impl: str) -> None:
    a, b = (unit(z) for z in pair_rows(8, 4))
    graph = PairGraph.from_labels([0, 0, 1, 1, 2, -1, 2, 0])
    loss, terms = GraphSigLIPLoss(return_terms=True, impl=impl)(a, b, graph, 7.0, -2.0)
    torch.testing.assert_close(loss, F.graph_siglip(a, b, graph, 7.0, -2.0))
    logits, target = 7 * a @ b.T - 2, dense(graph)
    torch.testing.assert_close(terms["positive"], -(target * nnf.logsigmoid(logits)).sum(1).mean())
    torch.testing.assert_close(
        terms["negative"], -((1 - target) * nnf.logsigmoid(-logits)).sum(1).mean()
    )
    with pytest.raises(TypeError, match="GraphSigLIPLoss: has no keyword 'temperature'"):
        GraphSigLIPLoss(temperature=0.1)


def test_bad_graphs() -> None:
    a, b = (unit(z) for z in pair_rows(6, 4))
    with pytest.raises(TypeError, match="graph_siglip: graph must be a PairGraph, got Tensor"):
        F.graph_siglip(a, b, torch.eye(6), 1.0, 0.0)
    with pytest.raises(ValueError, match=r"graph\.n must match the 6 rows of z, got 4"):
        F.graph_siglip(a, b, PairGraph.from_labels([0, 0, 1, 1]), 1.0, 0.0)
    for weight, said in ((2.0, "2 to 2"), (-0.5, "-0.5 to -0.5")):
        graph = weight * PairGraph.from_labels([0, 0, 1, 1, 2, 2])
        with pytest.raises(ValueError, match=rf"weights in \[0, 1\], got {said}"):
            F.graph_siglip(a, b, graph, 1.0, 0.0)

"""InfoNCE on graphs: the paper's sum, masks, ids, isolated rows, directed graphs, optima."""

import math

import pytest
import torch

import sslspec_fast.functional as F
from sslspec_fast.graph import PairGraph

from ..support.inputs import (
    directed_graph,
    golden_labels,
    golden_rows,
    graphs,
    pair_rows,
    unit,
    weighted_graph,
)

IMPLEMENTATIONS = ("fused", "torch")


def dense(graph):
    g = torch.as_tensor(graph.to_scipy().toarray())
    return g - g.diag().diag()


def paper(z, graph, temperature, keep=None):
    """-sum_ij G_ij log softmax_ij over the kept columns."""
    g = dense(graph)
    s = unit(z) @ unit(z).T / temperature
    own = torch.eye(len(z), dtype=torch.bool)
    keep = ~own if keep is None else keep
    logp = s - s.masked_fill(~keep, -math.inf).logsumexp(1, keepdim=True)
    return -(g * logp).sum(1)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", graphs(24))
def test_reductions_on_every_kind_of_graph(name, impl):
    graph, z = graphs(24)[name], pair_rows(24, 5)[0]
    rows = paper(z, graph, 0.2)
    d = dense(graph).sum(1)
    mean = (rows / d.clamp(min=1e-9))[d > 0].mean()
    hyper = {"temperature": 0.2, "impl": impl}
    torch.testing.assert_close(F.graph_info_nce(z, graph, reduction="sum", **hyper), rows.sum())
    torch.testing.assert_close(F.graph_info_nce(z, graph, **hyper), mean)
    each = F.graph_info_nce(z, graph, reduction="none", **hyper)
    torch.testing.assert_close(each, torch.where(d > 0, rows / d.clamp(min=1e-9), 0))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_weights_and_terms(impl):
    graph, z = weighted_graph(13), pair_rows(13, 5)[0]
    w = torch.linspace(0.5, 2, 13).double()
    d = dense(graph).sum(1)
    each = F.graph_info_nce(z, graph, reduction="none", impl=impl)
    loss, terms = F.graph_info_nce(z, graph, sample_weight=w, return_terms=True, impl=impl)
    torch.testing.assert_close(loss, (w * each).sum() / w[d > 0].sum())
    torch.testing.assert_close(terms["alignment"] + terms["uniformity"], loss)
    total = F.graph_info_nce(z, graph, sample_weight=w, reduction="sum", impl=impl)
    torch.testing.assert_close(total, (w * d * each).sum())


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_isolated_rows_are_negatives_only(impl):
    z = pair_rows(6, 4)[0].requires_grad_()
    graph = PairGraph.from_edges([0, 1], [1, 0], n=6)
    each = F.graph_info_nce(z, graph, reduction="none", impl=impl)
    assert (each[2:] == 0).all()
    (grad,) = torch.autograd.grad(F.graph_info_nce(z, graph, impl=impl), z)
    assert (grad[2:].norm(dim=1) > 0).all()
    torch.testing.assert_close(F.graph_info_nce(z, graph, impl=impl), each[:2].mean())


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", graphs(24))
def test_non_positives(name, impl):
    graph, z = graphs(24)[name], pair_rows(24, 5)[0]
    keep = (dense(graph) == 0) & ~torch.eye(24, dtype=torch.bool)
    expected = paper(z, graph, 0.2, keep).sum()
    loss = F.graph_info_nce(
        z, graph, temperature=0.2, negatives="non_positive", reduction="sum", impl=impl
    )
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", graphs(24))
@pytest.mark.parametrize("negatives", ["others", "non_positive"])
def test_ids_take_false_negatives_out(name, negatives, impl):
    graph, z = graphs(24)[name], pair_rows(24, 5)[0]
    ids = torch.arange(24) % 7 - 3
    own = torch.eye(24, dtype=torch.bool)
    positive = dense(graph) != 0
    other = ids[:, None] != ids
    keep = other & ~positive if negatives == "non_positive" else (other | positive) & ~own
    expected = paper(z, graph, 0.2, keep).sum()
    z.requires_grad_()
    loss = F.graph_info_nce(
        z, graph, temperature=0.2, negatives=negatives, ids=ids, reduction="sum", impl=impl
    )
    torch.testing.assert_close(loss, expected)
    assert torch.isfinite(torch.autograd.grad(loss, z)[0]).all()


def test_nscl_bounds():
    """NSCL <= DCL <= NSCL + log(1 + (n_max - 1) V e^(2/tau) / (V (n_s - n_max)))."""
    n, tau = 24, 1.0
    y = torch.arange(n) % 4
    z = pair_rows(2 * n, 6)[0]
    graph = PairGraph.from_views(n)
    hyper = {"temperature": tau, "negatives": "non_positive"}
    dcl = F.graph_info_nce(z, graph, **hyper).item()
    nscl = F.graph_info_nce(z, graph, ids=y.repeat(2), **hyper).item()
    assert nscl <= dcl <= nscl + math.log(1 + 6 * math.exp(2 / tau) / (n - 6))


def test_nscl_on_two_views_keeps_the_positive():
    z1, z2 = pair_rows(12, 4)
    y = torch.arange(12) % 3
    z = torch.cat([z1, z2])
    ids = y.repeat(2)
    s = unit(z) @ unit(z).T / 0.1
    i = torch.arange(24)
    positive = (i + 12) % 24
    keep = (ids[:, None] != ids) | (i == positive[:, None])
    expected = (s.masked_fill(~keep, -math.inf).logsumexp(1) - s[i, positive]).mean()
    loss = F.graph_info_nce(z, PairGraph.from_views(12), ids=ids)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_temperature_rows_and_gradient(impl):
    graph, z = weighted_graph(12), pair_rows(12, 4)[0]
    t = torch.linspace(0.2, 0.8, 12, dtype=torch.float64, requires_grad=True)
    each = F.graph_info_nce(z, graph, temperature=t, reduction="none", impl=impl)
    (grad,) = torch.autograd.grad(each.sum(), t)
    for i in (0, 5):
        one = t[i].detach().clone().requires_grad_()
        alone = F.graph_info_nce(z, graph, temperature=one, reduction="none", impl=impl)[i]
        torch.testing.assert_close(each[i], alone)
        torch.testing.assert_close(grad[i], torch.autograd.grad(alone, one)[0])


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_unnormalised_rows(impl):
    graph, z = weighted_graph(12), 3 * pair_rows(12, 4)[0]
    g = dense(graph)
    s = z @ z.T / 0.7
    own = torch.eye(12, dtype=torch.bool)
    logp = s - s.masked_fill(own, -math.inf).logsumexp(1, keepdim=True)
    loss = F.graph_info_nce(z, graph, temperature=0.7, normalize=False, reduction="sum", impl=impl)
    torch.testing.assert_close(loss, -(g * logp).sum())


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_entropy_bound_is_attained_at_log_g(impl):
    """Dot products, Gram = tau log G + delta I: the loss is sum d_i H(G_i / d_i)."""
    n, tau = 10, 0.7
    g = torch.rand(n, n, generator=torch.Generator().manual_seed(0)).double() + 0.1
    g = (g + g.T) / 2
    off = g - g.diag().diag()
    target = tau * (g.log() - g.log().diag().diag())
    delta = -torch.linalg.eigvalsh(target)[0]
    values, vectors = torch.linalg.eigh(target + delta * torch.eye(n))
    z = vectors * values.clamp(min=0).sqrt()
    rows, cols = off.nonzero(as_tuple=True)
    graph = PairGraph.from_edges(rows, cols, off[rows, cols], n=n)
    loss = F.graph_info_nce(z, graph, temperature=tau, normalize=False, reduction="sum", impl=impl)
    share = off / off.sum(1, keepdim=True)
    entropy = -(off * torch.where(share > 0, share, 1).log()).sum()
    torch.testing.assert_close(loss, entropy)


@pytest.mark.parametrize(("cliques", "size", "tau"), [(6, 2, 0.5), (6, 2, 0.2), (4, 4, 0.5)])
def test_simplex_is_the_minimum_on_cliques(cliques, size, tau):
    """N(n-1) [-1/tau + log((n-1) e^(1/tau) + (N-n) e^(-1/((C-1) tau)))]."""
    n = cliques * size
    corners = torch.eye(cliques, dtype=torch.float64) - 1 / cliques
    z = corners.repeat(size, 1).requires_grad_()
    graph = PairGraph.from_views(cliques, size)
    loss = F.graph_info_nce(z, graph, temperature=tau, reduction="sum")
    far = math.exp(-1 / ((cliques - 1) * tau))
    value = -1 / tau + math.log((size - 1) * math.exp(1 / tau) + (n - size) * far)
    assert loss.item() == pytest.approx(n * (size - 1) * value, rel=1e-12)
    assert torch.autograd.grad(loss, z)[0].abs().max() <= 1e-12


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", ["views", "labels", "edges", "directed"])
def test_label_smoothing(name, impl):
    graph, z = graphs(24)[name], pair_rows(24, 5)[0]
    g = dense(graph)
    d = g.sum(1)
    own = torch.eye(24, dtype=torch.bool)
    target = 0.9 * g / d.clamp(min=1e-9)[:, None] + 0.1 / 23 * (~own)
    s = unit(z) @ unit(z).T / 0.2
    logp = s - s.masked_fill(own, -math.inf).logsumexp(1, keepdim=True)
    expected = -(target * logp).sum(1)[d > 0].mean()
    loss = F.graph_info_nce(z, graph, temperature=0.2, label_smoothing=0.1, impl=impl)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_debiased_is_nt_xents_on_views(impl):
    z1, z2 = pair_rows(8, 4)
    z = torch.cat([z1, z2])
    expected = F.nt_xent(z1, z2, temperature=0.3, tau_plus=0.1)
    for graph in (PairGraph.from_views(8), 2.0 * PairGraph.from_views(8)):
        loss = F.graph_info_nce(z, graph, temperature=0.3, tau_plus=0.1, impl=impl)
        torch.testing.assert_close(loss, expected)


def test_debiased_on_a_weighted_graph_agrees_with_the_reference():
    graph, z = weighted_graph(15), pair_rows(15, 4)[0].requires_grad_()
    values = [F.graph_info_nce(z, graph, tau_plus=0.1, impl=i) for i in IMPLEMENTATIONS]
    torch.testing.assert_close(values[0], values[1])
    ours, theirs = (torch.autograd.grad(v, z)[0] for v in values)
    torch.testing.assert_close(ours, theirs)


def test_a_row_without_any_negative_is_an_error():
    z = pair_rows(6, 3)[0]
    everyone = PairGraph.from_labels(torch.zeros(6, dtype=torch.long))
    with pytest.raises(
        ValueError, match=r"every row with a positive needs a negative, row 0 of 6 has none"
    ):
        F.graph_info_nce(z, everyone, negatives="non_positive")
    graph = PairGraph.from_views(3)
    with pytest.raises(ValueError, match=r"every row with a positive needs a negative"):
        F.graph_info_nce(z, graph, negatives="non_positive", ids=torch.zeros(6, dtype=torch.long))
    same = torch.zeros(6, dtype=torch.long)
    assert F.graph_info_nce(z, graph, ids=same).item() == pytest.approx(0, abs=1e-12)


def test_isolated_row_whose_id_everyone_has():
    """No negatives, no positives, no anchor term: nothing to complain about, and no NaN."""
    z = pair_rows(6, 3)[0].requires_grad_()
    graph = PairGraph.from_edges([0, 1], [1, 0], n=6)
    loss = F.graph_info_nce(z, graph, ids=torch.zeros(6, dtype=torch.long))
    (grad,) = torch.autograd.grad(loss, z)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert torch.isfinite(grad).all()


def test_errors():
    z = pair_rows(6, 3)[0]
    graph = PairGraph.from_views(3)
    loops = PairGraph.from_edges([0, 1], [0, 1], n=6)
    with pytest.raises(
        ValueError, match=r"must have an edge off the diagonal, got only self loops"
    ):
        F.graph_info_nce(z, loops)
    with pytest.raises(ValueError, match=r"graph must have at least one edge, got nnz = 0 over 6"):
        F.graph_info_nce(z, PairGraph.from_edges([], [], n=6))
    signed = PairGraph.from_edges([0, 1], [1, 0], [-1.0, -1.0], n=6)
    with pytest.raises(ValueError, match=r"graph_info_nce: graph must have weights >= 0"):
        F.graph_info_nce(z, signed)
    with pytest.raises(ValueError, match=r"negatives must be one of .* got 'all'"):
        F.graph_info_nce(z, graph, negatives="all")
    with pytest.raises(ValueError, match=r"ids must have one value per row \(6,\), got \(5,\)"):
        F.graph_info_nce(z, graph, ids=torch.arange(5))
    with pytest.raises(TypeError, match=r"ids must be integers, got torch.float32"):
        F.graph_info_nce(z, graph, ids=torch.zeros(6))
    with pytest.raises(ValueError, match=r"ids must fit in 32 bits, got 4294967296"):
        F.graph_info_nce(z, graph, ids=torch.arange(6) + 2**32)
    with pytest.raises(ValueError, match=r"need negatives='others' and ids=None"):
        F.graph_info_nce(z, graph, negatives="non_positive", label_smoothing=0.1)
    with pytest.raises(ValueError, match=r"label_smoothing and tau_plus exclude each other"):
        F.graph_info_nce(z, graph, tau_plus=0.1, label_smoothing=0.1)


# pytorch-metric-learning 2.9.0 in float64: NTXentLoss(t)(z1, labels) on the golden rows
PER_POSITIVE = {
    (8, 5, 0.1): (13.08984228252, 2.041857148893),
    (8, 5, 0.5): (3.360325666644, 0.3748334440881),
    (6, 16, 0.1): (4.348041982126, 2.761895797098),
    (6, 16, 0.5): (1.560537562929, 0.527779735307),
}


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize(("n", "d", "t"), PER_POSITIVE)
def test_per_positive_is_nt_xent_of_pytorch_metric_learning(n, d, t, impl):
    z, graph = golden_rows(n, d)[0].requires_grad_(), PairGraph.from_labels(golden_labels(n))
    total = F.graph_info_nce(
        z, graph, temperature=t, negatives="per_positive", reduction="sum", impl=impl
    )
    loss = total / graph.volume
    found = torch.stack([loss.detach(), torch.autograd.grad(loss, z)[0].norm()])
    expected = torch.tensor(PER_POSITIVE[n, d, t], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)


def test_per_positive_of_two_views_is_nt_xent():
    a, b = pair_rows(9, 4)
    graph = PairGraph.from_views(9)
    loss = F.graph_info_nce(torch.cat([a, b]), graph, temperature=0.2, negatives="per_positive")
    torch.testing.assert_close(loss, F.nt_xent(a, b, temperature=0.2))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_per_positive_on_a_directed_graph_with_weights(reduction):
    """A softmax for each positive, weighted; a row all of whose others are positives has none."""
    z, graph = pair_rows(8, 4)[0].requires_grad_(), directed_graph(8)
    full = PairGraph.from_edges([7] * 7, range(7), n=8)
    t, w = torch.linspace(0.1, 0.4, 8, dtype=torch.float64), torch.linspace(1, 2, 8).double()
    for g in (graph, graph + 0.5 * full):
        options = {"temperature": t, "negatives": "per_positive", "sample_weight": w}
        both = [
            F.graph_info_nce(z, g, reduction=reduction, impl=i, **options) for i in IMPLEMENTATIONS
        ]
        torch.testing.assert_close(*both)
        grads = [torch.autograd.grad(x.sum(), z)[0] for x in both]
        torch.testing.assert_close(*grads)
    g = dense(graph)
    logits = unit(z) @ unit(z).T / t[:, None]
    out = (g > 0) | torch.eye(8, dtype=torch.bool)
    lse = logits.masked_fill(out, -math.inf).logsumexp(1, keepdim=True)
    rows = (g * torch.nn.functional.softplus(lse - logits)).sum(1)
    got = F.graph_info_nce(z, graph, temperature=t, negatives="per_positive", reduction="sum")
    torch.testing.assert_close(got, rows.sum())

"""Training metrics: golden values, definitions, accumulators, errors."""

import math

import numpy as np
import pytest
import torch

from sslspec_fast import metrics
from sslspec_fast.graph import PairGraph

from .support.inputs import golden_rows, pair_rows, unit


@pytest.mark.parametrize(
    ("shape", "align", "uniform", "rank"),
    [
        ((8, 5), 0.0802523394, -2.2040041188, 1.9898264),
        ((6, 16), 0.0812789600, -2.4402523200, 1.9945286),
    ],
)
def test_golden(shape, align, uniform, rank):
    z1, z2 = golden_rows(*shape)
    assert metrics.alignment(z1, z2).item() == pytest.approx(align, abs=1e-10)
    assert metrics.uniformity(z1).item() == pytest.approx(uniform, abs=1e-10)
    assert metrics.effective_rank(z1).item() == pytest.approx(rank, abs=1e-7)


@pytest.mark.parametrize(
    ("shape", "value", "norm"),
    [((8, 5), -1.41035386477, 0.162479270814), ((6, 16), -1.58000681696, 0.1073839291)],
)
def test_lightlys_hypersphere_loss(shape, value, norm):
    """HypersphereLoss() of lightly 1.6.0 in float64: its value, and the norm of its gradient."""
    z1, z2 = golden_rows(*shape)
    z1.requires_grad_()
    uniform = metrics.uniformity(z1, t=1.0) + metrics.uniformity(z2, t=1.0)
    loss = metrics.alignment(z1, z2) + uniform / 2
    (grad,) = torch.autograd.grad(loss, z1)
    assert loss.item() == pytest.approx(value, abs=1e-10)
    assert grad.norm().item() == pytest.approx(norm, abs=1e-10)


def test_alignment_and_uniformity_by_definition_and_gradient():
    a, b = (z.requires_grad_() for z in pair_rows(9, 4))
    u, v = unit(a), unit(b)
    torch.testing.assert_close(metrics.alignment(a, b, 3), (u - v).norm(dim=1).pow(3).mean())
    pairs = torch.pdist(u.detach()).square()
    expected = torch.exp(-1.5 * pairs).mean().log()
    torch.testing.assert_close(metrics.uniformity(a, t=1.5), expected)
    assert torch.autograd.gradcheck(metrics.uniformity, a)
    assert torch.autograd.gradcheck(metrics.alignment, (a, b))


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5, 2.0, 3.0])
def test_alignment_of_identical_pairs_has_no_gradient(alpha):
    """Wang and Isola's own form where that has a derivative; at distance 0 it is taken as 0."""
    z, w = pair_rows(6, 4)
    w[2] = z[2]
    z.requires_grad_()
    (got,) = torch.autograd.grad(metrics.alignment(z, w, alpha), z)
    keep = [0, 1, 3, 4, 5]
    apart = (unit(z[keep]) - unit(w[keep])).norm(dim=1).pow(alpha).sum() / 6
    torch.testing.assert_close(metrics.alignment(z, w, alpha), apart)
    torch.testing.assert_close(got, torch.autograd.grad(apart, z)[0])
    if alpha >= 1:
        whole = (unit(z) - unit(w)).norm(dim=1).pow(alpha).mean()
        torch.testing.assert_close(got, torch.autograd.grad(whole, z)[0])


def test_effective_rank_counts_directions():
    q, _ = torch.linalg.qr(pair_rows(40, 6)[0])
    assert metrics.effective_rank(q).item() == pytest.approx(6, rel=1e-4)
    assert metrics.effective_rank(q.T).item() == pytest.approx(6, rel=1e-4)
    flat = torch.ones(40, 6)
    assert metrics.effective_rank(flat).item() == pytest.approx(1, rel=1e-3)
    assert torch.isfinite(metrics.effective_rank(torch.zeros(4, 3)))


def test_lidar_by_definition():
    m, q, d = 12, 3, 4
    g = torch.Generator().manual_seed(0)
    centres = torch.randn(m, d, generator=g, dtype=torch.float64)
    z = centres.repeat(q, 1) + 0.3 * torch.randn(m * q, d, generator=g, dtype=torch.float64)
    views = z.view(q, m, d)
    means = views.mean(0)
    between = torch.cov(means.T)
    spread = (views - means).reshape(-1, d)
    within = spread.T @ spread / (m * (q - 1)) + 1e-4 * torch.eye(d, dtype=torch.float64)
    root = torch.linalg.inv(torch.linalg.cholesky(within))
    values = torch.linalg.eigvalsh(root @ between @ root.T)
    p = values / values.sum() + 1e-8
    expected = torch.exp(-(p * p.log()).sum())
    torch.testing.assert_close(metrics.lidar(z, PairGraph.from_views(m, q)), expected)
    by_label = PairGraph.from_labels(torch.arange(m).repeat(q))
    torch.testing.assert_close(metrics.lidar(z, by_label), expected)


def test_neighborhood_accuracy_by_hand():
    angles = torch.tensor([0.0, 0.1, 0.2, 1.5, 1.6, 3.0])
    z = torch.stack([angles.cos(), angles.sin()], 1)
    y = torch.tensor([0, 0, 1, 1, 1, 0])
    # nearest neighbours: 0-1, 1-0 (a tie of distance 0.1, row 0 or 2), 2-1, 3-4, 4-3, 5-4
    nearest = metrics.neighborhood_accuracy(z[[0, 2, 3, 4, 5]], y[[0, 2, 3, 4, 5]], k=1)
    assert nearest.item() == pytest.approx(2 / 5)
    # k = 2 with one vote each: the nearer one decides
    two = metrics.neighborhood_accuracy(
        z[:1], y[:1], k=2, bank=z[[1, 3]], bank_labels=torch.tensor([0, 1])
    )
    assert two.item() == 1.0


def test_neighborhood_accuracy_in_blocks(monkeypatch):
    z, _ = pair_rows(60, 5)
    y = torch.arange(60) % 4
    whole = metrics.neighborhood_accuracy(z, y, k=7)
    monkeypatch.setattr("sslspec_fast.metrics._neighbours._BLOCK", 60 * 11)
    torch.testing.assert_close(metrics.neighborhood_accuracy(z, y, k=7), whole)
    clusters = torch.eye(4)[y] + 0.01 * z[:, :4].float()
    assert metrics.neighborhood_accuracy(clusters, y).item() == 1.0


def test_neighborhood_accuracy_with_many_neighbours():
    """Votes are counted in rows x k memory; here against a count by hand, ties included."""
    g = torch.Generator().manual_seed(0)
    z, y = torch.randn(60, 4, generator=g), torch.randint(0, 1000, (60,), generator=g) % 7 * 10**12
    for k in (1, 2, 5, 40, 59):
        similarity = (unit(z) @ unit(z).T).fill_diagonal_(-math.inf)
        right = 0
        for i, near in enumerate(similarity.topk(k).indices):
            votes = y[near].tolist()
            right += max(votes, key=lambda v: (votes.count(v), -votes.index(v))) == int(y[i])
        assert float(metrics.neighborhood_accuracy(z, y, k)) == pytest.approx(right / 60)


@pytest.mark.parametrize(("n", "d"), [(8, 64), (30, 31), (40, 40), (200, 16), (1, 5)])
def test_effective_rank_of_all_batches(n, d):
    """min(n, d) singular values, also where the rows are fewer than the features."""
    z = pair_rows(n, d)[0]
    accumulator = metrics.EffectiveRank()
    for part in z.split(7):
        accumulator.update(part)
    assert accumulator.compute() == pytest.approx(float(metrics.effective_rank(z)), rel=1e-6)


def test_accumulators_agree_with_one_batch():
    a, b = pair_rows(30, 6)
    align, uniform, rank = metrics.Alignment(), metrics.Uniformity(), metrics.EffectiveRank()
    for part in (slice(0, 10), slice(10, 30)):
        align.update(a[part], b[part])
        rank.update(a[part])
    assert align.compute() == pytest.approx(metrics.alignment(a, b).item())
    assert rank.compute() == pytest.approx(metrics.effective_rank(a).item(), rel=1e-6)
    uniform.update(a)
    assert uniform.compute() == pytest.approx(metrics.uniformity(a).item())
    uniform.update(b[:7])
    u, v = unit(a), unit(b[:7])
    potentials = torch.cat([torch.pdist(u), torch.pdist(v)]).square().mul(-2).exp()
    assert uniform.compute() == pytest.approx(potentials.mean().log().item())


def test_lidar_of_batches():
    """Classes of several batches are those of one batch that holds them all."""
    z = pair_rows(36, 5)[0] + 3.0
    whole = metrics.lidar(z, PairGraph.from_labels(torch.arange(36) // 3)).item()
    metric = metrics.Lidar()
    for start, stop in ((0, 3), (3, 18), (18, 36)):
        rows = z[start:stop]
        metric.update(rows, PairGraph.from_labels(torch.arange(stop - start) // 3))
    assert metric.compute() == pytest.approx(whole, rel=1e-9)
    metric.reset()
    with pytest.raises(RuntimeError, match=r"Lidar: compute\(\) before the first update"):
        metric.compute()
    metric.update(z[:3], PairGraph.from_labels([0, 0, 0]))
    with pytest.raises(ValueError, match="at least 2 components, got 1"):
        metric.compute()
    with pytest.raises(ValueError, match="z must keep its 5 features, got 4"):
        metric.update(z[:3, :4], PairGraph.from_labels([0, 0, 0]))


def test_accumulators_reset():
    a, b = pair_rows(12, 3)
    align = metrics.Alignment()
    align.update(a, a)
    align.reset()
    align.update(a, b)
    assert align.compute() == pytest.approx(metrics.alignment(a, b).item())
    uniform, rank = metrics.Uniformity(), metrics.EffectiveRank()
    for metric, rows in ((uniform, b), (rank, pair_rows(5, 2)[0])):
        metric.update(a)
        metric.reset()
        metric.update(rows)
    assert uniform.compute() == pytest.approx(metrics.uniformity(b).item())
    assert rank.compute() <= 2.001
    for empty in (metrics.Alignment(), metrics.Uniformity(), metrics.EffectiveRank()):
        with pytest.raises(RuntimeError, match=r"compute\(\) before the first update"):
            empty.compute()


def test_neighborhood_accumulator():
    bank, _ = pair_rows(40, 5)
    labels = torch.arange(40) % 3
    queries, y = pair_rows(21, 5, seed=1)[0], torch.arange(21) % 3
    metric = metrics.NeighborhoodAccuracy(bank, labels, k=5)
    metric.update(queries[:6], y[:6])
    metric.update(queries[6:], y[6:])
    whole = metrics.neighborhood_accuracy(queries, y, 5, bank=bank, bank_labels=labels)
    assert metric.compute() == pytest.approx(whole.item())


def test_half_precision_rows():
    a, b = (z.bfloat16() for z in pair_rows(12, 4))
    torch.testing.assert_close(metrics.alignment(a, b), metrics.alignment(a.float(), b.float()))
    torch.testing.assert_close(metrics.uniformity(a), metrics.uniformity(a.float()))
    torch.testing.assert_close(metrics.effective_rank(a), metrics.effective_rank(a.float()))


def test_autocast_changes_nothing():
    z, y = pair_rows(120, 9)[0].float() + 3, torch.arange(120) % 5
    graph = PairGraph.from_labels(y)
    calls = (
        lambda: metrics.alignment(z, z.roll(1, 0)),
        lambda: metrics.uniformity(z),
        lambda: metrics.effective_rank(z),
        lambda: metrics.lidar(z, graph),
        lambda: metrics.neighborhood_accuracy(z, y, 3),
        lambda: metrics.neighborhood_accuracy(z, y, 3, bank=z, bank_labels=y),
    )
    for call in calls:
        expected = call()
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(call(), expected)


def test_collapse_is_visible():
    z = torch.ones(16, 4)
    assert metrics.uniformity(z).item() == pytest.approx(0, abs=1e-5)
    spread = metrics.uniformity(pair_rows(16, 4)[0]).item()
    assert spread < -1
    assert not math.isnan(spread)


def test_errors():
    z = pair_rows(6, 3)[0]
    with pytest.raises(ValueError, match=r"alignment: z2 must match z1 \(6, 3\), got \(5, 3\)"):
        metrics.alignment(z, z[:5])
    with pytest.raises(ValueError, match=r"uniformity: z needs at least 2 rows"):
        metrics.uniformity(z[:1])
    with pytest.raises(ValueError, match=r"uniformity: t must be finite and > 0, got 0"):
        metrics.uniformity(z, t=0)
    with pytest.raises(ValueError, match=r"k must be in 1 ... 5, the neighbours there are, got 6"):
        metrics.neighborhood_accuracy(z, torch.zeros(6, dtype=torch.long), k=6)
    with pytest.raises(TypeError, match=r"k must be an integer, got float"):
        metrics.neighborhood_accuracy(z, torch.zeros(6, dtype=torch.long), k=2.0)
    with pytest.raises(ValueError, match=r"bank needs bank_labels, got None"):
        metrics.neighborhood_accuracy(z, torch.zeros(6, dtype=torch.long), k=2, bank=z)
    with pytest.raises(ValueError, match=r"labels must be >= 0, got -1"):
        metrics.neighborhood_accuracy(z, torch.full((6,), -1), k=2)
    with pytest.raises(ValueError, match=r"lidar: graph must join every row .* got 4 isolated"):
        metrics.lidar(z, PairGraph.from_edges([0, 1], [1, 0], n=6))
    with pytest.raises(ValueError, match=r"lidar: graph must have at least 2 components, got 1"):
        metrics.lidar(z, PairGraph.from_labels([0] * 6))
    rank = metrics.EffectiveRank()
    rank.update(z)
    with pytest.raises(ValueError, match=r"z must keep its 3 features, got 2"):
        rank.update(z[:, :2])


def test_metrics_of_what_is_not_finite() -> None:
    z = torch.full((4, 2), float("nan"))
    graph = PairGraph.from_views(2)
    for call in (
        lambda: metrics.effective_rank(z),
        lambda: metrics.lidar(z, graph),
        lambda: metrics.neighborhood_accuracy(z, [0, 0, 1, 1], k=1),
        lambda: metrics.EffectiveRank().update(z),
    ):
        with pytest.raises(ValueError, match="z must be finite, got 8 bad values"):
            call()
    with pytest.raises(ValueError, match="eps must be finite and >= 0, got -1"):
        metrics.effective_rank(torch.eye(3), eps=-1)
    assert float(metrics.effective_rank(torch.eye(4)[:, :2], eps=0)) == pytest.approx(2)
    labels = [0, 0, 1, 1]
    accuracy = metrics.neighborhood_accuracy(torch.eye(4), labels, k=np.int64(1))
    assert 0 <= float(accuracy) <= 1

"""The torchmetrics classes are the accumulators of `sslspec_fast.metrics`, in a collection too."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor

from sslspec_fast import PairGraph, metrics

pytest.importorskip("torchmetrics")

from torchmetrics import MetricCollection

from sslspec_fast.integrations import torchmetrics as ours

D = 6


def batches(count: int = 3, views: int = 2) -> list[tuple[Tensor, ...]]:
    """Of different sizes, with means far from 0, as the sums must not cancel."""
    out = []
    for i in range(count):
        z = torch.randn(8 + i, D, dtype=torch.float64) + 30.0
        out.append(tuple(z + 0.1 * torch.randn_like(z) for _ in range(views)))
    return out


def collection() -> MetricCollection:
    return MetricCollection(
        [ours.EffectiveRank(D), ours.Lidar(D), ours.Alignment(1.5), ours.Uniformity(3.0)]
    )


def expected(data: list[tuple[Tensor, ...]]) -> dict[str, float]:
    rank, lidar = metrics.EffectiveRank(), metrics.Lidar()
    align, uniform = metrics.Alignment(1.5), metrics.Uniformity(3.0)
    for views in data:
        lidar.update(torch.cat(views), PairGraph.from_views(len(views[0]), len(views)))
        align.update(*views)
        for z in views:
            rank.update(z)
            uniform.update(z)
    names = ("EffectiveRank", "Lidar", "Alignment", "Uniformity")
    each = (rank, lidar, align, uniform)
    return {name: metric.compute() for name, metric in zip(names, each, strict=True)}


def test_a_collection_is_updated_with_the_views() -> None:
    data, found = batches(), collection()
    for views in data:
        found.update(*views)
    got = {name: float(value) for name, value in found.compute().items()}
    assert got == pytest.approx(expected(data), rel=1e-6)
    found.reset()
    found.update(*data[0])
    got = {name: float(value) for name, value in found.compute().items()}
    assert got == pytest.approx(expected(data[:1]), rel=1e-6)


def test_forward_gives_the_value_of_the_batch_and_accumulates() -> None:
    data, found = batches(), collection()
    for views in data:
        got = {name: float(value) for name, value in found(*views).items()}
        assert got == pytest.approx(expected([views]), rel=1e-6)
    got = {name: float(value) for name, value in found.compute().items()}
    assert got == pytest.approx(expected(data), rel=1e-6)


def test_more_views_and_states_that_move() -> None:
    data = batches(views=3)
    found = MetricCollection([ours.EffectiveRank(D), ours.Lidar(D), ours.Uniformity(3.0)])
    found.persistent(True)
    for views in data[:2]:
        found.update(*views)
    again = pickle.loads(pickle.dumps(copy.deepcopy(found)))
    again.load_state_dict(found.state_dict())
    again.update(*data[2])
    rank, lidar, uniform = metrics.EffectiveRank(), metrics.Lidar(), metrics.Uniformity(3.0)
    for views in data:
        lidar.update(torch.cat(views), PairGraph.from_views(len(views[0]), 3))
        rank.update(torch.cat(views))
        for z in views:
            uniform.update(z)
    got = again.compute()
    assert float(got["EffectiveRank"]) == pytest.approx(rank.compute(), rel=1e-6)
    assert float(got["Lidar"]) == pytest.approx(lidar.compute(), rel=1e-6)
    assert float(got["Uniformity"]) == pytest.approx(uniform.compute(), rel=1e-6)


def test_half_precision_and_wide_potentials() -> None:
    z = torch.randn(40, D)
    half, exact = ours.EffectiveRank(D), ours.EffectiveRank(D)
    half.update(z.bfloat16())
    exact.update(z.bfloat16().double())
    assert float(half.compute()) == pytest.approx(float(exact.compute()), rel=1e-6)
    wide = ours.Uniformity(1000.0)  # exp(-4000) is 0 in float64
    wide.update(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    assert float(wide.compute()) == pytest.approx(-4000.0)


def test_nothing_is_copied_to_the_host() -> None:
    """Tensors without data: whatever asks for a number raises."""
    found = collection().to("meta")
    found.update(*(torch.empty(5, D, device="meta") for _ in range(2)))


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_errors() -> None:
    z = torch.randn(4, D)
    with pytest.raises(ValueError, match="EffectiveRank: views must have num_features=7 columns"):
        ours.EffectiveRank(7).update(z)
    with pytest.raises(ValueError, match="Lidar: update needs at least 2 views, got 1"):
        ours.Lidar(D).update(z)
    with pytest.raises(ValueError, match="Alignment: update needs 2 views, got 3"):
        ours.Alignment().update(z, z, z)
    with pytest.raises(ValueError, match=r"Uniformity: views\[0\] needs at least 2 rows"):
        ours.Uniformity().update(z[:1])
    with pytest.raises(ValueError, match="alpha must be finite and > 0, got 0"):
        ours.Alignment(0)
    for metric in collection().values():
        with pytest.raises(RuntimeError, match=r"compute\(\) before the first update"):
            metric.compute()
    rank = ours.EffectiveRank(D)
    rank.update(z * float("nan"))
    with pytest.raises(ValueError, match="the rows must be finite"):
        rank.compute()

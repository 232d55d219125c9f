"""The bound on what k codes keep of a graph: row PB of docs/closed_forms.md."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sslspec_fast import spectral
from sslspec_fast.graph import PairGraph


def inside(w, labels):
    return float(w[labels[:, None] == labels[None]].sum())


def test_pb_no_partition_beats_the_bound(lab):
    """All balanced partitions of a small graph, and all of other sizes."""
    w = lab.random_weights(8, 0.5) + np.diag(np.linspace(0, 1, 8))
    graph = lab.graph(w)
    lam = np.linalg.eigvalsh(w)[::-1]
    bound = spectral.partition_bound(graph, 2).bound
    assert bound == pytest.approx(4 * (lam[0] + lam[1]))
    best = 0.0
    for code in range(1 << 7):
        labels = (code >> np.arange(8)) & 1
        found = spectral.partition_bound(graph, 2, codes=labels) if code % 8 == 5 else None
        weight, sizes = inside(w, labels), np.sort(np.bincount(labels, minlength=2))[::-1]
        assert weight <= sizes @ lam[:2] + 1e-10
        if sizes[0] == 4:
            best = max(best, weight)
        if found is not None:
            assert found.agreement == pytest.approx(weight)
            assert found.bound == pytest.approx(sizes @ lam[:2])
            assert found.volume == pytest.approx(w.sum())
    assert 0.5 * bound < best <= bound


def test_pb_attained_by_balanced_cliques():
    labels = torch.arange(24) % 4
    graph = PairGraph.from_labels(labels, self_loops=True)
    found = spectral.partition_bound(graph, 4, codes=labels)
    assert found.bound == pytest.approx(found.agreement, rel=1e-13)
    assert found.agreement == pytest.approx(found.volume)
    assert found.info.method == "exact"
    other = spectral.partition_bound(graph, 4, codes=torch.arange(24) // 6)
    assert other.agreement < other.bound


def test_pb_soft_codes(lab):
    """Rows of probabilities: sigma is the spectrum of P^T P, and hard rows are the special case."""
    w = lab.random_weights(15, 0.4)
    graph, rng = lab.graph(w), np.random.default_rng(0)
    lam = np.linalg.eigvalsh(w)[::-1]
    for sharpness in (0.1, 1.0, 30.0):
        p = np.exp(sharpness * rng.standard_normal((15, 3)))
        p /= p.sum(1, keepdims=True)
        found = spectral.partition_bound(graph, 3, codes=p)
        assert found.agreement == pytest.approx(np.trace(p.T @ w @ p))
        assert found.bound == pytest.approx(np.linalg.eigvalsh(p.T @ p)[::-1] @ lam[:3])
        assert found.agreement <= found.bound
    labels = rng.integers(0, 3, 15)
    hard = spectral.partition_bound(graph, 3, codes=labels)
    soft = spectral.partition_bound(graph, 3, codes=torch.from_numpy(np.eye(3)[labels]))
    assert hard.bound == pytest.approx(soft.bound)
    assert hard.agreement == pytest.approx(soft.agreement)


def test_partition_bound_errors():
    graph = PairGraph.from_views(4)
    for options, error, message in (
        (
            {"codes": [0, 1]},
            ValueError,
            r"codes must be \(8,\) integers in \[0, 3\), got shape",
        ),
        ({"codes": [0, 1, 2, 3] * 2}, ValueError, r"integers in \[0, 3\).* from 0 to 3"),
        ({"codes": np.ones((8, 2))}, ValueError, r"shape \(8,\) or \(8, 3\), got \(8, 2\)"),
        ({"codes": np.ones((8, 3))}, ValueError, "whose sum is 2 from 1"),
        ({"gamma": 1}, TypeError, "unexpected keyword 'gamma'"),
    ):
        with pytest.raises(error, match=message):
            spectral.partition_bound(graph, 3, **options)

"""What docs/migration.md says of pytorch-metric-learning, with the real package."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

import sslspec_fast.functional as F
from sslspec_fast import PairGraph

theirs = pytest.importorskip("pytorch_metric_learning.losses")


def rows(n: int = 24) -> Tensor:
    return torch.randn(n, 8, dtype=torch.float64)


def assert_equal(ours: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(ours, other, rtol=1e-9, atol=0)


def test_nt_xent_of_two_views() -> None:
    a, b = rows(), rows()
    loss = theirs.SelfSupervisedLoss(theirs.NTXentLoss(temperature=0.07))
    assert_equal(F.nt_xent(a, b, temperature=0.07), loss(a, b))


def test_sup_con_where_an_anchor_has_no_positive() -> None:
    z = rows()
    labels = torch.tensor([0, 1, 2, 3, 4] * 4 + [5, 6, 7, 8])  # the last four stand alone
    loss = theirs.SupConLoss(temperature=0.1)(z, labels)
    assert_equal(F.sup_con(normalize(z), labels, temperature=0.1) * 24 / 20, loss)
    graph = PairGraph.from_labels(labels)
    assert_equal(F.graph_info_nce(z, graph, temperature=0.1), loss)


def test_several_positives_have_no_equivalent_but_two_views_have() -> None:
    z = rows()
    loss = theirs.NTXentLoss(0.1)
    pairs, triples = torch.arange(12).repeat(2), torch.arange(8).repeat(3)
    assert_equal(F.graph_info_nce(z, PairGraph.from_labels(pairs), temperature=0.1), loss(z, pairs))
    for negatives in ("others", "non_positive"):
        graph = PairGraph.from_labels(triples)
        ours = F.graph_info_nce(z, graph, temperature=0.1, negatives=negatives)
        assert abs(ours - loss(z, triples)) > 1e-3


def test_vicreg() -> None:
    a, b = rows(), rows()
    assert_equal(F.vicreg(a, b), theirs.VICRegLoss()(a, ref_emb=b))

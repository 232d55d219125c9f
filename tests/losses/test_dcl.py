"""DCL and DCLW: golden values, weights, reductions, the graph form, modules."""

import math

import pytest
import torch

import sslspec_fast.functional as F
from sslspec_fast.graph import PairGraph
from sslspec_fast.losses import DCLLoss, DCLWLoss

from ..support.golden import assert_golden
from ..support.inputs import pair_rows, unit

IMPLEMENTATIONS = ("fused", "torch")


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_golden(impl):
    assert_golden("dcl", lambda a, b: F.dcl(a, b, impl=impl))
    weights = F.negative_mises_fisher_weights
    assert_golden("dclw", lambda a, b: F.dcl(a, b, weight_fn=weights, impl=impl))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_rows_and_weights(impl):
    z1, z2 = pair_rows(5, 4)
    w = torch.tensor([0.0, 1.0, 2.0, 3.0, 0.5])
    u = unit(torch.cat([z1, z2]))
    s = u @ u.T / 0.3
    i = torch.arange(10)
    same = (i % 5)[:, None] == i % 5
    expected = s.masked_fill(same, -math.inf).logsumexp(1) - s[i, (i + 5) % 10]
    hyper = {"temperature": 0.3, "impl": impl}
    torch.testing.assert_close(F.dcl(z1, z2, reduction="none", **hyper), expected)
    both = w.double().repeat(2)
    loss, terms = F.dcl(z1, z2, sample_weight=w, return_terms=True, **hyper)
    torch.testing.assert_close(loss, (both * expected).sum() / both.sum())
    torch.testing.assert_close(terms["alignment"] + terms["uniformity"], loss)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_temperature_gradient(impl):
    z1, z2 = pair_rows(5, 4)
    t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    rows = torch.full((5,), 0.3, dtype=torch.float64, requires_grad=True)
    (scalar,) = torch.autograd.grad(F.dcl(z1, z2, temperature=t, impl=impl), t)
    (by_row,) = torch.autograd.grad(F.dcl(z1, z2, temperature=rows, impl=impl), rows)
    torch.testing.assert_close(by_row.sum(), scalar)
    h = 1e-5
    up = F.dcl(z1, z2, temperature=0.3 + h, impl=impl)
    down = F.dcl(z1, z2, temperature=0.3 - h, impl=impl)
    assert scalar.item() == pytest.approx(((up - down) / (2 * h)).item(), rel=1e-6)


def test_is_the_non_positive_form_on_the_view_graph():
    z1, z2 = pair_rows(6, 4)
    graph = PairGraph.from_views(6)
    form = F.graph_info_nce(torch.cat([z1, z2]), graph, negatives="non_positive")
    torch.testing.assert_close(F.dcl(z1, z2), form)


def test_weights_are_detached_and_average_one():
    u1, u2 = (unit(z).requires_grad_() for z in pair_rows(6, 4))
    w = F.negative_mises_fisher_weights(u1, u2, sigma=0.5)
    assert not w.requires_grad
    assert w.mean().item() == pytest.approx(1)


def test_modules_are_lightlys():
    assert_golden("dcl", DCLLoss())
    assert_golden("dclw", DCLWLoss())
    assert_golden("dclw", DCLLoss(weight_fn=F.negative_mises_fisher_weights))


def test_errors():
    with pytest.raises(ValueError, match=r"dcl: z1 needs at least 2 rows .*got \(1, 3\)"):
        F.dcl(*pair_rows(1, 3))
    with pytest.raises(ValueError, match=r"dcl: weight_fn must return one weight per pair \(4,\)"):
        F.dcl(*pair_rows(4, 3), weight_fn=lambda a, b: a)
    with pytest.raises(ValueError, match=r"sigma must be finite and > 0, got 0"):
        F.negative_mises_fisher_weights(*pair_rows(4, 3), sigma=0.0)

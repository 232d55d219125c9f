"""SupCon: golden values, unlabelled rows, singletons, SupContrast's call, the graph form."""

import math

import pytest
import torch

import sslspec_fast.functional as F
from sslspec_fast.graph import PairGraph
from sslspec_fast.losses import SupConLoss

from ..support.golden import assert_golden
from ..support.inputs import golden_labels, golden_rows, labels_of, pair_rows, unit

IMPLEMENTATIONS = ("fused", "torch")


def supcontrast(features, mask, temperature, base_temperature, contrast_mode="all"):
    """HobbitLong/SupContrast's definition, for a mask (n, n)."""
    n, views = features.shape[:2]
    contrast = torch.cat(torch.unbind(features, dim=1))
    anchors = contrast if contrast_mode == "all" else features[:, 0]
    copies = len(anchors) // n
    logits = anchors @ contrast.T / temperature
    own = torch.eye(n * copies, n * views, dtype=torch.bool)
    tiled = mask.repeat(copies, views).masked_fill(own, 0)
    logp = logits - logits.masked_fill(own, -math.inf).logsumexp(1, keepdim=True)
    pairs = tiled.sum(1)
    pairs = torch.where(pairs < 1e-6, 1, pairs)
    return -(temperature / base_temperature) * ((tiled * logp).sum(1) / pairs).mean()


def stacked(a, b):
    return torch.cat([unit(a), unit(b)])


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("name", "hyper"),
    [
        ("supcontrast 0.07", {"temperature": 0.07, "base_temperature": 0.07}),
        ("supcontrast 0.1 0.07", {"temperature": 0.1, "base_temperature": 0.07}),
        ("pml supcon 0.1", {"temperature": 0.1}),
    ],
)
def test_golden(name, hyper, impl):
    def loss(a, b):
        return F.sup_con(stacked(a, b), golden_labels(len(a)).repeat(2), **hyper, impl=impl)

    assert_golden(name, loss)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_anchors_without_positives_count_as_zero(impl):
    z1, _ = golden_rows(8, 5)
    y = golden_labels(8)  # class 3 has one member
    rows = F.sup_con(unit(z1), y, temperature=0.1, reduction="none", impl=impl)
    assert rows[6].item() == 0
    assert (rows[[0, 1, 2, 3, 4, 5, 7]] > 0).all()
    mean = F.sup_con(unit(z1), y, temperature=0.1, impl=impl)
    torch.testing.assert_close(mean, rows.sum() / 8)
    assert mean.item() == pytest.approx(12.765780592485, abs=1e-11)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_negative_labels_are_unlabelled(impl):
    y = labels_of(20)
    z = unit(pair_rows(20, 4)[0])
    graph = PairGraph.from_labels(y)
    rows = F.sup_con(z, y, reduction="none", impl=impl)
    by_graph = F.graph_info_nce(z, graph, normalize=False, reduction="none", impl=impl)
    torch.testing.assert_close(rows, by_graph)
    assert (rows[y < 0] == 0).all()


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_reductions_weights_and_terms(impl):
    y, z = labels_of(12), unit(pair_rows(12, 4)[0])
    w = torch.linspace(0, 2, 12).double()
    rows = F.sup_con(z, y, reduction="none", impl=impl)
    torch.testing.assert_close(F.sup_con(z, y, reduction="sum", impl=impl), rows.sum())
    loss, terms = F.sup_con(z, y, sample_weight=w, return_terms=True, impl=impl)
    torch.testing.assert_close(loss, (w * rows).sum() / w.sum())
    torch.testing.assert_close(terms["alignment"] + terms["uniformity"], loss)


@pytest.mark.parametrize("base_temperature", [None, 0.3])
def test_row_temperature_and_smoothing_agree_with_the_reference(base_temperature):
    y, z = labels_of(12), pair_rows(12, 4)[0]
    t = torch.linspace(0.2, 1, 12, dtype=torch.float64, requires_grad=True)
    grads, values = [], []
    for impl in IMPLEMENTATIONS:
        x = z.clone().requires_grad_()
        loss = F.sup_con(
            x,
            y,
            temperature=t,
            base_temperature=base_temperature,
            label_smoothing=0.1,
            impl=impl,
        )
        values.append(loss)
        grads.append(torch.autograd.grad(loss, (x, t)))
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(grads[0], grads[1])


def test_all_one_class_and_no_class():
    z = unit(pair_rows(6, 4)[0])
    alone = F.sup_con(z, torch.arange(6))
    assert alone.item() == 0
    one = F.sup_con(z, torch.zeros(6, dtype=torch.long))
    torch.testing.assert_close(one, F.sup_con(z, torch.zeros(6, dtype=torch.long), impl="torch"))


def test_module_is_supcontrasts():
    def features(a, b):
        return torch.stack([unit(a), unit(b)], dim=1)

    def call(module, labelled=True):
        return lambda a, b: module(features(a, b), golden_labels(len(a)) if labelled else None)

    assert_golden("supcontrast 0.07", call(SupConLoss()))
    assert_golden("supcontrast 0.1 0.07", call(SupConLoss(temperature=0.1)))
    simclr = SupConLoss(temperature=0.5, base_temperature=0.5)
    assert_golden("nt_xent 0.5", call(simclr, labelled=False))


@pytest.mark.parametrize("contrast_mode", ["all", "one"])
@pytest.mark.parametrize("views", [1, 2, 3])
def test_module_with_masks(views, contrast_mode):
    n = 6
    features = unit(pair_rows(n * views, 4)[0]).view(n, views, 4).requires_grad_()
    y = torch.tensor([0, 0, 1, 1, 1, 2])
    same = (y[:, None] == y).double()
    weighted = torch.rand(n, n, generator=torch.Generator().manual_seed(0)).double()
    module = SupConLoss(temperature=0.2, contrast_mode=contrast_mode)
    for mask, ours in (
        (same, module(features, y)),
        (same, module(features, mask=same)),
        (weighted, module(features, mask=weighted)),
        (torch.eye(n).double(), module(features)),
    ):
        expected = supcontrast(features, mask, 0.2, 0.07, contrast_mode)
        torch.testing.assert_close(ours, expected)
        grad, wanted = (torch.autograd.grad(x, features)[0] for x in (ours, expected))
        torch.testing.assert_close(grad, wanted)


@pytest.mark.parametrize("contrast_mode", ["all", "one"])
def test_module_labels_of_any_real_dtype(contrast_mode):
    """SupContrast compares labels and reshapes them to a column: dtype and (n, 1) do not matter."""
    features = unit(pair_rows(8, 4)[0]).view(4, 2, 4)
    module = SupConLoss(contrast_mode=contrast_mode)
    y = torch.tensor([2, 0, 2, 1])
    thirds = y.double() / 3
    for given in (y[:, None], thirds, thirds[:, None].half(), y.to(torch.uint8), y.tolist()):
        torch.testing.assert_close(module(features, given), module(features, y))
    binary = y == 2
    for given in (binary, binary[:, None], binary.numpy()):
        torch.testing.assert_close(module(features, given), module(features, binary.long()))
    unlabelled = torch.tensor([2, -1, 2, -1])
    torch.testing.assert_close(
        module(features, unlabelled - 0.5), module(features, torch.tensor([2, -1, 2, -3]))
    )


def test_module_flattens_features():
    features = pair_rows(6, 8)[0].view(3, 2, 2, 4)
    expected = SupConLoss()(features.flatten(2))
    torch.testing.assert_close(SupConLoss()(features), expected)


def test_errors():
    z = pair_rows(4, 3)[0]
    with pytest.raises(ValueError, match=r"labels must have one value per row \(4,\), got \(3,\)"):
        F.sup_con(z, torch.zeros(3, dtype=torch.long))
    with pytest.raises(TypeError, match=r"sup_con: labels must be integers, got torch.float32"):
        F.sup_con(z, torch.zeros(4))
    with pytest.raises(ValueError, match=r"sup_con: base_temperature must be .* > 0, got -1"):
        F.sup_con(z, torch.zeros(4, dtype=torch.long), base_temperature=-1.0)
    with pytest.raises(ValueError, match=r"SupConLoss: mask must be None with labels, got both"):
        SupConLoss()(z.view(2, 2, 3), torch.zeros(2), torch.eye(2))
    with pytest.raises(ValueError, match=r"one value per sample \(2,\) or \(2, 1\), got \(3,\)"):
        SupConLoss()(z.view(2, 2, 3), torch.zeros(3))
    with pytest.raises(ValueError, match=r"SupConLoss: labels must be finite, got 1 bad values"):
        SupConLoss()(z.view(2, 2, 3), torch.tensor([0.0, math.nan]))
    with pytest.raises(ValueError, match=r"features must have shape \(n, views, ...\), got \(4, 3"):
        SupConLoss()(z)
    with pytest.raises(ValueError, match=r"SupConLoss: mask must have shape \(2, 2\), got \(3, 3"):
        SupConLoss()(z.view(2, 2, 3), mask=torch.eye(3))
    with pytest.raises(ValueError, match=r"contrast_mode must be one of 'all', 'one', got 'two'"):
        SupConLoss(contrast_mode="two")

"""InfoNCE: golden values, extra negatives, temperatures, smoothing, debiasing, module."""

import math

import pytest
import torch
import torch.nn.functional as nnf

import sslspec_fast.functional as F
from sslspec_fast.losses import InfoNCELoss

from ..support.golden import assert_golden
from ..support.inputs import pair_rows, unit

IMPLEMENTATIONS = ("fused", "torch")


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_golden(impl):
    assert_golden("info_nce", lambda a, b: F.info_nce(a, b, impl=impl))
    assert_golden("mnrl 20", lambda a, b: F.info_nce(a, b, temperature=1 / 20, impl=impl))

    def both_directions(a, b):
        return 0.5 * (F.info_nce(a, b, impl=impl) + F.info_nce(b, a, impl=impl))

    assert_golden("clip 0.1", both_directions)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("m", [1, 5, 300])
def test_negatives_are_extra_columns(m, impl):
    q, k = pair_rows(7, 4)
    extra = pair_rows(m, 4, seed=3)[0].requires_grad_()
    logits = unit(q) @ torch.cat([unit(k), unit(extra)]).T / 0.2
    expected = nnf.cross_entropy(logits, torch.arange(7), reduction="none")
    rows = F.info_nce(q, k, temperature=0.2, negatives=extra, reduction="none", impl=impl)
    torch.testing.assert_close(rows, expected)
    ours = torch.autograd.grad(rows.sum(), extra)
    torch.testing.assert_close(ours, torch.autograd.grad(expected.sum(), extra))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_row_temperature_and_its_gradient(impl):
    q, k = pair_rows(6, 4)
    t = torch.linspace(0.1, 0.6, 6, dtype=torch.float64, requires_grad=True)
    expected = nnf.cross_entropy(unit(q) @ unit(k).T / t[:, None], torch.arange(6))
    loss = F.info_nce(q, k, temperature=t, impl=impl)
    torch.testing.assert_close(loss, expected)
    ours = torch.autograd.grad(loss, t)
    torch.testing.assert_close(ours, torch.autograd.grad(expected, t))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_smoothing_weights_and_terms(impl):
    q, k = pair_rows(6, 4)
    w = torch.tensor([1.0, 0.0, 2.0, 1.0, 3.0, 0.5]).double()
    logits = unit(q) @ unit(k).T / 0.1
    rows = nnf.cross_entropy(logits, torch.arange(6), reduction="none", label_smoothing=0.2)
    loss, terms = F.info_nce(
        q, k, label_smoothing=0.2, sample_weight=w, return_terms=True, impl=impl
    )
    torch.testing.assert_close(loss, (w * rows).sum() / w.sum())
    torch.testing.assert_close(terms["alignment"], -(w * logits.diagonal()).sum() / w.sum())
    torch.testing.assert_close(terms["alignment"] + terms["uniformity"], loss)
    total = F.info_nce(q, k, label_smoothing=0.2, sample_weight=w, reduction="sum", impl=impl)
    torch.testing.assert_close(total, (w * rows).sum())


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_debiased(impl):
    q, k = pair_rows(6, 4)
    extra = pair_rows(3, 4, seed=2)[0]
    t, tau = 0.4, 0.1
    e = torch.exp(unit(q) @ unit(torch.cat([k, extra])).T / t)
    pos = e[:, :6].diagonal()
    estimate = ((e.sum(1) - pos) - tau * 8 * pos) / (1 - tau)
    estimate = estimate.clamp(min=8 * math.exp(-1 / t))
    expected = -torch.log(pos / (pos + estimate)).mean()
    loss = F.info_nce(q, k, negatives=extra, temperature=t, tau_plus=tau, impl=impl)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_debiased_at_a_small_temperature_stays_finite(impl):
    q, k = (z.float().requires_grad_() for z in pair_rows(6, 4))
    F.info_nce(q, k, temperature=0.005, tau_plus=0.3, impl=impl).backward()
    assert torch.isfinite(q.grad).all()
    assert torch.isfinite(k.grad).all()


def test_one_query():
    q, k = pair_rows(1, 4)
    assert F.info_nce(q, k).item() == 0
    extra = pair_rows(3, 4, seed=2)[0]
    expected = F.info_nce(q, k, negatives=extra, impl="torch")
    torch.testing.assert_close(F.info_nce(q, k, negatives=extra), expected)


def test_module():
    assert_golden("info_nce", InfoNCELoss())
    q, k = pair_rows(4, 3)
    extra = pair_rows(2, 3, seed=1)[0]
    expected = F.info_nce(q, k, temperature=0.2, negatives=extra)
    torch.testing.assert_close(InfoNCELoss(0.2)(q, k, extra), expected)


def test_bad_negatives():
    q, k = pair_rows(4, 3)
    with pytest.raises(
        ValueError, match=r"info_nce: negatives must have the 3 features of query \(4, 3\), got \(2"
    ):
        F.info_nce(q, k, negatives=torch.zeros(2, 5, dtype=torch.float64))
    with pytest.raises(TypeError, match=r"negatives must have the dtype of query, torch.float64"):
        F.info_nce(q, k, negatives=torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"negatives needs at least 1 row and 1 column, got \(0"):
        F.info_nce(q, k, negatives=torch.zeros(0, 3, dtype=torch.float64))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_false_negatives_are_left_out_and_the_positive_stays(impl, reduction):
    q, k = (z.requires_grad_() for z in pair_rows(9, 4))
    extra = pair_rows(12, 4, seed=3)[0]
    ids, others = torch.arange(9) % 4, torch.arange(12) % 5
    unlike = torch.cat([ids, torch.full((12,), 9)])
    for options, columns in (
        ({"ids": ids, "negative_ids": others}, torch.cat([ids, others])),
        ({"ids": ids - 1}, unlike),  # -1 is an id like another
        ({"threshold": 0.3}, None),
        ({"ids": ids, "threshold": torch.linspace(-1, 1, 9)}, unlike),
    ):
        cosines = unit(q) @ unit(torch.cat([k, extra])).T
        false = cosines > torch.as_tensor(options.get("threshold", 2.0)).double().reshape(-1, 1)
        if columns is not None:
            false |= ids[:, None] == columns
        false.fill_diagonal_(False)
        margin = 0.2 * torch.eye(9, 21, dtype=torch.float64)
        logits = ((cosines - margin) / 0.3).masked_fill(false, -math.inf)
        expected = nnf.cross_entropy(logits, torch.arange(9), reduction=reduction)
        loss = F.info_nce(
            q,
            k,
            temperature=0.3,
            negatives=extra,
            margin=0.2,
            reduction=reduction,
            impl=impl,
            **options,
        )
        torch.testing.assert_close(loss, expected)
        ours, wanted = (torch.autograd.grad(x.sum(), (q, k)) for x in (loss, expected))
        torch.testing.assert_close(ours, wanted)


def test_a_threshold_relative_to_the_positive():
    """Columns closer than the positive by more than 0.1 are left out."""
    q, k = pair_rows(9, 4)
    cosines = unit(q) @ unit(k).T
    logits = cosines.masked_fill(cosines > cosines.diagonal()[:, None] + 0.1, -math.inf) / 0.1
    loss = F.info_nce(q, k, threshold=cosines.diagonal() + 0.1)
    torch.testing.assert_close(loss, nnf.cross_entropy(logits, torch.arange(9)))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"margin": -1.0}, ValueError, "margin must be finite and >= 0, got -1.0"),
        ({"margin": 0.1, "tau_plus": 0.1}, ValueError, "go without label_smoothing and tau_plus"),
        ({"threshold": 0.1, "label_smoothing": 0.1}, ValueError, "got label_smoothing=0.1, tau_p"),
        ({"negative_ids": [1]}, ValueError, "negative_ids need ids, got None"),
        ({"ids": range(4), "negative_ids": [1]}, ValueError, "negative_ids need negatives, got No"),
        ({"ids": [2**40] * 4}, ValueError, "ids must fit in 32 bits, got 1099511627776"),
        ({"ids": [1, 2]}, ValueError, r"ids must have one value per row \(4,\), got \(2,\)"),
        ({"ids": [0.5] * 4}, TypeError, "ids must be integers, got list of dtype float64"),
    ],
)
def test_bad_false_negative_options(options, error, message):
    q, k = pair_rows(4, 3)
    with pytest.raises(error, match=f"info_nce: .*{message}|info_nce: {message}"):
        F.info_nce(q, k, **options)

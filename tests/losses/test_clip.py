"""CLIP: golden values, learnable scale, bias, row scales, smoothing, debiasing, module."""

import math

import pytest
import torch
import torch.nn.functional as nnf

import sslspec_fast.functional as F
from sslspec_fast.losses import CLIPLoss

from ..support.golden import assert_golden
from ..support.inputs import golden_rows, pair_rows, unit

IMPLEMENTATIONS = ("fused", "torch")


def unit_pair(n, d):
    a, b = pair_rows(n, d)
    return unit(a), unit(b)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_golden(impl):
    assert_golden("clip", lambda a, b: F.clip(unit(a), unit(b), 1 / 0.07, impl=impl))
    assert_golden("clip 0.1", lambda a, b: F.clip(unit(a), unit(b), 10.0, impl=impl))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_scale_gradient_is_open_clips(impl):
    a, b = (unit(z) for z in golden_rows(8, 5))
    scale = torch.tensor(1 / 0.07, dtype=torch.float64, requires_grad=True)
    F.clip(a, b, scale, impl=impl).backward()
    assert abs(scale.grad.item() - -0.016151767500) <= 1e-10


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_a_bias_has_no_effect(impl):
    a, b = unit_pair(6, 4)
    bias = torch.tensor(-3.0, dtype=torch.float64, requires_grad=True)
    loss = F.clip(a, b, 10.0, logit_bias=bias, impl=impl)
    torch.testing.assert_close(loss, F.clip(a, b, 10.0, impl=impl))
    (grad,) = torch.autograd.grad(loss, bias)
    assert abs(grad.item()) <= 1e-15
    torch.testing.assert_close(F.clip(a, b, 10.0, logit_bias=2.5, impl=impl), loss)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_rows_weights_smoothing_and_terms(impl):
    a, b = unit_pair(6, 4)
    w = torch.tensor([1.0, 0.0, 2.0, 1.0, 3.0, 0.5]).double()
    logits = 7 * a @ b.T
    target = torch.arange(6)
    rows = 0.5 * (
        nnf.cross_entropy(logits, target, reduction="none", label_smoothing=0.1)
        + nnf.cross_entropy(logits.T, target, reduction="none", label_smoothing=0.1)
    )
    hyper = {"label_smoothing": 0.1, "impl": impl}
    torch.testing.assert_close(F.clip(a, b, 7.0, reduction="none", **hyper), rows)
    loss, terms = F.clip(a, b, 7.0, sample_weight=w, return_terms=True, **hyper)
    torch.testing.assert_close(loss, (w * rows).sum() / w.sum())
    torch.testing.assert_close(terms["alignment"], -(w * logits.diagonal()).sum() / w.sum())
    torch.testing.assert_close(terms["alignment"] + terms["uniformity"], loss)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_a_scale_per_pair_applies_to_both_directions(impl):
    a, b = unit_pair(6, 4)
    scale = torch.linspace(1, 20, 6, dtype=torch.float64, requires_grad=True)
    target = torch.arange(6)
    expected = 0.5 * (
        nnf.cross_entropy(scale[:, None] * (a @ b.T), target)
        + nnf.cross_entropy(scale[:, None] * (b @ a.T), target)
    )
    loss = F.clip(a, b, scale, impl=impl)
    torch.testing.assert_close(loss, expected)
    ours = torch.autograd.grad(loss, scale)
    torch.testing.assert_close(ours, torch.autograd.grad(expected, scale))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_debiased(impl):
    a, b = unit_pair(6, 4)
    c, tau = 3.0, 0.1

    def one(e):
        pos = e.diagonal()
        estimate = ((e.sum(1) - pos) - tau * 5 * pos) / (1 - tau)
        estimate = estimate.clamp(min=5 * math.exp(-c))
        return -torch.log(pos / (pos + estimate)).mean()

    e = torch.exp(c * a @ b.T)
    loss = F.clip(a, b, c, tau_plus=tau, impl=impl)
    torch.testing.assert_close(loss, 0.5 * (one(e) + one(e.T)))


def test_one_pair():
    a, b = unit_pair(1, 4)
    assert F.clip(a, b, 10.0).item() == 0


def test_module_is_open_clips():
    module = CLIPLoss()
    scale = torch.tensor(1 / 0.07, dtype=torch.float64)
    assert_golden("clip", lambda a, b: module(unit(a), unit(b), scale))
    assert_golden("clip", lambda a, b: module(unit(a), unit(b), logit_scale=scale.view(1)))
    a, b = unit_pair(4, 3)
    out = module(a, b, 10.0, logit_bias=torch.tensor(1.0), output_dict=True)
    assert set(out) == {"contrastive_loss"}
    torch.testing.assert_close(out["contrastive_loss"], module(a, b, 10.0))


def test_bad_scales():
    a, b = unit_pair(4, 3)
    with pytest.raises(ValueError, match=r"clip: logit_scale must be finite and > 0, got -1"):
        F.clip(a, b, -1.0)
    with pytest.raises(ValueError, match=r"clip: logit_scale must be finite and > 0, got -2"):
        F.clip(a, b, torch.tensor(-2.0))
    with pytest.raises(ValueError, match=r"one value per anchor row \(4,\), got shape \(3,\)"):
        F.clip(a, b, torch.ones(3))
    with pytest.raises(TypeError, match=r"clip: logit_scale must be a floating-point tensor"):
        F.clip(a, b, torch.tensor(3))
    with pytest.raises(TypeError, match=r"clip: logit_scale must be a number, got str"):
        F.clip(a, b, "10")
    with pytest.raises(ValueError, match=r"clip: logit_bias must be one value, got shape \(2,\)"):
        F.clip(a, b, 1.0, logit_bias=torch.zeros(2))
    with pytest.raises(ValueError, match=r"clip: text must match image \(4, 3\), got \(4, 2\)"):
        F.clip(a, b[:, :2], 1.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3, 7), (33, 65), (257, 31)])
def test_column_major_towers(shape, dtype):
    towers = [unit(z).to(dtype) for z in pair_rows(*shape)]

    def results(leaves):
        leaves = [z.requires_grad_() for z in leaves]
        loss = F.clip(*leaves, 100.0)
        return [loss.detach(), *torch.autograd.grad(loss, leaves)]

    expected = results([z.clone() for z in towers])
    for first, second in ((True, False), (False, True), (True, True)):
        chosen = zip(towers, (first, second), strict=True)
        got = results([z.T.contiguous().T if flip else z.clone() for z, flip in chosen])
        torch.testing.assert_close(got, expected)

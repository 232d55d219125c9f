"""FALCON: definition, temperature, blocks of rows, codes, module."""

import math

import pytest
import torch

import sslspec_fast.functional as F
from sslspec_fast.losses import FalconLoss
from sslspec_fast.losses.falcon import random_codes

from ..support.inputs import pair_rows

IMPLEMENTATIONS = ("fused", "torch")


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_definition(impl):
    """1/2 sum over views of KL(mean p || uniform) + beta CE(p, p')."""
    h1, h2 = pair_rows(6, 4)
    codes = random_codes(4, 12, seed=3).double()
    n, f, c, eps = 6, 4, 12, 1e-8
    tau = f / (math.sqrt(n) * math.log((1 - eps * (c - 1)) / eps))
    probabilities = [
        torch.softmax(math.sqrt(f / n) * h / h.norm(dim=1, keepdim=True) @ codes / tau, 1)
        for h in (h1, h2)
    ]
    expected = 0.0
    for p, q in (probabilities, probabilities[::-1]):
        mean = p.mean(0)
        expected = expected + 0.5 * (mean * torch.log(c * mean)).sum()
        expected = expected - 0.5 * 0.2 * (p * q.log()).sum(1).mean()
    loss, terms = F.falcon(h1, h2, codes=codes, beta=0.2, return_terms=True, impl=impl)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(terms["prior"] + 0.2 * terms["consistency"], loss)


def test_a_row_on_a_code_reaches_the_probability_of_the_temperature():
    """p_max = 1 - eps (c - 1) where every other code is orthogonal; f = c = 4 Hadamard codes."""
    codes = torch.tensor(
        [[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], dtype=torch.float64
    )
    c, eps = 4, 1e-3
    h = codes.T.contiguous()
    _, terms = F.falcon(h, h, codes=codes, eps=eps, return_terms=True)
    top = 1 - eps * (c - 1)
    entropy = -(top * math.log(top) + (c - 1) * eps * math.log(eps))
    assert terms["consistency"].item() == pytest.approx(entropy, rel=1e-9)
    assert terms["prior"].item() == pytest.approx(0, abs=1e-12)


def test_blocks_of_rows_change_nothing(monkeypatch):
    h1, h2 = (h.requires_grad_() for h in pair_rows(11, 4))
    codes = random_codes(4, 12).double()
    whole = F.falcon(h1, h2, codes=codes)
    grads = torch.autograd.grad(whole, (h1, h2))
    monkeypatch.setattr("sslspec_fast.losses._codes._BLOCK", 36)
    split = F.falcon(h1, h2, codes=codes)
    torch.testing.assert_close(split, whole)
    torch.testing.assert_close(torch.autograd.grad(split, (h1, h2)), grads)


def test_codes_are_random_signs_and_repeatable():
    codes = random_codes(5, 300, seed=4)
    assert codes.shape == (5, 300)
    assert set(codes.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(codes, random_codes(5, 300, seed=4))
    assert not torch.equal(codes, random_codes(5, 300, seed=5))
    h1, h2 = pair_rows(6, 5)
    default = F.falcon(h1, h2)
    torch.testing.assert_close(default, F.falcon(h1, h2, codes=random_codes(5, 40).double()))
    small = F.falcon(h1, h2, n_codes=7, seed=2)
    torch.testing.assert_close(small, F.falcon(h1, h2, codes=random_codes(5, 7, 2).double()))


def test_module():
    h1, h2 = pair_rows(6, 4)
    module = FalconLoss(4, 12, beta=0.1, seed=3)
    expected = F.falcon(h1, h2, n_codes=12, beta=0.1, seed=3)
    torch.testing.assert_close(module(h1, h2), expected)
    assert "codes" in module.state_dict()


def test_underflowed_probabilities_have_finite_gradients():
    h = torch.eye(3).repeat(2, 1).requires_grad_()
    codes = torch.tensor([[1.0, -1.0], [1.0, -1.0], [1.0, -1.0]])
    F.falcon(h, h, codes=codes, eps=1e-30).backward()
    assert torch.isfinite(h.grad).all()


def test_errors():
    h1, h2 = pair_rows(6, 4)
    with pytest.raises(ValueError, match=r"codes must have a row per feature of h1 \(4\), got \(3"):
        F.falcon(h1, h2, codes=torch.ones(3, 8, dtype=torch.float64))
    with pytest.raises(TypeError, match=r"falcon: codes must be a floating-point tensor"):
        F.falcon(h1, h2, codes=torch.ones(4, 8, dtype=torch.int8))
    with pytest.raises(ValueError, match=r"falcon: eps must be < 1 / c = 0.125 for c = 8 codes"):
        F.falcon(h1, h2, n_codes=8, eps=0.2)
    with pytest.raises(ValueError, match=r"falcon: beta must be finite and >= 0, got -1"):
        F.falcon(h1, h2, beta=-1.0)

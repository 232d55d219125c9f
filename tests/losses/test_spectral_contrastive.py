"""Spectral contrastive loss: golden values, clipping, reductions, module."""

import pytest
import torch

import sslspec_fast.functional as F
from sslspec_fast.losses import SpectralContrastiveLoss

from ..support.golden import assert_golden
from ..support.inputs import pair_rows

IMPLEMENTATIONS = ("fused", "torch")


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_golden(impl):
    assert_golden("spectral 1", lambda a, b: F.spectral_contrastive(a, b, impl=impl))
    assert_golden("spectral 3", lambda a, b: F.spectral_contrastive(a, b, mu=3.0, impl=impl))


@pytest.mark.parametrize("shape", [(40, 7), (7, 40), (2, 300), (300, 2), (33, 1), (16, 32)])
def test_both_sides_of_the_identity(shape):
    a, b = pair_rows(*shape)
    fused = F.spectral_contrastive(a, b, mu=30.0)
    plain = F.spectral_contrastive(a, b, mu=30.0, impl="torch")
    torch.testing.assert_close(fused, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_only_long_rows_are_shortened(impl):
    a, b = pair_rows(8, 4)
    a, b = 0.1 * a, 0.1 * b
    inside = F.spectral_contrastive(a, b, mu=100.0, impl=impl)
    s = a @ b.T
    off = (s - s.diag().diag()).square().sum()
    expected = (-2 * s.diag().mean() + off / (8 * 7)) / 100
    torch.testing.assert_close(inside, expected)
    far = F.spectral_contrastive(1e3 * a, 1e3 * b, mu=0.5, impl=impl)
    unit = torch.nn.functional.normalize
    near = F.spectral_contrastive(
        0.5**0.5 * unit(a, dim=1), 0.5**0.5 * unit(b, dim=1), mu=0.5, impl=impl
    )
    torch.testing.assert_close(far, near)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_reductions_weights_and_terms(impl):
    a, b = pair_rows(8, 4)
    w = torch.linspace(0, 2, 8)
    rows = F.spectral_contrastive(a, b, reduction="none", impl=impl)
    loss, terms = F.spectral_contrastive(a, b, return_terms=True, impl=impl)
    torch.testing.assert_close(loss, rows.mean())
    torch.testing.assert_close(terms["alignment"] + terms["uniformity"], loss)
    total = F.spectral_contrastive(a, b, reduction="sum", impl=impl)
    torch.testing.assert_close(total, rows.sum())
    weighted = F.spectral_contrastive(a, b, sample_weight=w, impl=impl)
    torch.testing.assert_close(weighted, (w * rows).sum() / w.sum())


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_zero_rows_have_finite_gradients(impl):
    a, b = pair_rows(6, 3)
    a = a.clone()
    a[2] = 0
    a.requires_grad_()
    F.spectral_contrastive(a, b, impl=impl).backward()
    assert torch.isfinite(a.grad).all()


def test_module():
    assert_golden("spectral 3", SpectralContrastiveLoss(mu=3.0))


def test_errors():
    with pytest.raises(ValueError, match=r"spectral_contrastive: mu must be .* > 0, got 0"):
        F.spectral_contrastive(*pair_rows(4, 3), mu=0.0)
    with pytest.raises(ValueError, match=r"spectral_contrastive: z1 needs at least 2 rows"):
        F.spectral_contrastive(*pair_rows(1, 3))

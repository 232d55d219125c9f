"""Barlow Twins: golden values and components, duality, constant columns, module."""

import pytest
import torch

import sslspec_fast.functional as F
from sslspec_fast.losses import BarlowTwinsLoss

from ..support.golden import assert_golden
from ..support.inputs import golden_rows, pair_rows
from ..support.tolerance import assert_no_worse

IMPLEMENTATIONS = ("fused", "torch")


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_golden(impl):
    assert_golden("barlow 0.005", lambda a, b: F.barlow_twins(a, b, impl=impl))
    assert_golden(
        "barlow 0.0051", lambda a, b: F.barlow_twins(a, b, off_diagonal=0.0051, impl=impl)
    )


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("shape", "on", "off"),
    [((8, 5), 6.767023e-4, 7.672232549572), ((6, 16), 0.025072372698, 106.045070613009)],
)
def test_components(shape, on, off, impl):
    _, terms = F.barlow_twins(*golden_rows(*shape), return_terms=True, impl=impl)
    assert terms["on_diagonal"].item() == pytest.approx(on, rel=1e-6)
    assert terms["off_diagonal"].item() == pytest.approx(off, rel=1e-11)


@pytest.mark.parametrize("shape", [(40, 7), (7, 40), (2, 300), (300, 2), (33, 1), (16, 32)])
def test_both_sides_of_the_duality(shape):
    a, b = pair_rows(*shape)
    fused, plain = F.barlow_twins(a, b), F.barlow_twins(a, b, impl="torch")
    torch.testing.assert_close(fused, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_constant_column_has_no_correlation(impl):
    a, b = pair_rows(9, 4)
    a, b = a.clone(), b.clone()
    a[:, 2] = 5.0
    a.requires_grad_()
    loss = F.barlow_twins(a, b, off_diagonal=0.0, impl=impl)
    loss.backward()
    keep = [0, 1, 3]
    rest = F.barlow_twins(a[:, keep], b[:, keep], off_diagonal=0.0, impl=impl)
    torch.testing.assert_close(loss, rest + 1)
    assert torch.isfinite(a.grad).all()


def test_module_is_lightlys():
    assert_golden("barlow 0.005", BarlowTwinsLoss())
    assert_golden("barlow 0.0051", BarlowTwinsLoss(lambda_param=0.0051))


def test_solo_learn_scales_the_loss():
    value = 0.025 * F.barlow_twins(*golden_rows(8, 5))
    assert value.item() == pytest.approx(9.759464e-4, rel=1e-6)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"barlow_twins: off_diagonal must be .* got -1"):
        F.barlow_twins(*pair_rows(4, 3), off_diagonal=-1.0)
    with pytest.raises(ValueError, match=r"barlow_twins: z1 needs at least 2 rows"):
        F.barlow_twins(*pair_rows(1, 3))
    with pytest.raises(TypeError, match="sample_weight"):
        F.barlow_twins(*pair_rows(4, 3), sample_weight=torch.ones(4))


@pytest.mark.parametrize("ratio", [1e2, 1e4, 1e17, 1e-12])
@pytest.mark.parametrize("shape", [(256, 32), (64, 200)])
def test_views_of_unlike_scale_in_float32(shape, ratio):
    """The loss does not depend on the scale of a column: neither may its error."""

    def gradients(dtype, impl, seed):
        x, y = pair_rows(*shape, seed)
        leaves = [(x * ratio).float(), y.float()]
        leaves = [z.to(dtype).requires_grad_() for z in leaves]
        value = F.barlow_twins(*leaves, impl=impl)
        return [value.detach(), *torch.autograd.grad(value, leaves)]

    seeds = range(4)
    exact = [gradients(torch.float64, "torch", seed) for seed in seeds]
    fused = [gradients(torch.float32, "fused", seed) for seed in seeds]
    plain = [gradients(torch.float32, "torch", seed) for seed in seeds]
    for k, what in enumerate(("value", "gradient of z1", "gradient of z2")):
        ours, theirs, truth = ([run[k] for run in runs] for runs in (fused, plain, exact))
        assert_no_worse(ours, theirs, truth, what=f"{what} at ratio {ratio:g}")

"""Every loss in float32: error against float64 at most twice torch's own, values and gradients."""

import pytest
import torch

from ..support.cases import CASES, SOFTMAX
from ..support.tolerance import assert_no_worse

TEMPERATURES = (1.0, 0.5, 0.1, 0.07, 0.02, 0.01)


def results(name, n, d, seed, dtype, impl, scales=(1.0, 1.0, 1.0), **hyper):
    """Loss and the gradients of all inputs, which are exact in float32 where they are scaled."""
    inputs, loss = CASES[name].make(n, d, seed)
    if scales != (1.0, 1.0, 1.0):
        inputs = [(scale * x).float() for x, scale in zip(inputs, scales, strict=False)]
    leaves = [x.to(dtype).requires_grad_() for x in inputs]
    value = loss(*leaves, impl=impl, **hyper)
    upstream = (
        torch.ones_like(value)
        if value.dim() == 0
        else torch.arange(value.numel(), dtype=dtype).view_as(value) / value.numel()
    )
    grads = torch.autograd.grad(value, leaves, upstream)
    return value.detach(), torch.cat([g.flatten() for g in grads])


def compare(name, shapes, floor=None, **hyper):
    fused, plain, exact = [], [], []
    for seed, (n, d) in enumerate(shapes):
        exact.append(results(name, n, d, seed, torch.float64, "torch", **hyper))
        fused.append(results(name, n, d, seed, torch.float32, "fused", **hyper))
        plain.append(results(name, n, d, seed, torch.float32, "torch", **hyper))
    for k, what in enumerate(("value", "gradient")):
        assert_no_worse(
            [f[k] for f in fused],
            [p[k] for p in plain],
            [e[k] for e in exact],
            floor=floor,
            what=f"{name} {what} {hyper}",
        )


SHAPES = ((128, 48), (190, 33), (257, 64), (96, 16), (252, 100))


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("name", SOFTMAX)
def test_softmax_family(name, temperature):
    compare(name, SHAPES, temperature=temperature)


@pytest.mark.parametrize("name", [name for name in CASES if name not in SOFTMAX])
def test_other_losses(name):
    compare(name, SHAPES)


@pytest.mark.parametrize("name", ["vicreg", "barlow_twins", "spectral_contrastive"])
def test_short_and_wide(name):
    """More features than rows: the other side of the Gram duality."""
    compare(name, ((16, 200), (33, 120), (64, 257)))


SCALED = [
    (name, ratio, scale)
    for name, case in CASES.items()
    for scale in (1e-6, 1.0, 1e6)
    for ratio in (1e-5, 1e-2, 1.0, 1e2, 1e3, 1e5)
    if (ratio == 1.0 or len(case.make(12, 3)[0]) > 1) and (ratio, scale) != (1.0, 1.0)
    if scale * max(ratio, 1.0) <= case.largest
]


@pytest.mark.parametrize(("name", "ratio", "scale"), SCALED)
def test_inputs_of_any_scale(name, ratio, scale):
    """Views of unlike scale and rows far from length 1: no difference of large numbers."""
    for shapes in (SHAPES, ((16, 200), (33, 120), (64, 257), (24, 80))):
        # sums of signed terms that happen to cancel in one of few draws: a matter of luck
        compare(name, shapes, floor=2e-6, scales=(scale * ratio, scale, scale))


@pytest.mark.parametrize("scale", [1e-18, 1e17, 1e18])
def test_barlow_twins_knows_no_scale(scale):
    """Correlations of columns whose sums of squares overflow, or vanish beside eps."""
    compare("barlow_twins", (*SHAPES, (33, 120), (3000, 8)), scales=(scale, scale, scale))


@pytest.mark.parametrize("name", SOFTMAX)
def test_float64_is_exact(name):
    for temperature in (1.0, 0.01):
        value, grad = results(name, 65, 17, 0, torch.float64, "fused", temperature=temperature)
        expected, wanted = results(name, 65, 17, 0, torch.float64, "torch", temperature=temperature)
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
        assert (grad - wanted).norm() <= 1e-11 * wanted.norm() + 1e-14

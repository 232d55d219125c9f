"""Every loss in float32: error against float64 at most twice torch's own, values and gradients."""

import pytest
import torch

from ..cases import CASES, SOFTMAX
from ..tolerance import assert_no_worse

TEMPERATURES = (1.0, 0.5, 0.1, 0.07, 0.02, 0.01)


def results(name, n, d, seed, dtype, impl, **hyper):
    """Loss and the gradients of all inputs."""
    inputs, loss = CASES[name].make(n, d, seed)
    leaves = [x.to(dtype).requires_grad_() for x in inputs]
    value = loss(*leaves, impl=impl, **hyper)
    upstream = (
        torch.ones_like(value)
        if value.dim() == 0
        else torch.arange(value.numel(), dtype=dtype).view_as(value) / value.numel()
    )
    grads = torch.autograd.grad(value, leaves, upstream)
    return value.detach(), torch.cat([g.flatten() for g in grads])


def compare(name, shapes, **hyper):
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


@pytest.mark.parametrize("name", SOFTMAX)
def test_float64_is_exact(name):
    for temperature in (1.0, 0.01):
        value, grad = results(name, 65, 17, 0, torch.float64, "fused", temperature=temperature)
        expected, wanted = results(name, 65, 17, 0, torch.float64, "torch", temperature=temperature)
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
        assert (grad - wanted).norm() <= 1e-11 * wanted.norm() + 1e-14

"""Radial kernels over all pairs against dense sums in float64, with Bessel functions for slices."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.special
import torch
from torch import Tensor

from sslspec_fast.primitives.normality import radial
from sslspec_fast.primitives.normality.pairwise_kernel import kernel_of_rows, pairwise_kernel

from .test_sliced_ecf import layouts, rows, value_and_gradient

SHAPES = ((1, 1, 1), (2, 2, 3), (1, 7, 2), (3, 65, 130), (1, 257, 7), (2, 400, 20))
KERNELS = (("slices", 0.0), ("gaussian", 2.5), ("imq", 0.7))
KNOTS = np.linspace(0, 3, 17)[1:]
PHI = np.exp(-(KNOTS**2) / 2)
WEIGHT = np.where(np.arange(16) == 15, 0.5, 1.0) * 2 * 3 / 16 * PHI


def mean_cosine(x, d):
    """E cos(x s), s one coordinate of a uniform direction: Gamma(d/2) (2/x)^nu J_nu(x)."""
    order, y = d / 2 - 1, np.maximum(x, 1e-3)
    scale = np.exp(scipy.special.gammaln(d / 2) + order * np.log(2 / y))
    near = 1 - x**2 / (2 * d) + x**4 / (8 * d * (d + 2))
    return np.where(x < 1e-3, near, scale * scipy.special.jv(order, y))


def bessel(z: np.ndarray) -> tuple[float, np.ndarray]:
    """The exact statistic of one view and its gradient, by d/dr O_d = -t^2 / (2 d) O_{d + 2}."""
    n, d = z.shape
    length = (z**2).sum(1)
    distance = np.square(z[:, None] - z).sum(2)

    def kernel(r, weight):
        x = np.sqrt(r)[..., None] * KNOTS
        slope = -(KNOTS**2) / (2 * d) * mean_cosine(x, d + 2)
        return mean_cosine(x, d) @ weight, slope @ weight

    pair, weights = kernel(distance, WEIGHT)
    row, slopes = kernel(length, WEIGHT * PHI)
    value = pair.sum() / n - 2 * row.sum() + n * (WEIGHT * PHI**2).sum()
    grad = 4 / n * (weights.sum(1)[:, None] * z - weights @ z) - 4 * slopes[:, None] * z
    return value, grad


@pytest.mark.parametrize("scale", [0.05, 1.0, 4.0])
@pytest.mark.parametrize(("n", "d"), [(1, 1), (9, 1), (12, 2), (30, 3), (50, 16), (130, 130)])
def test_slices_are_the_bessel_form(n, d, scale):
    z = scale * rows(1, n, d)
    value, grad = value_and_gradient(pairwise_kernel, z, "slices")
    expected, wanted = bessel(z[0].numpy())
    assert abs(value.item() - expected) <= 1e-12 * n
    assert np.abs(grad[0].numpy() - wanted).max() <= 1e-12 * max(1.0, np.abs(wanted).max())


def dense(z: Tensor, kernel: str, parameter: float) -> Tensor:
    """Gaussian and inverse root kernels, the means of the latter by 4 * 10^5 points of a grid."""
    n, d = z.shape[1:]
    own = torch.eye(n, dtype=torch.bool)
    distance = (z[:, :, None] - z[:, None]).square().sum(3)
    length = z.square().sum(2)
    if kernel == "gaussian":
        h = parameter**2
        pairs = torch.exp(-distance / (2 * h))
        mean = (h / (h + 1)) ** (d / 2) * torch.exp(-length / (2 * (h + 1)))
        constant = (h / (h + 2)) ** (d / 2)
    else:
        pairs = (parameter + distance.masked_fill(own, 0)).rsqrt()
        # (b + r)^(-1/2) = pi^(-1/2) int exp(-e^u (b + r)) e^(u/2) du
        s = torch.linspace(-75, np.log(900 / parameter), 4000, dtype=z.dtype)
        step, s = float(s[1] - s[0]), s.exp()

        def average(r: Tensor, b: float) -> Tensor:
            share = s.sqrt() * (1 + 2 * s) ** (-d / 2) * (-b * s).exp() * step / np.pi**0.5
            return torch.exp(-r[..., None] * s / (1 + 2 * s)) @ share

        mean = average(length, parameter)
        constant = float(average(torch.zeros(1, dtype=z.dtype), parameter / 2)) / 2**0.5
    return (n * (pairs.mean((1, 2)) - 2 * mean.mean(1) + constant)).mean()


@pytest.mark.parametrize("kernel", KERNELS[1:], ids=lambda k: k[0])
@pytest.mark.parametrize(("views", "n", "d"), SHAPES)
def test_other_kernels_are_the_dense_form(views, n, d, kernel):
    z = rows(views, n, d)
    value, grad = value_and_gradient(pairwise_kernel, z, kernel[0], parameter=kernel[1])
    expected, wanted = value_and_gradient(dense, z, *kernel)
    torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-12 * n)
    torch.testing.assert_close(grad, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k[0])
@pytest.mark.parametrize(("views", "n", "d"), [(1, 700, 40), (5, 130, 9)])
def test_bits_do_not_depend_on_threads(views, n, d, kernel):
    z = rows(views, n, d).float()
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(value_and_gradient(pairwise_kernel, z, kernel[0], parameter=kernel[1]))
    finally:
        torch.set_num_threads(before)
    for value, grad in results[1:]:
        assert torch.equal(value, results[0][0])
        assert torch.equal(grad, results[0][1])


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k[0])
def test_views_are_alone(kernel):
    z, name, options = rows(3, 50, 6), kernel[0], {"parameter": kernel[1]}
    value, grad = value_and_gradient(pairwise_kernel, z, name, **options)
    alone = [value_and_gradient(pairwise_kernel, view[None], name, **options) for view in z]
    torch.testing.assert_close(value, torch.stack([v for v, _ in alone]).mean())
    torch.testing.assert_close(grad, torch.cat([g for _, g in alone]) / 3)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k[0])
def test_any_strides(kernel):
    z, name, options = rows(3, 20, 8), kernel[0], {"parameter": kernel[1]}
    expected = pairwise_kernel(z, name, **options)
    for same in layouts(z):
        torch.testing.assert_close(pairwise_kernel(same, name, **options), expected)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k[0])
@pytest.mark.parametrize("far", [0.0, 1e-20, 300.0])
def test_equal_and_distant_rows(kernel, far):
    """Pairs at distance 0 and at the end of a series."""
    z = torch.zeros(1, 60, 5)
    z[0, 1::2, 0] = far
    value, grad = value_and_gradient(pairwise_kernel, z, kernel[0], parameter=kernel[1])
    exact = value_and_gradient(pairwise_kernel, z.double(), kernel[0], parameter=kernel[1])
    assert abs(value.item() - exact[0].item()) <= 1e-5 * 60
    assert (grad - exact[1]).abs().max() <= 4e-6 * max(far, 1.0)  # differences of equal sums


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k[0])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_rows_that_are_not_finite(kernel, bad):
    z = rows(2, 9, 4)
    z[1, 3, 2] = bad
    value, grad = value_and_gradient(pairwise_kernel, z, kernel[0], parameter=kernel[1])
    assert value.isnan()
    assert grad.isnan().all()


def test_rows_that_are_too_long_for_a_series():
    z = rows(1, 9, 4)
    z[0, 3] = 200.0
    with pytest.raises(ValueError, match=r"rows no longer than 341\.333 .*got a row of length 400"):
        pairwise_kernel(z, "slices")
    assert torch.isfinite(pairwise_kernel(z, "slices", t_max=2.0))
    with pytest.raises(ValueError, match=r"no longer than 512 with 'imq', got a row of length 600"):
        pairwise_kernel(1.5 * z, "imq", parameter=1.0)
    assert torch.isfinite(pairwise_kernel(1e6 * z, "gaussian", parameter=1.0))


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k[0])
def test_operators(kernel):
    z = rows(2, 9, 4).requires_grad_()
    op = torch.ops.sslspec_fast.pairwise_kernel.default
    torch.library.opcheck(op, (z, *kernel, 17, 3.0, True))
    torch.library.opcheck(op, (z.detach(), *kernel, 17, 3.0, False))
    name, options = kernel[0], {"parameter": kernel[1]}
    assert torch.autograd.gradcheck(lambda z: pairwise_kernel(z, name, **options), z)
    assert torch.autograd.gradgradcheck(lambda z: pairwise_kernel(z, name, **options), z)


def test_series_have_no_more_terms_than_they_need():
    """Rows as in training, |x|^2 near d: a dozen terms in float32, 2^(1/2) steps of the range."""
    for d, most in ((16, 26), (128, 20), (512, 20)):
        octave = int(np.ceil(2 * np.log2(1.4 * d)))
        for precise, factor in ((False, 1), (True, 2)):
            r = radial.radial("slices", 0.0, 17, 3.0, d, octave, precise)
            assert r.table is not None
            assert r.table.shape[1] <= factor * most + 3


def test_bad_arguments():
    with pytest.raises(
        ValueError, match=r"z must be \(views, n, d\), each >= 1, got shape \(2, 3\)"
    ):
        pairwise_kernel(torch.zeros(2, 3), "slices")
    with pytest.raises(ValueError, match=r"kernel must be one of .*, got 'laplace'"):
        pairwise_kernel(torch.zeros(1, 2, 3), "laplace")


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("views", "n", "d"), [(1, 7, 2), (3, 65, 130), (1, 257, 7), (2, 400, 20)])
def test_parts_of_the_rows_add_up(kernel, views, n, d):
    """Own rows against all, as a process with some of the rows takes them."""
    name, parameter = kernel
    z = rows(views, n, d)
    value, grad = value_and_gradient(pairwise_kernel, z, name, parameter=parameter)
    cuts = [0, n // 5, n // 5 + 1, n]
    parts = [
        kernel_of_rows(z, slice(a, b), name, parameter, 17, 3.0, wants_grad=True, factor=1 / views)
        for a, b in itertools.pairwise(cuts)
        if b > a
    ]
    total = torch.stack([values for values, _ in parts]).sum(0)
    torch.testing.assert_close(total.mean(), value.double(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.cat([g for _, g in parts], 1), grad, rtol=1e-11, atol=1e-13)
    quiet, none = kernel_of_rows(
        z, slice(1, 4), name, parameter, 17, 3.0, wants_grad=False, factor=1.0
    )
    again, _ = kernel_of_rows(z, slice(1, 4), name, parameter, 17, 3.0, wants_grad=True)
    assert none.numel() == 0
    torch.testing.assert_close(quiet, again, rtol=0, atol=0)

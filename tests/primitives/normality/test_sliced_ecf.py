"""Sums of cosines and sines along directions against the dense form in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sslspec_fast.primitives.normality.sliced_ecf import (
    cosine_sums,
    directions,
    sliced_ecf,
    sums_gradient,
)

from ...support.tolerance import assert_no_worse, relative_error

# one row and direction, ragged registers and panels, several blocks of rows, sums of 64 rows
SHAPES = (
    (1, 1, 1, 1),
    (2, 2, 3, 5),
    (1, 7, 2, 49),
    (3, 65, 130, 48),
    (1, 257, 7, 100),
    (2, 400, 20, 131),
)


def rows(views: int, n: int, d: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return 1.2 * torch.randn(views, n, d, generator=g, dtype=torch.float64) + 0.1


def layouts(z: Tensor) -> list[Tensor]:
    """The same rows with other strides."""
    views, n, d = z.shape
    wide = z.new_zeros(views, 2 * n, d + 3)
    wide[:, ::2, 2:-1] = z[:, :, :]
    swapped = z.transpose(0, 1).contiguous().transpose(0, 1)
    return [wide[:, ::2, 2:-1], swapped, z.mT.contiguous().mT]


def dense(z: Tensor, a: Tensor, knots: int = 17, t_max: float = 3.0) -> Tensor:
    t = torch.linspace(0, t_max, knots, dtype=z.dtype)
    phi = torch.exp(-t.square() / 2)
    p = (z @ a)[..., None] * t
    gap = (p.cos().mean(1) - phi).square() + p.sin().mean(1).square()
    return z.shape[1] * 2 * torch.trapezoid(phi * gap, t).mean()


def value_and_gradient(f, z: Tensor, *args, **options) -> tuple[Tensor, Tensor]:
    z = z.detach().clone().requires_grad_()
    value = f(z, *args, **options)
    return value.detach(), torch.autograd.grad(value, z)[0]


@pytest.mark.parametrize(("views", "n", "d", "count"), SHAPES)
@pytest.mark.parametrize(("knots", "t_max"), [(17, 3.0), (2, 1.0), (40, 5.0)])
def test_double_is_the_dense_form(views, n, d, count, knots, t_max):
    z, options = rows(views, n, d), {"knots": knots, "t_max": t_max}
    a = directions(z, count, 1)
    value, grad = value_and_gradient(sliced_ecf, z, a, **options)
    expected, wanted = value_and_gradient(dense, z, a, **options)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(grad, wanted, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(sliced_ecf(z, a, **options), value, rtol=0, atol=0)


@pytest.mark.parametrize("scale", [0.01, 0.1, 1.0, 3.0, 30.0])
def test_float_is_no_worse_than_torch_at_any_scale(scale):
    """A plain Chebyshev recurrence loses digits at small angles: 1.9e-6 at scale 0.01."""
    ours, torchs, exact = [], [], []
    for seed in range(3):
        z = (scale * rows(2, 300, 24, seed)).float()
        a = directions(z.double(), 64, seed).float()
        ours.append(value_and_gradient(sliced_ecf, z, a, knots=17, t_max=3.0))
        torchs.append(value_and_gradient(dense, z, a))
        exact.append(value_and_gradient(dense, z.double(), a.double()))
    for k in range(2):
        assert_no_worse([x[k] for x in ours], [x[k] for x in torchs], [x[k] for x in exact])


def test_chunks_of_directions():
    """More rows than the budget of projections holds: panels of directions one after the other."""
    z = rows(1, 50_000, 3)
    a = directions(z, 150, 1)
    value, grad = value_and_gradient(sliced_ecf, z, a, knots=17, t_max=3.0)
    expected, wanted = value_and_gradient(dense, z, a)
    torch.testing.assert_close(value, expected, rtol=1e-11, atol=0)
    assert relative_error(grad, wanted) <= 1e-12


@pytest.mark.parametrize(("views", "n", "d", "count"), [(1, 700, 40, 200), (5, 130, 9, 65)])
def test_bits_do_not_depend_on_threads(views, n, d, count):
    z = rows(views, n, d).float()
    a = directions(z, count, 1)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(value_and_gradient(sliced_ecf, z, a, knots=17, t_max=3.0))
    finally:
        torch.set_num_threads(before)
    for value, grad in results[1:]:
        assert torch.equal(value, results[0][0])
        assert torch.equal(grad, results[0][1])


def test_any_strides():
    z, options = rows(3, 20, 8), {"knots": 17, "t_max": 3.0}
    a = directions(z, 30, 1)
    expected = value_and_gradient(sliced_ecf, z, a, **options)
    for same in layouts(z):
        torch.testing.assert_close(sliced_ecf(same, a, **options), expected[0], rtol=0, atol=0)
    for columns in (a.T.contiguous().T, torch.cat([a, a], 1)[:, :30]):
        torch.testing.assert_close(sliced_ecf(z, columns, **options), expected[0], rtol=0, atol=0)


@pytest.mark.parametrize("scale", [1e4, 1e12, 1e30])
def test_huge_rows_have_finite_values(scale):
    z = (scale * rows(1, 30, 4)).float().requires_grad_()
    value = sliced_ecf(z, directions(z, 20, 1), knots=17, t_max=3.0)
    (grad,) = torch.autograd.grad(value, z)
    assert 0 <= value.item() <= 30 * 8
    assert torch.isfinite(grad).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_rows_that_are_not_finite(bad):
    z = rows(2, 9, 4)
    z[1, 3, 2] = bad
    assert sliced_ecf(z, directions(z, 20, 1), knots=17, t_max=3.0).isnan()


def test_operators():
    z = rows(2, 9, 4).requires_grad_()
    a = directions(z, 20, 1)
    check = torch.library.opcheck
    check(torch.ops.sslspec_fast.sliced_ecf.default, (z, a, 17, 3.0, True))
    check(torch.ops.sslspec_fast.sliced_ecf.default, (z.detach(), a, 17, 3.0, False))
    check(torch.ops.sslspec_fast.sliced_ecf_normal.default, (z.detach(), 20, 1))
    assert torch.autograd.gradcheck(lambda z: sliced_ecf(z, a, knots=17, t_max=3.0), z)
    assert torch.autograd.gradgradcheck(lambda z: sliced_ecf(z, a, knots=17, t_max=3.0), z)


def test_directions_are_uniform_units():
    z = torch.zeros(5, 3)
    a = directions(z, 20_000, 7)
    torch.testing.assert_close(a.norm(dim=0), torch.ones(20_000))
    assert a.mean(1).abs().max() < 4 / (3 * 20_000) ** 0.5
    assert (3 * a @ a.T / 20_000 - torch.eye(3)).abs().max() < 0.05
    assert torch.equal(a, directions(z, 20_000, 7))
    assert not torch.equal(a, directions(z, 20_000, 8))
    torch.testing.assert_close(directions(z.double(), 20_000, 7).float(), a)


@pytest.mark.parametrize(
    ("z", "a", "error", "message"),
    [
        (torch.zeros(2, 3), torch.ones(3, 1), ValueError, r"z must be \(views, n, d\).*\(2, 3\)"),
        (torch.zeros(0, 2, 3), torch.ones(3, 1), ValueError, r"each >= 1, got shape \(0, 2, 3\)"),
        (torch.zeros(1, 2, 3).half(), torch.ones(3, 1), TypeError, "float32 or float64, got torch"),
        (torch.zeros(1, 2, 3), torch.ones(4, 1), ValueError, r"directions must be \(3, S\), got"),
    ],
)
def test_bad_arguments(z, a, error, message):
    with pytest.raises(error, match=message):
        sliced_ecf(z, a, knots=17, t_max=3.0)


@pytest.mark.parametrize(("views", "n", "d", "count"), [*SHAPES, (1, 20_000, 3, 150)])
@pytest.mark.parametrize("knots", [2, 17])
def test_sums_of_some_rows_and_their_gradient(views, n, d, count, knots):
    """What processes with some rows each add up; the gradient of any function of the sums."""
    z, step = rows(views, n, d), 0.2
    a = directions(z, count, 1)
    z.requires_grad_()
    angle = (z @ a)[:, :, None] * (step * torch.arange(1, knots, dtype=z.dtype)[:, None])
    expected = torch.cat([angle.cos().sum(1), angle.sin().sum(1)], 1)
    above = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(z)
    (wanted,) = torch.autograd.grad((expected * above).sum(), z)
    own = z.detach()
    torch.testing.assert_close(cosine_sums(own, a, knots, step), expected, rtol=1e-12, atol=1e-9)
    grad = sums_gradient(own, a, knots, step, above)
    assert relative_error(grad, wanted) <= 1e-12


def test_sums_of_no_rows():
    z = rows(2, 3, 4)[:, :0]
    a = directions(z, 20, 1)
    sums = cosine_sums(z, a, 5, 0.1)
    assert sums.shape == (2, 8, 20)
    assert not sums.any()
    assert sums_gradient(z, a, 5, 0.1, sums).shape == (2, 0, 4)

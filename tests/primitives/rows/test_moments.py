"""Column moments against dense fp64 statistics."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sslspec_fast.primitives.rows import moments

from ...support.tolerance import assert_no_worse

# one and several partial results of 1024 rows and groups of 256 columns, ragged registers
SHAPES = ((1, 1), (1, 9), (2, 3), (7, 252), (8, 16), (252, 257), (257, 5), (1025, 17), (3000, 40))
TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-6}


def matrix(n: int, d: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return (torch.randn(n, d, generator=g, dtype=torch.float64) + 0.4).to(dtype)


def plain(x: Tensor) -> tuple[Tensor, Tensor]:
    mean = x.mean(0)
    return mean, (x - mean).square().mean(0)


def outputs_and_grad(f, x: Tensor) -> list[Tensor]:
    x = x.detach().clone().requires_grad_()
    mean, var = f(x)
    g = torch.linspace(-1, 2, x.shape[1], dtype=torch.float64).to(x.dtype)
    (mean * g + var * (g - 0.7)).sum().backward()
    return [mean.detach(), var.detach(), x.grad]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_column_moments(n: int, d: int, dtype: torch.dtype) -> None:
    x = matrix(n, d, dtype)
    ours = outputs_and_grad(moments.column_moments, x)
    exact = outputs_and_grad(plain, x.double())
    for got, want in zip(ours, exact, strict=True):
        assert (got.double() - want).norm() <= TOLERANCE[dtype] * (1 + want.norm())


def covariance(x: Tensor, y: Tensor) -> Tensor:
    return ((x - x.mean(0)) * (y - y.mean(0))).mean(0)


@pytest.mark.parametrize("n", [1, 3, 64, 1500, 3000])
def test_pair_moments(n: int) -> None:
    x, y = matrix(n, 33, torch.float64), matrix(n, 33, torch.float64, 1)
    for product in (False, True):
        mean, var = moments.pair_moments(x, y, product=product)
        for s, v in enumerate((x, y, x - y)[: 2 if product else 3]):
            want_mean, want_var = plain(v)
            torch.testing.assert_close(mean[s], want_mean)
            torch.testing.assert_close(var[s], want_var)
    assert not mean[2].any()
    torch.testing.assert_close(var[2], covariance(x, y))


@pytest.mark.parametrize("ratio", [1e-6, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("n", [40, 700, 2500])
def test_a_covariance_takes_no_error_from_the_larger_operand(n: int, ratio: float) -> None:
    ours, torchs, exact = [], [], []
    for seed in range(6):
        x = matrix(n, 30, torch.float32, seed)
        y = ratio * (x + 0.5 * matrix(n, 30, torch.float32, seed + 100))
        ours.append(moments.pair_moments(x, y, product=True)[1][2])
        torchs.append(covariance(x, y))
        exact.append(covariance(x.double(), y.double()))
    assert_no_worse(ours, torchs, exact, what=f"covariance at ratio {ratio:g}")


def test_moments_overflow_only_where_the_variance_does() -> None:
    x = 1e18 * matrix(5000, 9, torch.float32)
    mean, var = moments.pair_moments(x, -x, product=True)
    _, want = plain(x.double())
    torch.testing.assert_close(var.double(), torch.stack([want, want, -want]), rtol=1e-5, atol=0)
    assert mean.isfinite().all()


def test_a_large_mean_costs_nothing() -> None:
    x = torch.randn(1000, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shifted = x.float() + 4096.0  # exactly representable spacing 2^-11 at this mean
    _, var = moments.column_moments(shifted)
    _, want = plain(shifted.double())
    assert ((var.double() - want) / want).abs().max() < 1e-5


def test_no_worse_than_torch() -> None:
    draws = [matrix(700, 30, torch.float32, s) for s in range(6)]
    fused = [outputs_and_grad(moments.column_moments, x) for x in draws]
    torchs = [outputs_and_grad(plain, x) for x in draws]
    exact = [outputs_and_grad(plain, x.double()) for x in draws]
    for k, what in enumerate(("mean", "variance", "gradient")):
        assert_no_worse(*([draw[k] for draw in g] for g in (fused, torchs, exact)), what=what)


def test_gradcheck_and_opcheck() -> None:
    x = matrix(5, 4, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(moments.column_moments, (x,))
    torch.library.opcheck(torch.ops.sslspec_fast.moments_column, (x,))
    mean, var = moments.column_moments(x.detach())
    args = (x.detach(), mean, mean, var)
    torch.library.opcheck(torch.ops.sslspec_fast.moments_column_bwd, args)


def test_strides() -> None:
    wide = matrix(80, 50, torch.float32)
    for view in (wide[::2, 3:40], wide.T, wide[:1].expand(30, 50)):
        ours = outputs_and_grad(moments.column_moments, view)
        exact = outputs_and_grad(moments.column_moments, view.contiguous())
        assert all(torch.equal(a, b) for a, b in zip(ours, exact, strict=True))


def test_bitwise_equal_for_any_thread_count() -> None:
    x = matrix(5000, 300, torch.float32)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(outputs_and_grad(moments.column_moments, x))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_bad_arguments() -> None:
    with pytest.raises(
        ValueError, match=r"column_moments: x must have at least 1 row, got shape \(0, 3\)"
    ):
        moments.column_moments(torch.zeros(0, 3))
    with pytest.raises(
        ValueError, match=r"column_moments: x must be a matrix \(n, d\), got shape \(3,\)"
    ):
        moments.column_moments(torch.zeros(3))
    with pytest.raises(
        TypeError, match=r"column_moments: x must be float32 or float64, got torch.int64"
    ):
        moments.column_moments(torch.zeros(2, 3, dtype=torch.int64))

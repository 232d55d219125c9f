"""float32 products made of bfloat16 ones; `wide`, the library's GEMM, exists on a GPU only."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sslspec_fast.primitives import _matmul


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_matmul, "_wide", lambda a, b: a.float() @ b.float())


def pieces_of(w: Tensor) -> Tensor:
    """What the weights kernel writes for w of a width that is a multiple of 8."""
    assert w.shape[1] % 8 == 0
    return torch.cat(_matmul._split(w))


def error(got: Tensor, exact: Tensor) -> float:
    return float((got.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("scale", [1e-29, 1.0, 1e30])
def test_the_pieces_are_the_number(scale: float) -> None:
    x = (1 + torch.rand(40, 48)) * torch.logspace(-3, 3, 48) * scale  # at least 2^-110
    first, second, third = _matmul._split(x)
    assert torch.equal((first.double() + second.double() + third.double()).float(), x)


@pytest.mark.parametrize("scale", [1e-30, 1.0])
@pytest.mark.parametrize(("n", "m", "d"), [(1, 8, 4), (40, 128, 300), (30, 336, 20)])
def test_split_products_are_as_accurate_as_float32(
    n: int, m: int, d: int, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_matmul, "_BLOCK", 100)  # 336: three blocks and a rest
    w = torch.rand(n, m).pow(20)  # few large weights, many tiny ones
    w[:, 0] = 1  # the last pieces of smaller ones would be subnormal, and may be flushed
    w *= scale
    right, left = torch.randn(m, d), torch.randn(n, d)
    split, stored = _matmul.Split(right), pieces_of(w)
    exact = w.double() @ right.double()
    product = torch.empty(exact.shape)
    split.times(stored, out=product)
    assert error(product, exact) <= 2 * error(w @ right, exact) + 1e-7
    exact = w.double().T @ left.double()
    got = split.transposed_times(stored, left, None)
    assert error(got, exact) <= 2 * error(w.T @ left, exact) + 1e-7
    twice = split.transposed_times(stored, left, got.clone())
    assert error(twice, 2 * got.double()) <= 1e-7
    assert error(split.row_sums(stored, torch.float32), w.double().sum(1)) <= 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_products_add_up(dtype: torch.dtype) -> None:
    a, b = torch.randn(30, 40).to(dtype), torch.randn(40, 20).to(dtype)
    total = torch.randn(30, 20, dtype=torch.float32 if dtype == torch.bfloat16 else dtype)
    exact = total.double() + a.double() @ b.double()
    assert _matmul.add_mm_float32(total, a, b) is total
    assert error(total, exact) <= (4e-3 if dtype == torch.bfloat16 else 1e-6)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_wide_products_are_exact_sums_of_their_own_rows(dtype: torch.dtype, autocast: bool) -> None:
    a = torch.full((70, 80), torch.nan).to(dtype)[:, :33]  # no multiple of 32; NaN between the rows
    a.copy_(torch.randn(70, 33))
    a[3] = torch.nan
    b = torch.randn(50, 33).to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        product = _matmul.mm_wide(a, b.T)
    assert product.dtype == torch.float32
    assert product[3].isnan().all()
    clean = torch.arange(70) != 3
    assert error(product[clean], a[clean].double() @ b.double().T) <= 1e-6


def test_only_exact_float32_on_some_gpus_is_split() -> None:
    assert type(_matmul.products_with(torch.ones(3, 8))) is _matmul.Plain
    assert type(_matmul.products_with(torch.ones(3, 8, dtype=torch.bfloat16))) is _matmul.Plain

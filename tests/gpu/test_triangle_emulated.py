"""Symmetric products of ``gram`` on Hopper: half of the tiles, mirrored, with their squares.

The emulator has the products from the host, everything after them from the kernel.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from sslspec_fast.primitives import gram
from sslspec_fast.primitives.gram.products import StripProducts

from ..support.emulation import BF16, F32, F64, GpuPaths, emulated, view

pytestmark = [emulated, pytest.mark.usefixtures("gpu_paths")]


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch, portable: None) -> None:
    monkeypatch.setenv("SSLSPEC_HOPPER", "triangle")


def vicreg(x: Tensor, y: Tensor) -> Tensor:
    return gram.vicreg(x, y, invariance=25.0, variance=25.0, covariance=1.0, eps=1e-4)[0]


def step(x: Tensor, y: Tensor) -> list[Tensor]:
    leaves = [t.clone().requires_grad_() for t in (x, y)]
    loss = vicreg(*leaves)
    return [loss.detach(), *torch.autograd.grad(loss, leaves, torch.tensor(1.5))]


# a ragged second row of tiles, on the side of the rows and of the columns; three rows of tiles
SHAPES = [(200, 408), (208, 200), (392, 800)]


@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("n", "d"), [(8, 16), (200, 72), (72, 200), (392, 40), (40, 392)])
def test_both_halves_and_the_squares_are_those_of_the_product(
    n: int, d: int, masked: bool, columns: bool, core: ModuleType
) -> None:
    torch.manual_seed(n + d)
    factors = torch.randn(2, n, d).bfloat16()
    wide = factors.double()
    want = wide.mT @ wide if columns else wide @ wide.mT
    if masked:
        want.diagonal(dim1=1, dim2=2).zero_()
    side = want.shape[1]
    slots = core.cuda_gram_triangle_slots(view(factors[0]), 2, columns, True)
    if slots == 0:  # fewer tiles than are worth it: the kernel is right all the same
        slots = 2 * 12 + 128
    out = torch.full((2, side, side), float("nan"), dtype=BF16)
    sums = torch.full((1 + slots,), float("nan"), dtype=F64)
    sums[0] = 0
    loss, terms = torch.empty(()), torch.empty(3)
    total: Any = (0, 0, (1.0, 0.0, 0.5), (1.0, 0.0, 2.0), view(loss), view(terms))
    core.cuda_gram_triangle(
        view(factors), (columns, masked, 1), view(out), view(sums), (None, None, 0), total, 0
    )
    assert torch.equal(out, out.mT)
    # once rounded, from float32 sums
    assert ((out.double() - want).abs() <= 2**-8 * want.abs() + 1e-4).all()
    assert torch.allclose(terms[2].double(), 0.5 * want.square().sum(), rtol=2e-6)
    assert torch.allclose(loss.double(), want.square().sum(), rtol=2e-6)


@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_vicreg_with_half_the_tiles(
    n: int, d: int, core: ModuleType, gpu_paths: GpuPaths, monkeypatch: Any
) -> None:
    torch.manual_seed(n)
    x, y = (torch.randn(2, n, d) + 0.3).bfloat16()
    with gpu_paths.off():
        exact = step(x.double(), y.double())
    core.launches()
    got = step(x, y)
    launched = core.launches()
    products = ["gram_triangle_sm90a", "gram_end"]
    assert launched == ["moments", "gram_pack", *products, "gram_finish"]
    monkeypatch.setenv("SSLSPEC_HOPPER", "portable")
    other = step(x, y)
    assert "gram_square" in core.launches()
    assert torch.allclose(got[0], other[0], rtol=1e-5)
    for mine, theirs, right in zip(got[1:], other[1:], exact[1:], strict=True):
        assert mine.dtype == BF16
        error, before = ((g.double() - right).norm() / right.norm() for g in (mine, theirs))
        assert error <= 1.02 * before + 1e-6


@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize("off_diagonal", [False, True])
@pytest.mark.parametrize(("n", "d"), [(392, 800), (400, 392)])
def test_squared_norm_of_one_operand(
    n: int, d: int, off_diagonal: bool, core: ModuleType, gpu_paths: GpuPaths
) -> None:
    x = torch.randn(n, d).bfloat16().float().requires_grad_()
    core.launches()
    value = gram.sqnorm(x, off_diagonal=off_diagonal, half=True)
    assert "gram_triangle_sm90a" in core.launches()
    (grad,) = torch.autograd.grad(value, x)
    with gpu_paths.off():
        leaf = x.detach().double().requires_grad_()
        want = gram.sqnorm(leaf, off_diagonal=off_diagonal)
        (right,) = torch.autograd.grad(want, leaf)
    assert torch.allclose(value.double(), want, rtol=1e-5)
    assert (grad.double() - right).norm() <= 5e-3 * right.norm()


@pytest.mark.parametrize(
    ("n", "d", "half", "columns", "made"),
    [
        (392, 800, True, False, True),
        (392, 801, True, False, False),  # rows of the factors not at multiples of 16 bytes
        (390, 800, True, False, False),  # rows of the matrix
        (390, 800, True, True, True),
        (392, 800, False, False, False),  # float32 factors
        (64, 800, True, False, False),  # too few tiles
        (6000, 6400, True, False, False),  # more than a strip
    ],
)
@pytest.mark.usefixtures("hopper")
def test_which_products_it_makes(
    n: int, d: int, half: bool, columns: bool, made: bool, core: ModuleType
) -> None:
    x = torch.empty(n, d, dtype=BF16)
    slots = core.cuda_gram_triangle_slots(view(x), 2, columns, half)
    assert (slots > 0) == made
    if slots:
        strips = StripProducts(
            n, d, 2, columns=columns, mixed=False, cross=False, masked=False, triangle=slots
        )
        assert strips.rows == n
        assert strips.sums(x, 6).shape == (7 + slots,)


def test_other_gpus_keep_the_library(core: ModuleType) -> None:
    x = torch.empty(392, 800, dtype=F32)
    assert core.cuda_gram_triangle_slots(view(x), 2, False, True) == 0  # portable

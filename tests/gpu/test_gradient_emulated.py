"""VICReg's second product with the gradient as its end, on Hopper.

The emulator has the products from the host; what is kept for the backward pass, and what becomes
of a product, is the real thing.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from sslspec_fast.primitives import gram

from ..support.emulation import BF16, GpuPaths, emulated, view

pytestmark = [emulated, pytest.mark.usefixtures("gpu_paths")]
LAST = ["gram_gradient_sm90a"] * 2


def vicreg(x: Tensor, y: Tensor, invariance: float = 25.0) -> Tensor:
    weights = {"invariance": invariance, "variance": 25.0, "covariance": 1.0}
    return gram.vicreg(x, y, **weights, eps=1e-4)[0]


def step(x: Tensor, y: Tensor, invariance: float = 25.0) -> list[Tensor]:
    leaves = [t.detach().requires_grad_() for t in (x, y)]
    loss = vicreg(*leaves, invariance)
    return [loss.detach(), *torch.autograd.grad(loss, leaves, torch.tensor(1.5))]


@pytest.mark.parametrize("hopper", ["gradient", "all"])
@pytest.mark.parametrize("invariance", [25.0, 0.0])
# matrices of rows and of columns, of two and more tiles, with ragged edges
@pytest.mark.parametrize(("n", "d"), [(72, 200), (200, 408), (136, 136), (301, 40), (1000, 264)])
def test_gradients(
    n: int,
    d: int,
    invariance: float,
    hopper: str,
    core: ModuleType,
    gpu_paths: GpuPaths,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(n)
    x, y = (torch.randn(2, n, d) * 0.9 + 0.3).bfloat16()
    with gpu_paths.off():
        exact = step(x.double(), y.double(), invariance)
    other = step(x, y, invariance)
    core.launches()
    monkeypatch.setenv("SSLSPEC_HOPPER", hopper)
    got = step(x, y, invariance)
    assert core.launches()[-2:] == LAST
    assert torch.allclose(got[0], other[0], rtol=1e-5 if hopper == "gradient" else 5e-5)
    for mine, theirs, right in zip(got[1:], other[1:], exact[1:], strict=True):
        assert mine.dtype == BF16
        error, before = ((g.double() - right).norm() / right.norm() for g in (mine, theirs))
        assert error <= 1.02 * before + 1e-6


@pytest.fixture
def alone(portable: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLSPEC_HOPPER", "gradient")


@pytest.mark.usefixtures("alone")
def test_a_graph_can_be_used_twice_and_differentiated() -> None:
    x, y = (torch.randn(72, 200).bfloat16().requires_grad_() for _ in range(2))
    loss = vicreg(x, y)
    first = torch.autograd.grad(loss, (x, y), retain_graph=True)
    again = torch.autograd.grad(loss, (x, y), torch.tensor(-2.0), retain_graph=True)
    composed = torch.autograd.grad(loss, (x, y), create_graph=True)
    for a, b, c in zip(first, again, composed, strict=True):
        assert torch.equal(-2 * a, b)
        assert (a.double() - c.detach().double()).norm() <= 2e-2 * c.detach().double().norm()


@pytest.mark.usefixtures("alone")
def test_rows_that_are_not_at_multiples_of_16_bytes(core: ModuleType) -> None:
    torch.manual_seed(0)
    wide = torch.randn(2, 72, 204).bfloat16()  # rows 408 bytes apart
    for part in (wide[..., :200], wide[..., 3:203]):
        want = step(*part.contiguous())
        core.launches()
        got = step(*part)
        assert core.launches()[-2:] == LAST
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("which", [0, 1])
def test_one_gradient_alone_takes_the_product(which: int, core: ModuleType) -> None:
    rows = list(torch.randn(2, 72, 200).bfloat16())
    both = step(*rows)[1 + which]
    leaf = rows[which].requires_grad_()
    core.launches()
    (got,) = torch.autograd.grad(vicreg(*rows), leaf, torch.tensor(1.5))
    assert core.launches()[-1] == "gram_finish"
    assert (got.double() - both.double()).norm() <= 1e-2 * both.double().norm()


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("n", "d", "columns", "half", "keeps"),
    [
        (72, 200, False, True, True),
        (72, 200, False, False, False),  # float32 factors
        (72, 204, False, True, False),  # rows not at multiples of 16 bytes
        (70, 200, False, True, False),  # rows of the matrix
        (300, 40, True, True, True),
        (150, 200, True, True, False),  # the matrices do not fit beside the factors
        (72, 120, False, True, False),  # one tile
    ],
)
def test_which_shapes_keep_their_factors(
    n: int, d: int, columns: bool, half: bool, keeps: bool, core: ModuleType
) -> None:
    assert core.cuda_gram_keeps_factors(view(torch.empty(n, d, dtype=BF16)), columns, half) == keeps


def test_other_gpus_keep_the_products(core: ModuleType) -> None:
    x: Any = torch.empty(72, 200, dtype=BF16)
    assert not core.cuda_gram_keeps_factors(view(x), False, True)  # portable


@pytest.mark.usefixtures("alone")
def test_operators() -> None:
    x, y = (torch.randn(72, 200).bfloat16().requires_grad_() for _ in range(2))
    options = (25.0, 25.0, 1.0, 1e-4, True, True, True)
    torch.library.opcheck(
        torch.ops.sslspec_fast.gram_vicreg, (x, y, *options), test_utils="test_faketensor"
    )

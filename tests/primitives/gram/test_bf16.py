"""Products of bfloat16 factors where the CPU has them, against dense fp64 matrices."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch
from torch import Tensor

from sslspec_fast import _C
from sslspec_fast._seam import CODE, view
from sslspec_fast.fused.spectral_contrastive import spectral_contrastive
from sslspec_fast.primitives import gram
from sslspec_fast.primitives.gram.gram import GramForm
from sslspec_fast.primitives.rows.moments import pair_moments

from ...support.gram_cases import BARLOW, SHAPES, VICREG, dense, matrix, value_and_grads

# Rows that are exact in bfloat16 lose nothing in the value; those that are centred or scaled are
# rounded, and so are the weights of the gradient.
EXACT, ROUNDED = 2e-6, 2**-8


def half(n: int, d: int, seed: int = 0) -> Tensor:
    return matrix(n, d, torch.float32, seed).bfloat16().float()


@pytest.mark.parametrize(("n", "d"), [*SHAPES, (600, 1203), (1203, 600)])
def test_sqnorm(n: int, d: int) -> None:
    x, y = half(n, d), half(n, d, 1)
    for inputs, off, center in itertools.product(([x], [x, y]), (False, True), (False, True)):
        options = {"off_diagonal": off, "center": center}
        ours = value_and_grads(partial(gram.sqnorm, **options, half=True), *inputs, factor=1.5)
        wide = [v.double() for v in inputs]
        exact = value_and_grads(partial(dense, **options), *wide, factor=1.5)
        a, b = wide[0], wide[-1]
        size = dense(a, b).sqrt()  # the diagonal is masked or subtracted: its size sets the scale
        sizes = [size**2, *(4 * size * v.norm() for v in reversed(wide))]
        limits = [ROUNDED if center else EXACT, *(ROUNDED for _ in wide)]
        for got, want, largest, limit in zip(ours, exact, sizes, limits, strict=True):
            assert (got.double() - want).norm() <= limit * largest


OPERATIONS = [  # those that take rows in bfloat16
    lambda a, b: gram.vicreg(a, b, **VICREG, half=True)[0],
    lambda a, b: gram.barlow_twins(a, b, **BARLOW, half=True)[0],
    lambda a, b: spectral_contrastive(a, b, longest=2.0, factor=1.0, mean=True, half=True)[0],
]


def results(x: Tensor, y: Tensor) -> list[Tensor]:
    every = [*OPERATIONS, lambda a, b: gram.sqnorm(a, b, half=True)]
    return [part for f in every for part in value_and_grads(f, x, y)]


@pytest.mark.parametrize(("n", "d"), [(61, 200), (200, 61), (1100, 70)])
def test_strides_threads_and_one_gradient(n: int, d: int) -> None:
    wide = half(n, 2 * d + 5)
    x, y = wide[:, 2 : d + 2], wide[:, d + 3 : 2 * d + 3]
    expected = results(x.contiguous(), y.contiguous())
    assert all(map(torch.equal, results(x, y), expected))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert all(map(torch.equal, results(x, y), expected))
    finally:
        torch.set_num_threads(threads)
    leaf = x.clone().requires_grad_()
    (alone,) = torch.autograd.grad(gram.vicreg(leaf, y, **VICREG, half=True)[0], leaf)
    assert torch.equal(alone, expected[1])


@pytest.mark.parametrize(("n", "d"), [(1, 1), (3, 2), (61, 200), (200, 61), (1100, 70), (96, 1300)])
def test_rows_in_bfloat16_are_the_same_numbers(n: int, d: int) -> None:
    """The bits of wide rows, with the gradient rounded once."""
    wide = half(n, 2 * d + 5)
    x, y = wide[:, 2 : d + 2], wide[:, d + 3 : 2 * d + 3]
    for operation in OPERATIONS if n > 1 else OPERATIONS[-1:]:
        expected = value_and_grads(operation, x, y)
        found = value_and_grads(operation, x.bfloat16(), y.bfloat16())
        assert torch.equal(found[0], expected[0])
        for got, want in zip(found[1:], expected[1:], strict=True):
            assert got.dtype == torch.bfloat16
            torch.testing.assert_close(got, want.bfloat16(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("n", "d"), [(1, 1), (7, 3), (130, 70), (2100, 9)])
def test_moments_of_rows_in_bfloat16(n: int, d: int) -> None:
    x, y = half(n, d), half(n, d, 1)
    for product in (False, True):
        expected = pair_moments(x, y, product=product)
        assert all(
            map(torch.equal, pair_moments(x.bfloat16(), y.bfloat16(), product=product), expected)
        )
    assert all(map(torch.equal, pair_moments(x.bfloat16()), pair_moments(x)))


def test_nan_stays() -> None:
    x = half(40, 90)
    x[3, 5] = torch.nan
    assert all(part.isnan().any() for part in results(x, half(40, 90, 1)))


@pytest.mark.parametrize(("n", "d"), [(1, 1), (3, 2), (64, 63), (300, 130), (257, 64)])
def test_spectral_contrastive(n: int, d: int) -> None:
    """Rows that are not cut are multiplied as they came."""
    x, y = half(n, d), half(n, d, 1)
    options = {"longest": 1e9, "factor": 1.0, "mean": False}
    ours = value_and_grads(lambda a, b: spectral_contrastive(a, b, **options, half=True)[0], x, y)

    def plain(a: Tensor, b: Tensor) -> Tensor:
        s, pairs = a @ b.T, max(n - 1, 1)
        return -2 * s.diag().sum() + (s.square().sum() - s.diag().square().sum()) / pairs

    exact = value_and_grads(plain, x.double(), y.double())
    size = (x.double() @ y.double().T).square().sum() / max(n - 1, 1) + 2 * (x * y).sum().abs()
    assert (ours[0] - exact[0]).abs() <= EXACT * size
    for got, want in zip(ours[1:], exact[1:], strict=True):
        assert (got.double() - want).norm() <= ROUNDED * want.norm()


def test_the_core_checks_what_it_takes() -> None:
    x = torch.zeros(4, 3, dtype=torch.float64)
    form = GramForm(4.0, False, False, half=True).view()
    value, words = torch.zeros(1, dtype=torch.float64), "does not multiply rows of float64"
    with pytest.raises(ValueError, match=words):
        _C.gram(view(x), None, form, view(value), (None, None), (None, 1))
    pair, weights = torch.zeros(2, dtype=torch.float64), (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match=words):
        _C.spectral_contrastive(
            view(x), view(x), weights, True, view(pair), (None, None), (None, 1)
        )
    if not _C.bf16_products():
        with pytest.raises(ValueError, match="does not multiply rows of float32 in bfloat16"):
            _C.gram_workspace_size(4, 3, CODE[torch.bfloat16], 1, False, False)

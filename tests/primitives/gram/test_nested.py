"""Squared Gram norms of all prefixes: against their sum, and the operator."""

from __future__ import annotations

import pytest
import torch

from sslspec_fast import _C
from sslspec_fast.primitives.gram.nested import nested_sqnorm

TAIL = torch.tensor([3.5, 3.0, 1.0, 1.0], dtype=torch.float64)  # weights 0.5, 2, 0, 1


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("off", [False, True])
@pytest.mark.parametrize("n", [1, 3, 50])
def test_is_the_sum_over_prefixes(n: int, off: bool, center: bool) -> None:
    x = (1 + torch.randn(n, 4, dtype=torch.float64)).requires_grad_()
    y = x - x.mean(0) if center else x
    products = [y[:, :m].T @ y[:, :m] for m in (1, 2, 3, 4)]
    parts = [(c - off * c.diagonal().diag()).square().sum() for c in products]
    want = sum(c * part for c, part in zip((0.5, 2.0, 0.0, 1.0), parts, strict=True))
    got = nested_sqnorm(x, TAIL, off_diagonal=off, center=center)
    torch.testing.assert_close(got, want)
    (ours,), (wanted,) = (torch.autograd.grad(v, x) for v in (got, want))
    torch.testing.assert_close(ours, wanted)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("off", [False, True])
@pytest.mark.parametrize(("n", "d"), [(5, 1), (3, 90), (130, 70), (60, 600), (700, 1203)])
def test_many_columns(n: int, d: int, off: bool, half: bool) -> None:
    """More than one block of the kernel; rows that are exact in bfloat16 lose nothing in the value,
    and any number of threads gives the same bits.
    """
    x = torch.randn(n, d).bfloat16().float().requires_grad_()
    tail = torch.rand(d, dtype=torch.float64).flip(0).cumsum(0).flip(0)
    wide = x.detach().double().requires_grad_()
    product = wide.T @ wide
    product = product - off * product.diagonal().diag()
    want = (torch.minimum(tail[:, None], tail) * product.square()).sum()
    (wanted,) = torch.autograd.grad(want, wide)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            got = nested_sqnorm(x, tail.float(), off_diagonal=off, half=half)
            found.append((got.detach(), *torch.autograd.grad(got, x)))
    finally:
        torch.set_num_threads(threads)
    value, ours = found[0]
    size = (torch.minimum(tail[:, None], tail) * (wide.T @ wide).square()).sum()
    assert (value - want).abs() <= 2e-6 * size
    limit = 2**-8 if half and _C.bf16_products() else 2e-6
    assert (ours - wanted).norm() <= limit * max(wanted.norm(), 1e-6 * size)
    assert all(map(torch.equal, *found))


def test_operator() -> None:
    x = torch.randn(6, 4, dtype=torch.float64).T.contiguous().T.requires_grad_()
    op = torch.ops.sslspec_fast.gram_nested.default
    for off in (False, True):
        torch.library.opcheck(op, (x, TAIL, off, False, False, True))
        torch.library.opcheck(op, (x.detach(), TAIL, off, True, False, False))

        def loss(x: torch.Tensor, off: bool = off) -> torch.Tensor:
            return nested_sqnorm(x, TAIL, off_diagonal=off, center=off)

        assert torch.autograd.gradcheck(loss, x)
        assert torch.autograd.gradgradcheck(loss, x)

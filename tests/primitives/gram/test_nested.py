"""Squared Gram norms of all prefixes: against their sum, and the operator."""

from __future__ import annotations

import pytest
import torch

from sslspec_fast.primitives.gram.nested import nested_sqnorm

TAIL = torch.tensor([3.5, 3.0, 1.0, 1.0], dtype=torch.float64)  # weights 0.5, 2, 0, 1


@pytest.mark.parametrize("off", [False, True])
@pytest.mark.parametrize("n", [1, 3, 50])
def test_is_the_sum_over_prefixes(n: int, off: bool) -> None:
    x = torch.randn(n, 4, dtype=torch.float64).requires_grad_()
    products = [x[:, :m].T @ x[:, :m] for m in (1, 2, 3, 4)]
    parts = [(c - off * c.diagonal().diag()).square().sum() for c in products]
    want = sum(c * part for c, part in zip((0.5, 2.0, 0.0, 1.0), parts, strict=True))
    got = nested_sqnorm(x, TAIL, off_diagonal=off)
    torch.testing.assert_close(got, want)
    (ours,), (wanted,) = (torch.autograd.grad(v, x) for v in (got, want))
    torch.testing.assert_close(ours, wanted)


def test_operator() -> None:
    x = torch.randn(6, 4, dtype=torch.float64).T.contiguous().T.requires_grad_()
    op = torch.ops.sslspec_fast.gram_nested.default
    for off in (False, True):
        torch.library.opcheck(op, (x, TAIL, off, True))
        torch.library.opcheck(op, (x.detach(), TAIL, off, False))

        def loss(x: torch.Tensor, off: bool = off) -> torch.Tensor:
            return nested_sqnorm(x, TAIL, off_diagonal=off)

        assert torch.autograd.gradcheck(loss, x)
        assert torch.autograd.gradgradcheck(loss, x)

"""Blocks of a larger matrix of logits add up to the whole."""

from __future__ import annotations

import pytest
import torch

from sslspec_fast.primitives import pairwise
from sslspec_fast.primitives.pairwise import LeftOut, Logits
from sslspec_fast.primitives.pairwise.blocks import lse_block, lse_block_gradients, softplus_block

F64 = torch.float64
CUTS = ((0, 4), (4, 4), (4, 11))  # columns of a block; one is empty


def problem() -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(3)
    a, b = (torch.randn(n, 5, generator=g, dtype=F64).requires_grad_() for n in (7, 11))
    ids_a = torch.arange(7, dtype=torch.int32)
    ids_b = torch.arange(11, dtype=torch.int32) - 2
    return a, b, ids_a, ids_b


@pytest.mark.parametrize("cols", [True, False])
def test_log_sum_exps_and_gradients_of_blocks_add_up(cols: bool) -> None:
    a, b, ids_a, ids_b = problem()
    scale = torch.tensor(1.7, dtype=F64) if cols else torch.rand(7, dtype=F64) + 0.5
    scale.requires_grad_()
    row, col = pairwise.lse(a, b, scale, LeftOut(ids_a, ids_b), cols=cols)
    grad_row, grad_col = torch.randn(7, dtype=F64), torch.randn(11 if cols else 0, dtype=F64)
    want = torch.autograd.grad((row * grad_row).sum() + (col * grad_col).sum(), (a, b, scale))

    x, y, c = a.detach(), b.detach(), scale.detach()
    rows, columns, total = [], [], [torch.zeros_like(x), torch.zeros_like(c)]
    parts = [slice(*cut) for cut in CUTS]
    for part in parts:
        logits = Logits(x, y[part], c, LeftOut(ids_a, ids_b[part]))
        found = lse_block(logits, cols=cols, half=False)
        rows.append(found[0])
        columns.append(found[1])
    torch.testing.assert_close(torch.stack(rows).logsumexp(0), row.detach())
    torch.testing.assert_close(torch.cat(columns), col.detach())

    of_b = []
    for part in parts:
        statistics = (col.detach()[part], grad_col[part]) if cols else None
        logits = Logits(x, y[part], c, LeftOut(ids_a, ids_b[part]))
        lse = (row.detach(), grad_row)
        grads = lse_block_gradients(logits, lse, statistics, want_b=True, half=False)
        total[0] += grads.a
        total[1] += grads.scale
        of_b.append(grads.b)
    for got, expected in zip((total[0], torch.cat(of_b), total[1]), want, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("some", [False, True])
def test_softplus_of_blocks_adds_up(some: bool) -> None:
    a, b, ids_a, ids_b = problem()
    every = LeftOut(ids_a, ids_b) if some else LeftOut()
    scale, bias = (torch.tensor(x, dtype=F64, requires_grad=True) for x in (1.3, -0.7))
    weight = torch.rand(7, dtype=F64)
    rows = pairwise.softplus(a, b, scale, bias, every)
    want = torch.autograd.grad((rows * weight).sum(), (a, b, scale, bias))
    found = [
        softplus_block(
            a.detach(),
            b.detach()[start:stop],
            scale.detach(),
            bias.detach(),
            weight,
            LeftOut(ids_a, ids_b[start:stop]) if some else LeftOut(),
            want_b=True,
        )
        for start, stop in CUTS
    ]
    torch.testing.assert_close(sum(part[0] for part in found), rows.detach())
    torch.testing.assert_close(sum(part[1].a for part in found), want[0])
    torch.testing.assert_close(torch.cat([part[1].b for part in found]), want[1])
    torch.testing.assert_close(sum(part[1].scale for part in found), want[2])
    torch.testing.assert_close(sum(part[2] for part in found), want[3])

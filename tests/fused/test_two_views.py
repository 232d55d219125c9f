"""NT-Xent rows of two views as one operator, against torch's cross-entropy in fp64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

from sslspec_fast import _C
from sslspec_fast._seam import view
from sslspec_fast.fused.two_views import two_view_loss

from ..support.row_cases import SCALES, assert_same, doubles, leaves, rows, weights


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("n", [1, 2, 23, 60, 130])
def test_rows(n: int, scale: float, dtype: torch.dtype) -> None:
    z1, z2, c = leaves(
        3 * rows(n, 20, dtype), 2 * rows(n, 20, dtype, 1), torch.tensor(scale, dtype=dtype)
    )
    e1, e2, ce = doubles(z1, z2, c)
    u = nnf.normalize(torch.cat([e1, e2]), dim=1)
    logits = (ce * (u @ u.T)).masked_fill(torch.eye(2 * n, dtype=torch.bool), -math.inf)
    target = torch.arange(2 * n).roll(n)
    exact = nnf.cross_entropy(logits, target, reduction="none").view(2, n)
    ours = two_view_loss(z1, z2, c)
    g = weights(2, n, dtype=dtype)
    if n == 1:
        assert torch.all(ours == 0)
        return
    assert_same((ours,), (exact,), dtype)
    theirs = torch.autograd.grad((exact * g.double()).sum(), (e1, e2, ce))
    assert_same(torch.autograd.grad((ours * g).sum(), (z1, z2, c)), theirs, dtype)


def test_rows_of_zero_length() -> None:
    z1, z2 = leaves(rows(6, 4, torch.float64), rows(6, 4, torch.float64, 1))
    z1.data[2] = 0
    c = torch.tensor(2.0, dtype=torch.float64)
    grads = torch.autograd.grad(two_view_loss(z1, z2, c).sum(), (z1, z2))
    u = nnf.normalize(torch.cat([z1, z2]), dim=1, eps=1e-12)
    logits = (c * (u @ u.T)).masked_fill(torch.eye(12, dtype=torch.bool), -math.inf)
    loss = nnf.cross_entropy(logits, torch.arange(12).roll(6), reduction="sum")
    assert_same(grads, torch.autograd.grad(loss, (z1, z2)), torch.float64)


def test_row_strides_do_not_matter() -> None:
    z1, z2 = rows(30, 24, torch.float32), rows(30, 24, torch.float32, 1)
    c = torch.tensor(5.0)
    expected = two_view_loss(z1, z2, c)
    padded = torch.zeros(30, 40)
    padded[:, :24] = z1
    assert torch.equal(two_view_loss(padded[:, :24], z2, c), expected)
    assert torch.equal(two_view_loss(z1.T.contiguous().T, z2, c), expected)


@pytest.mark.parametrize("n", [20, 500])
def test_any_number_of_threads_gives_the_same_bits(n: int) -> None:
    z1, z2, c = leaves(rows(n, 33, torch.float32), rows(n, 33, torch.float32, 1), torch.tensor(9.0))
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            out = two_view_loss(z1, z2, c)
            results.append([out, *torch.autograd.grad(out.sum(), (z1, z2, c))])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(p, q) for p, q in zip(results[0], other, strict=True))


def test_nan_reaches_every_row_that_sees_it() -> None:
    z1, z2 = rows(8, 4, torch.float32), rows(8, 4, torch.float32, 1)
    z1[3, 2] = math.nan
    assert two_view_loss(z1, z2, torch.tensor(2.0)).isnan().all()


def test_derivatives() -> None:
    a, b = leaves(rows(6, 4, torch.float64), rows(6, 4, torch.float64, 1))
    (c,) = leaves(torch.tensor(2.0, dtype=torch.float64))
    assert torch.autograd.gradcheck(two_view_loss, (a, b, c))
    assert torch.autograd.gradgradcheck(two_view_loss, (a, b, c))


def test_opcheck() -> None:
    a, b = leaves(rows(9, 4, torch.float32), rows(9, 4, torch.float32, 1))
    c = torch.tensor(2.0, requires_grad=True)
    torch.library.opcheck(torch.ops.sslspec_fast.two_views_stacked.default, (a, b, c, False, False))


def test_the_core_names_what_is_wrong() -> None:
    c, u, row = torch.tensor(1.0), torch.zeros(2, 3, 4), torch.zeros(2, 3)
    work = torch.zeros(_C.two_views_workspace_size(3, 4, 0, False, False))

    def call(z1: Tensor, u: Tensor, norm: Tensor, work: Tensor) -> None:
        z = torch.zeros(3, 4)
        left = view(u), view(norm), view(row), None, False
        _C.two_views_forward((view(z1), view(z)), view(c), left, view(row), (view(work), 1))

    with pytest.raises(ValueError, match=r"z1 must have size 4 in dimension 1, got shape \(3, 5\)"):
        call(torch.zeros(3, 5), u, row, work)
    with pytest.raises(ValueError, match=r"u must be \(2, n, d\), got \(3, 4\)"):
        call(torch.zeros(3, 4), torch.zeros(3, 4), row, work)
    with pytest.raises(ValueError, match="norm must be contiguous"):
        call(torch.zeros(3, 4), u, torch.zeros(2, 8)[:, :3], work)
    with pytest.raises(ValueError, match="workspace must have size"):
        call(torch.zeros(3, 4), u, row, work[1:])

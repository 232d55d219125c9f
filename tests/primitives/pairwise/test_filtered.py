"""Log-sum-exp over pairs below a threshold, against dense torch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sslspec_fast.primitives import pairwise
from sslspec_fast.primitives.pairwise import filtered

from ...support.row_cases import leaves, rows

F64 = torch.float64
SHAPES = [(1, 1, 3), (5, 9, 4), (130, 70, 33), (60, 300, 20)]


def dense(a: Tensor, b: Tensor, scale: Tensor, threshold: Tensor, out: Tensor) -> Tensor:
    dots = a @ b.T
    left_out = out | (dots.detach() > threshold.reshape(-1, 1))
    return (scale.reshape(-1, 1) * dots).masked_fill(left_out, -math.inf).logsumexp(1)


@pytest.mark.parametrize(("n", "m", "d"), SHAPES)
@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("block", [7, 1 << 22])
def test_dense(
    monkeypatch: pytest.MonkeyPatch, n: int, m: int, d: int, per_row: bool, block: int
) -> None:
    monkeypatch.setattr(filtered, "_BLOCK_ELEMENTS", block)
    a, b = leaves(rows(n, d, F64), rows(m, d, F64, 1))
    scale = torch.linspace(0.5, 2, n, dtype=F64) if per_row else torch.tensor(1.5, dtype=F64)
    bound = torch.linspace(-1, 2, n, dtype=F64) if per_row else torch.tensor(0.2, dtype=F64)
    scale.requires_grad_()
    ids = [torch.arange(k, dtype=torch.int32) % 3 for k in (n, m)]
    out = (ids[0][:, None] == ids[1]) | torch.eye(n, m, dtype=torch.bool)
    left_out = pairwise.LeftOut(*ids, self_pairs=True)
    ours = pairwise.lse_below(a, b, scale, bound, left_out)
    expected = dense(a, b, scale, bound, out)
    some = expected.isfinite()
    assert torch.equal(ours.isneginf(), ~some)
    if some.any():
        torch.testing.assert_close(ours[some], expected[some])
        grads, wanted = (
            torch.autograd.grad(x[some].sum(), (a, b, scale)) for x in (ours, expected)
        )
        torch.testing.assert_close(grads, wanted)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("block", [7, 1 << 22])
@pytest.mark.parametrize(("n", "m", "d"), SHAPES)
def test_guide(
    monkeypatch: pytest.MonkeyPatch, n: int, m: int, d: int, block: int, own: bool
) -> None:
    """Pairs above a guide's bound, of rows with another width; beside those of a pattern and those
    above a bound of their own.
    """
    monkeypatch.setattr(filtered, "_BLOCK_ELEMENTS", block)
    a, b = leaves(rows(n, d, F64), rows(m, d, F64, 1))
    guide = filtered.Bound(
        rows(n, 2, F64, 2), rows(m, 2, F64, 3), torch.linspace(-1, 2, n).double()
    )
    scale, index = torch.tensor(1.5, dtype=F64, requires_grad=True), torch.arange(n)
    out = guide.a @ guide.b.T > guide.threshold[:, None]
    out[index, index * 3 % m] = True
    left_out = pairwise.LeftOut(indptr=torch.arange(n + 1), indices=index * 3 % m)
    bound = torch.tensor(0.2, dtype=F64) if own else None
    ours = pairwise.lse_below(a, b, scale, bound, left_out, guide)
    expected = dense(a, b, scale, torch.tensor(math.inf) if bound is None else bound, out)
    some = expected.isfinite()
    assert torch.equal(ours.isneginf(), ~some)
    if some.any():
        torch.testing.assert_close(ours[some], expected[some])
        grads, wanted = (
            torch.autograd.grad(x[some].sum(), (a, b, scale)) for x in (ours, expected)
        )
        torch.testing.assert_close(grads, wanted)


def test_nothing_to_compare_with() -> None:
    a = rows(3, 4, F64)
    with pytest.raises(ValueError, match="lse_below: needs a threshold or a guide, got None"):
        pairwise.lse_below(a, a, torch.tensor(1.0, dtype=F64), None)


def test_both_passes_agree_on_pairs_at_the_threshold() -> None:
    """A bound that is the similarity of some pair of every row, in float32."""
    a = torch.nn.functional.normalize(rows(40, 16, torch.float32), dim=1).requires_grad_()
    b = torch.nn.functional.normalize(rows(501, 16, torch.float32, 1), dim=1)
    bound, scale = (a.detach() @ b.T).median(1).values, torch.tensor(10.0)
    r = pairwise.lse_below(a, b, scale, bound)
    expected = dense(a, b, scale, bound, torch.zeros(40, 501, dtype=torch.bool))
    torch.testing.assert_close(r, expected, rtol=1e-5, atol=1e-5)
    (got,), (want,) = (torch.autograd.grad(x.sum(), a) for x in (r, expected))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_operator_and_second_derivatives() -> None:
    a, b = leaves(rows(7, 4, F64), rows(9, 4, F64, 1))
    scale = torch.tensor(1.5, dtype=F64, requires_grad=True)
    bound = torch.linspace(-1, 2, 7, dtype=F64)
    op = torch.ops.sslspec_fast.pairwise_lse_below.default
    left_out = pairwise.LeftOut()
    guide = rows(7, 2, F64, 2), rows(9, 2, F64, 3), torch.linspace(0.5, 1, 7, dtype=F64)
    torch.library.opcheck(op, (a, b, scale, *left_out, bound, None, None, None, False))
    torch.library.opcheck(op, (a, b, scale, *left_out, None, *guide, False))

    def loss(*x: Tensor) -> Tensor:
        return pairwise.lse_below(*x, bound)[1:]  # of row 0 nothing is left

    assert torch.autograd.gradcheck(loss, (a, b, scale))
    assert torch.autograd.gradgradcheck(loss, (a, b, scale))

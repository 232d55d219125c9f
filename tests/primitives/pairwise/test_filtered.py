"""Log-sum-exp over pairs below a threshold, against dense torch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import sslspec_fast as sf
from sslspec_fast._seam import _C, view
from sslspec_fast.primitives import pairwise
from sslspec_fast.primitives.pairwise import filtered

from ...support.row_cases import leaves, rows, weights

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


@pytest.mark.parametrize("per_row", [False, True])
def test_both_passes_agree_on_pairs_at_the_threshold(per_row: bool) -> None:
    """A bound that is the similarity of some pair of every row, in float32: rounding decides
    whether that pair is left out, the same in the value and in its gradient.
    """
    a = torch.nn.functional.normalize(rows(40, 16, torch.float32), dim=1).requires_grad_()
    b = torch.nn.functional.normalize(rows(501, 16, torch.float32, 1), dim=1)
    bound, scale = (a.detach() @ b.T).median(1).values, torch.tensor(10.0)
    scale = scale * torch.linspace(0.7, 1.3, 40) if per_row else scale
    r = pairwise.lse_below(a, b, scale, bound)
    none = torch.zeros(40, 501, dtype=torch.bool)
    within, without = (dense(a, b, scale, bound + e, none) for e in (1e-6, -1e-6))
    expected = torch.where((r - within).abs() < (r - without).abs(), within, without)
    torch.testing.assert_close(r, expected, rtol=1e-5, atol=1e-5)
    (got,), (want,) = (torch.autograd.grad(x.sum(), a) for x in (r, expected))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("default_kept_limit")
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("scale", [1 / 0.07, 1 / 0.003])
@pytest.mark.parametrize("kept", [64 << 20, 0])
def test_a_pair_at_the_threshold_stays(dtype: torch.dtype, scale: float, kept: int) -> None:
    """Products that are exact, -1 to 1 in steps of 1/8, and thresholds that are some of them; a
    product of rows times the scale would be rounded.
    """
    signs = torch.randint(0, 2, (90, 16), generator=torch.Generator().manual_seed(0)) / 2 - 0.25
    a, b, c = leaves(*(x.to(dtype) for x in (signs[:40], signs[20:], torch.tensor(scale))))
    each, w = torch.arange(40) % 5 / 8 - 0.25, weights(40, dtype=dtype)
    sf.set_kept_limit(kept)
    for bound in (torch.tensor(0.25, dtype=dtype), each.to(dtype)):
        assert (a @ b.T == bound.reshape(-1, 1)).any(1).all()
        ours = pairwise.lse_below(a, b, c, bound)
        grads = torch.autograd.grad(ours @ w, (a, b, c))
        x, y, z = (t.detach().double().requires_grad_() for t in (a, b, c))
        want = dense(x, y, z, bound.double(), torch.zeros(40, 70, dtype=torch.bool))
        wanted = torch.autograd.grad(want @ w.double(), (x, y, z))
        torch.testing.assert_close(ours, want.to(dtype))
        for got, exact in zip(grads, wanted, strict=True):
            assert (got - exact).abs().max() <= 1e-5 * exact.abs().max()


@pytest.mark.parametrize("half", [False, True])
def test_a_scale_of_zero_counts_the_pairs_below(half: bool) -> None:
    """What a hardness asks for: all logits are 0, and products are compared all the same."""
    a, b = rows(70, 20, torch.float32), rows(90, 20, torch.float32, 1)
    for bound in (torch.tensor(0.3), torch.linspace(-1, 1, 70)):
        for scale in (torch.zeros(()), torch.zeros(70), torch.linspace(0, 1, 70)):
            r = pairwise.lse_below(a, b, scale, bound, half=half)
            want = dense(a, b, scale, bound, torch.zeros(70, 90, dtype=torch.bool))
            close = {"rtol": 1e-2, "atol": 1e-2} if half else {"rtol": 1e-5, "atol": 1e-5}
            torch.testing.assert_close(r, want, **close)


@pytest.mark.usefixtures("default_kept_limit")
def test_bits_of_kept_products_and_of_any_number_of_threads() -> None:
    a, b = rows(500, 70, torch.float32), rows(900, 70, torch.float32, 1)
    guide = filtered.Bound(rows(500, 5, F64, 2), rows(900, 5, F64, 3), torch.tensor(1.0).double())
    found: list[list[Tensor]] = []
    for count, kept in ((1, 64 << 20), (7, 64 << 20), (1, 0), (2, 1 << 20)):
        torch.set_num_threads(count)
        sf.set_kept_limit(kept)
        found.append([])
        for scale, by in ((0.3, None), (30.0, None), (0.3, guide)):
            x, y, c = leaves(a, b, torch.tensor(scale))
            value = pairwise.lse_below(x, y, c, torch.tensor(0.5), guide=by)
            grads = torch.autograd.grad(value.square().sum(), (x, y, c))
            found[-1] += [value.detach(), *grads]
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def test_nan_stays() -> None:
    a, b = rows(60, 9, torch.float32), rows(50, 9, torch.float32, 1)
    a[7, 3] = torch.nan
    r = pairwise.lse_below(a, b, torch.tensor(2.0), torch.tensor(0.1))
    assert torch.equal(r.isnan(), torch.arange(60) == 7)


def test_the_core_takes_a_limit_of_wide_rows_with_one_scale() -> None:
    a, row, one = torch.zeros(4, 3), torch.zeros(4), torch.ones(())
    work = torch.zeros(_C.pairwise_workspace_size(4, 4, 3, 0, False, False))

    def call(logits: pairwise.Logits) -> None:
        _C.pairwise_forward(logits.view(), (view(row), None), None, (view(work), 1))

    good = pairwise.Logits(a, a, one, limit=one)
    call(good)
    half = a.bfloat16()
    wrong = (
        good._replace(b=None),
        good._replace(scale=row),
        good._replace(bias=one),
        good._replace(a=half, b=half),
    )
    for logits in wrong:
        with pytest.raises(ValueError, match="a limit needs b, one scale, no bias, and rows in"):
            call(logits)
    with pytest.raises(ValueError, match=r"limit must have size 4 .* got shape \(5,\)"):
        call(good._replace(limit=torch.zeros(5)))


def test_operator_and_second_derivatives() -> None:
    a, b = leaves(rows(7, 4, F64), rows(9, 4, F64, 1))
    scale = torch.tensor(1.5, dtype=F64, requires_grad=True)
    bound = torch.linspace(-1, 2, 7, dtype=F64)
    op = torch.ops.sslspec_fast.pairwise_lse_below.default
    left_out = pairwise.LeftOut()
    guide = rows(7, 2, F64, 2), rows(9, 2, F64, 3), torch.linspace(0.5, 1, 7, dtype=F64)
    torch.library.opcheck(op, (a, b, scale, *left_out, bound, None, None, None, False, True))
    torch.library.opcheck(op, (a, b, scale, *left_out, None, *guide, False, False))

    def loss(*x: Tensor) -> Tensor:
        return pairwise.lse_below(*x, bound)[1:]  # of row 0 nothing is left

    assert torch.autograd.gradcheck(loss, (a, b, scale))
    assert torch.autograd.gradgradcheck(loss, (a, b, scale))

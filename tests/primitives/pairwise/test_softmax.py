"""Pairwise statistics against dense fp64 logits: values, gradients, masks, extremes."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

from sslspec_fast import _C
from sslspec_fast.primitives import pairwise

from ...support.row_cases import SCALES, assert_same, doubles, leaves, rows, some_left_out, weights

RAGGED = (1, 2, 7, 47, 97, 252, 257)


def masked_lse(logits: Tensor, mask: Tensor, dim: int) -> Tensor:
    return torch.logsumexp(logits.masked_fill(mask, -math.inf), dim)


def csr_of(mask: Tensor) -> tuple[Tensor, Tensor]:
    indptr = nnf.pad(mask.sum(1).cumsum(0), (1, 0))
    return indptr, mask.nonzero()[:, 1].contiguous()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("with_ids", [False, True])
@pytest.mark.parametrize("n", RAGGED)
def test_lse_self(n: int, with_ids: bool, scale: float, dtype: torch.dtype) -> None:
    d = 5 + n % 50
    ids = torch.arange(n, dtype=torch.int32) % 3 if with_ids else None
    mask = torch.eye(n, dtype=torch.bool) if ids is None else ids[:, None] == ids[None]
    u, c = leaves(rows(n, d, dtype), torch.tensor(scale, dtype=dtype))
    out = pairwise.lse_self(u, c, ids)

    ue, ce = doubles(u, c)
    exact = masked_lse(ce * (ue @ ue.T), mask, 1)
    some = torch.isfinite(exact)
    assert torch.equal(torch.isfinite(out), some)
    assert torch.all(out[~some] == -math.inf)
    if not some.any():
        return
    g = weights(n, dtype=dtype)
    assert_same((out[some],), (exact[some],), dtype)
    ours = torch.autograd.grad((out[some] * g[some]).sum(), (u, c))
    theirs = torch.autograd.grad((exact[some] * g[some].double()).sum(), (ue, ce))
    assert_same(ours, theirs, dtype)


@pytest.mark.parametrize("form", ["rows", "rows and columns", "softplus"])
def test_gradient_of_one_side(form: str) -> None:
    bias = torch.tensor(-2.0).double()
    a, b, c = leaves(
        rows(97, 33, torch.float64), rows(150, 33, torch.float64, 1), torch.tensor(4.0).double()
    )
    for wanted in ((a, b, c), (a, c), (b,)):
        left, right = (t if any(t is w for w in wanted) else t.detach() for t in (a, b))
        if form == "softplus":
            outputs = (pairwise.softplus(left, right, c, bias),)
        else:
            outputs = pairwise.lse(left, right, c, cols=form != "rows")
        total = sum(t.square().sum() for t in outputs)
        grads = torch.autograd.grad(total, wanted, create_graph=True)
        if len(wanted) == 3:
            every = dict(zip("abc", grads, strict=True))
            continue
        names = "ac" if len(wanted) == 2 else "b"
        for name, grad in zip(names, grads, strict=True):
            torch.testing.assert_close(grad, every[name], rtol=1e-12, atol=1e-14)
        assert torch.isfinite(torch.autograd.grad(sum(g.sum() for g in grads), wanted)[0]).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 50), (50, 3), (97, 252), (193, 193)])
def test_lse_rows_and_columns(n: int, m: int, scale: float, dtype: torch.dtype) -> None:
    a, b, c = leaves(rows(n, 33, dtype), rows(m, 33, dtype, 1), torch.tensor(scale, dtype=dtype))
    row, col = pairwise.lse(a, b, c, cols=True)
    ae, be, ce = doubles(a, b, c)
    logits = ce * (ae @ be.T)
    g, h = weights(n, dtype=dtype), weights(m, dtype=dtype)
    exact = (torch.logsumexp(logits, 1), torch.logsumexp(logits, 0))
    assert_same((row, col), exact, dtype)
    ours = torch.autograd.grad((row * g).sum() + (col * h).sum(), (a, b, c))
    theirs = torch.autograd.grad(
        (exact[0] * g.double()).sum() + (exact[1] * h.double()).sum(), (ae, be, ce)
    )
    assert_same(ours, theirs, dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("mask_kind", ["none", "self", "ids", "pattern", "all"])
def test_lse_masks_and_scale_per_row(mask_kind: str, dtype: torch.dtype) -> None:
    n, m, d = 100, 130, 20
    generator = torch.Generator().manual_seed(3)
    mask = torch.zeros(n, m, dtype=torch.bool)
    left_out = pairwise.LeftOut()
    if mask_kind in ("self", "all"):
        mask |= torch.eye(n, m, dtype=torch.bool)
        left_out = left_out._replace(self_pairs=True)
    if mask_kind in ("ids", "all"):
        ids_a = torch.randint(0, 6, (n,), generator=generator, dtype=torch.int32)
        ids_b = torch.randint(0, 6, (m,), generator=generator, dtype=torch.int32)
        mask |= ids_a[:, None] == ids_b[None]
        left_out = left_out._replace(ids_a=ids_a, ids_b=ids_b)
    if mask_kind in ("pattern", "all"):
        pattern = torch.rand(n, m, generator=generator) < 0.2
        pattern[4] = True  # a row that is left out entirely
        mask |= pattern
        indptr, indices = csr_of(pattern)
        left_out = left_out._replace(indptr=indptr, indices=indices)
    scale = 1 + 30 * torch.rand(n, generator=generator, dtype=dtype)
    a, b, c = leaves(rows(n, d, dtype), rows(m, d, dtype, 1), scale)
    row, col = pairwise.lse(a, b, c, left_out)
    assert col.numel() == 0
    ae, be, ce = doubles(a, b, c)
    exact = masked_lse(ce[:, None] * (ae @ be.T), mask, 1)
    some = torch.isfinite(exact)
    assert torch.equal(torch.isfinite(row), some)
    g = weights(n, dtype=dtype)
    assert_same((row[some],), (exact[some],), dtype)
    ours = torch.autograd.grad((row[some] * g[some]).sum(), (a, b, c))
    theirs = torch.autograd.grad((exact[some] * g[some].double()).sum(), (ae, be, ce))
    assert_same(ours, theirs, dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("scale", "bias"), [(10.0, -10.0), (100.0, 3.0)])
@pytest.mark.parametrize("kind", ["all", "self", "ids", "pattern", "everything"])
@pytest.mark.parametrize(("n", "m"), [(3, 5), (97, 252)])
def test_softplus(n: int, m: int, kind: str, scale: float, bias: float, dtype: torch.dtype) -> None:
    a, b, c, t = leaves(
        rows(n, 17, dtype),
        rows(m, 17, dtype, 1),
        torch.tensor(scale, dtype=dtype),
        torch.tensor(bias, dtype=dtype),
    )
    left_out = some_left_out(kind, n, m)
    out = pairwise.softplus(a, b, c, t, left_out)
    ae, be, ce, te = doubles(a, b, c, t)
    dense = nnf.softplus(ce * (ae @ be.T) + te, threshold=1e9)
    exact = dense.masked_fill(left_out.mask(slice(0, n), m, a.device), 0).sum(1)
    assert_same((out,), (exact,), dtype)
    g = weights(n, dtype=dtype)
    ours = torch.autograd.grad((out * g).sum(), (a, b, c, t))
    theirs = torch.autograd.grad((exact * g.double()).sum(), (ae, be, ce, te))
    assert_same(ours, theirs, dtype)


def test_strided_rows() -> None:
    base = rows(60, 40, torch.float64)
    c = torch.tensor(3.0, dtype=torch.float64)
    for view in (base[:, :20], base[::2], base[:, ::2], base.T.contiguous().T):
        assert torch.equal(pairwise.lse_self(view, c), pairwise.lse_self(view.contiguous(), c))
        ours, _ = pairwise.lse(view, base[:, : view.shape[1]], c)
        theirs, _ = pairwise.lse(view.contiguous(), base[:, : view.shape[1]].contiguous(), c)
        assert torch.equal(ours, theirs)


def test_no_rows() -> None:
    c = torch.tensor(1.0)
    assert pairwise.lse_self(torch.empty(0, 4), c).shape == (0,)
    row, col = pairwise.lse(torch.empty(0, 4), torch.randn(3, 4), c, cols=True)
    assert row.shape == (0,)
    assert torch.all(col == -math.inf)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_huge_logits_do_not_overflow(dtype: torch.dtype) -> None:
    u = 100 * rows(70, 8, dtype)
    c = torch.tensor(1.0, dtype=dtype)  # logits up to 10^4
    exact = masked_lse(u.double() @ u.double().T, torch.eye(70, dtype=torch.bool), 1)
    assert_same((pairwise.lse_self(u, c),), (exact,), dtype)
    v = u.clone().requires_grad_()
    (grad,) = torch.autograd.grad(pairwise.lse_self(v, c).sum(), v)
    assert torch.isfinite(grad).all()


@pytest.mark.parametrize("scale", SCALES)
def test_nan_reaches_every_row_that_sees_it(scale: float) -> None:
    u = rows(300, 8, torch.float32)
    u[260, 3] = math.nan
    out = pairwise.lse_self(u, torch.tensor(scale))
    assert torch.isnan(out).all()
    ids = torch.zeros(300, dtype=torch.int32)
    ids[:100] = 1  # rows 100 .. do not see row 260
    out = pairwise.lse_self(u, torch.tensor(scale), ids)
    assert torch.isnan(out[:100]).all()
    assert torch.isfinite(out[100:260]).all()


@pytest.mark.parametrize("scale", SCALES)
def test_bitwise_equal_for_any_number_of_threads(scale: float) -> None:
    u, b, c = rows(500, 40, torch.float32), rows(310, 40, torch.float32, 1), torch.tensor(scale)
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            x, y = leaves(u, b)
            out = (
                pairwise.lse_self(x, c),
                *pairwise.lse(x, y, c, cols=True),
                pairwise.softplus(x, y, c, c),
            )
            results.append((*out, *torch.autograd.grad(sum(o.sum() for o in out), (x, y))))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(p, q) for p, q in zip(results[0], other, strict=True))


def test_subnormal_weights_are_zero_and_the_mode_of_the_thread_stays() -> None:
    u, v, c = rows(64, 8, torch.float32), rows(64, 8, torch.float32, 1), torch.tensor(100.0)
    x, y = leaves(u, v)
    row, _ = pairwise.lse(x, y, c)
    tiny = torch.full_like(row, 1e-38)
    for grad in torch.autograd.grad(row, (x, y), tiny):
        assert grad.isfinite().all()
        assert grad.abs().max() < 1e-35
    assert torch.tensor(1e-30) * torch.tensor(1e-10) > 0  # subnormal, and not flushed out here


# 4224 rows are 24 blocks, 6200 are 48 in groups of 4; more threads than groups: anti-diagonals
@pytest.mark.parametrize(("n", "m"), [(4224, 6200), (6200, 300), (300, 6200), (6200, 6500)])
def test_the_schedule_visits_every_pair_once_in_one_order(n: int, m: int) -> None:
    a, b = rows(n, 2, torch.float32), rows(m, 2, torch.float32, 1)
    one, c = torch.ones(()), torch.tensor(3.0)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 8, 40):
            torch.set_num_threads(threads)
            x, y = leaves(a, b)
            out = (pairwise.lse_self(x, c), *pairwise.lse(x, y, c, cols=True))
            results.append((*out, *torch.autograd.grad(sum(o.sum() for o in out), (x, y))))
            # with logits of zero every pair counts 1
            count, columns = pairwise.lse(0 * x, y, one, cols=True)
            torch.testing.assert_close(count.exp(), torch.full((n,), float(m)))
            torch.testing.assert_close(columns.exp(), torch.full((m,), float(n)))
            every = pairwise.lse_self(0 * x, one).exp()
            torch.testing.assert_close(every, torch.full((n,), n - 1.0))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(p, q) for p, q in zip(results[0], other, strict=True))


def test_gradcheck() -> None:
    u, b = leaves(rows(9, 4, torch.float64), rows(6, 4, torch.float64, 1))
    c, t, per_row = leaves(
        torch.tensor(2.0, dtype=torch.float64),
        torch.tensor(-1.0, dtype=torch.float64),
        weights(9, dtype=torch.float64),
    )
    others = pairwise.LeftOut(self_pairs=True)
    assert torch.autograd.gradcheck(pairwise.lse_self, (u, c))
    assert torch.autograd.gradcheck(lambda *x: pairwise.lse(*x, cols=True), (u, b, c))
    assert torch.autograd.gradcheck(lambda *x: pairwise.lse(*x, others)[0], (u, b, per_row))
    assert torch.autograd.gradcheck(pairwise.softplus, (u, b, c, t))


def test_second_derivatives() -> None:
    u, b = leaves(rows(7, 3, torch.float64), rows(5, 3, torch.float64, 1))
    c, t, per_row = leaves(
        torch.tensor(2.0, dtype=torch.float64),
        torch.tensor(-1.0, dtype=torch.float64),
        weights(7, dtype=torch.float64),
    )
    ids = torch.arange(7, dtype=torch.int32) % 3
    indptr, indices = csr_of(torch.eye(7, 5, dtype=torch.bool).roll(1, 1))
    pattern = pairwise.LeftOut(indptr=indptr, indices=indices, self_pairs=True)
    check = torch.autograd.gradgradcheck
    assert check(lambda *x: pairwise.lse_self(*x, ids), (u, c))
    assert check(lambda *x: pairwise.lse(*x, cols=True), (u, b, c))
    assert check(lambda *x: pairwise.lse(*x, pattern)[0], (u, b, per_row))
    some = some_left_out("everything", 7, 5)
    assert check(lambda *x: pairwise.softplus(*x, some), (u, b, c, t))


def test_third_derivatives_raise() -> None:
    (u,) = leaves(rows(5, 3, torch.float64))
    out = pairwise.lse_self(u, torch.tensor(1.0, dtype=torch.float64)).sum()
    (first,) = torch.autograd.grad(out, u, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), u, create_graph=True)
    with pytest.raises(NotImplementedError, match="third derivatives"):
        second.sum().backward()


def test_opcheck() -> None:
    ops = torch.ops.sslspec_fast
    u, b = leaves(rows(9, 4, torch.float32), rows(6, 4, torch.float32, 1))
    c = torch.tensor(2.0, requires_grad=True)
    ids = torch.arange(9, dtype=torch.int32) % 2
    keep = False  # the number of what is kept is another one in each call
    for half in (False, True):
        torch.library.opcheck(ops.pairwise_lse_self.default, (u, c, ids, half, keep))
        arguments = (u, b, c, None, None, None, None, False, True, half, keep)
        torch.library.opcheck(ops.pairwise_lse.default, arguments)
        softplus = (u, b, c, *pairwise.LeftOut(), torch.tensor(0.0), half)
        torch.library.opcheck(ops.pairwise_softplus.default, softplus)


def test_the_core_names_what_is_wrong() -> None:
    c = torch.tensor(1.0)
    with pytest.raises(ValueError, match=r"float32 or float64, got float16"):
        pairwise.lse_self(torch.zeros(3, 2, dtype=torch.float16), c.half())
    with pytest.raises(ValueError, match=r"b must have size 2 in dimension 1, got shape \(3, 5\)"):
        pairwise.lse(torch.zeros(3, 2), torch.zeros(3, 5), c)
    with pytest.raises(
        ValueError, match=r"ids_a must have size 3 in dimension 0, got shape \(4,\)"
    ):
        pairwise.lse_self(torch.zeros(3, 2), c, torch.zeros(4, dtype=torch.int32))
    with pytest.raises(
        ValueError, match=r"scale must be a scalar with cols=True, got shape \(3,\)"
    ):
        pairwise.lse(torch.zeros(3, 2), torch.zeros(3, 2), torch.ones(3), cols=True)
    with pytest.raises(TypeError, match="TensorView"):
        _C.pairwise_sigmoid_forward(c, None, (None, 1))

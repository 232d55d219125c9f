"""Rows that are exact in bfloat16, multiplied as that where the CPU does, against fp64 logits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sslspec_fast import _C
from sslspec_fast._seam import CODE, view
from sslspec_fast.primitives import pairwise

from ...support.row_cases import doubles, leaves, rows, some_left_out, weights

# logits lose nothing; weights are rounded to bfloat16
VALUE, GRADIENT = 3e-5, 2**-8
SHAPES = [(1, 1, 1), (3, 5, 2), (47, 48, 31), (97, 33, 64), (200, 201, 130), (257, 511, 257)]
SCALES = (1.0, 20.0, 200.0)  # the last needs a running maximum


def close(ours: tuple[Tensor, ...], exact: tuple[Tensor, ...], limit: float) -> None:
    for a, e in zip(ours, exact, strict=True):
        assert torch.isfinite(a).all()
        assert (a.double() - e).norm() <= limit * e.norm() + 1e-6


def half(n: int, d: int, seed: int = 0) -> Tensor:
    return rows(n, d, torch.float32, seed).bfloat16().float()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("cols", [False, True])
@pytest.mark.parametrize(("n", "m", "d"), SHAPES)
def test_lse(n: int, m: int, d: int, cols: bool, scale: float) -> None:
    a, b, c = leaves(half(n, d), half(m, d, 1), torch.tensor(scale))
    row, col = pairwise.lse(a, b, c, cols=cols, half=True)
    ae, be, ce = doubles(a, b, c)
    logits = ce * (ae @ be.T)
    exact = (logits.logsumexp(1), logits.logsumexp(0))[: 1 + cols]
    ours = (row, col)[: 1 + cols]
    close(ours, exact, VALUE)
    g = [weights(len(e), dtype=torch.float32) for e in exact]
    grads = torch.autograd.grad(ours, (a, b, c), g)
    close(grads, torch.autograd.grad(exact, (ae, be, ce), [x.double() for x in g]), GRADIENT)
    # one side alone
    (alone,) = torch.autograd.grad(pairwise.lse(a, b.detach(), c, cols=cols, half=True)[0].sum(), a)
    (whole,) = torch.autograd.grad(pairwise.lse(a, b, c, cols=cols, half=True)[0].sum(), a)
    assert torch.equal(alone, whole)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("n", "m", "d"), SHAPES)
def test_a_scale_for_each_row(n: int, m: int, d: int, scale: float) -> None:
    """It multiplies a row before that is rounded, and a gradient after the products."""
    each = scale * (0.5 + torch.rand(n, generator=torch.Generator().manual_seed(n)))
    a, b, c = leaves(half(n, d), half(m, d, 1), each)
    row, _ = pairwise.lse(a, b, c, half=True)
    rows_scaled = (c[:, None] * a).detach()
    if _C.bf16_products():
        rows_scaled = rows_scaled.bfloat16().float()
    scaled, be = doubles(rows_scaled, b)
    exact = (scaled @ be.T).logsumexp(1)
    close((row,), (exact,), VALUE)
    g = weights(n, dtype=torch.float32)
    of_scaled, of_b = torch.autograd.grad(exact, (scaled, be), g.double())
    of_a, of_c = c[:, None].double() * of_scaled, (a * of_scaled).sum(1)
    *grads, grad_c = torch.autograd.grad(row, (a, b, c), g)
    close(tuple(grads), (of_a, of_b), GRADIENT)
    # its terms have both signs: beside what they add up to without them
    assert (grad_c - of_c).norm() <= GRADIENT * (
        a.norm(dim=1) * of_scaled.norm(dim=1)
    ).norm() + 1e-6


def test_pairs_that_are_left_out() -> None:
    n, m = 61, 75
    a, b, c = leaves(half(n, 33), half(m, 33, 1), torch.tensor(9.0))
    skip = torch.rand(n, m, generator=torch.Generator().manual_seed(2)) < 0.2
    skip[5] = True
    indptr = torch.nn.functional.pad(skip.sum(1).cumsum(0), (1, 0))
    left_out = pairwise.LeftOut(indptr=indptr, indices=skip.nonzero()[:, 1].contiguous())
    row, col = pairwise.lse(a, b, c, left_out, cols=True, half=True)
    logits = (c.double() * (a.double() @ b.double().T)).masked_fill(skip, -math.inf)
    assert row[5] == -math.inf
    keep = torch.arange(n) != 5
    close((row[keep], col), (logits.logsumexp(1)[keep], logits.logsumexp(0)), VALUE)
    row, _ = pairwise.lse(a, a, c, pairwise.LeftOut(self_pairs=True), half=True)
    logits = c.double() * (a.double() @ a.double().T)
    close((row,), (logits.fill_diagonal_(-math.inf).logsumexp(1),), VALUE)


def test_strides_nan_and_threads() -> None:
    wide = half(120, 90)
    a, b, c = wide[:, 3:50], wide[::2, 40:87], torch.tensor(5.0)
    row, col = pairwise.lse(a, b, c, cols=True, half=True)
    threads, bits = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            x, y = leaves(a.contiguous(), b.contiguous())
            values = pairwise.lse(x, y, c, cols=True, half=True)
            bits.append((*values, *torch.autograd.grad(values, (x, y), [v + 1 for v in values])))
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, *bits))
    assert torch.equal(row, bits[0][0])
    assert torch.equal(col, bits[0][1])
    bad = a.clone()
    bad[7, 3] = torch.nan
    row = pairwise.lse(bad, b, c, half=True)[0]
    assert torch.equal(row.isnan(), torch.arange(120) == 7)


def test_the_core_checks_what_it_takes() -> None:
    a, out = half(4, 8).bfloat16(), torch.empty(4)
    work = torch.empty(_C.pairwise_workspace_size(4, 4, 8, CODE[a.dtype], False, False))
    logits = pairwise.Logits(a, a, torch.ones(4)).view()
    with pytest.raises(ValueError, match=r"needs a scalar scale|take float32 or float64"):
        _C.pairwise_forward(logits, (view(out), None), None, (view(work), 1))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("n", "d"), [(1, 3), (47, 31), (97, 64), (257, 130)])
def test_lse_self(n: int, d: int, scale: float) -> None:
    """Rows that are exact in bfloat16: the logits are those of float64."""
    u, c = leaves(half(n, d), torch.tensor(scale))
    ids = torch.arange(n, dtype=torch.int32) // 2
    ours = pairwise.lse_self(u, c, ids, half=True)
    ue, ce = doubles(u, c)
    exact = (ce * (ue @ ue.T)).masked_fill(ids[:, None] == ids, -math.inf).logsumexp(1)
    some = torch.isfinite(exact)
    assert torch.equal(torch.isfinite(ours), some)
    if some.any():
        close((ours[some],), (exact[some],), VALUE)
        grads = torch.autograd.grad(ours[some].sum(), (u, c))
        close(grads, torch.autograd.grad(exact[some].sum(), (ue, ce)), GRADIENT)


@pytest.mark.parametrize(("scale", "bias"), [(1.0, 0.0), (10.0, -10.0), (100.0, -10.0)])
@pytest.mark.parametrize("kind", ["all", "self", "everything"])
@pytest.mark.parametrize(("n", "m", "d"), SHAPES)
def test_softplus(n: int, m: int, d: int, kind: str, scale: float, bias: float) -> None:
    tensors = leaves(half(n, d), half(m, d, 1), torch.tensor(scale), torch.tensor(bias))
    left_out = some_left_out(kind, n, m)
    ours = pairwise.softplus(*tensors, left_out, half=True)
    a, b, c, t = doubles(*tensors)
    logits = c * (a @ b.T) + t
    out = left_out.mask(slice(0, n), m, a.device)
    exact = torch.nn.functional.softplus(logits).masked_fill(out, 0.0).sum(1)
    close((ours,), (exact,), VALUE)
    g = weights(n, dtype=torch.float32)
    of_a, of_b, of_c, of_t = torch.autograd.grad(exact, (a, b, c, t), g.double())
    both = pairwise.softplus_total(*tensors, g, left_out, half=True)
    close((both,), ((exact * g).sum(),), VALUE)
    for grads in (torch.autograd.grad(ours, tensors, g), torch.autograd.grad(both, tensors)):
        close((*grads[:2], grads[3]), (of_a, of_b, of_t), GRADIENT)
        # its terms have both signs: beside what they add up to without them
        assert abs(grads[2] - of_c) * scale <= GRADIENT * of_a.norm() * a.norm() + 1e-6


@pytest.mark.parametrize("bias", [0.0, -10.0])
@pytest.mark.parametrize("kind", ["all", "self"])
@pytest.mark.parametrize(("n", "m", "d"), SHAPES)
def test_softplus_with_a_scale_for_each_row(n: int, m: int, d: int, kind: str, bias: float) -> None:
    """It multiplies the products, so that the value loses nothing."""
    each = 20 * torch.rand(n, generator=torch.Generator().manual_seed(n)) + 0.5
    for factor in (1.0, -1.0):
        tensors = leaves(half(n, d), half(m, d, 1), factor * each, torch.tensor(bias))
        left_out = some_left_out(kind, n, m)
        a, b, c, t = doubles(*tensors)
        out = left_out.mask(slice(0, n), m, a.device)
        logits = c[:, None] * (a @ b.T) + t
        exact = torch.nn.functional.softplus(logits).masked_fill(out, 0.0).sum(1)
        g = weights(n, dtype=torch.float32)
        of_a, of_b, of_c, of_t = torch.autograd.grad(exact, (a, b, c, t), g.double())
        ours = pairwise.softplus(*tensors, left_out, half=True)
        both = pairwise.softplus_total(*tensors, g, left_out, half=True)
        close((ours, both), (exact, (exact * g).sum()), VALUE)
        for grads in (torch.autograd.grad(ours, tensors, g), torch.autograd.grad(both, tensors)):
            close((*grads[:2], grads[3]), (of_a, of_b, of_t), GRADIENT)
            size = (a.norm(dim=1) * of_a.norm(dim=1) / c.abs()).norm()
            assert (grads[2] - of_c).norm() <= GRADIENT * size + 1e-6


def test_a_scale_of_zero() -> None:
    """No pair of its row adds to the gradient of b; that of the scale is there all the same."""
    each = torch.tensor([0.0, 2.0, 3.0])
    tensors = leaves(half(3, 40), half(50, 40, 1), each, torch.tensor(-2.0))
    exact = doubles(*tensors)
    wanted = torch.nn.functional.softplus(exact[2][:, None] * (exact[0] @ exact[1].T) - 2.0).sum()
    ours = pairwise.softplus(*tensors, half=True).sum()
    for got, want in zip(
        torch.autograd.grad(ours, tensors), torch.autograd.grad(wanted, exact[:3]), strict=False
    ):
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


def one_positive(*tensors: Tensor, skip_self: bool) -> Tensor:
    return pairwise.one_positive_total(*tensors, skip_self=skip_self, half=True)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("skip_self", [False, True])
@pytest.mark.parametrize(("n", "m", "d"), SHAPES[1:])
def test_one_positive(n: int, m: int, d: int, skip_self: bool, scale: float) -> None:
    a, b, c = half(n, d), half(m, d, 1), torch.tensor(scale)
    if scale > 20:
        a, b = (x * 0.1 for x in (a, b))
        a, b = a.bfloat16().float(), b.bfloat16().float()
    positive, w = scale * weights(n, dtype=torch.float32) * 0.7, weights(n, dtype=torch.float32)
    tensors = leaves(a, b, c, positive, w)
    exact = doubles(*tensors)
    logits = exact[2] * (exact[0] @ exact[1].T)
    if skip_self:
        logits = logits.masked_fill(torch.eye(n, m, dtype=torch.bool), -math.inf)
    losses = torch.nn.functional.softplus(logits.logsumexp(1) - exact[3])
    wanted = (losses * exact[4]).sum()
    ours = one_positive(*tensors, skip_self=skip_self)
    close((ours,), (wanted,), VALUE)
    of_a, of_b, of_c, of_positive, of_w = torch.autograd.grad(1.5 * wanted, exact)
    grads = torch.autograd.grad(1.5 * ours, tensors)
    close((*grads[:2], *grads[3:]), (of_a, of_b, of_positive, of_w), GRADIENT)
    assert abs(grads[2] - of_c) * scale <= GRADIENT * of_a.norm() * a.norm() + 1e-6


@pytest.mark.skipif(not _C.bf16_products(), reason="a processor without products of bfloat16")
def test_constant_columns_in_bfloat16_are_read_in_place() -> None:
    a, b = half(70, 40), half(300, 40, 1)
    positive, w, c = torch.zeros(70), torch.ones(70), torch.tensor(9.0)
    bound, ids = torch.tensor(0.3), torch.arange(70, dtype=torch.int32)
    left_out = pairwise.LeftOut(ids, torch.arange(300, dtype=torch.int32))

    def results(columns: Tensor) -> list[Tensor]:
        x, s = leaves(a, c)
        found: list[Tensor] = []
        for value in (
            one_positive(x, columns, s, positive, w, skip_self=False),
            pairwise.lse(x, columns, s, left_out, half=True)[0].sum(),
            pairwise.lse_below(x, columns, s, bound, left_out, half=True).sum(),
        ):
            first = torch.autograd.grad(value, (x, s), create_graph=True)
            found += [value, *first, *torch.autograd.grad(first[0].square().sum(), (x, s))]
        return found

    assert all(map(torch.equal, results(b), results(b.bfloat16())))


def test_any_number_of_threads_gives_the_same_bits() -> None:
    a, b, w = half(500, 70), half(900, 70, 1), weights(500, dtype=torch.float32)
    each = torch.linspace(1, 20, 500)
    threads, bits = torch.get_num_threads(), []
    try:
        for count in (1, 2, 7):
            torch.set_num_threads(count)
            x, y, s, c = leaves(a, b, each, torch.tensor(9.0))
            found: list[Tensor] = []
            for value in (
                one_positive(x, y, c, torch.ones(500), w, skip_self=True),
                pairwise.lse_below(x, y, c, torch.tensor(0.2), half=True) @ w,
                pairwise.softplus_total(x, y, s, torch.tensor(-3.0), w, half=True),
                pairwise.softplus(x, y, s, torch.tensor(-3.0), half=True) @ w,
            ):
                grads = torch.autograd.grad(value, (x, y, s, c), allow_unused=True)
                found += [value.detach(), *(g for g in grads if g is not None)]
            bits.append(found)
    finally:
        torch.set_num_threads(threads)
    for other in bits[1:]:
        assert all(map(torch.equal, bits[0], other))

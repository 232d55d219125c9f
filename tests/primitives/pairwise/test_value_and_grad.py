"""Totals of softmax and sigmoid rows with the gradient made on the way, against torch in fp64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

from sslspec_fast import _C
from sslspec_fast._seam import view
from sslspec_fast.primitives.pairwise import LeftOut, Logits
from sslspec_fast.primitives.pairwise.value_and_grad import one_positive_total, softplus_total

from ...support.row_cases import SCALES, assert_same, doubles, leaves, rows, some_left_out, weights

DTYPES = [torch.float64, torch.float32]
# one panel and several, ragged edges of blocks and columns, rows with no pair at all
SHAPES = [(1, 1, 3), (5, 5, 4), (60, 60, 20), (97, 210, 33), (400, 130, 130), (210, 500, 70)]


def masked(n: int, m: int, skip_self: bool) -> Tensor:
    return torch.eye(n, m, dtype=torch.bool) if skip_self else torch.zeros(n, m, dtype=torch.bool)


def dense_one_positive(
    a: Tensor, b: Tensor, scale: Tensor, positive: Tensor, weight: Tensor, skip_self: bool
) -> Tensor:
    logits = (scale.reshape(-1, 1) * (a @ b.T)).masked_fill(
        masked(len(a), len(b), skip_self), -math.inf
    )
    every = torch.cat([positive[:, None], logits], 1)
    return (weight * (torch.logsumexp(every, 1) - positive)).sum()


def dense_softplus(
    a: Tensor, b: Tensor, scale: Tensor, bias: Tensor, weight: Tensor, left_out: LeftOut
) -> Tensor:
    terms = nnf.softplus(scale.reshape(-1, 1) * (a @ b.T) + bias)
    mask = left_out.mask(slice(0, len(a)), len(b), a.device)
    return (weight * terms.masked_fill(mask, 0).sum(1)).sum()


def problem(
    n: int, m: int, d: int, scale: float, per_row: bool, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    c = torch.full((n,) if per_row else (), scale, dtype=dtype)
    if per_row:
        c *= torch.linspace(0.5, 1, n, dtype=dtype)
    positive = scale * weights(n, dtype=dtype) * 0.7
    return rows(n, d, dtype), rows(m, d, dtype, 1), c, positive, weights(n, dtype=dtype)


def compare(ours: Tensor, theirs: Tensor, here: list[Tensor], there: list[Tensor]) -> None:
    dtype = ours.dtype
    assert_same((ours,), (theirs,), dtype)
    expected = torch.autograd.grad(1.5 * theirs, there, allow_unused=True)
    for g, e in zip(torch.autograd.grad(1.5 * ours, here), expected, strict=True):
        assert e is not None
        # softplus(-inf) has no gradient, and torch's may be nan there
        assert_same((g,), (e.nan_to_num(0.0),), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("skip_self", [False, True])
@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize(("n", "m", "d"), SHAPES)
def test_one_positive(
    n: int, m: int, d: int, per_row: bool, skip_self: bool, scale: float, dtype: torch.dtype
) -> None:
    if n < 60 and scale > 1:
        pytest.skip("a handful of rows: nothing averages the rounding of logits near 200")
    here = leaves(*problem(n, m, d, scale, per_row, dtype))
    there = doubles(*here)
    ours = one_positive_total(*here, skip_self=skip_self)
    if n == m == 1 and skip_self:  # no pair: no loss, no gradient
        assert ours == 0
        assert all(not g.any() for g in torch.autograd.grad(ours, here))
        return
    compare(ours, dense_one_positive(*there, skip_self), here, there)


# The gradient of the last one is larger than its panel: its columns are not divided into parts.
CONSTANT_COLUMNS = [(1, 1, 3), (60, 60, 20), (97, 2100, 33), (500, 1700, 20), (600, 60, 130)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("skip_self", [False, True])
@pytest.mark.parametrize(("n", "m", "d"), CONSTANT_COLUMNS)
def test_columns_without_a_gradient(
    n: int, m: int, d: int, skip_self: bool, scale: float, dtype: torch.dtype
) -> None:
    if n < 60 and scale > 1:
        pytest.skip("a handful of rows: nothing averages the rounding of logits near 200")
    a, b, *others = problem(n, m, d, scale, True, dtype)
    here = leaves(a, *others)
    there = doubles(*here)
    ours = one_positive_total(here[0], b, *here[1:], skip_self=skip_self)
    if n == m == 1 and skip_self:
        assert ours == 0
        assert all(not g.any() for g in torch.autograd.grad(ours, here))
        return
    theirs = dense_one_positive(there[0], b.double(), *there[1:], skip_self)
    compare(ours, theirs, here, there)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["all", "self", "ids", "pattern", "everything"])
@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize(("n", "m", "d"), SHAPES[1:])
def test_softplus(n: int, m: int, d: int, per_row: bool, kind: str, dtype: torch.dtype) -> None:
    a, b, c, _, weight = problem(n, m, d, 6.0, per_row, dtype)
    here = leaves(a, b, c, torch.tensor(-4.0, dtype=dtype), weight)
    there = doubles(*here)
    compare(
        softplus_total(*here, some_left_out(kind, n, m)),
        dense_softplus(*there, some_left_out(kind, n, m)),
        here,
        there,
    )


def test_a_queue_wants_no_gradient() -> None:
    a, b, c, positive, weight = problem(50, 300, 24, 10.0, False, torch.float64)
    (leaf,) = leaves(a)
    other = torch.tensor(-3.0, dtype=torch.float64)
    for ours, theirs in (
        (
            one_positive_total(leaf, b, c, positive, weight, skip_self=False),
            dense_one_positive(leaf, b, c, positive, weight, False),
        ),
        (
            softplus_total(leaf, b, c, other, weight),
            dense_softplus(leaf, b, c, other, weight, LeftOut()),
        ),
    ):
        assert_same(torch.autograd.grad(ours, leaf), torch.autograd.grad(theirs, leaf), a.dtype)


def test_without_gradients_the_value_is_the_same() -> None:
    args = problem(70, 90, 12, 8.0, False, torch.float64)
    expected = one_positive_total(*leaves(*args), skip_self=True)
    torch.testing.assert_close(one_positive_total(*args, skip_self=True), expected.detach())
    with torch.no_grad():
        inside = one_positive_total(*leaves(*args), skip_self=True)
    torch.testing.assert_close(inside, expected.detach())


def test_any_number_of_threads_gives_the_same_bits() -> None:
    here = leaves(*problem(400, 330, 90, 20.0, False, torch.float32))
    constant = problem(260, 2500, 40, 5.0, False, torch.float32)[1]
    query = leaves(constant[:260])[0]
    positive = torch.zeros(260)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            total = one_positive_total(*here, skip_self=True)
            queue = one_positive_total(
                query, constant, torch.tensor(5.0), positive, positive + 1, skip_self=False
            )
            results.append([total, *torch.autograd.grad(total, here)])
            results[-1] += [queue, *torch.autograd.grad(queue, query)]
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(p, q) for p, q in zip(results[0], other, strict=True))


@pytest.mark.parametrize("scale", [5.0, 200.0])  # a narrow and a wide range of logits
@pytest.mark.parametrize("constant", [False, True])
def test_more_threads_than_units_of_rows_give_the_same_bits(constant: bool, scale: float) -> None:
    args = problem(500, 700, 300, scale, True, torch.float32)
    here = leaves(*args)
    if constant:
        here[1] = args[1]
    given = [x for x in here if x.requires_grad]
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3, 16):
            torch.set_num_threads(threads)
            total = one_positive_total(*here, skip_self=True)
            results.append([total, *torch.autograd.grad(total, given)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(p, q) for p, q in zip(results[0], other, strict=True))


def test_nan_is_kept() -> None:
    a, b, c, positive, weight = problem(8, 8, 4, 2.0, False, torch.float32)
    a[3, 1] = math.nan
    a, b = leaves(a, b)
    total = one_positive_total(a, b, c, positive, weight, skip_self=True)
    assert total.isnan()
    grad_a, grad_b = torch.autograd.grad(total, (a, b))
    assert grad_a[3].isnan().all()
    assert not grad_a[2].isnan().any()
    assert grad_b.isnan().any()


def test_derivatives() -> None:
    args = leaves(*problem(5, 6, 4, 2.0, True, torch.float64))
    assert torch.autograd.gradcheck(lambda *t: one_positive_total(*t, skip_self=True), args)
    assert torch.autograd.gradgradcheck(lambda *t: one_positive_total(*t, skip_self=True), args)
    args[3] = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    left_out = some_left_out("everything", 5, 6)

    def softplus_of_some(*t: Tensor) -> Tensor:
        return softplus_total(*t, left_out)

    assert torch.autograd.gradcheck(softplus_of_some, args)
    assert torch.autograd.gradgradcheck(softplus_of_some, args)


def test_opcheck() -> None:
    a, b, c, positive, weight = leaves(*problem(9, 7, 4, 2.0, False, torch.float32))
    bias = torch.tensor(-1.0, requires_grad=True)
    ops = torch.ops.sslspec_fast
    torch.library.opcheck(
        ops.pairwise_one_positive_total.default, (a, b, c, positive, weight, True, False, True)
    )
    arguments = (a, b, c, bias, weight, *LeftOut(), False, True)
    torch.library.opcheck(ops.pairwise_softplus_total.default, arguments)


def test_the_core_names_what_is_wrong() -> None:
    a, row, scale = torch.zeros(4, 3), torch.zeros(4), torch.ones(())
    work = torch.zeros(_C.pairwise_workspace_size(4, 4, 3, 0, False, True))
    panel = torch.zeros(_C.pairwise_one_positive_panel_size(4, 4, 0))

    def call(positive: Tensor, grad_positive: Tensor, panel: Tensor) -> None:
        _C.pairwise_one_positive(
            Logits(a, a, scale).view(),
            view(positive),
            view(row),
            view(row),
            view(grad_positive),
            (view(a.clone()), None),
            view(panel),
            (view(work), 1),
        )

    with pytest.raises(ValueError, match=r"positive must have size 4 .* got shape \(5,\)"):
        call(torch.zeros(5), row, panel)
    with pytest.raises(ValueError, match="grad_positive must have size 4"):
        call(row, torch.zeros(3), panel)
    with pytest.raises(ValueError, match="panel must have size"):
        call(row, row, panel[1:])

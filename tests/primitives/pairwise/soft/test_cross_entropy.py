"""Soft cross-entropy and mean probabilities against dense sums in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sslspec_fast import _C
from sslspec_fast._seam import CODE, view
from sslspec_fast.primitives.pairwise import soft
from sslspec_fast.primitives.pairwise.soft.visit import Visit, visit

from ....support.tolerance import assert_no_worse

# n, m, k, d, e: pairs where n != m; blocks of 48 and 192 columns, panels of 192 rows, 128 of depth
SHAPES = (
    (1, 1, 1, 1, 1),
    (5, 5, 7, 3, 4),
    (193, 193, 47, 5, 2),
    (97, 97, 97, 130, 16),
    (7, 3, 49, 2, 2),
    (50, 21, 400, 8, 65),
    (400, 30, 193, 20, 3),
)


def sides(
    shape: tuple[int, ...], dtype: torch.dtype, blocks: int = 0, unit: bool = False
) -> soft.Sides:
    """With unit columns, one is zero and one shorter than what a length is divided by at least."""
    n, m, k, d, e = shape
    g = torch.Generator().manual_seed(sum(shape))

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=g, dtype=torch.float64).to(dtype)

    bias = draw(blocks, k) if blocks else draw(k)
    a, w, b, v = draw(n, d), draw(k, d), draw(m, e), draw(k, e)
    if unit and k > 2:
        w[0], v[1], w[2] = 0, 0, 1e-14 * w[2]
    return soft.Sides(a, w, b, v, bias, unit)


def pattern(n: int, m: int, dtype: torch.dtype) -> tuple[Tensor, soft.Pairs | None, Tensor]:
    """Weights, pairs, and both as a matrix; some students have no pair, one pair is there twice."""
    g = torch.Generator().manual_seed(n)
    if n == m:
        weight = torch.rand(n, generator=g, dtype=torch.float64).to(dtype)
        return weight, None, weight.double().diag()
    rows = torch.randint(0, max(1, n - 2), (3 * n,), generator=g).sort().values
    columns = torch.randint(0, m, (3 * n,), generator=g)
    columns[1], rows[1] = columns[0], rows[0]
    weight = torch.rand(3 * n, generator=g, dtype=torch.float64).to(dtype)
    back = torch.argsort(columns, stable=True)
    pairs = soft.Pairs(indptr(rows, n), columns, indptr(columns, m), rows[back], back)
    dense = torch.zeros(n, m, dtype=torch.float64)
    return weight, pairs, dense.index_put((rows, columns), weight.double(), accumulate=True)


def indptr(index: Tensor, n: int) -> Tensor:
    counts = torch.bincount(index, minlength=n)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def dense_rows(
    given: soft.Sides, matrix: Tensor, *, skip_self: bool = False, dtype: torch.dtype
) -> tuple[list[Tensor], Tensor]:
    """a and w as leaves, and the rows from stored matrices."""
    a, w, b, v, bias = (x.to(dtype) for x in given[:5])
    leaves = [a.requires_grad_(), w.requires_grad_()]
    if given.unit:
        w, v = F.normalize(w), F.normalize(v)
    t = b @ v.T + bias.view(-1, bias.shape[-1]).repeat_interleave(
        len(b) // (bias.numel() // bias.shape[-1]), 0
    )
    s = a @ w.T
    if skip_self:
        own = torch.eye(*s.shape, dtype=torch.bool)
        s, t = s.masked_fill(own, -1e30), t.masked_fill(own, -1e30)
    q = t.softmax(1)
    q = q.masked_fill(own, 0) if skip_self else q
    return leaves, ((matrix.to(dtype) @ q) * (s.logsumexp(1, keepdim=True) - s)).sum(1)


def results(given: soft.Sides, weight: Tensor, pairs: soft.Pairs | None, **options: bool):
    """Rows, and the gradients of their total and of a sum with other weights."""
    leaves = [x.clone().requires_grad_() for x in given[:2]]
    x = soft.Sides(*leaves, *given[2:])
    total, _ = soft.soft_total(x, weight, pairs, **options)
    rows, _ = soft.soft_rows(x, weight, pairs, **options)
    upstream = torch.linspace(-1, 2, len(rows)).to(rows.dtype)
    torch.testing.assert_close(total, rows.sum(), rtol=1e-5, atol=1e-5)
    return rows.detach(), [
        *torch.autograd.grad(total, leaves),
        *torch.autograd.grad(rows, leaves, upstream),
    ]


def expected(given: soft.Sides, matrix: Tensor, dtype: torch.dtype, **options: bool):
    leaves, rows = dense_rows(given, matrix, dtype=dtype, **options)
    upstream = torch.linspace(-1, 2, len(rows)).to(dtype)
    return rows.detach(), [
        *torch.autograd.grad(rows.sum(), leaves, retain_graph=True),
        *torch.autograd.grad(rows, leaves, upstream),
    ]


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("blocks", [0, 1])
@pytest.mark.parametrize("shape", SHAPES)
def test_float64(shape, blocks, unit):
    given = sides(shape, torch.float64, blocks, unit)
    weight, pairs, matrix = pattern(*shape[:2], torch.float64)
    rows, grads = results(given, weight, pairs)
    wanted_rows, wanted = expected(given, matrix, torch.float64)
    torch.testing.assert_close(rows, wanted_rows, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(grads, wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("shape", [(60, 60, 300, 16, 8), (64, 16, 500, 12, 12)])
def test_float32_is_as_exact_as_torch(shape, unit):
    given = sides(shape, torch.float32)._replace(unit=unit)
    weight, pairs, matrix = pattern(*shape[:2], torch.float32)
    ours, plain, exact = (
        results(given, weight, pairs),
        expected(given, matrix, torch.float32),
        expected(given, matrix, torch.float64),
    )
    for mine, theirs, truth in zip(*([r, *g] for r, g in (ours, plain, exact)), strict=True):
        assert_no_worse([mine], [theirs], [truth])


@pytest.mark.parametrize("unit", [False, True])
def test_blocks_of_biases(unit):
    for n, m in ((12, 12), (9, 12)):
        given = sides((n, m, 50, 4, 4), torch.float64, blocks=4, unit=unit)
        weight, pairs, matrix = pattern(n, m, torch.float64)
        rows, grads = results(given, weight, pairs)
        wanted_rows, wanted = expected(given, matrix, torch.float64)
        torch.testing.assert_close(rows, wanted_rows)
        torch.testing.assert_close(grads, wanted)


@pytest.mark.parametrize("n", [1, 2, 60, 200])
def test_rows_leave_out_their_own_column(n):
    given = sides((n, n, n, 5, 3), torch.float64)
    weight, _, matrix = pattern(n, n, torch.float64)
    rows, grads = results(given, weight, None, skip_self=True)
    wanted_rows, wanted = expected(given, matrix, torch.float64, skip_self=True)
    torch.testing.assert_close(rows, wanted_rows)
    torch.testing.assert_close(grads, wanted)


@pytest.mark.parametrize(("n", "m"), [(6, 6), (5, 3)])
def test_given_logits(n, m):
    shape = (n, m, 40, 3, 3)
    s, t = (x @ y.T for x, y in (sides(shape, torch.float64)[:2], sides(shape, torch.float64)[2:4]))
    weight, pairs, _ = pattern(n, m, torch.float64)
    bias = sides(shape, torch.float64).bias
    leaf = s.clone().requires_grad_()
    given = soft.Sides(leaf, None, t, None, bias)
    eye = torch.eye(40, dtype=torch.float64)
    same = soft.Sides(s.clone().requires_grad_(), eye, t, eye, bias)
    for call in (soft.soft_total, soft.soft_rows):
        value, entropy = call(given, weight, pairs)
        other, other_entropy = call(same, weight, pairs)
        torch.testing.assert_close(value, other)
        torch.testing.assert_close(entropy, other_entropy)
        grads = [torch.autograd.grad(v.sum(), x.a)[0] for v, x in ((value, given), (other, same))]
        torch.testing.assert_close(*grads)


def test_entropies_are_those_of_the_targets():
    given = sides((7, 3, 90, 4, 5), torch.float64)
    weight, pairs, _ = pattern(7, 3, torch.float64)
    q = (given.b @ given.v.T + given.bias).softmax(1)
    _, entropy = soft.soft_total(given, weight, pairs)
    torch.testing.assert_close(entropy, -torch.special.xlogy(q, q).sum(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_row_that_agrees_with_a_sharp_target(dtype):
    """Logits of 1000: the loss is their entropy, nearly 0, and so is the gradient; nothing is lost
    to the size of the logits.
    """
    w = 10 * torch.eye(5, dtype=dtype)
    a = (10 * w[:4]).requires_grad_()
    total, entropy = soft.soft_total(soft.Sides(a, w, a, w, None), torch.ones(4, dtype=dtype))
    assert total.item() == 0
    assert entropy.abs().max() == 0
    assert torch.autograd.grad(total, a)[0].abs().max() == 0


@pytest.mark.parametrize("unit", [False, True])
def test_threads_and_layouts_change_no_bit(unit):
    given = sides((40, 40, 1000, 33, 12), torch.float32, unit=unit)
    weight = torch.rand(40)
    first = results(given, weight, None)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        again = results(given, weight, None)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(first[0], again[0])
    assert all(torch.equal(x, y) for x, y in zip(first[1], again[1], strict=True))
    wide = soft.Sides(*(torch.cat([x, x], 1)[:, : x.shape[1]] for x in given[:4]), *given[4:])
    assert torch.equal(results(wide, weight, None)[0], first[0])


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1), (9, 60, 4), (200, 400, 130)])
def test_mean_softmax(shape, unit):
    n, k, d = shape
    given = sides((n, n, k, d, 1), torch.float64, unit=unit)
    leaves = [x.requires_grad_() for x in given[:2]]
    weight = torch.rand(n, dtype=torch.float64)
    ours = soft.mean_softmax(*leaves, weight, unit)
    plain = weight @ (leaves[0] @ (F.normalize(leaves[1]) if unit else leaves[1]).T).softmax(1)
    torch.testing.assert_close(ours, plain)
    upstream = torch.linspace(-1, 1, k, dtype=torch.float64)
    grads = [torch.autograd.grad(x, leaves, upstream) for x in (ours, plain)]
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("unit", [False, True])
def test_gradgradcheck_of_the_mean(unit):
    given = sides((4, 4, 6, 3, 3), torch.float64)
    leaves = [x.requires_grad_() for x in given[:2]]
    weight = torch.rand(4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, w: soft.mean_softmax(a, w, weight, unit), leaves)
    assert torch.autograd.gradgradcheck(lambda a, w: soft.mean_softmax(a, w, weight, unit), leaves)


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize(("n", "m"), [(4, 4), (5, 3)])
def test_gradcheck_of_the_rows(n, m, unit):
    given = sides((n, m, 6, 3, 2), torch.float64)._replace(unit=unit)
    weight, pairs, _ = pattern(n, m, torch.float64)
    leaves = [x.requires_grad_() for x in given[:2]]

    def rows(a: Tensor, w: Tensor) -> Tensor:
        return soft.soft_rows(soft.Sides(a, w, *given[2:]), weight, pairs)[0]

    assert torch.autograd.gradcheck(rows, leaves)
    assert torch.autograd.gradgradcheck(rows, leaves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(dtype):
    ops = torch.ops.sslspec_fast
    for shape in ((6, 6, 9, 3, 2), (5, 3, 9, 3, 2)):
        weight, pairs, _ = pattern(*shape[:2], dtype)
        a, w, *teacher, _ = sides(shape, dtype)
        held = (None,) * 5 if pairs is None else tuple(pairs)
        leaves = a.requires_grad_(), w.requires_grad_()
        arguments = (*leaves, *teacher, weight, *held, False, True)
        torch.library.opcheck(ops.pairwise_soft_rows.default, arguments)
        torch.library.opcheck(ops.pairwise_soft.default, (*arguments, True, True))
        logits = (a.detach().requires_grad_(), None, a.detach()[: shape[1]], None, None)
        torch.library.opcheck(
            ops.pairwise_soft.default, (*logits, weight, *held, False, False, True, False)
        )
        one = weight.new_ones(len(a))
        torch.library.opcheck(ops.pairwise_mean_softmax.default, (*leaves, one, True))


@pytest.mark.parametrize("first", [False, True])
def test_no_rows_start_and_end_a_gradient(first):
    """Of unit columns: the part along a column goes, and the rest is divided by its length."""
    w, grad, rows = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0]]), torch.zeros(0, 2)
    none = torch.zeros(0)
    out = Visit(none, grad=grad, first=first)
    visit((rows, w, None), None, none, None, (rows, w), False, out, unit=True)
    expected = [[0, 0]] if first else [[0.128, -0.096]]  # (1 - 0.6 * 0.6, -0.6 * 0.8) / 5
    torch.testing.assert_close(grad, torch.tensor(expected, dtype=torch.float32))


def test_memory_is_checked():
    x, c = torch.zeros(4, 3), torch.zeros(5, 3)
    rows = torch.zeros(4)
    none = (None, None, None)
    size = _C.pairwise_soft_workspace_size((4, 5, 3, 0, 0), CODE[torch.float32])

    def call(student, teacher, own, out, work=None):
        work = torch.zeros(size) if work is None else work
        options = (False, False, True, True)
        _C.pairwise_soft(student, teacher, own, (None, None), options, out, (view(work), 1))

    student, own = (view(x), view(c), None), (view(rows), None)
    out = (view(rows), None, None, None, None)
    call(student, none, own, out)
    for arguments, message in (
        (((view(x), view(c[:, :2]), None), none, own, out), "columns must have size 3"),
        ((student, (view(x[:3]), view(c), None), own, out), "rows must have size 4"),
        ((student, none, (view(rows[:3]), None), out), "weight must have size 4"),
        ((student, none, own, (view(rows[:2]), *out[1:])), "rows must have size 4"),
        ((student, none, own, out, torch.zeros(3)), "workspace must have size"),
        (
            (student, student, (view(rows), view(torch.zeros(5))), out),
            "a tilt is for rows without teachers",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call(*arguments)

"""Soft cross-entropy among the rows of a batch against dense sums in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import sslspec_fast as sf
from sslspec_fast import _C
from sslspec_fast._seam import CODE, view
from sslspec_fast.primitives.pairwise import soft

from ....support.row_cases import leaves, rows, weights
from ....support.tolerance import assert_no_worse

SCALES = ((5.0, 10.0), (200.0, 3.0), (3.0, 400.0))  # without a shift, and with one


def given(n: int, d: int, e: int, scales: tuple[float, float], dtype: torch.dtype) -> soft.OwnSides:
    c, f = (torch.tensor(x, dtype=dtype) for x in scales)
    return soft.OwnSides(rows(n, d, dtype), c, rows(n, e, dtype, 1), f)


def dense(sides: soft.OwnSides, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and entropies from stored matrices without their diagonals."""
    u, c, t, f, _ = sides
    n = len(u)
    others = ~torch.eye(n, dtype=torch.bool)
    s, target = ((k * x @ x.T)[others].view(n, n - 1) for x, k in ((u, c), (t, f)))
    q = target.softmax(1)
    return weight * (q * (s.logsumexp(1, keepdim=True) - s)).sum(1), -torch.special.xlogy(q, q).sum(
        1
    )


def results(call, sides: soft.OwnSides, weight: Tensor) -> list[Tensor]:
    """Rows, entropies, and the gradients of their sum and of a sum with other weights."""
    u, c = leaves(*sides[:2])
    value, entropy = call(sides._replace(u=u, scale=c), weight)
    upstream = torch.linspace(-1, 2, len(weight), dtype=weight.dtype)
    grads = [
        *torch.autograd.grad(value.sum(), (u, c), retain_graph=True),
        *torch.autograd.grad((value * upstream).sum(), (u, c)),
    ]
    return [value.detach(), entropy, *grads]


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize(("n", "d", "e"), [(2, 1, 3), (47, 5, 130), (97, 40, 7), (257, 33, 20)])
def test_float64(n, d, e, scales):
    sides, weight = given(n, d, e, scales, torch.float64), weights(n, dtype=torch.float64)
    wanted = results(dense, sides, weight)
    torch.testing.assert_close(results(soft.soft_rows, sides, weight), wanted)
    u, c = leaves(*sides[:2])
    total, entropy = soft.soft_total(sides._replace(u=u, scale=c), weight)
    found = [total, entropy, *torch.autograd.grad(total, (u, c))]
    torch.testing.assert_close(found, [wanted[0].sum(), *wanted[1:4]])


@pytest.mark.parametrize("scales", SCALES)
def test_float32_is_as_exact_as_torch(scales):
    ours, plain, exact = [], [], []
    for n, d in ((300, 60), (193, 200)):
        sides, weight = given(n, d, 30, scales, torch.float32), weights(n, dtype=torch.float32)
        wide = soft.OwnSides(*(x.double() for x in sides[:4]))
        ours.append(results(soft.soft_rows, sides, weight))
        plain.append(results(dense, sides, weight))
        exact.append(results(dense, wide, weight.double()))
    for mine, theirs, truth in zip(
        *(zip(*x, strict=True) for x in (ours, plain, exact)), strict=True
    ):
        assert_no_worse(mine, theirs, truth)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sharp_target_has_no_entropy(dtype):
    """Logits of 1000 in pairs of equal rows: the loss and the gradient are those of agreement,
    nearly 0; nothing is lost to the size of the logits.
    """
    u = torch.eye(120, 130, dtype=dtype).repeat_interleave(2, 0)
    scale = torch.tensor(1001.0, dtype=dtype) / 3
    sides = soft.OwnSides(u.requires_grad_(), scale, u.detach(), scale)
    total, entropy = soft.soft_total(sides, torch.ones(240, dtype=dtype))
    least = 1e-100  # float64 has a number for exp(-1001 / 3)
    assert total.item() < least
    assert entropy.abs().max().item() < least
    assert torch.autograd.grad(total, u)[0].abs().max().item() < least


def test_one_row_has_no_other():
    sides, one = given(1, 4, 3, (2.0, 2.0), torch.float64), torch.ones(1).double()
    u, c = leaves(*sides[:2])
    total, entropy = soft.soft_total(sides._replace(u=u, scale=c), one)
    assert total == 0
    assert entropy == 0
    assert all(not g.any() for g in torch.autograd.grad(total, (u, c)))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("scales", SCALES[:2])
def test_kept_products_and_threads_change_no_bit(scales, half):
    """Also in bfloat16, where the processor multiplies such rows."""
    sides = given(700, 40, 20, scales, torch.float32)._replace(half=half)
    weight, before, limit = weights(700, dtype=torch.float32), torch.get_num_threads(), []
    found = []
    try:
        for threads, room in ((1, 64 << 20), (2, 64 << 20), (2, 700_000), (1, 0)):
            torch.set_num_threads(threads)
            limit.append(sf.set_kept_limit(room))
            found.append(results(soft.soft_rows, sides, weight))
    finally:
        torch.set_num_threads(before)
        sf.set_kept_limit(limit[0])
    for other in found[1:]:
        assert all(torch.equal(x, y) for x, y in zip(found[0], other, strict=True))


def test_layouts_change_no_bit():
    sides, weight = given(70, 9, 5, (5.0, 5.0), torch.float32), weights(70, dtype=torch.float32)
    strided = sides._replace(u=torch.cat([sides.u, sides.u], 1)[:, :9], t=sides.t.T.contiguous().T)
    for x, y in zip(soft.soft_rows(sides, weight), soft.soft_rows(strided, weight), strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("call", [soft.soft_rows, soft.soft_total])
def test_gradcheck(call):
    sides, weight = given(5, 3, 4, (2.0, 3.0), torch.float64), weights(5, dtype=torch.float64)

    def rows_of(u: Tensor, c: Tensor) -> Tensor:
        return call(sides._replace(u=u, scale=c), weight)[0]

    assert torch.autograd.gradcheck(rows_of, leaves(*sides[:2]))
    assert torch.autograd.gradgradcheck(rows_of, leaves(*sides[:2]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(dtype):
    ops = torch.ops.sslspec_fast
    u, c, t, f, _ = given(6, 3, 4, (2.0, 3.0), dtype)
    arguments = (*leaves(u, c), t, f, weights(6, dtype=dtype), False)
    torch.library.opcheck(ops.pairwise_soft_self_rows.default, arguments)
    for grad in (False, True):
        x = arguments if grad else (*tuple(a.detach() for a in arguments[:5]), False)
        torch.library.opcheck(ops.pairwise_soft_self.default, (*x, grad))


def test_memory_is_checked():
    x, y, one, vector = torch.zeros(4, 3), torch.zeros(4, 5), torch.ones(()), torch.zeros(4)
    size = _C.pairwise_soft_self_workspace_size((4, 3, 5), CODE[torch.float32], True)

    def call(student=x, teacher=y, weight=vector, grad=x, scale=one, work=size):
        outputs = view(vector), view(vector.clone()), view(grad)
        memory = view(torch.zeros(work)), 1
        sides = (view(student), view(scale)), (view(teacher), view(one))
        _C.pairwise_soft_self(*sides, view(weight), *outputs, memory)

    call(grad=torch.empty(4, 3))
    for arguments, message in (
        ({"teacher": y[:3]}, "teacher must have size 4"),
        ({"teacher": y.double()}, "teacher must be"),
        ({"weight": vector[:2]}, "weight must have size 4"),
        ({"grad": x[:, :2]}, "grad must have size 3"),
        ({"scale": vector}, "scale must"),
        ({"work": 3}, "workspace must have size"),
    ):
        with pytest.raises(ValueError, match=message):
            call(**arguments)

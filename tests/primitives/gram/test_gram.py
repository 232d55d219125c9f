"""Squared Gram norms and the losses fused on them, against dense fp64 matrices."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sslspec_fast import _C
from sslspec_fast.primitives import gram
from sslspec_fast.reference.barlow_twins import barlow_twins as dense_barlow_twins
from sslspec_fast.reference.vicreg import vicreg as dense_vicreg

from ...support.gram_cases import BARLOW, SHAPES, VICREG, dense, matrix, value_and_grads
from ...support.process import fresh_python
from ...support.tolerance import assert_no_worse

TOLERANCE = {torch.float64: 1e-12, torch.float32: 4e-6}
DTYPES = [torch.float64, torch.float32]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_sqnorm(n: int, d: int, dtype: torch.dtype) -> None:
    x, y = matrix(n, d, dtype), matrix(n, d, dtype, 1)
    for inputs, off, center in itertools.product(([x], [x, y]), (False, True), (False, True)):
        options = {"off_diagonal": off, "center": center}
        ours = value_and_grads(partial(gram.sqnorm, **options), *inputs, factor=1.5)
        wide = [v.double() for v in inputs]
        exact = value_and_grads(partial(dense, **options), *wide, factor=1.5)
        # the diagonal is masked or subtracted, so its size sets the scale
        a, b = wide[0], wide[-1]
        size = dense(a, b).sqrt()
        sizes = [size**2, *(4 * size * v.norm() for v in reversed(wide))]
        for got, want, scale in zip(ours, exact, sizes, strict=True):
            assert (got.double() - want).norm() <= TOLERANCE[dtype] * scale, (inputs, options)


def test_both_sides_are_covered() -> None:
    assert {_C.gram_uses_dual(n, d, True) for n, d in SHAPES} == {True, False}
    assert _C.gram_uses_dual(10, 20, True)
    assert not _C.gram_uses_dual(11, 20, True)
    assert _C.gram_uses_dual(20, 20, False)


@pytest.mark.parametrize("shape", [(64, 300), (300, 64)])
def test_one_input_may_want_no_gradient(shape: tuple[int, int]) -> None:
    x, y = matrix(*shape, torch.float64), matrix(*shape, torch.float64, 1)
    both = value_and_grads(gram.sqnorm, x, y)
    for i in range(2):
        inputs = [x.clone(), y.clone()]
        inputs[i].requires_grad_()
        gram.sqnorm(*inputs).backward()
        assert torch.equal(inputs[i].grad, both[i + 1])
    with torch.no_grad():
        assert torch.equal(gram.sqnorm(x.requires_grad_(), y), both[0])


@pytest.mark.parametrize(
    ("n", "d"), [(2, 1), (2, 9), (16, 60), (60, 16), (256, 700), (300, 200), (400, 1000)]
)
def test_vicreg_and_barlow_twins(n: int, d: int) -> None:
    x = matrix(n, d, torch.float64) * 0.7
    y = x + 0.5 * matrix(n, d, torch.float64, 1)
    pairs = [
        (lambda a, b: gram.vicreg(a, b, **VICREG)[0], lambda a, b: dense_vicreg(a, b, **VICREG)),
        (
            lambda a, b: gram.barlow_twins(a, b, **BARLOW)[0],
            lambda a, b: dense_barlow_twins(a, b, **BARLOW),
        ),
    ]
    for ours, theirs in pairs:
        for factor in (1.0, 0.3):  # 1: the stored gradient is handed out as it is
            got = value_and_grads(ours, x, y, factor=factor)
            want = value_and_grads(theirs, x, y, factor=factor)
            for a, b in zip(got, want, strict=True):
                assert (a - b).norm() <= 1e-10 * max(1.0, b.norm().item())


def test_terms_add_up() -> None:
    x, y = matrix(20, 70, torch.float64), matrix(20, 70, torch.float64, 1)
    loss, terms = gram.vicreg(x.requires_grad_(), y, **VICREG)
    assert not terms.requires_grad
    torch.testing.assert_close(loss.detach(), 25 * terms[0] + 25 * terms[1] + terms[2])
    loss, terms = gram.barlow_twins(x, y, **BARLOW)
    assert not terms.requires_grad
    torch.testing.assert_close(loss.detach(), terms[0] + 5e-3 * terms[1])


@pytest.mark.parametrize("shape", [(48, 130), (130, 48)])
@pytest.mark.parametrize("name", ["sqnorm", "vicreg", "barlow_twins"])
def test_no_worse_than_torch(name: str, shape: tuple[int, int]) -> None:
    ours, theirs = {
        "sqnorm": (
            lambda a, b: gram.sqnorm(a, b, off_diagonal=True),
            lambda a, b: dense(a, b, off_diagonal=True),
        ),
        "vicreg": (
            lambda a, b: gram.vicreg(a, b, **VICREG)[0],
            lambda a, b: dense_vicreg(a, b, **VICREG),
        ),
        "barlow_twins": (
            lambda a, b: gram.barlow_twins(a, b, **BARLOW)[0],
            lambda a, b: dense_barlow_twins(a, b, **BARLOW),
        ),
    }[name]
    draws = [
        (matrix(*shape, torch.float32, s), matrix(*shape, torch.float32, s + 50)) for s in range(6)
    ]
    fused = [value_and_grads(ours, *pair) for pair in draws]
    plain = [value_and_grads(theirs, *pair) for pair in draws]
    exact = [value_and_grads(theirs, *(v.double() for v in pair)) for pair in draws]
    for k, what in enumerate(("value", "grad_x", "grad_y")):
        columns = [[draw[k] for draw in group] for group in (fused, plain, exact)]
        assert_no_worse(*columns, what=f"{name} {shape} {what}")


@pytest.mark.parametrize(("n", "d"), [(4, 11), (9, 5)])
def test_gradcheck(n: int, d: int) -> None:
    x = matrix(n, d, torch.float64).requires_grad_()
    y = matrix(n, d, torch.float64, 1).requires_grad_()
    for off, center in itertools.product((False, True), (False, True)):
        options = {"off_diagonal": off, "center": center}
        assert torch.autograd.gradcheck(partial(gram.sqnorm, **options), (x,))
        assert torch.autograd.gradcheck(partial(gram.sqnorm, **options), (x, y))
    assert torch.autograd.gradcheck(lambda a, b: gram.vicreg(a, b, **VICREG)[0], (x, y))
    assert torch.autograd.gradcheck(lambda a, b: gram.barlow_twins(a, b, **BARLOW)[0], (x, y))


@pytest.mark.parametrize(("n", "d"), [(6, 15), (15, 6)])
def test_opcheck(n: int, d: int) -> None:
    x = matrix(n, d, torch.float32).requires_grad_()
    y = matrix(n, d, torch.float32, 1).requires_grad_()
    ops = torch.ops.sslspec_fast
    torch.library.opcheck(ops.gram_sqnorm, (x, None, True, False, False, True, False))
    torch.library.opcheck(ops.gram_sqnorm, (x, y, False, True, False, True, True))
    torch.library.opcheck(ops.gram_vicreg, (x, y, 25.0, 25.0, 1.0, 1e-4, True, True, True))
    torch.library.opcheck(ops.gram_barlow_twins, (x, y, 5e-3, 1e-5, True, True, True))
    plain = x.detach()
    torch.library.opcheck(ops.times, (plain, plain.sum()))


def test_compiles_in_one_graph() -> None:
    x, y = matrix(9, 30, torch.float32), matrix(9, 30, torch.float32, 1)

    def f(a: Tensor, b: Tensor) -> Tensor:
        return (
            gram.sqnorm(a, off_diagonal=True, center=True)
            + 2 * gram.vicreg(a, b, **VICREG)[0]
            + gram.barlow_twins(a, b, **BARLOW)[0]
        )

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    for a, b in zip(value_and_grads(f, x, y), value_and_grads(compiled, x, y), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("n", "d"), [(4, 9), (9, 4)])
def test_second_derivatives(n: int, d: int) -> None:
    x = matrix(n, d, torch.float64).requires_grad_()
    y = matrix(n, d, torch.float64, 1).requires_grad_()
    for off, center in itertools.product((False, True), (False, True)):
        options = {"off_diagonal": off, "center": center}
        assert torch.autograd.gradgradcheck(partial(gram.sqnorm, **options), (x,))
        assert torch.autograd.gradgradcheck(partial(gram.sqnorm, **options), (x, y))
    for f, hyper in ((gram.vicreg, VICREG), (gram.barlow_twins, BARLOW)):
        assert torch.autograd.gradgradcheck(lambda a, b, f=f, h=hyper: f(a, b, **h)[0], (x, y))
        assert torch.autograd.gradgradcheck(lambda a, f=f, h=hyper: f(a, y.detach(), **h)[0], (x,))
    first = gram.sqnorm(x, y)
    stored = torch.autograd.grad(first, (x, y), retain_graph=True)
    plain = torch.autograd.grad(first, (x, y), create_graph=True)
    torch.testing.assert_close(stored, plain)


def test_backward_twice_through_a_retained_graph() -> None:
    x = matrix(20, 90, torch.float64).requires_grad_()
    value = gram.sqnorm(x)
    value.backward(retain_graph=True)
    once = x.grad.clone()
    value.backward()
    assert torch.equal(x.grad, 2 * once)


@pytest.mark.parametrize(("n", "d"), [(60, 130), (130, 60)])
def test_strides(n: int, d: int) -> None:
    wide = matrix(2 * n, d + 7, torch.float32)
    y = matrix(n, d, torch.float32, 1)
    views = [wide[::2, 3 : 3 + d], matrix(d, n, torch.float32).T, wide[:1, :d].expand(n, d)]
    for view in views:
        for f in (
            lambda v, w: gram.sqnorm(v, w, off_diagonal=True),
            lambda v, w: gram.vicreg(v, w, **VICREG)[0],
        ):
            strided = view.detach().requires_grad_()
            f(strided, y).backward()
            want = value_and_grads(f, view.contiguous(), y)
            assert torch.equal(strided.grad, want[1])


@pytest.mark.parametrize(("n", "d"), [(0, 5), (5, 0), (0, 0)])
def test_empty(n: int, d: int) -> None:
    x = torch.zeros(n, d, requires_grad=True)
    for value in (gram.sqnorm(x), gram.sqnorm(x, x, off_diagonal=True, center=True)):
        assert value.item() == 0
    gram.sqnorm(x).backward()
    assert x.grad.shape == (n, d)


def test_not_finite_stays_visible() -> None:
    x = matrix(20, 60, torch.float32)
    x[3, 4] = float("nan")
    assert gram.sqnorm(x, off_diagonal=True).isnan()
    assert gram.vicreg(x, x, **VICREG)[0].isnan()


@pytest.mark.parametrize(("n", "d"), [(256, 1100), (700, 500)])
def test_bitwise_equal_for_any_thread_count(n: int, d: int) -> None:
    x, y = matrix(n, d, torch.float32), matrix(n, d, torch.float32, 1)
    functions = [
        lambda a, b: gram.sqnorm(a, b, off_diagonal=True),
        lambda a, b: gram.vicreg(a, b, **VICREG)[0],
        lambda a, b: gram.barlow_twins(a, b, **BARLOW)[0],
    ]
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 1):
            torch.set_num_threads(threads)
            results.append([v for f in functions for v in value_and_grads(f, x, y)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("level", ["baseline", "avx2"])
def test_other_instruction_sets(level: str, tmp_path: Path) -> None:
    code = (
        "import torch; from sslspec_fast.primitives import gram\n"
        "for n, d in ((50, 131), (131, 50), (400, 130)):\n"
        "    for dtype, tol in ((torch.float64, 1e-12), (torch.float32, 1e-5)):\n"
        "        x = torch.randn(n, d, dtype=dtype, requires_grad=True)\n"
        "        y = torch.randn(n, d, dtype=dtype)\n"
        "        gram.sqnorm(x, y).backward()\n"
        "        a, b = x.detach().double(), y.double()\n"
        "        want = 2 * b @ (b.T @ a)\n"
        "        assert (x.grad - want).norm() <= tol * want.norm(), (n, d, dtype)\n"
    )
    fresh_python(tmp_path, "-c", code, SSLSPEC_ISA=level)


def test_bad_arguments() -> None:
    x = torch.zeros(4, 6)
    with pytest.raises(TypeError, match="sqnorm: x must be a tensor, got list"):
        gram.sqnorm([[1.0]])
    with pytest.raises(ValueError, match=r"sqnorm: x must be a matrix \(n, d\), got shape \(6,\)"):
        gram.sqnorm(x[0])
    with pytest.raises(TypeError, match=r"sqnorm: x must be float32 or float64, got torch.float16"):
        gram.sqnorm(x.half())
    with pytest.raises(ValueError, match=r"sqnorm: y must match x \(4, 6\), got \(4, 5\)"):
        gram.sqnorm(x, x[:, :5])
    with pytest.raises(
        TypeError, match=r"sqnorm: y must match x \(torch.float32\), got torch.float64"
    ):
        gram.sqnorm(x, x.double())
    with pytest.raises(
        ValueError, match=r"gram.vicreg: x must have at least 2 rows, got shape \(1, 6\)"
    ):
        gram.vicreg(x[:1], x[:1], **VICREG)
    with pytest.raises(ValueError, match=r"gram.barlow_twins: x must have at least 2 rows"):
        gram.barlow_twins(x[:1], x[:1], **BARLOW)

"""Rows of unit and of bounded length, and the similarity of paired rows, against torch in fp64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

from sslspec_fast import _C
from sslspec_fast._seam import view
from sslspec_fast.primitives.rows.unit_rows import paired_rows, unit_rows

from ...support.row_cases import assert_same, doubles, leaves, weights

DTYPES = [torch.float64, torch.float32]
SHAPES = [(1, 2), (3, 5), (70, 16), (129, 33), (64, 250)]


def matrix(n: int, d: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d, generator=g, dtype=torch.float64)
    return (z * torch.logspace(-2, 2, n, dtype=torch.float64)[:, None]).to(dtype)


def cut(z: Tensor, longest: float) -> Tensor:
    norm = z.norm(dim=1, keepdim=True)
    return torch.where(norm < longest, z, nnf.normalize(z, dim=1) * longest)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_unit_rows(n: int, d: int, dtype: torch.dtype) -> None:
    (z,) = leaves(matrix(n, d, dtype))
    (exact,) = doubles(z)
    ours, theirs = unit_rows(z), nnf.normalize(exact, dim=1)
    g = weights(n, d, dtype=dtype)
    assert_same((ours,), (theirs,), dtype)
    expected = torch.autograd.grad((theirs * g.double()).sum(), exact)
    assert_same(torch.autograd.grad((ours * g).sum(), z), expected, dtype)


@pytest.mark.parametrize("longest", [None, 0.7, 3.0])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_paired_rows(n: int, d: int, dtype: torch.dtype, longest: float | None) -> None:
    a, b = leaves(matrix(n, d, dtype), matrix(n, d, dtype, 1).flip(0))
    ea, eb = doubles(a, b)
    limit: Callable[[Tensor], Tensor]
    limit = (lambda z: nnf.normalize(z, dim=1)) if longest is None else lambda z: cut(z, longest)
    x, y = limit(ea), limit(eb)
    theirs = (x, y, (x * y).sum(1))
    ours = paired_rows(a, b, longest)
    assert_same(ours, theirs, dtype)
    g = [weights(*t.shape, dtype=dtype) for t in ours]
    expected = torch.autograd.grad(theirs, (ea, eb), [t.double() for t in g])
    assert_same(torch.autograd.grad(ours, (a, b), g), expected, dtype)


def test_one_output_alone() -> None:
    a, b = leaves(matrix(9, 6, torch.float64), matrix(9, 6, torch.float64, 1))
    similarity = paired_rows(a, b)[2]
    expected = nnf.cosine_similarity(a, b, dim=1)
    for ours, theirs in zip(
        torch.autograd.grad(similarity.sum(), (a, b), retain_graph=True),
        torch.autograd.grad(expected.sum(), (a, b)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    (only,) = torch.autograd.grad(similarity.sum(), b)
    assert only.shape == b.shape


def test_rows_of_zero_length() -> None:
    z = matrix(4, 6, torch.float64)
    z[1] = 0
    (z,) = leaves(z)
    u = unit_rows(z)
    assert torch.equal(u[1], torch.zeros(6, dtype=torch.float64))
    (grad,) = torch.autograd.grad(u.sum(), z)
    torch.testing.assert_close(grad[1], torch.full((6,), 1e12, dtype=torch.float64))


def test_rows_of_exactly_the_longest_length_count_as_long() -> None:
    z = torch.zeros(2, 3, requires_grad=True)
    z.data[0, 0], z.data[1, 0] = 2.0, math.nextafter(2.0, 0.0) - 1e-6
    x, _, _ = paired_rows(z, z, longest=2.0)
    assert torch.equal(x, z)
    (grad,) = torch.autograd.grad(x[:, 0].sum(), z)
    assert grad[0, 0] == 0
    assert grad[1, 0] == 1


def test_huge_and_nan_rows() -> None:
    z = torch.full((3, 4), 1e30)
    z[2, 0] = math.nan
    u = unit_rows(z)
    torch.testing.assert_close(u[:2], torch.full((2, 4), 0.5))
    assert u[2].isnan().all()


def test_strides_and_empty_shapes() -> None:
    z = matrix(12, 8, torch.float32)
    expected = unit_rows(z)
    assert torch.equal(unit_rows(z.T.contiguous().T), expected)
    assert torch.equal(unit_rows(torch.cat([z, z], 1)[:, :8]), expected)
    leaf = z.clone().requires_grad_()
    (grad,) = torch.autograd.grad(unit_rows(leaf).sum(), leaf)  # the gradient above is expanded
    assert torch.isfinite(grad).all()
    assert unit_rows(torch.zeros(0, 3)).shape == (0, 3)
    assert unit_rows(torch.zeros(3, 0)).shape == (3, 0)


def test_any_number_of_threads_gives_the_same_bits() -> None:
    a, b = leaves(matrix(300, 33, torch.float32), matrix(300, 33, torch.float32, 1))
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            out = paired_rows(a, b)
            results.append([*out, *torch.autograd.grad(sum(t.sum() for t in out), (a, b))])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(p, q) for p, q in zip(results[0], other, strict=True))


@pytest.mark.parametrize("longest", [None, 1.0])
def test_derivatives(longest: float | None) -> None:
    a, b = leaves(matrix(5, 4, torch.float64), matrix(5, 4, torch.float64, 1))
    assert torch.autograd.gradcheck(lambda p, q: paired_rows(p, q, longest), (a, b))
    assert torch.autograd.gradgradcheck(lambda p, q: paired_rows(p, q, longest), (a, b))
    assert torch.autograd.gradgradcheck(unit_rows, (a,))
    # a gradient with respect to one operand alone, differentiated again
    (first,) = torch.autograd.grad(
        paired_rows(a, b.detach(), longest)[2].sum(), a, create_graph=True
    )
    assert torch.isfinite(torch.autograd.grad(first.sum(), a)[0]).all()


def test_opcheck() -> None:
    a, b = leaves(matrix(9, 4, torch.float32), matrix(9, 4, torch.float32, 1))
    for args in ((a, b, 0.0), (a, None, 0.0), (a, b, 0.5)):
        torch.library.opcheck(torch.ops.sslspec_fast.unit_rows.default, args)


def test_the_core_names_what_is_wrong() -> None:
    z, row = torch.zeros(3, 4), torch.zeros(3)

    def call(z: Tensor, x: Tensor, norm: Tensor, dot: Tensor | None) -> None:
        _C.unit_rows_forward([view(z)], 0.0, [view(x)], [view(norm)], view(dot), 1)

    with pytest.raises(
        ValueError, match=r"out must have size 4 in dimension 1, got shape \(3, 5\)"
    ):
        call(z, torch.zeros(3, 5), row, None)
    with pytest.raises(ValueError, match="out must be contiguous, got row stride 8"):
        call(z, torch.zeros(3, 8)[:, :4], row, None)
    with pytest.raises(ValueError, match="norm must have size 3"):
        call(z, z.clone(), torch.zeros(2), None)
    with pytest.raises(ValueError, match="dot goes with two operands, got 1"):
        call(z, z.clone(), row, row.clone())
    with pytest.raises(ValueError, match="rows must be float32 or float64, got int64"):
        call(z.long(), z.clone(), row, None)


def test_no_rows() -> None:
    # the gradient of a sum has stride 0, and a tensor without rows counts as contiguous
    z = torch.zeros(0, 4, requires_grad=True)
    (grad,) = torch.autograd.grad(unit_rows(z).sum(), z)
    assert grad.shape == (0, 4)

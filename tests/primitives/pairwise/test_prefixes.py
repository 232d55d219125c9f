"""Statistics of nested prefixes against the composition, prefix by prefix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sslspec_fast.primitives.pairwise.prefixes import _compose, lse_prefixes

from ...support.row_cases import assert_same, leaves, rows
from ...support.sparse_cases import strided, with_threads

F64 = torch.float64
# narrow range, wide range in float32, wide range in float64
SCALES = (2.0, 200.0, 2000.0)
DIMS = ([8], [2, 5, 8], [64, 65, 130, 200], [100, 300])


def inputs(n: int, m: int, dims: list[int], scale: float, dtype: torch.dtype) -> list[Tensor]:
    """a, b and factors that make the longest prefix's logits at most `scale`."""
    a, b = rows(n, dims[-1], dtype), rows(m, dims[-1], dtype, 1)
    g = torch.Generator().manual_seed(3)
    alpha, beta = (
        scale**0.5 * (0.5 + 0.5 * torch.rand(len(dims), k, generator=g, dtype=F64)) for k in (n, m)
    )
    return [a, b, alpha.to(dtype), beta.to(dtype)]


def results(
    symmetric: bool,
    dims: list[int],
    tensors: list[Tensor],
    ids: Tensor | None,
    cols: bool,
    composed: bool = False,
    half: bool = False,
) -> tuple[Tensor, ...]:
    """Statistics, and the gradients of a fixed weighted sum of them."""
    tensors = leaves(*(tensors[0:3:2] if symmetric else tensors))
    a, b, alpha, beta = (tensors[0], None, tensors[1], None) if symmetric else tensors
    if composed:
        row, col = _compose(a, b, alpha, beta, dims, ids, cols, half)
    else:
        row, col = lse_prefixes(a, b, alpha, beta, dims, ids=ids, cols=cols, half=half)
    values = [v for v in (row, col) if v.numel()]
    finite = [v[torch.isfinite(v)] for v in values]
    total = sum((v * torch.linspace(0.5, 2, len(v)).to(v)).sum() for v in finite)
    return (*(f.detach() for f in finite), *torch.autograd.grad(total, tensors))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("n", [1, 2, 7, 48, 193, 252, 500])
@pytest.mark.parametrize("ids", [False, True])
def test_symmetric(n: int, dims: list[int], scale: float, ids: bool) -> None:
    same = torch.arange(n, dtype=torch.int32) % max(n // 2, 1) if ids else None
    tensors = inputs(n, n, dims, scale, F64)
    ours = results(True, dims, tensors, same, False)
    assert_same(ours, results(True, dims, tensors, same, False, composed=True), F64)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize(("n", "m"), [(1, 1), (7, 50), (252, 257), (400, 130)])
@pytest.mark.parametrize("cols", [False, True])
def test_two_sides(n: int, m: int, dims: list[int], scale: float, cols: bool) -> None:
    tensors = inputs(n, m, dims, scale, F64)
    ours = results(False, dims, tensors, None, cols)
    assert_same(ours, results(False, dims, tensors, None, cols, composed=True), F64)


@pytest.mark.parametrize("scale", SCALES[:2])
@pytest.mark.parametrize("symmetric", [True, False])
def test_float32(symmetric: bool, scale: float) -> None:
    dims = [16, 40, 200]
    tensors = inputs(260, 260, dims, scale, torch.float32)
    exact = results(symmetric, dims, [t.double() for t in tensors], None, not symmetric)
    assert_same(results(symmetric, dims, tensors, None, not symmetric), exact, torch.float32)


def close(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...], limit: float) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert torch.isfinite(one).all()
        assert (one.double() - other).norm() <= limit * other.norm() + 1e-6


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dims", [[3], [1, 4, 7, 33], [64, 129, 130, 257, 300]])
@pytest.mark.parametrize(("n", "m"), [(2, 2), (7, 50), (193, 97), (401, 252)])
def test_rows_that_bfloat16_holds(n: int, m: int, dims: list[int], scale: float) -> None:
    """Prefixes that end inside a pair of numbers, or inside a panel, lose nothing: the statistics
    are those of float64. The weights of the gradient are rounded, those of the factors are not.
    """
    for symmetric in (True, False):
        tensors = inputs(n, n if symmetric else m, dims, scale, torch.float32)
        tensors = [t.bfloat16().float() for t in tensors[:2]] + tensors[2:]
        ids = torch.arange(n, dtype=torch.int32) // 2 if symmetric else None
        found = results(symmetric, dims, tensors, ids, not symmetric, half=True)
        wide = [t.double() for t in tensors]
        wanted = results(symmetric, dims, wide, ids, not symmetric, composed=True)
        rows, factors = (1, 1) if symmetric else (2, 2)
        close(found[:rows], wanted[:rows], 3e-5)
        close(found[rows:-factors], wanted[rows:-factors], 2**-8)
        close(found[-factors:], wanted[-factors:], 1e-4)


@pytest.mark.parametrize("symmetric", [True, False])
def test_other_rows_are_rounded_to_bfloat16_as_in_the_composition(symmetric: bool) -> None:
    dims = [5, 40, 111]
    tensors = inputs(260, 200, dims, 20.0, torch.float32)
    found = results(symmetric, dims, tensors, None, False, half=True)
    wanted = results(symmetric, dims, tensors, None, False, composed=True, half=True)
    close(found, tuple(t.double() for t in wanted), 2**-8)
    close(found[:1], tuple(t.double() for t in wanted[:1]), 2e-6)


def test_strided_rows_and_factors() -> None:
    dims = [3, 20]
    a, b, alpha, beta = inputs(60, 70, dims, 2.0, F64)
    expected = lse_prefixes(a, b, alpha, beta, dims, cols=True)
    ours = lse_prefixes(strided(a), strided(b), strided(alpha), strided(beta), dims, cols=True)
    for one, other in zip(ours, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("symmetric", [True, False])
def test_gradients(symmetric: bool) -> None:
    dims = [2, 3]
    tensors = leaves(*inputs(5, 4, dims, 1.0, F64))

    def statistics(a: Tensor, b: Tensor, alpha: Tensor, beta: Tensor) -> tuple[Tensor, ...]:
        if symmetric:
            return (lse_prefixes(a, None, alpha, None, dims)[0],)
        return lse_prefixes(a, b, alpha, beta, dims, cols=True)

    assert torch.autograd.gradcheck(statistics, tensors)
    assert torch.autograd.gradgradcheck(statistics, tensors)


@pytest.mark.parametrize("symmetric", [True, False])
def test_operator_contract(symmetric: bool) -> None:
    dims = [3, 8]
    a, b, alpha, beta = leaves(*inputs(10, 10, dims, 2.0, torch.float32))
    op = torch.ops.sslspec_fast.pairwise_prefixes.default
    ids = torch.arange(10, dtype=torch.int32) // 2
    if symmetric:
        torch.library.opcheck(op, (a, None, alpha, None, dims, ids, False, True))
    else:
        torch.library.opcheck(op, (a, b, alpha, beta, dims, None, True, False))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("symmetric", [True, False])
def test_bitwise_equal_for_any_number_of_threads(symmetric: bool, half: bool) -> None:
    dims = [16, 48]
    tensors = inputs(900, 700, dims, 5.0, torch.float32)

    def flat() -> Tensor:
        found = results(symmetric, dims, tensors, None, not symmetric, half=half)
        return torch.cat([t.ravel() for t in found])

    one, two, seven = (with_threads(k, flat) for k in (1, 2, 7))
    assert torch.equal(one, two)
    assert torch.equal(one, seven)


def test_the_core_checks_what_would_corrupt_memory() -> None:
    a, b, alpha, beta = inputs(4, 5, [3, 8], 1.0, F64)
    with pytest.raises(ValueError, match=r"dims must ascend from 1 on, got 3 at 1"):
        lse_prefixes(a, b, alpha, beta, [8, 3])
    with pytest.raises(ValueError, match=r"the last of dims must be d = 8, got 7"):
        lse_prefixes(a, b, alpha, beta, [3, 7])
    with pytest.raises(
        ValueError, match=r"alpha must have size 2 in dimension 0, got shape \(1, 4"
    ):
        lse_prefixes(a, b, alpha[:1], beta, [3, 8])
    with pytest.raises(ValueError, match=r"ids are for the symmetric case"):
        lse_prefixes(a, b, alpha, beta, [3, 8], ids=torch.zeros(4, dtype=torch.int32))

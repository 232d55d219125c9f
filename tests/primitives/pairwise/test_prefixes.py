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
) -> tuple[Tensor, ...]:
    """Statistics, and the gradients of a fixed weighted sum of them."""
    tensors = leaves(*(tensors[0:3:2] if symmetric else tensors))
    a, b, alpha, beta = (tensors[0], None, tensors[1], None) if symmetric else tensors
    if composed:
        row, col = _compose(a, b, alpha, beta, dims, ids, cols)
    else:
        row, col = lse_prefixes(a, b, alpha, beta, dims, ids=ids, cols=cols)
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
        torch.library.opcheck(op, (a, None, alpha, None, dims, ids, False))
    else:
        torch.library.opcheck(op, (a, b, alpha, beta, dims, None, True))


@pytest.mark.parametrize("symmetric", [True, False])
def test_bitwise_equal_for_any_number_of_threads(symmetric: bool) -> None:
    dims = [16, 48]
    tensors = inputs(900, 700, dims, 5.0, torch.float32)

    def flat() -> Tensor:
        return torch.cat([t.ravel() for t in results(symmetric, dims, tensors, None, False)])

    one, two, five = (with_threads(k, flat) for k in (1, 2, 5))
    assert torch.equal(one, two)
    assert torch.equal(one, five)


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

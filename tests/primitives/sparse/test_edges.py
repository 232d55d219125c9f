"""Edge sums against dense fp64: values, gradients, ragged shapes, precision of close points."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sslspec_fast.primitives.sparse.csr import Csr
from sslspec_fast.primitives.sparse.edges import edge_dot, edge_sqdist

from ...support.sparse_cases import (
    DTYPES,
    WIDTHS,
    assert_close,
    dense_rows,
    large,
    matrix,
    strided,
    symmetric_matrix,
    with_threads,
)


def dense_dot(a: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return (a * (x.double() @ y.double().T)).sum(1)


def dense_sqdist(a: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return (a * (x.double()[:, None] - y.double()[None]).square().sum(2)).sum(1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", WIDTHS)
def test_every_width(d: int, dtype: torch.dtype) -> None:
    a, dense = matrix(37, 29)
    x, y = dense_rows(37, d, dtype), dense_rows(29, d, dtype, 2)
    size = dense.sum(1) * d
    assert_close(edge_dot(a, x, y), dense_dot(dense, x, y), size)
    assert_close(edge_sqdist(a, x, y), dense_sqdist(dense, x, y))


@pytest.mark.parametrize("n", [1, 2, 7, 252, 300])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("values", [None, torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", DTYPES)
def test_types_and_strides(
    n: int, wide: bool, values: torch.dtype | None, dtype: torch.dtype
) -> None:
    a, dense = matrix(n, n + 3, values=values, wide=wide)
    x, y = dense_rows(n, 19, dtype), dense_rows(n + 3, 19, dtype, 2)
    size = dense_sqdist(dense.abs(), x, y)
    assert_close(edge_dot(a, strided(x), y), dense_dot(dense, x, y), size)
    assert_close(edge_sqdist(a, x, strided(y)), dense_sqdist(dense, x, y), size)


def test_close_points_far_from_the_origin_keep_their_distance() -> None:
    # |x|^2 + |y|^2 - 2 x.y would leave no correct digit of a distance of 1e-2 at 1e3
    a = Csr(torch.tensor([0, 1, 2]), torch.tensor([1, 0]), None, 2, symmetric=True)
    x = torch.full((2, 16), 1000.0)
    x[1] += 0.0625
    assert torch.equal(edge_sqdist(a, x, x), torch.full((2,), 16 * 0.0625**2))


@pytest.mark.parametrize("function", [edge_dot, edge_sqdist])
@pytest.mark.parametrize("symmetric", [True, False])
def test_gradients(function, symmetric: bool) -> None:  # type: ignore[no-untyped-def]
    a, _ = (
        symmetric_matrix(6, values=torch.float64)
        if symmetric
        else matrix(6, 5, values=torch.float64)
    )
    x = dense_rows(6, 3, torch.float64).requires_grad_()
    y = dense_rows(a.n_cols, 3, torch.float64, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: function(a, x, y), (x, y))
    assert torch.autograd.gradgradcheck(lambda x, y: function(a, x, y), (x, y))
    if symmetric:
        assert torch.autograd.gradcheck(lambda x: function(a, x, x), (x,))
        assert torch.autograd.gradgradcheck(lambda x: function(a, x, x), (x,))


@pytest.mark.parametrize("squared", [True, False])
def test_operator_contract(squared: bool) -> None:
    op = torch.ops.sslspec_fast.edges.default
    a, _ = matrix(7, 5, values=torch.float32)
    x, y = (dense_rows(n, 4, torch.float32).requires_grad_() for n in (7, 5))
    torch.library.opcheck(op, (*a.with_transpose(), x, y, squared))
    s, _ = symmetric_matrix(7)
    torch.library.opcheck(
        torch.ops.sslspec_fast.edges_self.default, (s.indptr, s.indices, None, x, squared)
    )


@pytest.mark.parametrize("function", [edge_dot, edge_sqdist])
def test_bitwise_equal_for_any_number_of_threads(function) -> None:  # type: ignore[no-untyped-def]
    a = large(6000)
    x = dense_rows(6000, 130, torch.float32)
    one, two, five = (with_threads(k, lambda: function(a, x, x)) for k in (1, 2, 5))
    assert torch.equal(one, two)
    assert torch.equal(one, five)


@pytest.mark.parametrize("function", [edge_dot, edge_sqdist])
def test_errors_name_the_argument(function) -> None:  # type: ignore[no-untyped-def]
    a, _ = matrix(4, 6)
    name = function.__name__
    with pytest.raises(ValueError, match=rf"{name}: x must be \(4, d\), got \(6, 2\)"):
        function(a, torch.ones(6, 2), torch.ones(6, 2))
    with pytest.raises(ValueError, match=rf"{name}: y must be \(6, 2\) .*, got \(6, 3\)"):
        function(a, torch.ones(4, 2), torch.ones(6, 3))


def test_no_columns_and_no_rows() -> None:
    a, _ = matrix(4, 6)
    assert torch.equal(edge_dot(a, torch.ones(4, 0), torch.ones(6, 0)), torch.zeros(4))
    none, _ = matrix(0, 6)
    assert edge_sqdist(none, torch.ones(0, 3), torch.ones(6, 3)).shape == (0,)

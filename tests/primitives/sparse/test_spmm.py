"""Sparse times dense against dense fp64: values, gradients of any order, layouts, errors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sslspec_fast.primitives.sparse.csr import Csr
from sslspec_fast.primitives.sparse.spmm import Combination, spmm, spmm_into, spmm_op

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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("b", WIDTHS)
def test_every_width(b: int, dtype: torch.dtype) -> None:
    a, dense = matrix(37, 29)
    x = dense_rows(29, b, dtype)
    assert_close(spmm(a, x), dense @ x.double())


@pytest.mark.parametrize("n", [1, 2, 7, 252, 257, 700])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("values", [None, torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", DTYPES)
def test_index_and_value_types(
    n: int, wide: bool, values: torch.dtype | None, dtype: torch.dtype
) -> None:
    a, dense = matrix(n, n + 3, values=values, wide=wide)
    x = dense_rows(n + 3, 19, dtype)
    r, c = dense_rows(n, 1, dtype)[:, 0], dense_rows(n + 3, 1, dtype, seed=4)[:, 0]
    wanted = 0.5 * r[:, None].double() * (dense @ (c[:, None].double() * x.double()))
    size = dense.abs() @ x.double().abs()
    assert_close(spmm(a, x, alpha=0.5, row_scale=r, col_scale=c), wanted, size)
    assert_close(spmm(a, strided(x)), dense @ x.double(), size)
    assert_close(
        spmm(a, dense_rows(19, n + 3, dtype).T), dense @ dense_rows(19, n + 3, dtype).T.double()
    )


def test_a_long_row_keeps_its_digits() -> None:
    # one running float32 sum of 4e5 ones-like terms would lose three digits
    n = 400_000
    a = Csr(torch.tensor([0, n]), torch.arange(n, dtype=torch.int32), None, n, symmetric=False)
    x = torch.rand(n, 3, generator=torch.Generator().manual_seed(0)) + 1
    exact = x.double().sum(0, keepdim=True)
    assert float(((spmm(a, x) - exact) / exact).abs().max()) < 1e-6


@pytest.mark.parametrize("b", [1, 16, 40])
def test_no_entries_and_no_rows(b: int) -> None:
    a, _ = matrix(0, 5)
    assert spmm(a, torch.ones(5, b)).shape == (0, b)
    empty, _ = matrix(6, 4)
    empty.indptr.zero_()
    empty.indices, empty.values = empty.indices[:0], None
    assert torch.equal(spmm(empty, torch.full((4, b), float("nan"))), torch.zeros(6, b))


def test_no_columns() -> None:
    a, _ = matrix(5, 6)
    assert spmm(a, torch.ones(6, 0)).shape == (5, 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("b", [1, 5, 16, 33])
def test_recurrence_step_in_place(b: int, dtype: torch.dtype) -> None:
    a, dense = symmetric_matrix(61, values=torch.float64)
    x, before, diagonal = (dense_rows(61, b, dtype, s) for s in (1, 2, 3))
    d, s = diagonal[:, 0].contiguous(), diagonal[:, 0].abs().contiguous()
    out = strided(before)
    result = spmm_into(
        a,
        x,
        out,
        Combination(alpha=-0.7, beta=-0.3, gamma=0.2, delta=0.7, w=x, diagonal=d),
        row_scale=s,
        col_scale=s,
    )
    product = s[:, None].double() * (dense @ (s[:, None].double() * x.double()))
    wanted = -0.7 * product - 0.3 * before.double() + (0.2 + 0.7 * d[:, None].double()) * x.double()
    assert result is out
    assert_close(out, wanted)


def test_beta_zero_never_reads_the_output() -> None:
    a, dense = matrix(20, 20)
    x = dense_rows(20, 9, torch.float64)
    assert_close(spmm_into(a, x, torch.full((20, 9), float("nan"), dtype=x.dtype)), dense @ x)


def test_column_blocks_of_one_matrix_may_be_input_and_output() -> None:
    a, dense = matrix(20, 20)
    both = dense_rows(20, 18, torch.float64)
    spmm_into(a, both[:, :9], both[:, 9:])
    assert_close(both[:, 9:], dense @ both[:, :9])


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("add_scales", [True, False])
@pytest.mark.parametrize("differences", [True, False])
def test_gradients_of_any_order(symmetric: bool, add_scales: bool, differences: bool) -> None:
    a, _ = (
        symmetric_matrix(6, values=torch.float64)
        if symmetric
        else matrix(6, 5, values=torch.float64)
    )
    x = dense_rows(a.n_cols, 3, torch.float64).requires_grad_()
    own = dense_rows(6, 3, torch.float64, 2).requires_grad_() if differences else None
    r = dense_rows(6, 1, torch.float64, 3)[:, 0].requires_grad_()
    c = dense_rows(a.n_cols, 1, torch.float64, 4)[:, 0].requires_grad_()
    sparse = a.with_transpose()

    def product(x: Tensor, own: Tensor | None, r: Tensor, c: Tensor) -> Tensor:
        return spmm_op(*sparse, x, own, r, c, add_scales, 0.7)

    assert torch.autograd.gradcheck(product, (x, own, r, c))
    assert torch.autograd.gradgradcheck(product, (x, own, r, c))


def test_operator_contract() -> None:
    a, _ = symmetric_matrix(9, values=torch.float32)
    x = dense_rows(9, 5, torch.float32).requires_grad_()
    r = torch.ones(9, requires_grad=True)
    op = torch.ops.sslspec_fast.spmm.default
    torch.library.opcheck(op, (*a.with_transpose(), x, None, r, r, True, 1.0))
    rectangular, _ = matrix(9, 4)
    y = dense_rows(4, 5, torch.float64).requires_grad_()
    torch.library.opcheck(op, (*rectangular.with_transpose(), y, None, None, None, False, 2.0))


def test_compiles_in_one_graph() -> None:
    a, dense = symmetric_matrix(12)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def loss(x: Tensor) -> Tensor:
        return spmm(a, x).square().sum()

    x = dense_rows(12, 4, torch.float64).requires_grad_()
    loss(x).backward()
    assert_close(x.grad, 2 * dense.T @ dense @ x.detach())


@pytest.mark.parametrize("dtype", DTYPES)
def test_bitwise_equal_for_any_number_of_threads(dtype: torch.dtype) -> None:
    a = large(6000)
    x = dense_rows(6000, 130, dtype)
    one, two, five = (with_threads(k, lambda: spmm(a, x)) for k in (1, 2, 5))
    assert torch.equal(one, two)
    assert torch.equal(one, five)


def test_errors_name_the_argument() -> None:
    a, _ = matrix(4, 6)
    with pytest.raises(ValueError, match=r"spmm: x must be \(6, b\), got \(4, 2\)"):
        spmm(a, torch.ones(4, 2))
    with pytest.raises(TypeError, match=r"spmm: x must be float32 or float64, got torch\.float16"):
        spmm(a, torch.ones(6, 2, dtype=torch.float16))
    with pytest.raises(ValueError, match=r"row_scale must be \(4,\) torch.float32, got \(6,\)"):
        spmm(a, torch.ones(6, 2), row_scale=torch.ones(6))
    with pytest.raises(ValueError, match=r"spmm_into: out must be \(4, 2\)"):
        spmm_into(a, torch.ones(6, 2), torch.ones(6, 2))
    with pytest.raises(ValueError, match="out must have contiguous rows"):
        spmm_into(a, torch.ones(6, 2), torch.ones(2, 4).T)
    square, _ = matrix(6, 6)
    x = torch.ones(6, 2)
    with pytest.raises(ValueError, match="out must not overlap x"):
        spmm_into(square, x, x)
    with pytest.raises(ValueError, match=r"diagonal must be \(6,\) torch.float32, got \(5,\)"):
        spmm_into(square, x, torch.ones(6, 2), Combination(diagonal=torch.ones(5)))


def test_the_core_checks_what_would_corrupt_memory() -> None:
    a, _ = matrix(4, 6)
    bad = a.indptr.clone()
    bad[-1] += 1
    with pytest.raises(ValueError, match="indptr must run from 0 to nnz"):
        spmm_op(
            bad, a.indices, None, None, None, None, torch.ones(6, 2), None, None, None, False, 1.0
        )
    with pytest.raises(ValueError, match="own must have size 4"):
        spmm_op(*a.with_transpose(), torch.ones(6, 2), torch.ones(5, 2), None, None, False, 1.0)

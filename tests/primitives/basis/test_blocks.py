"""Tall-skinny products against longer doubles, at ragged sizes, strides and aliases."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sslspec_fast import _C
from sslspec_fast._seam import view
from sslspec_fast.primitives.basis import (
    gram,
    multiply,
    multiply_into,
    new_block,
    new_blocks,
    random_block,
)

SHAPES = [(0, 3, 2), (1, 1, 1), (5, 2, 3), (97, 20, 70), (9001, 33, 17), (140_000, 7, 16)]
DTYPES = [torch.float32, torch.float64]


def block(n: int, m: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, m, dtype=dtype, generator=generator)


def joined(*terms: tuple[torch.Tensor, torch.Tensor]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Blocks V and their coefficients C below each other, from terms (V, C)."""
    return [v for v, _ in terms], torch.cat([c for _, c in terms])


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """A^T B, rounded once: the float64 sums of a BLAS err by more than ours may."""
    long = a.numpy().astype(np.longdouble).T @ b.numpy().astype(np.longdouble)
    return torch.from_numpy(long.astype(np.float64))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "p", "q"), SHAPES)
def test_gram_of_several_blocks(n: int, p: int, q: int, dtype: torch.dtype) -> None:
    a, other, b = block(n, p, dtype), block(n, 5, dtype, 1), block(n, q, dtype, 2)
    expected = product(torch.cat([a, other], 1), b)
    unit = torch.finfo(dtype).eps * max(n, 1) ** 0.5
    got = gram((a, other), b)
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, expected, rtol=0, atol=16 * unit)
    exact = gram((a, other), b, exact=True)
    torch.testing.assert_close(exact, expected, rtol=0, atol=1e-14 * max(n, 1) ** 0.5)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("n", "p", "q"), [(1, 16, 16), (700, 8, 48), (9001, 40, 16), (5000, 24, 80)]
)
def test_gram_of_whole_tiles(n: int, p: int, q: int, dtype: torch.dtype, exact: bool) -> None:
    """Widths that need no padding are read where they lie, also inside a wider store."""
    a, b = block(n, p, dtype), block(n, q, dtype, 2)
    other = block(n, q + 32, dtype, 1)[:, 16 : q + 16]
    expected = product(torch.cat([a, other], 1), b)
    unit = (1e-15 if exact else torch.finfo(dtype).eps) * n**0.5
    torch.testing.assert_close(gram((a, other), b, exact=exact), expected, rtol=0, atol=16 * unit)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("n", "p", "q"), [(0, 3, 2), (97, 20, 70), (9001, 8, 16), (9001, 17, 32), (50_000, 9, 8)]
)
def test_gram_with_weights_and_a_few_columns_more(
    n: int, p: int, q: int, dtype: torch.dtype, exact: bool
) -> None:
    """Whole tiles and a deflated vector beside them, as in the coordinates of a walk."""
    a, one, b = block(n, p, dtype), block(n, 1, dtype, 1), block(n, q, dtype, 2)
    w = block(n, 1, dtype, 3)[:, 0].abs() + 0.1
    left = torch.cat([a, one], 1).double() * w.double()[:, None]
    long = left.numpy().astype(np.longdouble).T @ b.numpy().astype(np.longdouble)
    unit = (2e-15 if exact else torch.finfo(dtype).eps) * max(n, 1) ** 0.5
    got = gram((a, one), b, exact=exact, weights=w)
    expected = torch.from_numpy(long.astype(np.float64))
    torch.testing.assert_close(got, expected, rtol=0, atol=16 * unit)


@pytest.mark.parametrize("dtype", DTYPES)
def test_random_blocks(dtype: torch.dtype) -> None:
    cpu = torch.device("cpu")
    x = random_block(30_001, 5, 7, dtype, cpu)
    assert float(x.min()) >= -1.0
    assert float(x.max()) < 1.0
    # mean, second moments and correlations of a uniform distribution, at five standard errors
    assert float(x.mean().abs()) < 5 * (1 / 3 / x.numel()) ** 0.5
    second = gram(x, x) / len(x)
    expected = torch.eye(5, dtype=torch.float64) / 3
    torch.testing.assert_close(second, expected, rtol=0, atol=5 * (1 / 9 / len(x)) ** 0.5)
    assert torch.equal(x, random_block(30_001, 5, 7, dtype, cpu))
    assert torch.equal(x.double(), random_block(30_001, 5, 7, torch.float64, cpu))
    # other seeds, neighbouring ones too, share nothing; rows are not those of another width
    for other in (random_block(30_001, 5, 8, dtype, cpu), random_block(30_001, 5, -7, dtype, cpu)):
        assert float((gram(x, other) / len(x)).abs().max()) < 5 * (1 / 9 / len(x)) ** 0.5
    assert random_block(0, 3, 1, dtype, cpu).shape == (0, 3)
    assert random_block(9, 0, 1, dtype, cpu).shape == (9, 0)
    assert random_block(3, 1, 1, dtype, cpu).shape == (3, 1)
    # rows of a larger block, whose first value may lie inside a word of the generator
    for first, rows in ((0, 7), (1, 1), (3, 20_000), (30_000, 1), (29, 0)):
        assert torch.equal(random_block(rows, 5, 7, dtype, cpu, first), x[first : first + rows])
    with pytest.raises(ValueError, match="first must be >= 0, got -1"):
        random_block(1, 1, 0, dtype, cpu, -1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "p", "q"), SHAPES)
def test_combination(n: int, p: int, q: int, dtype: torch.dtype) -> None:
    v, y = block(n, p, dtype), block(n, q, dtype, 1)
    c, d = block(p, q, torch.float64, 2), block(q, q, torch.float64, 3)
    expected = v.double() @ c + y.double() @ d + 0.5 * y.double()
    got = multiply_into(y, *joined((v, c), (y, d)), beta=0.5)
    assert got is y
    torch.testing.assert_close(
        y.double(), expected, rtol=0, atol=4 * (p + q) * torch.finfo(dtype).eps
    )


@pytest.mark.parametrize("count", [32, 33, 70])
def test_more_blocks_than_one_call_takes(count: int) -> None:
    blocks = [block(300, 1 + i % 5, torch.float64, i) for i in range(count)]
    b, factors = (
        block(300, 6, torch.float64, 99),
        [block(v.shape[1], 6, torch.float64) for v in blocks],
    )
    whole = torch.cat(blocks, 1)
    torch.testing.assert_close(gram(blocks, b), whole.T @ b)
    expected = whole @ torch.cat(factors) - 2.0 * b
    torch.testing.assert_close(
        multiply_into(b, *joined(*zip(blocks, factors, strict=True)), beta=-2.0), expected
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["C", "F"])
def test_products_with_blocks_side_by_side(order: str, dtype: torch.dtype) -> None:
    """Coefficients one below another, in any order and in either dtype."""
    blocks = [block(300, m, dtype, m) for m in (4, 0, 7)]
    c = torch.from_numpy(np.asarray(block(11, 6, torch.float64).numpy(), order=order))
    expected = torch.cat(blocks, 1).double() @ c
    for factors in (c, c.to(dtype)):
        got = multiply(blocks, factors)
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), expected, rtol=0, atol=50 * torch.finfo(dtype).eps)
        assert multiply_into(got, blocks, factors, beta=-1.0) is got
        assert float(got.abs().max()) < 50 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_whole_cache_lines_lie_on_them(dtype: torch.dtype) -> None:
    """Gathered rows that cross two lines make the sparse product up to 1.5 times as slow."""
    for n in (0, 1, 1000, 100_000):  # from the heap and, with huge pages, from the system
        x = new_block(n, 16, dtype, torch.device("cpu"))
        assert x.shape == (n, 16)
        assert x.dtype == dtype
        assert x.is_contiguous()
        assert n == 0 or x.data_ptr() % 64 == 0
    several = new_blocks(3, 1000, 16, dtype, torch.device("cpu"))
    assert several.shape == (3, 1000, 16)
    assert all(x.data_ptr() % 64 == 0 for x in several)
    y = multiply([block(70_000, 3, dtype)], block(3, 16, torch.float64))
    assert y.data_ptr() % 64 == 0


def test_beta_zero_never_reads_the_output() -> None:
    v, c = block(50, 3, torch.float32), block(3, 70, torch.float64)
    out = torch.full((50, 70), torch.nan)
    multiply_into(out, [v], c)
    torch.testing.assert_close(out, v @ c.float())


@pytest.mark.parametrize("width", [4, 40, 90])
def test_first_columns_of_a_store_in_place(width: int) -> None:
    """A restart: V <- V C, narrower, inside the same rows of a wider store."""
    store = block(1003, 120, torch.float64)
    before = store.clone()
    c = block(100, width, torch.float64, 1)
    multiply_into(store[:, :width], [store[:, :100]], c)
    torch.testing.assert_close(store[:, :width], before[:, :100] @ c)
    assert torch.equal(store[:, width:], before[:, width:])


@pytest.mark.parametrize("dtype", DTYPES)
def test_column_major_operands(dtype: torch.dtype) -> None:
    a, b = block(20, 300, dtype).T, block(300, 4, dtype)
    c = block(8, 20, torch.float64).T
    torch.testing.assert_close(gram(a, b, exact=True), a.double().T @ b.double())
    out = multiply_into(torch.empty(300, 8, dtype=dtype), [a], c)
    torch.testing.assert_close(out, (a.double() @ c).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_for_any_number_of_threads(dtype: torch.dtype) -> None:
    a, b, c = block(50_001, 9, dtype), block(50_001, 20, dtype, 1), block(9, 20, torch.float64, 2)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            y = multiply_into(b.clone(), [a], c, beta=-1.0)
            noise = random_block(50_001, 9, 3, dtype, torch.device("cpu"))
            results.append((gram(a, b, weights=a[:, 0].contiguous()), y, noise))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))


def test_exact_keeps_what_cholesky_needs() -> None:
    """Two columns that differ by 1e-5: their Gram matrix in float32 would be singular."""
    x = block(5000, 1, torch.float32)
    pair = torch.cat([x, x + 1e-5 * block(5000, 1, torch.float32, 1)], 1)
    smallest = torch.linalg.eigvalsh(gram(pair, pair, exact=True))[0]
    assert float(smallest) == pytest.approx(5000 * 1e-10 / 2, rel=0.1)


def test_the_core_checks_shapes() -> None:
    a, out = block(10, 3, torch.float32), torch.empty(10, 2)
    c = torch.empty(4, 2)
    with pytest.raises(ValueError, match=r"c must have size 3 in dimension 0.*\(4, 2\)"):
        _C.basis_combine(view(out), [view(a)], [view(c)], 0.0, 1)
    with pytest.raises(ValueError, match="lists of equal length"):
        _C.basis_combine(view(out), [view(a)], [], 0.0, 1)
    g = torch.empty(3, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="w must have size 10"):
        _C.basis_gram(
            [view(a)], view(out), view(a[:9, 0].contiguous()), view(g), False, (view(g[0]), 1)
        )
    with pytest.raises(ValueError, match="a must have size 10"):
        _C.basis_gram([view(a[:9])], view(out), None, view(g), False, (view(g[0]), 1))

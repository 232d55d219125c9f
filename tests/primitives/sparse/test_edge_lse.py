"""Log-sum-exp over the entries of each row: values, gradients, ids, range, memory, determinism."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import sslspec_fast.primitives.sparse.edge_lse as module
from sslspec_fast.primitives.sparse.csr import Csr
from sslspec_fast.primitives.sparse.edge_lse import edge_lse

from ...support.sparse_cases import (
    DTYPES,
    WIDTHS,
    dense_rows,
    large,
    matrix,
    strided,
    symmetric_matrix,
    with_threads,
)

TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5}


def dense_lse(dense: Tensor, x: Tensor, y: Tensor, ids: Tensor | None = None) -> Tensor:
    seen = dense != 0 if ids is None else (dense != 0) & (ids[:, None] == ids)
    logits = (x @ y.T).masked_fill(~seen, -torch.inf)
    some = seen.any(1)
    return torch.where(
        some, torch.where(some[:, None], logits, 0.0).logsumexp(1), -torch.inf
    )  # logsumexp of nothing has a NaN gradient


def assert_agrees(a: Csr, dense: Tensor, x: Tensor, y: Tensor, ids: Tensor | None = None) -> None:
    x, y = x.requires_grad_(), y.requires_grad_()
    wide = [t.detach().double().requires_grad_() for t in (x, y)]
    ours, exact = edge_lse(a, x, y, ids), dense_lse(dense, *wide, ids)
    tolerance = {"rtol": TOLERANCE[x.dtype], "atol": TOLERANCE[x.dtype]}
    torch.testing.assert_close(ours.double(), exact, **tolerance)
    some = torch.isfinite(exact)
    seed = torch.linspace(-1, 2, len(exact), dtype=torch.float64)
    expected = torch.autograd.grad((exact * seed)[some].sum(), wide)
    grads = torch.autograd.grad(ours, (x, y), seed.to(x.dtype))
    for grad, want in zip(grads, expected, strict=True):
        torch.testing.assert_close(grad.double(), want, **tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", WIDTHS)
def test_every_width(d: int, dtype: torch.dtype) -> None:
    a, dense = matrix(37, 37, wide=d % 2 == 0)
    x, y = (dense_rows(37, d, dtype, seed) / d**0.5 for seed in (1, 2))
    assert_agrees(a, dense, strided(x), y)


@pytest.mark.parametrize("n", [1, 2, 7, 252, 300])
@pytest.mark.parametrize("dtype", DTYPES)
def test_symmetric_patterns_values_and_ids(n: int, dtype: torch.dtype) -> None:
    a, dense = symmetric_matrix(n, values=torch.float64)  # whose values do not count
    x, y = (dense_rows(n, 19, dtype, seed) / 4 for seed in (1, 2))
    assert_agrees(a, dense, x, y)
    assert_agrees(a, dense, x, strided(y), torch.arange(n) % 3 - 1)


@pytest.mark.parametrize("scale", [30.0, 3000.0])
def test_logits_of_any_range(scale: float) -> None:
    a, dense = matrix(40, 40)
    x, y = (dense_rows(40, 5, torch.float64, seed) for seed in (1, 2))
    assert_agrees(a, dense, scale * x, y)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("ids", [None, torch.tensor([0, 1, 0, 1, 0, 0])])
def test_gradients(symmetric: bool, ids: Tensor | None) -> None:
    a, _ = symmetric_matrix(6) if symmetric else matrix(6, 6)
    x, y = (dense_rows(6, 3, torch.float64, seed).requires_grad_() for seed in (1, 2))

    def some(x: Tensor, y: Tensor) -> Tensor:
        r = edge_lse(a, x, y, ids)
        return r[torch.isfinite(r.detach())]

    assert torch.autograd.gradcheck(some, (x, y))
    assert torch.autograd.gradgradcheck(some, (x, y))


@pytest.mark.parametrize("symmetric", [True, False])
def test_operator_contract(symmetric: bool) -> None:
    a, _ = symmetric_matrix(7, loops=True) if symmetric else matrix(7, 7)
    t = (None, None) if symmetric else (a.t().indptr, a.t().indices)
    x, y = (dense_rows(7, 4, torch.float32, seed).requires_grad_() for seed in (1, 2))
    for ids in (None, torch.tensor([0, 1, 0, 1, 0, 0, 1])):
        arguments = (a.indptr, a.indices, *t, x, y, ids)
        torch.library.opcheck(torch.ops.sslspec_fast.edge_lse.default, arguments)


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(t, Tensor):
                self.elements = max(self.elements, t.untyped_storage().nbytes() // t.itemsize)
        return out


def test_memory_is_that_of_the_entries_and_of_the_rows() -> None:
    a = large(400)  # 12 entries a row: the rows at their ends would be 12 times x
    x = dense_rows(400, 64, torch.float32)
    ids = torch.arange(400) % 2
    inputs = (a.indptr, a.indices, None, None, x, x, ids)
    with Largest() as forward:  # the bodies, because a mode does not see inside an operator
        lse = module._body(*inputs)
    with Largest() as backward:
        module._bwd_body(*inputs, lse, torch.ones(400))
    assert 0 < forward.elements <= max(a.nnz, x.numel())
    assert 0 < backward.elements <= max(a.nnz, x.numel())


def test_nothing_of_the_size_of_the_entries_is_saved() -> None:
    a = large(400)
    x = dense_rows(400, 8, torch.float32).requires_grad_()
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        edge_lse(a, 2 * x, x)
    owned = [t for t in saved if t.data_ptr() not in (a.indptr.data_ptr(), a.indices.data_ptr())]
    assert saved
    assert all(t.numel() <= x.numel() for t in owned)


def test_bitwise_equal_for_any_number_of_threads() -> None:
    a = large(6000)
    x = dense_rows(6000, 130, torch.float32).requires_grad_()

    def results() -> Tensor:
        r = edge_lse(a, x, x)
        return torch.cat([r.detach(), torch.autograd.grad(r.sum(), x)[0].ravel()])

    one, two, five = (with_threads(k, results) for k in (1, 2, 5))
    assert torch.equal(one, two)
    assert torch.equal(one, five)


def test_errors_name_the_argument() -> None:
    a, _ = matrix(4, 4)
    x = torch.ones(4, 2)
    with pytest.raises(ValueError, match=r"edge_lse: x must be \(4, d\) .*, got \(6, 2\)"):
        edge_lse(a, torch.ones(6, 2), x)
    with pytest.raises(ValueError, match=r"edge_lse: y must be \(4, d\) .*, got \(4, 3\)"):
        edge_lse(a, x, torch.ones(4, 3))
    with pytest.raises(ValueError, match=r"edge_lse: ids must be \(4,\), got \(5,\)"):
        edge_lse(a, x, x, torch.arange(5))


def test_no_columns_and_no_rows() -> None:
    a, dense = matrix(4, 4)
    expected = torch.where(dense.any(1), dense.sum(1).log(), -torch.inf).float()
    torch.testing.assert_close(edge_lse(a, torch.ones(4, 0), torch.ones(4, 0)), expected)
    none, _ = matrix(0, 0)
    assert edge_lse(none, torch.ones(0, 3), torch.ones(0, 3)).shape == (0,)

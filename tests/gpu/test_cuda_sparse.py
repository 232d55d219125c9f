"""The other CUDA primitives against the CPU in float64: sparse, moments, gram, unit_rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sslspec_fast import functional
from sslspec_fast.primitives import gram
from sslspec_fast.primitives.rows import moments
from sslspec_fast.primitives.rows.unit_rows import paired_rows
from sslspec_fast.primitives.sparse import edge_lse, edges, graph_cov, spmm
from sslspec_fast.primitives.sparse.csr import Csr

pytestmark = pytest.mark.cuda

ERROR = {torch.float64: 1e-11, torch.float32: 2e-5}


def close(actual: Tensor, expected: Tensor, error: float) -> None:
    worst = (actual.double().cpu() - expected.double()).abs().max() if expected.numel() else 0.0
    assert float(worst) <= error * max(float(expected.abs().max()), 1e-12)


def graph(n: int, index: torch.dtype, device: torch.device) -> Csr:
    torch.manual_seed(n)
    pattern = torch.rand(n, n) < min(1.0, 8 / n)
    pattern |= pattern.T.clone()
    weights = torch.rand(n, n, dtype=torch.float64)
    weights = (weights + weights.T)[pattern]
    indptr = torch.nn.functional.pad(pattern.sum(1).cumsum(0), (1, 0))
    indices = pattern.nonzero()[:, 1].to(index)
    return Csr(indptr.to(device), indices.to(device), weights.to(device), n, True)


def both(n: int, index: torch.dtype, device: torch.device) -> tuple[Csr, Csr]:
    return graph(n, index, device), graph(n, index, torch.device("cpu"))


@pytest.mark.parametrize("dtype", ERROR)
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize(("n", "b"), [(1, 1), (7, 3), (257, 8), (252, 36), (1000, 130)])
def test_sparse_products_and_their_gradients(
    n: int, b: int, index: torch.dtype, dtype: torch.dtype, cuda: torch.device
) -> None:
    there, here = both(n, index, cuda)
    x = torch.randn(n, b, dtype=dtype)
    for function in (
        lambda a, t: spmm.spmm(a, t),
        lambda a, t: edges.edge_dot(a, t, t),
        lambda a, t: edges.edge_sqdist(a, t, t),
        lambda a, t: edge_lse.edge_lse(a, t / b**0.5, t),
        lambda a, t: graph_cov.graph_cov(a, t, t),
    ):
        t, h = x.to(cuda).requires_grad_(), x.double().clone().requires_grad_()
        got, want = function(there, t), function(here, h)
        close(got.detach(), want.detach(), ERROR[dtype])
        seed = torch.randn(want.shape, dtype=torch.float64)
        (got * seed.to(got)).sum().backward()
        (want * seed).sum().backward()
        assert t.grad is not None
        assert h.grad is not None
        close(t.grad, h.grad, ERROR[dtype])


@pytest.mark.parametrize("dtype", ERROR)
@pytest.mark.parametrize(("n", "d"), [(1, 3), (7, 33), (257, 252), (5000, 64)])
def test_column_moments(n: int, d: int, dtype: torch.dtype, cuda: torch.device) -> None:
    x = torch.randn(n, d, dtype=dtype) + 3
    t, h = x.to(cuda).requires_grad_(), x.double().requires_grad_()
    for got, want in zip(moments.column_moments(t), moments.column_moments(h), strict=True):
        close(got.detach(), want.detach(), ERROR[dtype])
        got.sum().backward(retain_graph=True)
        want.sum().backward(retain_graph=True)
    assert t.grad is not None
    assert h.grad is not None
    close(t.grad, h.grad, 10 * ERROR[dtype])


@pytest.mark.parametrize("dtype", ERROR)
@pytest.mark.parametrize("longest", [None, 9.0])
@pytest.mark.parametrize(("n", "d"), [(1, 3), (7, 33), (257, 252), (5000, 64)])
def test_paired_rows(
    n: int, d: int, longest: float | None, dtype: torch.dtype, cuda: torch.device
) -> None:
    z = torch.randn(2, n, d, dtype=dtype)
    t, h = z.to(cuda).requires_grad_(), z.double().requires_grad_()
    got, want = paired_rows(*t, longest), paired_rows(*h, longest)
    seeds = [torch.randn(w.shape, dtype=torch.float64) for w in want]
    for a, e in zip(got, want, strict=True):
        close(a.detach(), e.detach(), ERROR[dtype])
    torch.autograd.backward(got, [s.to(a) for s, a in zip(seeds, got, strict=True)])
    torch.autograd.backward(want, seeds)
    assert t.grad is not None
    assert h.grad is not None
    close(t.grad, h.grad, ERROR[dtype])


@pytest.mark.parametrize("dtype", ERROR)
@pytest.mark.parametrize(("n", "d"), [(30, 200), (252, 60), (300, 500)])
@pytest.mark.parametrize("off_diagonal", [False, True])
def test_squared_norms(
    n: int, d: int, off_diagonal: bool, dtype: torch.dtype, cuda: torch.device
) -> None:
    x, y = torch.randn(n, d, dtype=dtype), torch.randn(n, d, dtype=dtype)
    for second in (None, y):
        t, h = x.to(cuda).requires_grad_(), x.double().clone().requires_grad_()
        other = None if second is None else second.to(cuda)
        got = gram.sqnorm(t, other, off_diagonal=off_diagonal)
        other = None if second is None else second.double()
        want = gram.sqnorm(h, other, off_diagonal=off_diagonal)
        got.backward()
        want.backward()
        close(got.detach(), want.detach(), ERROR[dtype])
        assert t.grad is not None
        assert h.grad is not None
        close(t.grad, h.grad, 2 * ERROR[dtype])


@pytest.mark.parametrize("hopper", ["portable", "gradient", "all"])
@pytest.mark.parametrize(("n", "d"), [(1352, 2808), (2048, 4096), (4096, 2048), (2160, 1352)])
def test_vicreg_of_wide_bfloat16_rows(
    n: int, d: int, hopper: str, cuda: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    # on Hopper tiles on and under the diagonal alone, on the side of the rows or of the columns,
    # and the gradient as the end of a product
    monkeypatch.setenv("SSLSPEC_HOPPER", hopper)
    rows = (torch.randn(2, n, d) + 0.3).bfloat16().to(cuda)
    found = []
    for kind, impl in ((torch.bfloat16, "fused"), (torch.float64, "torch")):
        z = [x.to(kind).requires_grad_() for x in rows]
        value = functional.vicreg(*z, impl=impl)
        found.append([value.detach(), *torch.autograd.grad(value, z)])
    (value, *grads), (right, *wanted) = found
    assert abs(value.double() - right) <= 1e-3 * right
    for got, want in zip(grads, wanted, strict=True):
        assert (got.double() - want).norm() <= 1e-2 * want.norm()

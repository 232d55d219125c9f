"""Gradients through eigenvalues and spectral projectors."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

import sslspec_fast.operators as ops
from sslspec_fast.solvers import eigsh

torch.manual_seed(0)


def _symmetric(n: int, seed: int = 0) -> Tensor:
    a = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (a + a.T).requires_grad_()


@pytest.mark.parametrize("which", ["LA", "SA"])
@pytest.mark.parametrize("method", ["dense", "chebyshev"])
def test_eigenvalues_and_projector(which: str, method: str) -> None:
    weight = torch.randn(12, 12, dtype=torch.float64)

    def loss(a: Tensor) -> Tensor:
        values, v = eigsh((a + a.T) / 2, 3, which=which, method=method, tol=1e-13)
        return (values**3).sum() + ((v @ v.T) * weight).sum()

    assert gradcheck(loss, (_symmetric(12),), eps=1e-5, atol=1e-5)


def test_vectors_up_to_sign() -> None:
    weight = torch.randn(10, 4, dtype=torch.float64)

    def loss(a: Tensor) -> Tensor:
        _, v = eigsh((a + a.T) / 2, 4)
        return ((v**2) * weight).sum()

    assert gradcheck(loss, (_symmetric(10),), eps=1e-5, atol=1e-5)


def test_projector_of_a_multiple_eigenvalue() -> None:
    # the two largest are equal: the span is differentiable, the vectors are not
    q = torch.linalg.qr(torch.randn(9, 9, dtype=torch.float64))[0]
    a = (q * torch.tensor([5.0, 5, 3, 2, 1, 0, -1, -2, -3], dtype=torch.float64)) @ q.T
    a = ((a + a.T) / 2).requires_grad_()
    weight = torch.randn(9, 9, dtype=torch.float64)
    _, v = eigsh(a, 2)
    ((v @ v.T) * weight).sum().backward()
    direction = torch.randn(9, 9, dtype=torch.float64)
    direction = (direction + direction.T) / 2

    def projected(step: float) -> Tensor:
        x = torch.linalg.eigh(a.detach() + step * direction)[1][:, -2:]
        return ((x @ x.T) * weight).sum()

    numeric = (projected(1e-5) - projected(-1e-5)) / 2e-5
    assert torch.allclose((a.grad * direction).sum(), numeric, rtol=1e-6)


@pytest.mark.parametrize("layout", ["csr", "coo"])
def test_sparse_values_get_gradients_on_the_pattern(layout: str) -> None:
    dense = _symmetric(14, seed=1).detach()
    dense[dense.abs() < 0.9] = 0.0
    dense = (dense + dense.T) / 2
    weight = torch.randn(14, 14, dtype=torch.float64)

    def loss(matrix: Tensor) -> Tensor:
        values, v = eigsh(matrix, 3, tol=1e-13)
        return values.square().sum() + ((v @ v.T) * weight).sum()

    full = dense.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(full), full)
    with warnings.catch_warnings():  # torch calls its sparse CSR support beta
        warnings.simplefilter("ignore")
        sparse = dense.to_sparse_csr() if layout == "csr" else dense.to_sparse_coo().coalesce()
    sparse = sparse.requires_grad_()
    loss(sparse).backward()
    assert sparse.grad is not None
    assert torch.allclose(sparse.grad.to_dense(), expected * (dense != 0), atol=1e-9)


def test_degenerate_cut_is_refused() -> None:
    a = torch.diag(torch.tensor([2.0, 1, 1, 0], dtype=torch.float64)).requires_grad_()
    _, v = eigsh(a, 2)
    with pytest.raises(RuntimeError, match="degenerate"):
        ((v @ v.T) * torch.randn(4, 4, dtype=torch.float64)).sum().backward()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("values", "k"), [((5, 5, 0, 0, 0, 0), 1), ((5, 5, 5, 1, 1, 0), 2)])
def test_degenerate_cut_of_a_small_matrix_is_refused(
    values: tuple[float, ...], k: int, seed: int
) -> None:
    """Where the iteration would not stall but answer with noise."""
    q = torch.linalg.qr(
        torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    )[0]
    matrix = (q * torch.tensor(values, dtype=torch.float64)) @ q.T
    matrix = ((matrix + matrix.T) / 2).requires_grad_()
    result = eigsh(matrix, k)
    result.values.sum().backward(retain_graph=True)  # eigenvalues have one
    with pytest.raises(RuntimeError, match=f"k = {k} inside a cluster"):
        (result.vectors @ result.vectors.T * torch.arange(36.0).reshape(6, 6)).sum().backward()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda a: ops.shift(a, 2.0, 1.0),
        lambda a: ops.shift(torch.eye(4), 1.0, a[0, 0]),
        ops.centered,
        ops.low_rank,
        lambda a: ops.low_rank(torch.eye(4), a[0]),
        ops.DenseOperator,
        lambda a: ops.SumOperator([ops.DenseOperator(a)] * 2),
    ],
)
def test_operators_refuse_what_they_would_lose(wrap: Callable[[Tensor], Any]) -> None:
    a = torch.eye(4, dtype=torch.float64, requires_grad=True)
    with pytest.raises(NotImplementedError, match=r"(A|b|factor|\w+s) must not require"):
        eigsh(wrap(a), 1)
    with torch.no_grad():
        eigsh(wrap(a), 1)
    eigsh(wrap(a.detach()), 1)
    with pytest.raises(NotImplementedError, match="B must not require grad"):
        eigsh(a.detach(), 1, B=a)


def test_gradient_with_b_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="gradients with B"):
        eigsh(_symmetric(5), 1, B=torch.ones(5))

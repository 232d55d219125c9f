"""`eigsh`, graph operators and closed forms on a GPU against LAPACK on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import sslspec_fast as sf
from sslspec_fast import operators

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.filterwarnings("ignore:Sparse CSR tensor support"),  # torch's, once per process
]

METHODS = ("auto", "chebyshev", "lanczos", "lobpcg", "dense")
VALUE = {"mixed": 1e-8, "float64": 1e-8, "float32": 2e-5}


def matrix(n: int = 900, parts: int = 1, seed: int = 0) -> sp.csr_array:
    """0/1 adjacency of `parts` components with communities, a hub and uneven degrees."""
    rng = np.random.default_rng(seed)
    size = n // parts
    blocks = []
    for _ in range(parts):
        group = np.arange(size) % 6
        chance = np.where(group[:, None] == group[None], 60.0, 4.0) / size
        upper = np.triu(rng.random((size, size)) < chance, 1)
        upper[0, 1:] |= rng.random(size - 1) < 0.4
        upper[np.arange(size - 1), np.arange(1, size)] = True  # connected
        blocks.append(sp.csr_array((upper | upper.T).astype(np.float64)))
    return sp.csr_array(sp.block_diag(blocks))


def normalized(a: sp.csr_array) -> np.ndarray:
    root = 1 / np.sqrt(np.asarray(a.sum(1)).ravel())
    return root[:, None] * a.toarray() * root


def check(result: Any, exact: np.ndarray, k: int, limit: float, which: str = "LA") -> None:
    values = np.linalg.eigvalsh(exact)
    values = values[::-1][:k] if which == "LA" else values[:k]
    assert result.info.converged
    assert result.values.device.type == result.vectors.device.type == "cuda"
    scale = np.abs(values).max()
    np.testing.assert_allclose(result.values.cpu().double().numpy(), values, atol=limit * scale)
    x = result.vectors.cpu().double().numpy()
    np.testing.assert_allclose(x.T @ x, np.eye(k), atol=100 * limit)
    residual = np.linalg.norm(exact @ x - x * result.values.cpu().double().numpy(), axis=0)
    assert residual.max() <= 1.5 * max(result.info.tol, limit * scale)


@pytest.mark.parametrize("precision", VALUE)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("parts", [1, 3, 15])
def test_a_graph(parts: int, method: str, precision: str, cuda: torch.device) -> None:
    """Known vectors, few and many, are results; the rest comes from the solver."""
    a = matrix(parts=parts)
    op = operators.adjacency(sf.PairGraph.from_sparse(a).to(cuda), normalized=True)
    k, tol = parts + 5, 1e-5 if precision == "float32" else 1e-9
    result = sf.eigsh(op, k, method=method, precision=precision, tol=tol)
    check(result, normalized(a), k, VALUE[precision])


@pytest.mark.parametrize("method", METHODS)
def test_laplacians_from_below(method: str, cuda: torch.device) -> None:
    a = matrix(700, 2)
    graph = sf.PairGraph.from_sparse(a).to(cuda)
    exact = np.diag(np.asarray(a.sum(1)).ravel()) - a.toarray()
    result = sf.eigsh(operators.laplacian(graph), 6, which="SA", method=method, tol=1e-9)
    values = np.linalg.eigvalsh(exact)[:6]
    assert result.info.converged
    np.testing.assert_allclose(result.values.cpu().numpy(), values, atol=1e-7)
    shifted = operators.shift(operators.laplacian(graph), -2.0, 3.0)
    check(sf.eigsh(shifted, 4, method=method, tol=1e-9), 3.0 * np.eye(700) - 2.0 * exact, 4, 1e-8)


@pytest.mark.parametrize("form", ["csr", "coo", "dense", "float32"])
def test_tensors(form: str, cuda: torch.device) -> None:
    exact = normalized(matrix())
    dense = torch.from_numpy(exact).to(cuda)
    given = {
        "csr": dense.to_sparse_csr,
        "coo": dense.to_sparse_coo,
        "dense": lambda: dense,
        "float32": lambda: dense.float().to_sparse_csr(),
    }[form]()
    if form == "float32":
        exact = dense.float().double().cpu().numpy()
    check(sf.eigsh(given, 5, tol=1e-9), exact, 5, 1e-8)


def test_warm_start_deflation_and_an_angle(cuda: torch.device) -> None:
    exact = normalized(matrix())
    given = torch.from_numpy(exact).to(cuda)
    values, vectors = (torch.from_numpy(x[..., ::-1].copy()) for x in np.linalg.eigh(exact))
    first = sf.eigsh(given, 4, tol=1e-9, angle_tol=1e-6)
    check(first, exact, 4, 1e-8)
    sine = torch.linalg.svdvals(vectors[:, 4:].T @ first.vectors.cpu())[0]
    assert float(sine) < 1e-6
    again = sf.eigsh(given, 4, tol=1e-9, x0=first.vectors, method="chebyshev")
    assert again.info.n_matvec <= first.info.n_matvec
    for c in (3, 14):  # few ride along with the products, many are projected out
        rest = sf.eigsh(given, 3, tol=1e-9, deflate=vectors[:, :c].to(cuda), method="chebyshev")
        assert rest.info.converged
        torch.testing.assert_close(rest.values.cpu(), values[c : c + 3], rtol=0, atol=1e-8)
        assert float((vectors[:, :c].T @ rest.vectors.cpu()).abs().max()) < 1e-9


def test_a_setting_for_training_does_not_reach_the_solver(cuda: torch.device) -> None:
    """Products in TF32 keep three digits: block Krylov spaces need all seven of float32."""
    a = matrix()
    op = operators.adjacency(sf.PairGraph.from_sparse(a).to(cuda), normalized=True)
    before = torch.get_float32_matmul_precision()
    exact = sf.eigsh(op, 5, tol=1e-5, precision="float32")
    try:
        torch.set_float32_matmul_precision("high")
        result = sf.eigsh(op, 5, tol=1e-5, precision="float32")
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    check(result, normalized(a), 5, VALUE["float32"])
    assert result.info.n_matvec == exact.info.n_matvec


def test_gradients(cuda: torch.device) -> None:
    exact = torch.from_numpy(normalized(matrix(640)))
    grads = []
    for device in (torch.device("cpu"), cuda):
        leaf = exact.to(device).to_sparse_csr().requires_grad_()
        values, vectors = sf.eigsh(leaf, 3, tol=1e-10, angle_tol=1e-8)
        weight = torch.linspace(0.5, 1.5, 640, dtype=torch.float64, device=device)
        loss = values.square().sum() + (vectors.square().sum(1) * weight).sum()
        loss.backward()
        assert leaf.grad is not None
        grads.append(leaf.grad.to_dense().cpu())
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["vicreg", "simclr", "barlow_twins"])
def test_closed_forms(name: str, cuda: torch.device) -> None:
    graph = sf.PairGraph.from_sparse(matrix())
    here, there = (getattr(sf.spectral, name)(g, 5) for g in (graph, graph.to(cuda)))
    assert there.embedding.device.type == "cuda"
    assert there.loss == pytest.approx(here.loss, rel=1e-6)
    torch.testing.assert_close(there.filter.cpu(), here.filter.cpu(), rtol=1e-5, atol=1e-6)
    hyper = {"penalty": "ls_var"} if name == "vicreg" else {}  # the closed form's default
    gap = sf.spectral.optimality_gap(name, there.embedding, graph.to(cuda), **hyper)
    assert gap.relative_gap == pytest.approx(0.0, abs=1e-6)


def test_cupy_in_cupy_out(cuda: torch.device) -> None:
    cupy = pytest.importorskip("cupy")
    sparse = pytest.importorskip("cupyx.scipy.sparse")
    exact = normalized(matrix())
    given = sparse.csr_matrix(cupy.asarray(exact))
    result = sf.eigsh(given, 5, tol=1e-9)
    assert isinstance(result.vectors, cupy.ndarray)
    np.testing.assert_allclose(
        cupy.asnumpy(result.values), np.linalg.eigvalsh(exact)[::-1][:5], atol=1e-8
    )

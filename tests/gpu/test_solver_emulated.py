"""The solver's tall-skinny products and `eigsh` on their GPU path, run by the emulator."""

from __future__ import annotations

import contextlib
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import sslspec_fast as sf
from sslspec_fast import operators
from sslspec_fast.primitives import basis

from ..support.emulation import ERROR, F32, F64, GpuPaths, close, emulated
from .test_cuda_eigsh import matrix

pytestmark = emulated


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize(
    ("n", "sizes", "q"),
    [
        (1, (3,), 1),
        (70, (16, 16, 1), 16),
        (700, (40, 8, 33), 7),
        (300, (8,), 32),
        (130, (48, 16, 16, 5, 60, 16), 16),
    ],
)
def test_basis(
    core: ModuleType, n: int, sizes: tuple[int, ...], q: int, dtype: torch.dtype, gpu_paths: Any
) -> None:
    """Narrow blocks: Gram matrices with and without weights, combinations, random values."""
    blocks = [torch.randn(n, m, dtype=dtype) for m in sizes]
    tall = torch.cat(blocks, 1).double()
    b, w = torch.randn(n, q, dtype=dtype), torch.rand(n, dtype=dtype)
    for weights in (None, w):
        right = b.double() if weights is None else b.double() * w.double()[:, None]
        for exact in (False, True):
            close(basis.gram(blocks, b, exact, weights), tall.T @ right, ERROR[dtype])
    close(
        basis.gram([blocks[0]], blocks[0][:, :1]), tall[:, : sizes[0]].T @ tall[:, :1], ERROR[dtype]
    )
    c = torch.randn(sum(sizes), q, dtype=F64)
    want = tall @ c
    close(basis.multiply(blocks, c), want, ERROR[dtype])
    both = basis.multiply_into(b.clone(), blocks, c, beta=0.5)
    close(both, want + 0.5 * b.double(), ERROR[dtype])
    twice = basis.multiply_into(b.clone(), [*blocks, *blocks], torch.cat([c, c]))
    close(twice, 2 * want, ERROR[dtype])
    m = min(q, sizes[0])  # in place of the first columns of a block
    small = basis.multiply_into(blocks[0][:, :m], blocks, c[:, :m])
    close(small, want[:, :m], ERROR[dtype])
    rows = basis.random_block(n, q, 5, dtype, torch.device("cpu"))
    part = basis.random_block(n - n // 3, q, 5, dtype, torch.device("cpu"), n // 3)
    assert torch.equal(rows[n // 3 :], part)
    with gpu_paths.off():
        assert torch.equal(rows, basis.random_block(n, q, 5, dtype, torch.device("cpu")))


@pytest.mark.parametrize("dtype", [F32, F64])
def test_wide_basis_products_are_gemms(dtype: torch.dtype, gpu_paths: GpuPaths) -> None:
    n, sizes = 1300, (130, 9)
    blocks = [torch.randn(n, m, dtype=dtype) for m in sizes]
    tall, w = torch.cat(blocks, 1).double(), torch.rand(n, dtype=dtype)
    want = tall.T @ (tall[:, :130] * w.double()[:, None])
    close(basis.gram(blocks, blocks[0], True, w), want, ERROR[dtype])
    close(basis.gram(blocks[1], blocks[0][:, :99]), tall[:, 130:].T @ tall[:, :99], ERROR[dtype])
    x, q = blocks[0].clone(), torch.linalg.qr(blocks[1].double())[0]
    left = tall[:, :130] - q @ (q.T @ tall[:, :130])
    close(basis.project_out(q.to(dtype), x), left, ERROR[dtype])
    c = torch.randn(139, 40, dtype=F64)
    close(basis.multiply(blocks, c), tall @ c, ERROR[dtype])
    out = blocks[0][:, :40]
    got = basis.multiply_into(out, blocks, c, beta=-1.0)
    close(got, tall @ c - tall[:, :40], ERROR[dtype])


@pytest.mark.parametrize("precision", ["mixed", "float32", "float64"])
@pytest.mark.parametrize("parts", [1, 14])
def test_eigsh_on_its_gpu_path(parts: int, precision: str, gpu_paths: GpuPaths) -> None:
    """The same columns multiplied as on a CPU, and the same eigenpairs."""
    a = matrix(1400, parts)
    results = []
    for paths in (contextlib.nullcontext, gpu_paths.off):
        with paths():
            op = operators.adjacency(sf.PairGraph.from_sparse(a), normalized=True)
            results.append(sf.eigsh(op, parts + 4, tol=1e-4, precision=precision))
    here, there = results
    assert here.info.converged
    assert here.info.n_matvec == there.info.n_matvec
    np.testing.assert_allclose(here.values, there.values, atol=1e-6)
    np.testing.assert_allclose(here.vectors.T @ here.vectors, np.eye(parts + 4), atol=1e-5)

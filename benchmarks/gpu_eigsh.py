"""`eigsh` on a GPU against CuPy's (thick-restart Lanczos) and torch.lobpcg, at equal residual.

Problem: the k largest eigenpairs of D^-1/2 G D^-1/2 of a planted partition, 20 entries a row, made
on the device. All solvers get the same tolerance, and their residuals are measured afterwards in
float64: a time counts only with its residual. On a CPU scipy's ARPACK stands in for CuPy.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import sslspec_fast as sf
from sslspec_fast import operators
from sslspec_fast.bench import machine

__all__ = ["SIZES", "WARM_UP", "measure", "warm_up"]

# nodes, k = communities; in the order of what matters most
SIZES = {
    "1e6 nodes, K = 16": (1_000_000, 16),
    "1e6 nodes, K = 64": (1_000_000, 64),
    "4e6 nodes, K = 16": (4_000_000, 16),
    "4e6 nodes, K = 64": (4_000_000, 64),
}
WARM_UP = "warm-up"
_TOL = 1e-4
_REPEAT = 3
_PEER_SECONDS = 20.0  # a solver that takes longer runs once

Solution = tuple[Tensor, Tensor]


def planted(n: int, blocks: int, device: str, degree: float = 20.0, inside: float = 0.8) -> Tensor:
    """(n, n) sparse CSR float64 adjacency; node i lies in community i modulo `blocks`."""
    g = torch.Generator(device=device).manual_seed(0)
    half = int(n * degree / 2)
    within = int(half * inside)

    def draw(high: int, count: int) -> Tensor:
        return torch.randint(0, high, (count,), generator=g, device=device)

    block = draw(blocks, within)
    rows = torch.cat([draw(n // blocks, within) * blocks + block, draw(n, half - within)])
    cols = torch.cat([draw(n // blocks, within) * blocks + block, draw(n, half - within)])
    keep = rows != cols
    rows, cols = rows[keep], cols[keep]
    keys = torch.unique(torch.cat([rows * n + cols, cols * n + rows]))
    indptr = torch.searchsorted(keys, torch.arange(n + 1, device=device) * n)
    values = torch.ones(len(keys), dtype=torch.float64, device=device)
    return torch.sparse_csr_tensor(indptr, keys % n, values, (n, n), check_invariants=False)


def normalized(adjacency: Tensor) -> Tensor:
    indptr, indices = adjacency.crow_indices(), adjacency.col_indices()
    counts = indptr.diff()
    root = counts.double().clamp_min(1.0).rsqrt()
    values = root.repeat_interleave(counts, output_size=len(indices)) * root[indices]
    shape = tuple(adjacency.shape)
    return torch.sparse_csr_tensor(indptr, indices, values, shape, check_invariants=False)


def ours(adjacency: Tensor, k: int, precision: str) -> Callable[[], Solution]:
    op = operators.adjacency(sf.PairGraph.from_sparse(adjacency), normalized=True)

    def solve() -> Solution:
        values, vectors = sf.eigsh(op, k, tol=_TOL, precision=precision)
        return values, vectors

    return solve


def peer(matrix: Tensor, k: int, dtype: torch.dtype) -> Callable[[], Solution]:
    """eigsh(which="LA") of cupyx.scipy.sparse.linalg; of scipy on a CPU."""
    arrays = (matrix.values().to(dtype), matrix.col_indices().int(), matrix.crow_indices().int())
    shape = tuple(matrix.shape)
    if matrix.device.type == "cpu":
        import scipy.sparse.linalg as linalg
        from scipy.sparse import csr_matrix

        csr = csr_matrix(tuple(x.numpy() for x in arrays), shape=shape)
    else:
        import cupy
        from cupyx.scipy.sparse import csr_matrix, linalg

        csr = csr_matrix(tuple(cupy.from_dlpack(x) for x in arrays), shape=shape)

    def solve() -> Solution:
        values, vectors = linalg.eigsh(csr, k, which="LA", tol=_TOL)
        return torch.from_dlpack(values), torch.from_dlpack(vectors)

    return solve


def torch_lobpcg(matrix: Tensor, k: int) -> Callable[[], Solution]:
    def solve() -> Solution:
        torch.manual_seed(0)
        values, vectors = torch.lobpcg(matrix, k, largest=True, tol=_TOL, niter=300)
        return values, vectors

    return solve


def residual(matrix: Tensor, solution: Solution) -> float:
    values, vectors = (x.to(matrix.device, torch.float64) for x in solution)
    return float((matrix @ vectors - vectors * values).norm(dim=0).max())


def warm_up(device: str = "cuda") -> None:
    """Every solver on a small graph, in a process of its own: CuPy's first call compiles for
    seconds, into a cache on disk, and that is not to come out of the time of a measurement.
    """
    adjacency = planted(4000, 16, device)
    for solver, make in _solvers(adjacency, normalized(adjacency), 16).items():
        try:
            outcome = f"{_timed(make(), device)[0]:.2g} s"
        except Exception as error:  # `measure` reports it
            outcome = type(error).__name__
        print(f"{solver}: {outcome}", flush=True)


def _solvers(
    adjacency: Tensor, matrix: Tensor, k: int
) -> dict[str, Callable[[], Callable[[], Solution]]]:
    """In the order of what matters most, should the time run out."""
    return {
        "mixed": lambda: ours(adjacency, k, "mixed"),
        "peer float64": lambda: peer(matrix, k, torch.float64),
        "float32": lambda: ours(adjacency, k, "float32"),
        "peer float32": lambda: peer(matrix, k, torch.float32),
        "float64": lambda: ours(adjacency, k, "float64"),
        "torch.lobpcg": lambda: torch_lobpcg(matrix, k),
    }


def measure(name: str, device: str = "cuda", n: int | None = None) -> None:
    """Median seconds and the residual of each solver, a line of JSON whenever one is done."""
    size, k = SIZES[name]
    size = size if n is None else n
    adjacency = planted(size, k, device)
    matrix = normalized(adjacency)
    entries = len(adjacency.values())
    found: dict[str, Any] = {"graph": name, "entries": entries, "solvers": {}, "missing": {}}
    for solver, make in _solvers(adjacency, matrix, k).items():
        try:
            solve = make()
            seconds, solution = _timed(solve, device)  # compiles, loads, fills caches
            times = [seconds]
            if seconds < _PEER_SECONDS:
                times = [_timed(solve, device)[0] for _ in range(_REPEAT)]
        except Exception as error:  # a peer may be absent, run out of memory or not converge
            lines = str(error).strip().splitlines() or [""]
            found["missing"][solver] = f"{type(error).__name__}: {lines[0][:100]}"
        else:
            found["solvers"][solver] = {
                "seconds": statistics.median(times),
                "residual": residual(matrix, solution),
            }
        print(json.dumps(found), flush=True)


def _timed(solve: Callable[[], Solution], device: str) -> tuple[float, Solution]:
    machine.synchronize(device)
    start = time.perf_counter()
    solution = solve()
    machine.synchronize(device)
    return time.perf_counter() - start, solution

"""The sparse product against scipy and torch on real and planted graphs.

    python -m benchmarks.cases.spmm [graph ...] [--columns 16 32 64] [--seconds 3] [--in-a-row 8]

Y = D^-1/2 A D^-1/2 X into a block that exists, with X (n, columns) row-major. The peers multiply by
the assembled matrix in the dtype of X; the operator of a graph without weights stores no values.
Variants take turns, each with several products in a row, as a solver makes them: with one, every
product would find the blocks of the others in the cache. A line shows the median per product and
how many times slower each peer is.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.cases import graphs
from sslspec_fast import PairGraph, operators
from sslspec_fast.bench import machine, measure

__all__ = ["line", "main"]


def _repeated(call: Callable[[], object], times: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(times):
            call()

    return run


def line(name: str, columns: int, dtype: torch.dtype, seconds: float, in_a_row: int) -> str:
    adjacency = graphs.GRAPHS[name]()
    n, nnz = adjacency.shape[0], adjacency.nnz
    op = operators.adjacency(PairGraph.from_sparse(adjacency), normalized=True)
    x = torch.randn(n, columns, dtype=dtype, generator=torch.Generator().manual_seed(0))
    y, rows = torch.empty_like(x), x.numpy()
    matrix = graphs.normalized(adjacency).astype(rows.dtype)
    with warnings.catch_warnings():  # torch calls its sparse CSR support beta
        warnings.simplefilter("ignore", UserWarning)
        csr = torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr),
            torch.from_numpy(matrix.indices),
            torch.from_numpy(matrix.data),
            size=matrix.shape,
        )
    calls = {"ours": lambda: op.matmat(x, y), "scipy": lambda: matrix @ rows}
    calls["torch CSR"] = lambda: csr @ x
    error = float(np.abs(op.matmat(x, y).numpy() - matrix @ rows).max())
    unit = torch.finfo(dtype).eps
    assert error < 64 * unit, f"{name}: products differ by {error}"

    turns = {peer: _repeated(call, in_a_row) for peer, call in calls.items()}
    times = measure.by_turns(turns, "cpu", seconds=seconds, most=200)
    ours = times.pop("ours")
    middle, low, high = (1e3 * t / in_a_row for t in (ours.p50, ours.p20, ours.p80))
    slower = ", ".join(f"{peer} x{t.p50 / ours.p50:.2f}" for peer, t in times.items())
    return (
        f"{name:10s} n {n:7d} entries/row {nnz / n:5.1f} {str(dtype)[6:]:8s} columns {columns:3d}  "
        f"{middle:8.3f} ({low:.3f}-{high:.3f}) ms   {slower}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("graphs", nargs="*", default=list(graphs.GRAPHS))
    parser.add_argument("--columns", nargs="*", type=int, default=[32])
    parser.add_argument("--seconds", type=float, default=3.0, help="per line")
    parser.add_argument("--in-a-row", type=int, default=8, help="products of a variant's turn")
    options = parser.parse_args()
    for key, fact in machine.describe().items():
        print(f"{key}: {fact}")
    for name in options.graphs or list(graphs.GRAPHS):
        for dtype in (torch.float32, torch.float64):
            for columns in options.columns:
                print(line(name, columns, dtype, options.seconds, options.in_a_row), flush=True)


if __name__ == "__main__":
    main()

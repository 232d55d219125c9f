"""Eigensolvers against scipy on real and planted graphs: seconds, columns, residual, sine.

    python -m benchmarks.cases.eigsh [graph ...] [--tol 1e-4] [--peers arpack,shift_invert,lobpcg]

Problem: the k largest eigenpairs of D^-1/2 A D^-1/2. Every row is timed in this process, residuals
are recomputed in float64, and the sine is that of the largest principal angle to an oracle (ARPACK
or shift-invert in float64 at tol = 0, with spare pairs so that its own cut is converged). A peer
that missed the tolerance is marked: its time is no competition.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg as sla
import scipy.sparse as sp
import scipy.sparse.linalg as spla

import sslspec_fast as sf
from benchmarks.cases import graphs
from sslspec_fast import operators

__all__ = ["CASES", "Row", "main", "run"]

# graph, k, oracle: "direct" where a factorisation is cheap
CASES: dict[str, tuple[int, str]] = {
    "mnist5k": (10, "iterative"),
    "mnist5k:64": (64, "iterative"),
    "usa": (10, "direct"),
    "geonames": (10, "direct"),
    "pp50k-32": (32, "iterative"),
    "pp100k-16": (16, "iterative"),
    "pp100k-64": (64, "iterative"),
    "pp100k-16-hard": (16, "iterative"),
}


@dataclass
class Row:
    graph: str
    solver: str
    seconds: float
    columns: int
    residual: float
    sine: float
    note: str = ""

    def __str__(self) -> str:
        return (
            f"{self.graph:15s} {self.solver:24s} {self.seconds:9.3f} {self.columns:8d} "
            f"{self.residual:10.1e} {self.sine:10.1e}  {self.note}"
        )


class _Counted(spla.LinearOperator):
    """Counts the columns that a peer multiplies."""

    def __init__(self, matrix: sp.csr_matrix) -> None:
        super().__init__(matrix.dtype, matrix.shape)
        self.matrix, self.columns = matrix, 0

    def _matvec(self, x: np.ndarray) -> np.ndarray:
        self.columns += 1
        return self.matrix @ x

    def _matmat(self, x: np.ndarray) -> np.ndarray:
        self.columns += x.shape[1]
        return self.matrix @ x


def _truth(matrix: sp.csr_matrix, k: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """(values, vectors) to rounding level, with 6 spare pairs against a cut inside a cluster."""
    ask = k + 6
    if kind == "direct":
        shifted = sp.csc_matrix((1 + 1e-6) * sp.eye(matrix.shape[0]) - matrix)
        factor = spla.splu(
            shifted, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )  # fmt: skip
        rng = np.random.default_rng(1)
        x = rng.standard_normal((matrix.shape[0], 2 * ask))
        for _ in range(60):  # subspace iteration: a block sees every multiplicity
            x = np.linalg.qr(factor.solve(x))[0]
        small = x.T @ (matrix @ x)
        values, q = np.linalg.eigh((small + small.T) / 2)
        values, vectors = values[::-1], x @ q[:, ::-1]
    else:
        values, vectors = spla.eigsh(matrix, ask, which="LA", tol=0, ncv=4 * ask)
        order = np.argsort(-values)
        values, vectors = values[order], vectors[:, order]
    return values[:k], vectors[:, :k]


def _measure(
    name: str, solver: str, matrix: sp.csr_matrix, truth: np.ndarray, tol: float,
    solve: Callable[[], tuple[np.ndarray, np.ndarray, int, str]],
) -> Row:  # fmt: skip
    start = time.perf_counter()
    values, vectors, columns, note = solve()
    seconds = time.perf_counter() - start
    v = np.asarray(vectors, dtype=np.float64)
    residual = float(np.linalg.norm(matrix @ v - v * np.asarray(values, float), axis=0).max())
    sine = float(np.sin(sla.subspace_angles(truth, v)[0])) if np.isfinite(v).all() else 1.0
    if residual > 1.5 * tol:
        note = f"MISSED tol; {note}"
    return Row(name, solver, seconds, columns, residual, sine, note)


def run(name: str, tol: float, peers: set[str], repeat: int = 3) -> list[Row]:
    """All rows of one graph: ours, then the peers at the same residual tolerance."""
    k, kind = CASES[name]
    if name == "pp100k-16-hard":
        adjacency = graphs.planted_partition(100_000, 16, inside=0.5)
    else:
        adjacency = graphs.GRAPHS[name.split(":")[0]]()
    if name == "geonames":  # the whole graph has 16 components: its first 16 pairs are exact
        adjacency = graphs.largest_component(adjacency)
    matrix = graphs.normalized(adjacency)
    graph = sf.PairGraph.from_sparse(adjacency)
    _, truth = _truth(matrix, k, kind)
    rows = []

    def ours(**settings: object) -> Callable[[], tuple[np.ndarray, np.ndarray, int, str]]:
        def solve() -> tuple[np.ndarray, np.ndarray, int, str]:
            operator = operators.adjacency(graph, normalized=True)
            values, vectors, info = _unpack(sf.eigsh(operator, k, **settings))  # type: ignore[arg-type]
            note = f"{info.method}, {'converged' if info.converged else 'NOT converged'}"
            return values, vectors, info.n_matvec + info.n_solve, note

        return solve

    def best(solver: str, solve: Callable) -> None:
        tries = [_measure(name, solver, matrix, truth, tol, solve) for _ in range(repeat)]
        rows.append(min(tries, key=lambda row: row.seconds))
        print(rows[-1], flush=True)

    best("ours float32", ours(tol=tol, precision="float32"))
    best("ours mixed", ours(tol=tol))
    best("ours mixed tol 1e-8", ours(tol=1e-8))
    best("ours mixed angle 1e-6", ours(tol=tol, angle_tol=1e-6))
    for dtype in ("float32", "float64"):
        typed = matrix.astype(dtype)
        if "arpack" in peers:
            best(f"ARPACK LA {dtype}", lambda m=typed: _arpack(m, k, tol))
    if "shift_invert" in peers:
        repeat = 1
        best("scipy shift-invert", lambda: _scipy_shift_invert(matrix, k, tol))
    if "lobpcg" in peers:
        repeat = 1
        best("scipy LOBPCG", lambda: _scipy_lobpcg(matrix, k, tol))
    return rows


def _unpack(result: sf.EigResult) -> tuple[np.ndarray, np.ndarray, sf.EigInfo]:
    return result.values.numpy(), result.vectors.numpy(), result.info


def _arpack(matrix: sp.csr_matrix, k: int, tol: float) -> tuple[np.ndarray, np.ndarray, int, str]:
    operator = _Counted(matrix)
    values, vectors = spla.eigsh(operator, k, which="LA", tol=tol, v0=np.ones(matrix.shape[0]))
    return values, vectors, operator.columns, ""


def _scipy_shift_invert(
    matrix: sp.csr_matrix, k: int, tol: float
) -> tuple[np.ndarray, np.ndarray, int, str]:
    values, vectors = spla.eigsh(matrix.tocsc(), k, sigma=1 + 1e-5, which="LM", tol=tol)
    return values, vectors, 0, ""


def _scipy_lobpcg(
    matrix: sp.csr_matrix, k: int, tol: float
) -> tuple[np.ndarray, np.ndarray, int, str]:
    import warnings

    operator = _Counted(matrix)
    start = np.random.default_rng(0).standard_normal((matrix.shape[0], k))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values, vectors = spla.lobpcg(operator, start, tol=tol, maxiter=100, largest=True)
    return values, vectors, operator.columns, "maxiter 100"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("graphs", nargs="*", default=list(CASES), help=f"of {list(CASES)}")
    parser.add_argument("--tol", type=float, default=1e-4)
    parser.add_argument("--peers", default="arpack,shift_invert,lobpcg")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    head = ("graph", "solver", "seconds", "columns", "residual", "sine")
    print("{:15s} {:24s} {:>9s} {:>8s} {:>10s} {:>10s}".format(*head))
    for name in options.graphs:
        run(name, options.tol, set(options.peers.split(",")), options.repeat)


if __name__ == "__main__":
    main()

"""Eigensolvers against scipy on real and planted graphs: seconds, columns, residual, errors.

    python -m benchmarks.cases.eigsh [graph ...] [--tol 1e-4] [--limit 60] [--cache DIR] [--out DIR]

Problem: the k largest eigenpairs of D^-1/2 A D^-1/2. Every run has a process of its own and a time
limit, so that one slow peer costs a line, not the table. Residuals are recomputed in float64; the
sine is that of the largest principal angle to an oracle (float64 at rounding level: a factorisation
where one is cheap, else ARPACK at 1e-12; with spare pairs, so that its own cut is converged), and
eigenvalues are compared with the oracle's Rayleigh-Ritz values. All solvers of a graph get the same
residual tolerance; a run that missed it is marked, since its time is no competition. The time is
that of the solve, operator or matrix in hand.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import scipy.linalg as sla
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from benchmarks.cases import graphs

__all__ = ["CASES", "SOLVERS", "Row", "main"]

ROOT = Path(__file__).resolve().parents[2]  # where `-m benchmarks...` finds this package
# graph, k, oracle: "direct" where a factorisation is cheap
CASES: dict[str, tuple[int, str]] = {
    "mnist5k": (10, "iterative"),
    "mnist5k:64": (64, "iterative"),
    "usa": (10, "direct"),
    "geonames": (10, "direct"),
    "pp50k-32": (32, "iterative"),
    "pp100k-16": (16, "iterative"),
    "pp100k-64": (64, "iterative"),
}
# name, dtype the tolerance is fair for, what to run
SOLVERS: dict[str, dict[str, object]] = {
    "auto fp32": {"precision": "float32"},
    "auto mixed": {"precision": "mixed"},
    "auto fp64": {"precision": "float64"},
    "auto mixed, 1e-8 + angle 1e-6": {"precision": "mixed", "tol": 1e-8, "angle_tol": 1e-6},
    "chebyshev mixed": {"precision": "mixed", "method": "chebyshev"},
    "lanczos mixed": {"precision": "mixed", "method": "lanczos"},
    "shift_invert mixed": {"precision": "mixed", "method": "shift_invert"},
    "lobpcg mixed": {"precision": "mixed", "method": "lobpcg"},
    "scipy ARPACK LA fp32": {"peer": "arpack", "dtype": "float32"},
    "scipy ARPACK LA fp64": {"peer": "arpack", "dtype": "float64"},
    "scipy shift-invert fp64": {"peer": "shift_invert"},
    "scipy LOBPCG fp64": {"peer": "lobpcg"},
    "PRIMME LA fp64": {"peer": "primme"},
}
_FACTOR = ("usa", "geonames", "mnist5k")  # a factorisation of the others does not fit in memory


@dataclass
class Row:
    graph: str
    k: int
    solver: str
    tol: float
    seconds: float
    cpu: float  # seconds of all threads: steadier than the clock on a busy machine
    columns: int
    residual: float
    sine: float
    value: float  # largest relative error of an eigenvalue
    note: str = ""


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


def _truth(matrix: sp.csr_matrix, k: int, kind: str) -> np.ndarray:
    """(n, k) to rounding level, with 6 spare pairs against a cut inside a cluster."""
    ask = k + 6
    if kind == "direct":
        shifted = sp.csc_matrix((1 + 1e-6) * sp.eye(matrix.shape[0]) - matrix)
        factor = spla.splu(
            shifted,
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )
        rng = np.random.default_rng(1)
        x, last = rng.standard_normal((matrix.shape[0], 2 * ask)), np.ones(ask)
        for _ in range(60):  # subspace iteration: a block sees every multiplicity
            x, r = np.linalg.qr(factor.solve(x))
            grown = np.abs(np.diag(r))[:ask]
            if np.abs(np.log(grown / last)).max() < 1e-14:
                break
            last = grown
        small = x.T @ (matrix @ x)
        values, q = np.linalg.eigh((small + small.T) / 2)
        values, vectors = values[::-1], x @ q[:, ::-1]
    else:
        values, vectors = spla.eigsh(matrix, ask, which="LA", tol=1e-12, ncv=3 * ask)
        vectors = vectors[:, np.argsort(-values)]
    return vectors[:, :k]


def _adjacency(name: str) -> sp.csr_matrix:
    adjacency = graphs.GRAPHS[name.split(":")[0]]()
    if name == "geonames":  # the whole graph has 16 components: its first 16 pairs are exact
        adjacency = graphs.largest_component(adjacency)
    return adjacency


Solution = tuple[np.ndarray, np.ndarray, int, str]


def _ours(matrix: sp.csr_matrix, k: int, settings: dict) -> Callable[[], Solution]:
    import sslspec_fast as sf
    from sslspec_fast import operators

    operator = operators.adjacency(sf.PairGraph.from_sparse(matrix), normalized=True)

    def solve() -> Solution:
        result = sf.eigsh(operator, k, **settings)
        info = result.info
        note = info.method if info.converged else f"{info.method}, says NOT converged"
        columns = info.n_matvec + info.n_solve
        return result.values.numpy(), result.vectors.numpy(), columns, note

    return solve


def _peer(matrix: sp.csr_matrix, k: int, settings: dict) -> Callable[[], Solution]:
    tol, which, n = settings["tol"], settings["peer"], matrix.shape[0]
    matrix = matrix.astype(settings.get("dtype", "float64"))

    def solve() -> Solution:
        if which == "shift_invert":
            return *spla.eigsh(matrix.tocsc(), k, sigma=1 + 1e-5, which="LM", tol=tol), 0, ""
        operator = _Counted(matrix)
        if which == "arpack":
            start = np.ones(n, matrix.dtype)
            pairs = spla.eigsh(operator, k, which="LA", tol=tol, v0=start)
            return *pairs, operator.columns, ""
        if which == "primme":
            import primme  # type: ignore[import-not-found, unused-ignore]

            pairs = primme.eigsh(operator, k, which="LA", tol=tol, v0=np.ones((n, 1)))
            return *pairs, operator.columns, ""
        block = np.random.default_rng(0).standard_normal((n, k))
        pairs = spla.lobpcg(operator, block, tol=tol, maxiter=500, largest=True)
        return *pairs, operator.columns, ""

    return solve


def _one(name: str, solver: str, tol: float, folder: str, repeat: int) -> None:
    """The child process: solve `repeat` times, print the row of the median time as JSON."""
    warnings.simplefilter("ignore")
    adjacency = sp.load_npz(Path(folder, "adjacency.npz"))
    matrix = graphs.normalized(adjacency)
    truth = np.load(Path(folder, "truth.npy"))
    settings = {"tol": tol, **SOLVERS[solver]}
    k = CASES[name][0]
    ours = "peer" not in settings
    solve = _ours(adjacency, k, settings) if ours else _peer(matrix, k, settings)
    times, cpu = [], []
    for _ in range(repeat):
        start, begin = time.perf_counter(), time.process_time()
        values, vectors, columns, note = solve()
        times.append(time.perf_counter() - start)
        cpu.append(time.process_time() - begin)
        if sum(times) > 10:
            break
    v = np.asarray(vectors, dtype=np.float64)
    residual = float(np.linalg.norm(matrix @ v - v * np.asarray(values, float), axis=0).max())
    sine = float(np.sin(sla.subspace_angles(truth, v)[0])) if np.isfinite(v).all() else 1.0
    exact = np.linalg.eigvalsh(truth.T @ (matrix @ truth))
    value = float(np.abs(np.sort(np.asarray(values, float)) / exact - 1).max())
    if residual > 1.5 * float(str(settings["tol"])):
        note = f"MISSED tol {note}".strip()
    row = Row(
        name,
        k,
        solver,
        float(str(settings["tol"])),
        float(np.median(times)),
        float(np.median(cpu)),
        columns,
        residual,
        sine,
        value,
        note,
    )
    print("ROW " + json.dumps(asdict(row)), flush=True)


def _skip(name: str, solver: str) -> str | None:
    if SOLVERS[solver].get("peer") == "primme" and find_spec("primme") is None:
        return "primme is not installed"
    inverts = "shift" in solver
    if inverts and name.split(":")[0] not in _FACTOR:
        return "the factor does not fit in memory"
    return None


def _run(name: str, solver: str, tol: float, folder: str, options: argparse.Namespace) -> Row:
    nan = float("nan")
    empty = Row(name, CASES[name][0], solver, tol, nan, nan, 0, nan, nan, nan)
    why = _skip(name, solver)
    if why is not None:
        empty.note = why
        return empty
    command = [
        sys.executable,
        "-m",
        "benchmarks.cases.eigsh",
        "--child",
        name,
        solver,
        repr(tol),
        folder,
        str(options.repeat),
    ]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=options.limit,
            env=os.environ,
            check=False,
            cwd=ROOT,
        )
    except subprocess.TimeoutExpired:
        empty.note = f"over {options.limit:.0f} s"
        return empty
    for line in done.stdout.splitlines():
        if line.startswith("ROW "):
            return Row(**json.loads(line[4:]))
    lines = (done.stderr or "no output").strip().splitlines()
    empty.note = f"failed: {lines[-1][:80]}"
    return empty


_HEAD = (
    "graph",
    "k",
    "solver",
    "tol",
    "seconds",
    "cpu",
    "columns",
    "residual",
    "sine",
    "value",
    "note",
)


def _cells(row: Row) -> tuple[str, ...]:
    number = [f"{x:.3f}" if x == x else "-" for x in (row.seconds, row.cpu)]
    small = [f"{x:.0e}" if x == x else "-" for x in (row.tol, row.residual, row.sine, row.value)]
    columns = str(row.columns) if row.columns else "-"
    return row.graph, str(row.k), row.solver, small[0], *number, columns, *small[1:], row.note


def _write(rows: list[Row], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with (out / "eigsh.csv").open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow([field.name for field in fields(Row)])
        writer.writerows([list(asdict(row).values()) for row in rows])
    lines = ["| " + " | ".join(_HEAD) + " |", "|" + "---|" * len(_HEAD)]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
    (out / "eigsh.md").write_text("\n".join(lines) + "\n")


def _prepare(name: str, root: Path) -> Path:
    """Graph and oracle on disk, for the processes that solve."""
    folder = root / name.replace(":", "-")
    if not (folder / "truth.npy").exists():
        folder.mkdir(parents=True, exist_ok=True)
        adjacency = _adjacency(name)
        sp.save_npz(folder / "adjacency.npz", adjacency, compressed=False)
        np.save(folder / "truth.npy", _truth(graphs.normalized(adjacency), *CASES[name]))
    return folder


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        name, solver, tol, folder, repeat = sys.argv[2:7]
        _one(name, solver, float(tol), folder, int(repeat))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("graphs", nargs="*", default=list(CASES), help=f"of {list(CASES)}")
    parser.add_argument("--tol", type=float, default=1e-4, help="residual, relative to ||A|| = 1")
    parser.add_argument("--only", default="", help="solvers whose name contains one of a,b,...")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for a solver's process")
    parser.add_argument("--cache", type=Path, default=None, help="keep graphs and oracles here")
    parser.add_argument("--out", type=Path, default=None, help="folder for eigsh.csv and eigsh.md")
    options = parser.parse_args()
    wanted = [part for part in options.only.split(",") if part]
    rows: list[Row] = []
    shape = "{:12s} {:>3s} {:30s} {:>6s} {:>8s} {:>8s} {:>8s} {:>8s} {:>8s} {:>8s}  {}"
    print(shape.format(*_HEAD))
    for name in options.graphs or list(CASES):
        with tempfile.TemporaryDirectory() as scratch:
            folder = _prepare(name, (options.cache or Path(scratch)).resolve())
            for solver in SOLVERS:
                if wanted and not any(part in solver for part in wanted):
                    continue
                rows.append(_run(name, solver, options.tol, str(folder), options))
                print(shape.format(*_cells(rows[-1])), flush=True)
                if options.out is not None:
                    _write(rows, options.out)


if __name__ == "__main__":
    main()

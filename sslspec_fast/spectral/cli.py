"""``python -m sslspec_fast embed`` and ``gap``: closed forms from files, with an honest report."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from sslspec_fast.graph import PairGraph
from sslspec_fast.spectral._eigen import SpectrumInfo
from sslspec_fast.spectral._files import read_input, read_labels, read_matrix
from sslspec_fast.spectral.barlow_twins import barlow_twins
from sslspec_fast.spectral.closed_form import ClosedForm
from sslspec_fast.spectral.downstream import alignment, downstream_error
from sslspec_fast.spectral.gap import optimality_gap
from sslspec_fast.spectral.simclr import simclr, spectral_contrastive
from sslspec_fast.spectral.vicreg import vicreg

__all__ = ["embed", "gap"]

METHODS = {
    "vicreg": vicreg,
    "simclr": simclr,
    "barlow_twins": barlow_twins,
    "spectral_contrastive": spectral_contrastive,
}
# Options of each loss, as on the command line; None means the function's own default.
_LOSS_OPTIONS: dict[str, tuple[str, ...]] = {
    "vicreg": ("variance", "covariance", "invariance", "penalty", "measure"),
    "simclr": ("center",),
    "barlow_twins": ("off_diagonal",),
    "spectral_contrastive": (),
}


def embed(argv: Sequence[str] | None = None) -> int:
    """Embed a file of features (or a graph) by a closed form; write embedding, report and plot."""
    parser = argparse.ArgumentParser(
        prog="python -m sslspec_fast embed",
        description="Closed-form embedding of features (.npy, .npz, .csv, .parquet) or of a graph "
        "(scipy .npz, .mtx): embedding.npy, spectrum.csv, report.txt and embedding.png in --out.",
    )
    parser.add_argument("input", type=Path, help="features or graph")
    parser.add_argument("--method", choices=METHODS, default="vicreg")
    parser.add_argument("-k", type=int, default=2, help="dimensions of the embedding")
    parser.add_argument("--out", type=Path, default=Path("embedding"), help="output folder")
    parser.add_argument("--graph", type=Path, help="graph over the rows of the features")
    labels_from = parser.add_mutually_exclusive_group()
    labels_from.add_argument("--labels", type=Path, help="labels, .npy or one per line")
    labels_from.add_argument(
        "--label-column", help="column of a .csv or .parquet that holds the labels"
    )
    # None where not given, so that what would be ignored is an error
    parser.add_argument(
        "--affinity", choices=("knn", "labels"), help="graph to build from features (knn)"
    )
    parser.add_argument("--n-neighbors", type=int, help="of --affinity knn (15)")
    parser.add_argument(
        "--linear", action="store_true", help="optimum over Z = X W; writes weights.npy"
    )
    parser.add_argument("--tol", type=float, default=1e-9, help="eigensolver, relative to the norm")
    parser.add_argument(
        "--certify", action="store_true",
        help="prove that the eigensolver missed nothing; status 1 where that fails",
    )  # fmt: skip
    _loss_arguments(parser)
    options = parser.parse_args(argv)
    try:
        if options.out.exists() and not options.out.is_dir():
            raise ValueError(f"--out must be a folder, got the file {options.out}")
        kind, data, labels = read_input(options.input, options.label_column)
        if options.labels is not None:
            labels = read_labels(options.labels)
        hyper = _hyper(options.method, options)
        _check_unused(kind, options)
        graph = _graph(kind, data, labels, options)
        if options.linear:
            if kind != "features":
                raise ValueError("--linear needs features, got a graph as input")
            hyper["features"] = torch.from_numpy(data)
        solver = {"tol": options.tol, "certify": options.certify}
        form = METHODS[options.method](graph, options.k, **solver, **hyper)
        lines = _describe(options, kind, graph, form, labels)
        options.out.mkdir(parents=True, exist_ok=True)
    except (TypeError, ValueError, ImportError, OSError) as problem:
        parser.error(str(problem))
    np.save(options.out / "embedding.npy", form.embedding.numpy())
    if form.weights is not None:
        np.save(options.out / "weights.npy", form.weights.numpy())
    _write_spectrum(options.out / "spectrum.csv", form)
    lines.append(_plot(options.out / "embedding.png", form, labels))
    (options.out / "report.txt").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    print(f"wrote {options.out}/")
    return 0 if form.info.converged and form.info.complete is not False else 1


def gap(argv: Sequence[str] | None = None) -> int:
    """Print how far a saved embedding is from the optimum of a loss on a graph."""
    parser = argparse.ArgumentParser(
        prog="python -m sslspec_fast gap",
        description="Optimality gap of a saved embedding (.npy, .npz, .csv, .parquet) on a graph "
        "(scipy .npz, .mtx): 0 at the closed-form optimum, 1 at the collapsed embedding.",
    )
    parser.add_argument("embedding", type=Path)
    parser.add_argument("graph", type=Path)
    parser.add_argument("--loss", choices=METHODS, default="vicreg")
    parser.add_argument("--features", type=Path, help="compare with the optimum over Z = X W")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    _loss_arguments(parser)
    options = parser.parse_args(argv)
    try:
        z = torch.from_numpy(read_matrix(options.embedding))
        graph = _read_graph(options.graph)
        hyper = _hyper(options.loss, options)
        if options.features is not None:
            hyper["features"] = torch.from_numpy(read_matrix(options.features))
        found = optimality_gap(options.loss, z, graph, **hyper)
    except (TypeError, ValueError, ImportError, OSError) as problem:
        parser.error(str(problem))
    facts = {
        "loss": found.loss, "optimum": found.optimum, "relative_gap": found.relative_gap,
        "best_scale": found.best_scale, "angle_degrees": float(np.degrees(found.angle)),
        "rank": found.rank, "optimal_rank": found.closed_form.rank,
        "converged": found.closed_form.info.converged,
    }  # fmt: skip
    if options.json:
        print(json.dumps(facts))
    else:
        for name, value in facts.items():
            print(
                f"{name:>14}: {value:.10g}" if isinstance(value, float) else f"{name:>14}: {value}"
            )
    return 0 if found.closed_form.info.converged else 1


def _loss_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the loss", "defaults are those of the Python functions")
    group.add_argument("--variance", type=float)
    group.add_argument("--covariance", type=float)
    group.add_argument("--invariance", type=float)
    group.add_argument(
        "--penalty", choices=("hinge_std", "ls_var", "ls_std", "hinge_var"),
        help="of vicreg: embed has ls_var by default, gap hinge_std",
    )  # fmt: skip
    group.add_argument("--measure", choices=("uniform", "degree"))
    group.add_argument("--off-diagonal", type=float)
    group.add_argument("--center", action="store_true", default=None)


def _hyper(method: str, options: argparse.Namespace) -> dict[str, Any]:
    every = {name for names in _LOSS_OPTIONS.values() for name in names}
    given = {name: getattr(options, name) for name in every if getattr(options, name) is not None}
    unknown = sorted(set(given) - set(_LOSS_OPTIONS[method]))
    if unknown:
        raise ValueError(f"{method} has no option {', '.join(unknown)}")
    return given


def _check_unused(kind: str, options: argparse.Namespace) -> None:
    """An option that nothing would read is a mistake, not a wish."""
    builds = {"--affinity": options.affinity, "--n-neighbors": options.n_neighbors}
    given = [name for name, value in builds.items() if value is not None]
    if kind == "graph":
        given += ["--graph"] if options.graph is not None else []
        if given:
            raise ValueError(f"{given[0]} needs features as input, got the graph {options.input}")
    elif options.graph is not None and given:
        raise ValueError(f"{given[0]} builds a graph, so it cannot be given with --graph")
    elif options.affinity == "labels" and options.n_neighbors is not None:
        raise ValueError("--n-neighbors needs --affinity knn, got labels")


def _read_graph(path: Path) -> PairGraph:
    kind, matrix, _ = read_input(path)
    if kind != "graph":
        matrix = sp.csr_array(matrix)
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"{path} must hold a square matrix, got shape {matrix.shape}")
    return PairGraph.from_sparse(matrix)


def _graph(
    kind: str, data: Any, labels: np.ndarray | None, options: argparse.Namespace
) -> PairGraph:
    if kind == "graph":
        return PairGraph.from_sparse(data)
    if options.graph is not None:
        graph = _read_graph(options.graph)
        if graph.n != len(data):
            raise ValueError(
                f"--graph must have one node per row of {options.input}: {len(data)} rows, got "
                f"{graph.n} nodes"
            )
        return graph
    if options.affinity == "labels":
        if labels is None:
            raise ValueError("--affinity labels needs --labels or --label-column")
        if len(labels) != len(data):
            raise ValueError(f"labels must be one per row: {len(data)} rows, got {len(labels)}")
        return PairGraph.from_labels(_codes(labels), weight="class_size", self_loops=True)
    neighbors = 15 if options.n_neighbors is None else options.n_neighbors
    return PairGraph.from_knn(torch.from_numpy(data), n_neighbors=neighbors)


def _codes(labels: np.ndarray) -> np.ndarray:
    """0, 1, ... for the classes; -1 for a negative number, which means unlabelled."""
    codes = np.unique(labels, return_inverse=True)[1]
    with contextlib.suppress(ValueError):  # names
        codes[labels.astype(np.float64) < 0] = -1
    return codes


def _describe(
    options: argparse.Namespace, kind: str, graph: PairGraph, form: ClosedForm,
    labels: np.ndarray | None,
) -> list[str]:  # fmt: skip
    info = form.info
    short = options.method == "vicreg" and form.rank < options.k
    lines = [
        f"{options.method} on {options.input.name} ({kind}), k = {options.k}"
        + (", linear" if options.linear else ""),
        f"graph: {graph.n} nodes, {graph.nnz} entries, {info.components} component(s), "
        f"{info.isolated} isolated",
        f"optimum: loss {form.loss:.10g}, rank {form.rank}, {info.regime}"
        + ("" if info.certified else " (best found, not proven)")
        + (f"; less --invariance keeps more than {form.rank} of {options.k}" if short else ""),
        f"solver: {info}",
        *([f"completeness: {_completeness(info)}"] if options.certify else []),
        "",
        f"{'mode':>4} {'eigenvalue':>14} {'filter':>14} {'residual':>10}",
    ]
    for i, (value, kept, residual) in enumerate(_spectrum(form)):
        lines.append(f"{i + 1:>4} {value:>14.8g} {kept:>14.8g} {residual:>10.1e}")
    if labels is not None:
        lines += [
            "",
            f"alignment of graph and labels: {alignment(graph, labels):.4f}",
            "unexplained share of the labels: "
            f"{downstream_error(form, labels) / _spread(labels):.4f}",
        ]
    return lines


def _completeness(info: SpectrumInfo) -> str:
    if info.complete is None:  # nothing was iterated
        return f"no proof needed, every eigenvalue is computed or known ({info.reason})"
    if info.complete:
        return "proven complete, no eigenvalue was missed (Sylvester's law of inertia)"
    return f"not proven ({info.reason})"


def _spread(labels: np.ndarray) -> float:
    return downstream_error(np.zeros((len(labels), 1)), labels)


def _spectrum(form: ClosedForm) -> list[tuple[float, float, float]]:
    k = len(form.eigenvalues)
    residuals = np.full(k, np.nan)
    residuals[: len(form.info.residuals)] = form.info.residuals
    return list(
        zip(form.eigenvalues.tolist(), form.filter.tolist(), residuals.tolist(), strict=True)
    )


def _write_spectrum(path: Path, form: ClosedForm) -> None:
    rows = ["mode,eigenvalue,filter,residual"]
    rows += [f"{i + 1},{v!r},{s!r},{r!r}" for i, (v, s, r) in enumerate(_spectrum(form))]
    path.write_text("\n".join(rows) + "\n")


def _plot(path: Path, form: ClosedForm, labels: np.ndarray | None) -> str:
    """2-D view and spectrum; says so when matplotlib is not there."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "plot: skipped, needs matplotlib (pip install 'sslspec-fast[plot]')"
    z = form.embedding.numpy()
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    second = z[:, 1] if z.shape[1] > 1 else np.zeros(len(z))
    color: dict[str, Any] = {}
    if labels is not None:
        color = {"c": np.unique(labels, return_inverse=True)[1], "cmap": "tab10"}
    left.scatter(z[:, 0], second, s=4, linewidths=0, **color)
    left.set(xlabel="dimension 1", ylabel="dimension 2", title="embedding")
    right.stem(np.arange(1, len(form.filter) + 1), form.filter.numpy())
    right.set(xlabel="mode", ylabel="filter s_k", title=f"rank {form.rank}")
    figure.savefig(path, dpi=120)
    return f"plot: {path.name}"

"""``python -m sslspec_fast embed`` and ``gap``: closed forms from files, with a report."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..._checks import MEASURES, PENALTIES
from ..._outputs import check_folder, results
from ...graph import PairGraph
from .._labels import class_codes
from ..gap import CLOSED_FORMS, optimality_gap
from .files import (
    Input,
    TableOptions,
    graph_of,
    read_graph,
    read_input,
    read_labels,
    read_matrix,
    table_arguments,
    table_options,
)
from .report import describe, plot, write_spectrum

__all__ = ["embed", "gap"]

# The closed forms of any graph and any number of dimensions.
METHODS = {
    name: CLOSED_FORMS[name]
    for name in ("vicreg", "simclr", "barlow_twins", "spectral_contrastive")
}
# Hyper-parameters on the command line; None means the function's own default.
_HYPER = (
    "variance",
    "covariance",
    "invariance",
    "penalty",
    "measure",
    "off_diagonal",
    "center",
)
# What embed may write, and what each run of it writes.
_NAMES = ("embedding.npy", "weights.npy", "spectrum.csv", "embedding.png", "report.txt")
_ALWAYS = ("embedding.npy", "spectrum.csv", "report.txt")


def embed(argv: Sequence[str] | None = None) -> int:
    """Embed a file of features (or a graph) by a closed form; write embedding, report and plot."""
    parser = _embed_parser()
    options = parser.parse_args(argv)
    with _one_line_errors(parser, options.input):
        inputs = [p for p in (options.input, options.graph, options.labels) if p is not None]
        check_folder(options.out, _NAMES, _ALWAYS, inputs)  # before hours of work
        table = table_options(options, (options.input, options.graph))
        found = read_input(options.input, replace(table, label=options.label_column))
        hyper = _hyper(options.method, options)
        _check_unused(found.kind, options)
        codes = _codes(found, options)
        graph = _graph(found, codes, options, table)
        if options.linear:
            if found.features is None:
                raise ValueError("--linear needs features, got a graph as input")
            hyper["features"] = torch.from_numpy(found.features)
        solver = {"tol": options.tol, "certify": options.certify}
        form = METHODS[options.method](graph, options.k, **solver, **hyper)
        lines = describe(options, found, graph, form, codes)
        with results(options.out, _NAMES, _ALWAYS, inputs) as folder:
            np.save(folder / "embedding.npy", form.embedding.numpy())
            if form.weights is not None:
                np.save(folder / "weights.npy", form.weights.numpy())
            write_spectrum(folder / "spectrum.csv", form)
            lines.append(plot(folder / "embedding.png", form, codes))
            (folder / "report.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    print(f"wrote {options.out}/")
    return 0 if form.info.converged and form.info.complete is not False else 1


def _embed_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sslspec_fast embed",
        usage="%(prog)s INPUT [options]; --help lists them",
        description="Closed-form embedding of features (.npy, .npz, .csv, .tsv, .parquet) or of a "
        "graph (scipy .npz, .mtx): embedding.npy, spectrum.csv, report.txt and embedding.png in "
        "--out, where they replace those of an earlier run.",
    )
    parser.add_argument("input", type=Path, help="features or graph")
    parser.add_argument("--method", choices=METHODS, default="vicreg")
    parser.add_argument("-k", type=int, default=2, help="dimensions of the embedding")
    parser.add_argument("--out", type=Path, default=Path("embedding"), help="output folder")
    parser.add_argument("--graph", type=Path, help="graph over the rows of the features")
    labels_from = parser.add_mutually_exclusive_group()
    labels_from.add_argument(
        "--labels",
        type=Path,
        help="labels, .npy or one per row of text; a negative integer means unlabelled",
    )
    labels_from.add_argument(
        "--label-column", help="column of the input table that holds the labels"
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
        "--certify",
        action="store_true",
        help="prove that the eigensolver missed nothing; status 1 where that fails",
    )
    table_arguments(parser)
    _loss_arguments(parser)
    return parser


def gap(argv: Sequence[str] | None = None) -> int:
    """Print how far a saved embedding is from the optimum of a loss on a graph."""
    parser = argparse.ArgumentParser(
        prog="python -m sslspec_fast gap",
        usage="%(prog)s EMBEDDING GRAPH [options]; --help lists them",
        description="Optimality gap of a saved embedding (.npy, .npz, .csv, .tsv, .parquet) on "
        "a graph (scipy .npz, .mtx): 0 at the closed-form optimum, 1 at the collapsed embedding.",
    )
    parser.add_argument("embedding", type=Path)
    parser.add_argument("graph", type=Path)
    parser.add_argument("--loss", choices=METHODS, default="vicreg")
    parser.add_argument("--features", type=Path, help="compare with the optimum over Z = X W")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    _loss_arguments(parser)
    table_arguments(parser)
    options = parser.parse_args(argv)
    with _one_line_errors(parser, options.embedding):
        paths = [p for p in (options.embedding, options.features) if p is not None]
        table = table_options(options, (*paths, options.graph))
        dense = [read_matrix(path, table) for path in paths]
        graph = read_graph(options.graph, table)
        for note in (note for matrix in dense for note in matrix.notes):
            print(note, file=sys.stderr)
        hyper = _hyper(options.loss, options)
        z, *features = (torch.from_numpy(matrix.values) for matrix in dense)
        if features:
            hyper["features"] = features[0]
        found = optimality_gap(options.loss, z, graph, **hyper)
    facts = {
        "loss": found.loss,
        "optimum": found.optimum,
        "relative_gap": found.relative_gap,
        "best_scale": found.best_scale,
        "angle_degrees": float(np.degrees(found.angle)),
        "rank": found.rank,
        "optimal_rank": found.closed_form.rank,
        "converged": found.closed_form.info.converged,
    }
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
        "--penalty",
        choices=PENALTIES,
        help="of vicreg: embed has ls_var by default, gap hinge_std",
    )
    group.add_argument("--measure", choices=MEASURES)
    group.add_argument("--off-diagonal", type=float)
    group.add_argument("--center", action="store_true", default=None)


def _hyper(method: str, options: argparse.Namespace) -> dict[str, Any]:
    given = {name: getattr(options, name) for name in _HYPER if getattr(options, name) is not None}
    unknown = sorted(set(given) - set(inspect.signature(METHODS[method]).parameters))
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


def _codes(found: Input, options: argparse.Namespace) -> np.ndarray | None:
    """(n,) class codes of the labels, -1 for a row without one; None where no labels are given."""
    labels = found.labels if options.labels is None else read_labels(options.labels)
    if labels is None:
        return None
    source = options.input if options.labels is None else options.labels
    matrix = found.graph if found.features is None else found.features
    assert matrix is not None
    if len(labels) != matrix.shape[0]:
        raise ValueError(
            f"{source}: labels must be one per row of {options.input}: {matrix.shape[0]} rows, got "
            f"{len(labels)} labels, the first is {labels[:1].tolist()}"
        )
    return class_codes(labels, f"{source}: labels")


def _graph(
    found: Input, codes: np.ndarray | None, options: argparse.Namespace, table: TableOptions
) -> PairGraph:
    if found.features is None:
        return graph_of(found, options.input)
    n = len(found.features)
    if options.graph is not None:
        graph = read_graph(options.graph, table)
        if graph.n != n:
            raise ValueError(
                f"--graph must have one node per row of {options.input}: {n} rows, got "
                f"{graph.n} nodes in {options.graph}"
            )
        return graph
    if options.affinity == "labels":
        if codes is None:
            raise ValueError("--affinity labels needs --labels or --label-column")
        return PairGraph.from_labels(codes, weight="class_size", self_loops=True)
    neighbors = 15 if options.n_neighbors is None else options.n_neighbors
    return PairGraph.from_knn(torch.from_numpy(found.features), n_neighbors=neighbors)


@contextlib.contextmanager
def _one_line_errors(parser: argparse.ArgumentParser, path: Path) -> Iterator[None]:
    """What a file, an option or the machine can be to blame for ends in one line and status 2."""
    try:
        yield
    except (TypeError, ValueError, ImportError, OSError, MemoryError, RuntimeError) as problem:
        text = " ".join(str(problem).split())
        # torch says so in a RuntimeError
        if isinstance(problem, MemoryError) or "allocate memory" in text:
            text = f"{path}: not enough memory for the computation ({text})"
        elif isinstance(problem, RuntimeError):
            raise
        parser.error(text)

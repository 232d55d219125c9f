"""``embed``: a closed-form embedding of a file of features or of a graph."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..._outputs import check_folder, program, results
from ...graph import PairGraph
from ...graph.labels import class_codes
from ..closed_form import ClosedForm
from ._arguments import METHODS, for_json, hyper_parameters, loss_arguments, told_in_one_line
from .files import (
    Input,
    TableOptions,
    feature_options,
    graph_of,
    labels_graph,
    read_graph,
    read_input,
    read_labels,
    save_graph,
    table_arguments,
    table_options,
)
from .report import describe, facts, label_facts, plot, write_spectrum

__all__ = ["embed"]

# What embed may write, and what each run of every version writes.
_NAMES = (
    "embedding.npy",
    "weights.npy",
    "graph.npz",
    "spectrum.csv",
    "embedding.png",
    "report.txt",
)
_ALWAYS = ("embedding.npy", "spectrum.csv", "report.txt")


def embed(argv: Sequence[str] | None = None) -> int:
    """Embed a file of features (or a graph) by a closed form; write embedding, report and plot."""
    parser = _parser()
    options = parser.parse_args(argv)
    with told_in_one_line(parser, options.input):
        inputs = [p for p in (options.input, options.graph, options.labels) if p is not None]
        check_folder(options.out, _NAMES, _ALWAYS, inputs)  # before hours of work
        table = table_options(options, (options.input, options.graph))
        of_input = replace(feature_options(options, table), label=options.label_column)
        found = read_input(options.input, of_input)
        hyper = hyper_parameters(options.method, options)
        _check_unused(found.kind, options)
        labels = _labels(found, options)
        codes = None if labels is None else class_codes(labels, _label_name(options))
        graph = _graph(found, codes, options, table)
        if options.linear:
            if found.features is None:
                raise ValueError("--linear needs features, got a graph as input")
            hyper["features"] = torch.from_numpy(found.features)
        shown = sys.stderr.isatty()
        solver = {"tol": options.tol, "certify": options.certify, "progress": shown}
        form = METHODS[options.method](graph, options.k, **solver, **hyper)
        about = None if codes is None else label_facts(graph, form, codes)
        lines = describe(options, found, graph, form, about)
        with results(options.out, _NAMES, _ALWAYS, inputs) as folder:
            _write(folder, graph, form)
            title = f"{options.method} on {options.input.name}: loss {form.loss:.6g}"
            lines.append(plot(folder / "embedding.png", form, title, labels, codes))
            (folder / "report.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
            written = sorted(path.name for path in folder.iterdir())
    if options.json:
        told = facts(options, found, graph, form, about) | {"files": written}
        print(json.dumps(for_json(told)))
    else:
        print("\n".join(lines))
        print(f"wrote {options.out}/")
    return 0 if form.info.converged and form.info.complete is not False else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{program()} embed",
        usage="%(prog)s INPUT [options]; --help lists them",
        description="Closed-form embedding of features (.npy, .npz, .csv, .tsv, .parquet) or of a "
        "graph (scipy .npz, .mtx): embedding.npy, graph.npz (for gap), spectrum.csv, report.txt "
        "and embedding.png in --out, where they replace those of an earlier run.",
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
    parser.add_argument("--json", action="store_true", help="print one JSON object, no report")
    table_arguments(parser)
    loss_arguments(parser)
    return parser


def _check_unused(kind: str, options: argparse.Namespace) -> None:
    """An option that nothing would read is a mistake, not a wish."""
    builds = {"--affinity": options.affinity, "--n-neighbors": options.n_neighbors}
    given = [name for name, value in builds.items() if value is not None]
    if kind == "graph":
        given += ["--graph"] if options.graph is not None else []
        given += ["--impute"] if options.impute is not None else []
        given += ["--scale"] if options.scale else []
        if given:
            raise ValueError(f"{given[0]} needs features as input, got the graph {options.input}")
    elif options.graph is not None and given:
        raise ValueError(f"{given[0]} builds a graph, so it cannot be given with --graph")
    elif options.affinity == "labels" and options.n_neighbors is not None:
        raise ValueError("--n-neighbors needs --affinity knn, got labels")


def _label_name(options: argparse.Namespace) -> str:
    return f"{options.input if options.labels is None else options.labels}: labels"


def _labels(found: Input, options: argparse.Namespace) -> np.ndarray | None:
    """(n,) labels as they are written; None where none are given."""
    labels = found.labels if options.labels is None else read_labels(options.labels)
    if labels is not None and len(labels) != found.rows:
        raise ValueError(
            f"{_label_name(options)} must be one per row of {options.input}: {found.rows} rows, "
            f"got {len(labels)} labels, the first is {labels[:1].tolist()}"
        )
    return labels


def _graph(
    found: Input, codes: np.ndarray | None, options: argparse.Namespace, table: TableOptions
) -> PairGraph:
    if found.features is None:
        return graph_of(found, options.input)
    if options.graph is not None:
        graph = read_graph(options.graph, table)
        if graph.n != found.rows:
            raise ValueError(
                f"--graph must have one node per row of {options.input}: {found.rows} rows, got "
                f"{graph.n} nodes in {options.graph}"
            )
        return graph
    if options.affinity == "labels":
        if codes is None:
            raise ValueError("--affinity labels needs --labels or --label-column")
        return labels_graph(codes)
    neighbors = 15 if options.n_neighbors is None else options.n_neighbors
    return PairGraph.from_knn(torch.from_numpy(found.features), n_neighbors=neighbors)


def _write(folder: Path, graph: PairGraph, form: ClosedForm) -> None:
    np.save(folder / "embedding.npy", form.embedding.numpy())
    if form.weights is not None:
        np.save(folder / "weights.npy", form.weights.numpy())
    save_graph(folder / "graph.npz", graph)
    write_spectrum(folder / "spectrum.csv", form)

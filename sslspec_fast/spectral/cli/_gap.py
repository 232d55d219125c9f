"""``gap``: how far a saved embedding is from the optimum of a loss."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..._outputs import program
from ...graph import PairGraph
from ..gap import optimality_gap
from ._arguments import METHODS, for_json, hyper_parameters, loss_arguments, told_in_one_line
from ._table import Table, TableOptions
from .files import feature_options, read_graph, read_matrix, table_arguments, table_options

__all__ = ["gap"]


def gap(argv: Sequence[str] | None = None) -> int:
    """Print how far a saved embedding is from the optimum of a loss on a graph."""
    parser = _parser()
    options = parser.parse_intermixed_args(argv)  # GRAPH may come after options
    with told_in_one_line(parser, options.embedding):
        hyper = hyper_parameters(options.loss, options)
        _check_unused(options)
        tables = (options.embedding, options.features, options.knn_from, options.graph)
        table = table_options(options, tables)
        z = _read(options.embedding, table)
        of_features = feature_options(options, table)
        if options.features is not None:
            hyper["features"] = torch.from_numpy(_read(options.features, of_features).values)
        graph = _graph(options, table, of_features)
        found = optimality_gap(options.loss, torch.from_numpy(z.values), graph, **hyper)
    told = {
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
        print(json.dumps(for_json(told)))
    else:
        for name, value in told.items():
            print(
                f"{name:>14}: {value:.10g}" if isinstance(value, float) else f"{name:>14}: {value}"
            )
    return 0 if found.closed_form.info.converged else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{program()} gap",
        usage="%(prog)s EMBEDDING GRAPH [options]; --help lists them",
        description="Optimality gap of a saved embedding (.npy, .npz, .csv, .tsv, .parquet) on "
        "a graph (the graph.npz of embed, scipy .npz, .mtx) or on the nearest neighbours of "
        "features: 0 at the closed-form optimum, 1 at the collapsed embedding.",
    )
    parser.add_argument("embedding", type=Path)
    parser.add_argument("graph", type=Path, nargs="?")
    parser.add_argument("--loss", choices=METHODS, default="vicreg")
    parser.add_argument("--features", type=Path, help="compare with the optimum over Z = X W")
    parser.add_argument(
        "--knn-from", type=Path, metavar="FEATURES", help="their neighbours in place of GRAPH"
    )
    parser.add_argument("--n-neighbors", type=int, help="of --knn-from (15)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    loss_arguments(parser)
    table_arguments(parser)
    return parser


def _check_unused(options: argparse.Namespace) -> None:
    if (options.graph is None) == (options.knn_from is None):
        found = "none" if options.graph is None else f"{options.graph} and {options.knn_from}"
        raise ValueError(f"give one graph, as GRAPH or by --knn-from FEATURES; got {found}")
    if options.n_neighbors is not None and options.knn_from is None:
        raise ValueError(f"--n-neighbors needs --knn-from, got the graph {options.graph}")
    changes = {"--impute": options.impute is not None, "--scale": options.scale}
    given = [name for name, is_given in changes.items() if is_given]
    if given and options.features is None and options.knn_from is None:
        raise ValueError(f"{given[0]} needs --features or --knn-from, whose values it changes")


def _read(path: Path, options: TableOptions) -> Table:
    """A table, with its notes on stderr."""
    found = read_matrix(path, options)
    for note in found.notes:
        print(note, file=sys.stderr)
    return found


def _graph(
    options: argparse.Namespace, table: TableOptions, of_features: TableOptions
) -> PairGraph:
    if options.knn_from is None:
        return read_graph(options.graph, table)
    x = _read(options.knn_from, of_features).values
    neighbors = 15 if options.n_neighbors is None else options.n_neighbors
    return PairGraph.from_knn(torch.from_numpy(x), n_neighbors=neighbors)

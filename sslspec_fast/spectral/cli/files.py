"""Features, graphs and labels from the files people have.

A file that cannot be read without a guess is refused in one line that names the file and, where
there is one, the row and the column. Nothing is left out without a note in the report.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from ...graph import PairGraph
from ._arrays import open_archive, read_array
from ._matrix_market import read_matrix_market
from ._parquet import read_parquet
from ._problem import FileProblem, reading
from ._table import IMPUTES, Table, TableOptions, column_titles, prepare
from ._tables import read_column, read_table
from ._text import DELIMITERS, kind_of

__all__ = [
    "Input",
    "TableOptions",
    "feature_options",
    "graph_of",
    "labels_graph",
    "read_graph",
    "read_input",
    "read_labels",
    "read_matrix",
    "save_graph",
    "table_arguments",
    "table_options",
]

Array = np.ndarray
_TABLES = (*DELIMITERS, ".parquet")
_FEATURES, _LABELS = ("X", "features"), ("y", "labels")  # names in a .npz file
_CLASSES = "classes_of_graph"  # as `save_graph` names them


@dataclass
class Input:
    """features (n, d) float64 or a graph (the other is None); labels; what was left out."""

    features: Array | None = None
    graph: sp.csr_array | PairGraph | None = None
    labels: Array | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def kind(self) -> str:
        return "graph" if self.features is None else "features"

    @property
    def rows(self) -> int:
        """Rows of the features, or nodes of the graph."""
        if self.features is not None:
            return len(self.features)
        assert self.graph is not None
        return self.graph.n if isinstance(self.graph, PairGraph) else self.graph.shape[0]


def read_input(path: Path, options: TableOptions | None = None) -> Input:
    """By extension and content: .npy, .csv, .tsv (also with .gz), .parquet hold features, .mtx a
    graph, and .npz a graph (a scipy sparse matrix) or features ("X", "features" or the only array
    besides the labels "y" or "labels").
    """
    options = options or TableOptions()
    if not path.is_file():
        raise FileProblem(path, "input must be a file that exists")
    kind = kind_of(path)
    if kind not in (".npy", ".npz", ".mtx", *_TABLES):
        raise FileProblem(
            path,
            "input must be .npy, .npz, .csv, .tsv, .csv.gz, .tsv.gz, .parquet (features) or .npz, "
            ".mtx (graph)",
        )
    if options.label is not None and kind not in _TABLES:
        raise FileProblem(path, "--label-column needs a .csv, .tsv or .parquet file")
    if kind == ".parquet" and (options.delimiter is not None or options.header is not None):
        raise FileProblem(path, "--delimiter and --header need a .csv or .tsv file")
    with reading(path):
        if kind == ".mtx":
            return Input(graph=read_matrix_market(path))
        if kind == ".npz":
            found = _read_npz(path)
            if isinstance(found, Input):
                return found
        elif kind == ".npy":
            found = _features(read_array(path), path)
        else:
            found = read_parquet(path, options) if kind == ".parquet" else read_table(path, options)
        table = prepare(path, found, options)
        return Input(table.values, labels=table.labels, notes=table.notes)


def read_matrix(path: Path, options: TableOptions | None = None) -> Table:
    """A dense (n, k) embedding or features from .npy, .npz, .csv, .tsv or .parquet."""
    found = read_input(path, options)
    if found.features is None:
        raise FileProblem(path, "must hold a dense matrix, got a sparse one")
    return Table(found.features, notes=found.notes)


def read_graph(path: Path, options: TableOptions | None = None) -> PairGraph:
    """A symmetric graph: a sparse matrix, or a dense one of weights."""
    return graph_of(read_input(path, options), path)


def graph_of(found: Input, path: Path) -> PairGraph:
    """The graph of what `read_input` found."""
    matrix = found.graph if found.features is None else sp.csr_array(found.features)
    if isinstance(matrix, PairGraph):
        return matrix
    assert matrix is not None
    if matrix.shape[0] != matrix.shape[1]:
        raise FileProblem(path, f"must hold a square matrix, got shape {matrix.shape}")
    if matrix.shape[0] == 0:
        raise FileProblem(path, "must hold at least one node, got none")
    with reading(path):
        graph = PairGraph.from_sparse(matrix)
        if not graph.is_symmetric:
            raise FileProblem(path, "must hold a symmetric matrix, got a directed graph")
    return graph


def labels_graph(codes: Array) -> PairGraph:
    """Rows of one class are joined, with weight 1 / n_c: the linear regime is LDA."""
    return PairGraph.from_labels(codes, weight="class_size", self_loops=True)


def save_graph(path: Path, graph: PairGraph) -> None:
    """A .npz file that `read_graph` reads: the classes of a `labels_graph`, which has up to n^2
    entries; of any other graph, SciPy's sparse matrix.
    """
    if graph.kind == "labels":
        assert graph.clique_ids is not None
        np.savez_compressed(path, classes_of_graph=graph.clique_ids.cpu().numpy())
    else:
        sp.save_npz(path, graph.to_scipy())


def read_labels(path: Path) -> Array:
    """(n,) labels: .npy, or text with one label in each row."""
    if not path.is_file():
        raise FileProblem(path, "labels must be a file that exists")
    with reading(path):
        labels = read_array(path) if path.suffix.lower() == ".npy" else read_column(path)
        if labels.ndim != 1:
            raise FileProblem(path, f"labels must be one per row, got shape {labels.shape}")
    return labels


def _read_npz(path: Path) -> Input | Table:
    with open_archive(path) as archive:
        if archive.is_sparse:
            matrix = archive.sparse()
            finite = np.isfinite(matrix.data)
            if not finite.all():
                at = int(np.argmin(finite))
                where = f"entry {at + 1}"
                raise FileProblem(path, f"must be finite, got {matrix.data[at]}", where)
            return Input(graph=matrix)
        names = archive.names
        if names == [_CLASSES]:
            return Input(graph=_read_classes(archive[_CLASSES], path))
        chosen = {}
        for meaning in (_FEATURES, _LABELS):
            found = [name for name in meaning if name in names]
            if len(found) > 1:
                raise FileProblem(path, f"must hold one of {meaning}, got both")
            chosen[meaning] = found[0] if found else None
        label, feature = chosen[_LABELS], chosen[_FEATURES]
        rest = [name for name in names if name not in (label, feature)]
        if feature is None:
            if len(rest) != 1:
                raise FileProblem(
                    path, f"must hold one array, or one named X or features, got {sorted(names)}"
                )
            feature = rest.pop()
        notes = [f"left out of {path.name}: {', '.join(rest)}"] if rest else []
        labels = None if label is None else archive[label]
        if labels is not None and labels.ndim != 1:
            raise FileProblem(
                path, f"labels must be one per row, got shape {labels.shape}", f"member {label}"
            )
        return replace(_features(archive[feature], path), labels=labels, notes=notes)


def _read_classes(ids: Array, path: Path) -> PairGraph:
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or len(ids) == 0:
        shown = f"shape {ids.shape} of {ids.dtype}"
        raise FileProblem(path, f"must be integers (n,), got {shown}", f"member {_CLASSES}")
    return labels_graph(ids)


def _features(x: Array, path: Path) -> Table:
    if x.ndim < 2:
        raise FileProblem(path, f"must hold an (n, d) array, got shape {x.shape}")
    if x.dtype.kind not in "biuf":
        raise FileProblem(path, f"must be real numbers, got dtype {x.dtype}")
    if x.size == 0:
        raise FileProblem(path, f"must hold at least one row and one column, got shape {x.shape}")
    with np.errstate(over="ignore"):  # of long doubles: infinite below
        x = x.reshape(len(x), -1).astype(np.float64)
    return Table(x, titles=column_titles(x.shape[1]))


def table_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        ".csv, .tsv (also .gz) and .parquet files",
        "a first column without a name holds row names, as pandas and R write them, and is left "
        "out; other ambiguous cases are errors that these options settle",
    )
    group.add_argument(
        "--delimiter",
        help="character that ends a cell (',', or ';' or a tab where row 1 has no ','; in .tsv a "
        "tab)",
    )
    group.add_argument(
        "--header", action=argparse.BooleanOptionalAction, help="row 1 names the columns, or not"
    )
    index = group.add_mutually_exclusive_group()
    index.add_argument(
        "--index-column",
        action="append",
        default=[],
        metavar="NAME",
        help="column that is no feature (by number from 0 without a header); may be repeated",
    )
    index.add_argument("--no-index-column", action="store_true", help="every column is a feature")
    group = parser.add_argument_group("the features, whichever file they are in")
    group.add_argument(
        "--impute", choices=IMPUTES, help="fill in missing values by that of their column"
    )
    group.add_argument(
        "--scale", action="store_true", help="every column to mean 0 and standard deviation 1"
    )


def table_options(options: argparse.Namespace, paths: Iterable[Path | None] = ()) -> TableOptions:
    """The options of `table_arguments` for the tables among paths; an error if there are none."""
    delimiter = options.delimiter
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n '):
        raise ValueError(f"--delimiter must be one character, no quote or space, got {delimiter!r}")
    table = TableOptions(
        delimiter, options.header, tuple(options.index_column), options.no_index_column
    )
    kinds = [kind_of(path) for path in paths if path is not None]
    if table != TableOptions() and not any(kind in _TABLES for kind in kinds):
        raise ValueError(
            "--delimiter, --header and --index-column need a .csv, .tsv or .parquet file, got "
            f"{' and '.join(kinds)}"
        )
    return table


def feature_options(options: argparse.Namespace, table: TableOptions) -> TableOptions:
    """`table` for the file of the features, with what --impute and --scale say."""
    return replace(table, impute=options.impute, scale=options.scale)

"""Tables of Apache Parquet, whose columns have types."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ._problem import FileProblem
from ._table import Table, TableOptions
from ._tables import TableColumns, check_counting

__all__ = ["read_parquet"]


def read_parquet(path: Path, options: TableOptions) -> Table:
    """A .parquet file of numbers, with at most one column of labels of any type."""
    try:
        import pandas
    except ImportError as missing:
        raise ImportError(
            "reading .parquet needs pandas: pip install 'sslspec-fast[parquet]'"
        ) from missing
    frame = pandas.read_parquet(path)
    names = [str(name) for name in frame.columns]
    columns = TableColumns(path, names, replace(options, header=True, every=True))
    if not isinstance(frame.index, pandas.RangeIndex):
        columns.notes.append(f"left out of {path.name}: the index {frame.index.name!r}")
    if not len(frame):
        raise FileProblem(path, "must hold at least one row of values, got none")
    for j in columns.features:
        dtype = frame.dtypes.iloc[j]
        if getattr(dtype, "kind", "O") not in "biuf":
            raise FileProblem(path, f"must be numbers, got {dtype}", f"column {names[j]!r}")
    labels = None
    if columns.label is not None:
        column = frame.iloc[:, columns.label]
        holes = column.isna().to_numpy()
        if holes.any():
            where = f"row {int(np.argmax(holes)) + 1}, column {names[columns.label]!r}"
            raise FileProblem(
                path, "must be a label, got a missing value; -1 means unlabelled", where
            )
        labels = column.to_numpy()
    features = frame.iloc[:, columns.features]
    x = np.ascontiguousarray(features.to_numpy(np.float64, na_value=np.nan))
    kept = [names[j] for j in columns.features]
    check_counting(x, path, kept, options)
    return Table(x, labels, columns.notes, [f"column {name!r}" for name in kept])

"""Reading features, graphs and labels from the files people have."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import scipy.sparse as sp

__all__ = ["read_input", "read_labels", "read_matrix"]

Array = np.ndarray


def read_input(path: Path, label_column: str | None = None) -> tuple[str, Any, Array | None]:
    """("features", (n, d) array, labels or None) or ("graph", CSR, None), by extension and content.

    .npy, .csv, .parquet: features; .mtx: graph; .npz: a scipy sparse matrix is a graph, else the
    array "X", "features" or the only array is the features (and "y" or "labels" the labels).
    """
    if not path.exists():
        raise ValueError(f"input must be a file that exists, got {path}")
    kind = path.suffix.lower()
    if label_column is not None and kind not in (".csv", ".parquet"):
        raise ValueError(f"--label-column needs a .csv or .parquet input, got {path}")
    if kind == ".mtx":
        return "graph", sp.csr_array(scipy.io.mmread(path)), None
    if kind == ".npz":
        with _load(path) as data:
            if "format" in data and "shape" in data:
                return "graph", sp.csr_array(sp.load_npz(path)), None
            names = [name for name in ("X", "features") if name in data] or list(data)
            labels = next((data[name] for name in ("y", "labels") if name in data), None)
            if not names or (names[0] not in ("X", "features") and len(names) > 1):
                raise ValueError(
                    f"{path} must hold one array, or one named X or features, got {sorted(data)}"
                )
            return "features", _table(data[names[0]], path), labels
    if kind == ".npy":
        return "features", _table(_load(path), path), None
    if kind == ".csv":
        return _columns(*_read_csv(path), label_column, path)
    if kind == ".parquet":
        try:
            import pandas
        except ImportError as missing:
            raise ImportError("reading .parquet needs pandas: pip install pandas pyarrow") \
                from missing  # fmt: skip
        frame = pandas.read_parquet(path)
        rows = [[str(v) for v in row] for row in frame.itertuples(index=False)]
        return _columns([str(c) for c in frame.columns], rows, label_column, path)
    raise ValueError(
        "input must be .npy, .npz, .csv, .parquet (features) or .npz, .mtx (graph), "
        f"got {path.name}"
    )


def read_matrix(path: Path) -> Array:
    """A dense (n, k) embedding from .npy, .npz, .csv or .parquet."""
    kind, value, _ = read_input(path)
    if kind != "features":
        raise ValueError(f"{path} must hold a dense matrix, got a sparse one")
    return np.asarray(value)


def read_labels(path: Path) -> Array:
    """(n,) labels: .npy, or text with one label per line."""
    if path.suffix.lower() == ".npy":
        labels = _load(path)
    else:
        labels = np.array([line.strip() for line in path.read_text().splitlines() if line.strip()])
    if labels.ndim != 1:
        raise ValueError(f"labels must be one per row, got shape {labels.shape}")
    return labels


def _load(path: Path) -> Any:
    archive = path.suffix.lower() == ".npz"
    try:
        if archive != zipfile.is_zipfile(path):
            raise ValueError(f"{'no ' if archive else ''}zip archive")
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as problem:
        raise ValueError(f"{path} must be a NumPy file of plain arrays: {problem}") from problem


def _table(x: Array, path: Path) -> Array:
    if x.ndim < 2:
        raise ValueError(f"{path} must hold an (n, d) array, got shape {x.shape}")
    if x.dtype.kind not in "biuf":
        raise ValueError(f"{path} must be real numbers, got dtype {x.dtype}")
    if x.size == 0:
        raise ValueError(f"{path} must hold at least one row and one column, got shape {x.shape}")
    return x.reshape(len(x), -1).astype(np.float64)


def _read_csv(path: Path) -> tuple[list[str] | None, list[list[str]]]:
    with path.open(newline="") as file:
        rows = [row for row in csv.reader(file) if row]
    header = rows.pop(0) if rows and not all(_is_number(v) for v in rows[0]) else None
    return header, rows


def _columns(
    header: list[str] | None, rows: list[list[str]], label_column: str | None, path: Path
) -> tuple[str, Array, Array | None]:
    if not rows:
        raise ValueError(f"{path} must hold at least one row of values, got none")
    labels = None
    width = {len(row) for row in rows}
    if len(width) != 1:
        raise ValueError(f"{path} must have rows of one length, got lengths {sorted(width)}")
    if label_column is not None:
        names = header if header is not None else [str(i) for i in range(width.pop())]
        if label_column not in names:
            raise ValueError(f"label column must be one of {names}, got {label_column!r}")
        at = names.index(label_column)
        labels = np.array([row[at] for row in rows])
        rows = [row[:at] + row[at + 1 :] for row in rows]
    try:
        x = np.array(rows, dtype=np.float64)
    except ValueError as problem:
        raise ValueError(f"{path} must hold numbers only, besides --label-column: {problem}") \
            from problem  # fmt: skip
    return "features", _table(x, path), labels


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

"""Tables of text, without a guess: what has two readings is an error that says how to choose.

pandas takes the body of a plain table, if it is installed, and the `csv` module in its strict mode
everything else: quoted cells, and whatever has to be named by row and column. What pandas would
guess is taken from it: it gets no header and no quotes, the words for missing values are those of
`_MISSING`, and rows that it filled are found by counting delimiters.
"""

from __future__ import annotations

import array
import csv
import importlib.util
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ._problem import FileProblem
from ._table import Table, TableOptions, counts_rows
from ._text import DELIMITERS, delimiter_of, kind_of, read_bytes, row_1, split

__all__ = ["TableColumns", "check_counting", "read_column", "read_table"]

Array = np.ndarray
_MISSING = {"", "na", "n/a", "#n/a", "nan", "<na>", "null", "none", "?", "-", "."}
_FORMS = (str, str.upper, str.title)
_MISSING_WORDS = sorted({form(word) for word in _MISSING for form in _FORMS} | {"NaN"})
_ROW_NAMES = ("", "Unnamed: 0")  # the first name over the row names that pandas and R write


def read_table(path: Path, options: TableOptions) -> Table:
    """A .csv or .tsv file of numbers, with at most one column of labels."""
    raw = read_bytes(path)
    line = row_1(raw)
    delimiter = options.delimiter or delimiter_of(path, line)
    # a quoted cell may go on after the line
    _, first = next(split(path, raw.decode() if '"' in line else line, delimiter), (1, []))
    if not first:
        raise FileProblem(path, "must hold at least one row of values, got none")
    columns = TableColumns(path, first, options)
    if options.delimiter is None and delimiter != DELIMITERS[kind_of(path)]:
        columns.notes.append(f"{path.name}: {delimiter!r} ends a cell")
    body = _plain(path, raw, delimiter, columns)
    if body is None:
        rows = split(path, raw.decode(), delimiter)
        body = _strict(path, itertools.islice(rows, int(columns.named), None), columns)
    if len(body.values) == 0:
        raise FileProblem(path, "must hold at least one row of values, got none")
    if len(set(body.row_names)) < len(body.row_names):
        raise FileProblem(
            path,
            "has no name, as row names have, but holds a value twice: say --index-column '' or "
            "--no-index-column",
            "column 1",
        )
    check_counting(body.values, path, [columns.names[j] for j in columns.features], options)
    labels = np.array(body.labels) if columns.label is not None else None
    titles = [columns.title(j) for j in columns.features]
    return Table(body.values, labels, columns.notes, titles, first_row=2 if columns.named else 1)


@dataclass
class _Body:
    """values: (n, d), NaN where one is missing; labels and row names of the rows, if any."""

    values: Array
    labels: list[str]
    row_names: list[str]


def _strict(path: Path, rows: Iterator[tuple[int, list[str]]], columns: TableColumns) -> _Body:
    """The rows cell by cell; the first cell that is neither a number nor missing is named."""
    kept, label, index = columns.features, columns.label, columns.row_names
    values, labels, row_names = array.array("d"), list[str](), list[str]()
    for number, cells in rows:
        if label is not None:
            labels.append(_label(path, number, columns.title(label), cells[label]))
        if index is not None:
            row_names.append(cells[index])
        chosen = [cells[j] for j in kept]
        text = "".join(chosen)
        try:
            if "_" in text or not text.isascii():  # float() takes 1_000 and digits of every script
                raise ValueError
            values.extend(map(float, chosen))
        except ValueError:
            del values[len(values) - len(values) % len(kept) :]
            values.extend(_value(path, number, columns, j, cells[j]) for j in kept)
    return _Body(np.frombuffer(values, np.float64).reshape(-1, len(kept)), labels, row_names)


def _plain(path: Path, raw: bytes, delimiter: str, columns: TableColumns) -> _Body | None:
    """The same by pandas' reader; None where `_strict` has to decide, or without pandas."""
    several, named = len(columns.names) > 1, int(columns.named)
    if b'"' in raw or not delimiter.isascii() or importlib.util.find_spec("pandas") is None:
        return None
    import pandas

    if several and raw.endswith((b"\n\n", b"\r\r", b"\n\r\n")):  # empty rows
        raw = raw.rstrip(b"\r\n")
    version = tuple(map(int, pandas.__version__.split(".")[:2]))
    precision: Any = {} if version >= (3, 1) else {"float_precision": "round_trip"}
    kept = columns.features
    others = [j for j in range(len(columns.names)) if j not in kept]
    try:
        frame = pandas.read_csv(
            io.BytesIO(raw),
            sep=delimiter,
            header=None,
            skiprows=named,
            dtype={**dict.fromkeys(kept, np.float64), **dict.fromkeys(others, str)},
            quoting=csv.QUOTE_NONE,
            skip_blank_lines=False,
            keep_default_na=False,
            na_values=_MISSING_WORDS,
            **precision,
        )
    except ValueError:
        return None
    # pandas fills short rows
    full = raw.count(delimiter.encode()) == (len(columns.names) - 1) * (len(frame) + named)
    if frame.shape[1] != len(columns.names) or not full or frame[others].isna().any(axis=None):
        return None
    values = np.ascontiguousarray(frame[kept].to_numpy(np.float64))
    if not several and np.isnan(values).any():
        return None
    label, index = columns.label, columns.row_names
    labels = [] if label is None else frame[label].tolist()
    if label is not None:
        title = columns.title(label)
        labels = [_label(path, i, title, cell) for i, cell in enumerate(labels, 1 + named)]
    return _Body(values, labels, [] if index is None else frame[index].tolist())


class TableColumns:
    """The meaning of each column, from row 1 and the options."""

    def __init__(self, path: Path, first: Sequence[str], options: TableOptions) -> None:
        self._first, self.notes = [cell.strip() for cell in first], list[str]()
        header = options.header
        if header is None:
            header = _is_header(path, self._first, options)
        self.named = header
        names = self._first if header else [str(j) for j in range(len(first))]
        for j, name in enumerate(names):
            if name in names[:j]:
                both = f"columns {names.index(name) + 1} and {j + 1}"
                raise FileProblem(path, f"{both} must not both be named {name!r}", "row 1")
        self.names = names
        left_out = {self._find(path, "--index-column", name) for name in options.index}
        self.label = None
        if options.label is not None:
            self.label = self._find(path, "--label-column", options.label)
            if self.label in left_out:
                raise FileProblem(
                    path, f"--index-column and --label-column must differ, got {options.label!r}"
                )
        unnamed = header and names[0] in _ROW_NAMES and self.label != 0
        self.row_names = 0 if unnamed and not left_out and not options.every else None
        if self.row_names is not None:
            left_out.add(0)
            self.notes.append(f"left out of {path.name}: column 1, which has no name (row names)")
        self.features = [j for j in range(len(names)) if j not in left_out and j != self.label]
        if not self.features:
            raise FileProblem(path, "must hold at least one row and one column of features")

    def _find(self, path: Path, option: str, name: str) -> int:
        if name not in self.names:
            raise FileProblem(path, f"{option} must be one of {self.names}, got {name!r}")
        return self.names.index(name)

    def title(self, j: int) -> str:
        return f"column {j + 1} ({self.names[j]!r})" if self.named else f"column {j + 1}"


def _is_header(path: Path, cells: list[str], options: TableOptions) -> bool:
    """Whether row 1 names the columns; an error where it could be either."""
    by_number = (options.label or "", *options.index)  # columns that need not be numbers
    data = [_number(cell) for j, cell in enumerate(cells) if str(j) not in by_number]
    if data and None not in data:
        if len(data) > 2 and counts_rows(np.array(data)) is not None:
            raise FileProblem(
                path,
                "must be called --header if these numbers name the columns, --no-header if they "
                "are data",
                "row 1",
            )
        return False
    names = [(j == 0 and not cell) or _is_name(cell) for j, cell in enumerate(cells)]
    if all(names) and len(names) > 1:
        return True
    numbers = [_number(cell) is not None for cell in cells]
    at = ((numbers if any(numbers) else names) + [False]).index(False) % len(cells)
    raise FileProblem(
        path,
        f"must be a row of numbers or a row of names, got {cells[at][:60]!r}; say --header if it "
        "names the columns, --no-header if it is data",
        f"row 1, column {at + 1}",
    )


def _is_name(cell: str) -> bool:
    return cell.lower() not in _MISSING and re.match(r"[0-9.+-]", cell) is None


def _number(cell: str) -> float | None:
    try:
        return float(cell) if cell.isascii() and "_" not in cell else None
    except ValueError:
        return None


def _label(path: Path, number: int, column: str, cell: str) -> str:
    text = cell.strip()
    if text.lower() in _MISSING:
        where = ", ".join(filter(None, (f"row {number}", column)))
        raise FileProblem(path, f"must be a label, got {cell!r}; -1 means unlabelled", where)
    return text


def _value(path: Path, number: int, columns: TableColumns, j: int, cell: str) -> float:
    """A cell as a number, NaN where it is missing."""
    found = _number(cell)
    if found is not None:
        return found
    if cell.strip().lower() in _MISSING:
        return float("nan")
    others = [d for d in ";\t," if d in cell]
    hint = f" (say --delimiter {others[0]!r} if that ends a cell)" if others else ""
    if not hint:
        hint = " (--label-column and --index-column name columns that are no features)"
    where = f"row {number}, {columns.title(j)}"
    raise FileProblem(path, f"must be a number, got {cell[:60]!r}{hint}", where)


def check_counting(x: Array, path: Path, names: Sequence[str], options: TableOptions) -> None:
    """No feature counts the rows, unless every column is said to be one."""
    if options.every or len(x) < 3:
        return
    for j, name in enumerate(names):
        start = counts_rows(x[:, j])
        if start is not None:
            raise FileProblem(
                path,
                f"counts the rows from {start}: say --index-column {name} to leave it out, "
                "--no-index-column to take every column as a feature",
                f"column {name!r}",
            )


def read_column(path: Path) -> Array:
    """(n,) labels, one in each row of a text file; quotes protect a delimiter."""
    labels = []
    for number, cells in split(path, read_bytes(path).decode(), ","):
        if len(cells) > 1 or "\t" in cells[0] or ";" in cells[0]:
            raise FileProblem(
                path, f"must be one label, got {','.join(cells)[:60]!r}: a table?", f"row {number}"
            )
        labels.append(_label(path, number, "", cells[0]))
    if not labels:
        raise FileProblem(path, "must hold at least one label, got none")
    return np.array(labels)

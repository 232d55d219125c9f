"""Tables of text, without a guess: what has two readings is an error that says how to choose.

The `csv` module splits the rows; pandas would fill short rows, rename columns, take words for
missing values and repair quotes, each of which changes what a file says.
"""

from __future__ import annotations

import array
import csv
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ._problem import FileProblem

__all__ = ["DELIMITERS", "Table", "TableOptions", "read_column", "read_parquet", "read_table"]

Array = np.ndarray
DELIMITERS = {".csv": ",", ".tsv": "\t"}
_MISSING = {"", "na", "n/a", "#n/a", "nan", "<na>", "null", "none", "?", "-", "."}
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff]")
_ROW_NAMES = ("", "Unnamed: 0")  # the first name over the row names that pandas and R write


@dataclass(frozen=True)
class TableOptions:
    """What a table does not say itself. header: whether row 1 names the columns; index: columns to
    leave out; every: no column counts rows, all are features.
    """

    delimiter: str | None = None
    header: bool | None = None
    index: tuple[str, ...] = ()
    every: bool = False
    label: str | None = None


@dataclass
class Table:
    """values: (n, d) features; labels: (n,) or None; notes: what was left out, for the report."""

    values: Array
    labels: Array | None = None
    notes: list[str] = field(default_factory=list)


def read_table(path: Path, options: TableOptions) -> Table:
    """A .csv or .tsv file of numbers, with at most one column of labels."""
    rows = _rows(path, options.delimiter or DELIMITERS[path.suffix.lower()])
    number, first = next(rows, (1, []))
    if not first:
        raise FileProblem(path, "must hold at least one row of values, got none")
    columns = _Columns(path, first, options)
    if not columns.named:
        rows = itertools.chain([(number, first)], rows)
    kept, label, index = columns.features, columns.label, columns.row_names
    every = kept == list(range(len(first)))
    values, labels, row_names = array.array("d"), [], []
    n = 0
    for number, cells in rows:
        n += 1
        if label is not None:
            labels.append(_label(path, number, columns.title(label), cells[label]))
        if index is not None:
            row_names.append(cells[index])
        chosen = cells if every else [cells[j] for j in kept]
        text = "".join(chosen)
        try:
            if "_" in text or not text.isascii():  # float() takes 1_000 and digits of every script
                raise ValueError
            values.extend(map(float, chosen))
        except ValueError:
            raise _bad_cell(path, number, columns, cells) from None
    if n == 0:
        raise FileProblem(path, "must hold at least one row of values, got none")
    x = np.frombuffer(values, np.float64).reshape(n, len(kept))
    titles = [columns.title(j) for j in kept]
    _check_finite(x, path, titles, first_row=2 if columns.named else 1)
    if len(set(row_names)) < len(row_names):
        raise FileProblem(
            path,
            "has no name, as row names have, but holds a value twice: say --index-column '' or "
            "--no-index-column",
            "column 1",
        )
    _check_counting(x, path, [columns.named_as(j) for j in kept], options)
    return Table(x, np.array(labels) if label is not None else None, columns.notes)


class _Columns:
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
        self._names = names
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
        if name not in self._names:
            raise FileProblem(path, f"{option} must be one of {self._names}, got {name!r}")
        return self._names.index(name)

    def named_as(self, j: int) -> str:
        return self._names[j]

    def title(self, j: int) -> str:
        return f"column {j + 1} ({self._names[j]!r})" if self.named else f"column {j + 1}"


def _is_header(path: Path, cells: list[str], options: TableOptions) -> bool:
    """Whether row 1 names the columns; an error where it could be either."""
    by_number = (options.label or "", *options.index)  # columns that need not be numbers
    data = [_number(cell) for j, cell in enumerate(cells) if str(j) not in by_number]
    if data and None not in data:
        if len(data) > 2 and _counts(np.array(data)) is not None:
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


def _counts(column: Array) -> int | None:
    """0 or 1 for a column that counts the rows from there, else None."""
    for start in (0, 1):
        if np.array_equal(column, np.arange(start, start + len(column))):
            return start
    return None


def _text(path: Path) -> str:
    raw = path.read_bytes()
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise FileProblem(path, "must be UTF-8, got a byte order mark of UTF-16")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        row = _row_at(raw[: problem.start].decode("latin-1"))
        byte = raw[problem.start]
        raise FileProblem(path, f"must be UTF-8, got the byte 0x{byte:02x}", row) from problem
    strange = _CONTROL.search(text)
    if strange is not None:
        row = _row_at(text[: strange.start()])
        raise FileProblem(path, f"must be text, got the character {strange.group()!r}", row)
    return text


def _row_at(before: str) -> str:
    return f"row {len(re.findall(chr(13) + chr(10) + '?|' + chr(10), before)) + 1}"


def _rows(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(row number, cells): rows of one length, counted from 1 as an editor counts them. Only the
    end of a file of several columns may have empty rows.
    """
    reader = csv.reader(io.StringIO(_text(path), newline=""), delimiter=delimiter, strict=True)
    width, number, empty = 0, 0, 0
    while True:
        number += 1
        try:
            cells = next(reader, None)
        except csv.Error as problem:
            raise FileProblem(
                path, f"cannot be split into cells: {problem}", f"row {number}"
            ) from problem
        if cells is None:
            return
        if reader.line_num != number:
            raise FileProblem(
                path, "must be one line, got a quoted cell with a line end", f"row {number}"
            )
        if not cells:
            empty = empty or number
            if width < 2:
                raise FileProblem(path, "is empty: a missing value", f"row {number}")
            continue
        if empty:
            raise FileProblem(path, "is empty, with values after it", f"row {empty}")
        width = width or len(cells)
        if len(cells) != width:
            raise FileProblem(
                path, f"must have {width} cells as row 1, got {len(cells)}", f"row {number}"
            )
        yield number, cells


def _label(path: Path, number: int, column: str, cell: str) -> str:
    text = cell.strip()
    if text.lower() in _MISSING:
        where = ", ".join(filter(None, (f"row {number}", column)))
        raise FileProblem(path, f"must be a label, got {cell!r}; -1 means unlabelled", where)
    return text


def _bad_cell(path: Path, number: int, columns: _Columns, cells: list[str]) -> FileProblem:
    j = next(j for j in columns.features if _number(cells[j]) is None)
    text, where = cells[j], f"row {number}, {columns.title(j)}"
    if text.strip().lower() in _MISSING:
        return FileProblem(path, f"must be a number, got the missing value {text!r}", where)
    others = [d for d in ";\t," if d in text]
    hint = f" (say --delimiter {others[0]!r} if that ends a cell)" if others else ""
    if not hint:
        hint = " (--label-column and --index-column name columns that are no features)"
    return FileProblem(path, f"must be a number, got {text[:60]!r}{hint}", where)


def _check_finite(x: Array, path: Path, titles: Sequence[str], first_row: int) -> None:
    finite = np.isfinite(x)
    if not finite.all():
        i, j = divmod(int(np.argmin(finite)), x.shape[1])
        where = f"row {i + first_row}, {titles[j]}"
        raise FileProblem(path, f"must be finite, got {x[i, j]} (missing?)", where)


def _check_counting(x: Array, path: Path, names: Sequence[str], options: TableOptions) -> None:
    if options.every or len(x) < 3:
        return
    for j, name in enumerate(names):
        start = _counts(x[:, j])
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
    for number, cells in _rows(path, ","):
        if len(cells) > 1 or "\t" in cells[0] or ";" in cells[0]:
            raise FileProblem(
                path, f"must be one label, got {','.join(cells)[:60]!r}: a table?", f"row {number}"
            )
        labels.append(_label(path, number, "", cells[0]))
    if not labels:
        raise FileProblem(path, "must hold at least one label, got none")
    return np.array(labels)


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
    columns = _Columns(path, names, TableOptions(None, True, options.index, True, options.label))
    if not isinstance(frame.index, pandas.RangeIndex):
        columns.notes.append(f"left out of {path.name}: the index {frame.index.name!r}")
    for j, name in enumerate(names):
        holes = frame.iloc[:, j].isna().to_numpy()
        if holes.any() and (j in columns.features or j == columns.label):
            where = f"row {int(np.argmax(holes)) + 1}, column {name!r}"
            raise FileProblem(path, "must be there, got a missing value", where)
        dtype = frame.iloc[:, j].dtype
        if j in columns.features and getattr(dtype, "kind", "O") not in "biuf":
            raise FileProblem(path, f"must be numbers, got {dtype}", f"column {name!r}")
    if not len(frame):
        raise FileProblem(path, "must hold at least one row of values, got none")
    x = frame.iloc[:, columns.features].to_numpy(np.float64)
    kept = [names[j] for j in columns.features]
    _check_finite(x, path, [f"column {name!r}" for name in kept], first_row=1)
    _check_counting(x, path, kept, options)
    labels: Any = None if columns.label is None else frame.iloc[:, columns.label].to_numpy()
    return Table(x, labels, columns.notes)

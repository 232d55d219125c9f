"""A table of features, its missing values and its scale, whichever file it came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .._samples import unit_of
from ._problem import FileProblem

__all__ = ["IMPUTES", "Table", "TableOptions", "column_titles", "counts_rows", "prepare"]

Array = np.ndarray
IMPUTES: dict[str, Callable[..., Array]] = {"mean": np.nanmean, "median": np.nanmedian}


@dataclass(frozen=True)
class TableOptions:
    """What a table does not say itself. header: whether row 1 names the columns; index: columns to
    leave out; every: no column counts rows, all are features; impute: what fills in missing values;
    scale: every column to mean 0 and standard deviation 1.
    """

    delimiter: str | None = None
    header: bool | None = None
    index: tuple[str, ...] = ()
    every: bool = False
    label: str | None = None
    impute: str | None = None
    scale: bool = False


@dataclass
class Table:
    """values: (n, d) features, NaN where one is missing; labels: (n,) or None; notes: what was left
    out or changed, for the report; titles of the columns and the number of the first row, for
    messages.
    """

    values: Array
    labels: Array | None = None
    notes: list[str] = field(default_factory=list)
    titles: Sequence[str] = ()
    first_row: int = 1

    def place(self, at: Array) -> str:
        """Row and column of the first place where `at` (n, d) holds."""
        i, j = divmod(int(np.argmax(at)), at.shape[1])
        return f"row {i + self.first_row}, {self.titles[j]}"


def column_titles(count: int) -> list[str]:
    """Of columns without names."""
    return [f"column {j + 1}" for j in range(count)]


def prepare(path: Path, table: Table, options: TableOptions) -> Table:
    """The table with finite values: filled in and scaled as the options say."""
    x = table.values
    infinite = np.isinf(x)
    if infinite.any():
        found = x.flat[int(np.argmax(infinite))]
        raise FileProblem(path, f"must be finite, got {found}", table.place(infinite))
    missing = np.isnan(x)
    notes = list(table.notes)
    if missing.any():
        where, total = table.place(missing), int(missing.sum())
        if options.impute is None:
            raise FileProblem(
                path,
                f"must be a number, got a missing value ({total} in all; --impute mean or median "
                "fills them in)",
                where,
            )
        empty = missing.all(axis=0)
        if empty.any():
            title = table.titles[int(np.argmax(empty))]
            raise FileProblem(path, "must hold a value, all are missing", title)
        unit = unit_of(np.where(missing, 0.0, x))  # so that no sum overflows
        x = np.where(missing, IMPUTES[options.impute](x * unit, axis=0) / unit, x)
        notes.append(
            f"filled in: {total} missing value(s) of {path.name} in "
            f"{int(missing.any(axis=0).sum())} column(s), with the {options.impute} of the column; "
            f"the first is {where}"
        )
    if options.scale:
        x, constant = _standardized(x)
        same = f"; {constant} column(s) of one value are 0" if constant else ""
        notes.append(f"scaled: columns of {path.name} to mean 0 and standard deviation 1{same}")
    return Table(x, table.labels, notes, table.titles, table.first_row)


def _standardized(x: Array) -> tuple[Array, int]:
    """(x - mean) / standard deviation by columns, and how many of them are constant."""
    constant = x.min(axis=0) == x.max(axis=0)
    size = np.abs(x).max(axis=0, initial=0.0)
    # each column near 1 in magnitude: squares neither overflow nor vanish
    z = np.ldexp(x, -np.frexp(np.where(constant, 1.0, size))[1])
    z = z - z.mean(axis=0)
    deviation = np.sqrt(np.square(z).mean(axis=0))
    return np.where(constant, 0.0, z / np.where(deviation > 0, deviation, 1.0)), int(constant.sum())


def counts_rows(column: Array) -> int | None:
    """0 or 1 for a column that counts the rows from there, else None."""
    for start in (0, 1):
        if column[0] == start and np.array_equal(column, np.arange(start, start + len(column))):
            return start
    return None

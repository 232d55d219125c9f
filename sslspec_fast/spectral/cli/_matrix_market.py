"""Matrix Market files: each line is checked against the format, then SciPy converts them.

SciPy's reader stops at the end of a number, whatever follows it on the line ("1.5abc", "1,5" and a
fourth column are read as 1.5, 1 and nothing), so it reads a file only after the check.
Source: Boisvert, Pozo & Remington 1996 (NISTIR 5935).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import IO

import numpy as np
import scipy.io
import scipy.sparse as sp

from ._problem import FileProblem, check_memory

__all__ = ["read_matrix_market"]

_BANNER = re.compile(r"%%matrixmarket[ \t]+matrix[ \t]+(\S+)[ \t]+(\S+)[ \t]+(\S+)\s*", re.I)
_REAL = r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_VALUES = {"real": _REAL, "double": _REAL, "integer": "-?[0-9]+", "pattern": ""}
_MOST = 2**31 - 1


def read_matrix_market(path: Path) -> sp.csr_array:
    """The matrix of a .mtx file: real numbers or a pattern of ones, coordinate or array, general
    or symmetric. Entries given twice are summed; in a symmetric file, where the second may be the
    mirror image, they are refused.
    """
    with path.open(encoding="latin-1", newline="\n") as file:  # comments may hold any byte
        banner = _BANNER.fullmatch(file.readline())
        if banner is None:
            raise FileProblem(path, "must begin with %%MatrixMarket matrix", "row 1")
        layout, field, symmetry = (word.lower() for word in banner.groups())
        if field not in _VALUES or (layout, field) == ("array", "pattern"):
            raise FileProblem(path, f"must be real numbers, got the field {field!r}", "row 1")
        if layout not in ("coordinate", "array") or symmetry not in ("general", "symmetric"):
            kinds = "coordinate or array, general or symmetric"
            raise FileProblem(path, f"must be {kinds}, got {layout!r} and {symmetry!r}", "row 1")
        number, line = 2, file.readline()
        while line.startswith("%") or (line and not line.strip()):
            number, line = number + 1, file.readline()
        entries = _entries(line, layout, symmetry, path, number)
        indices = r"[0-9]+[ \t]+[0-9]+" if layout == "coordinate" else ""
        between = r"[ \t]+" if indices and _VALUES[field] else ""
        _check_lines(file, indices + between + _VALUES[field], entries, path, number)
    matrix = _convert(path)
    finite = np.isfinite(matrix.data)
    if not finite.all():
        at = int(np.argmin(finite))
        place = f"entry ({matrix.row[at] + 1}, {matrix.col[at] + 1})"
        raise FileProblem(path, f"must be finite, got {matrix.data[at]}", place)
    if symmetry == "symmetric":
        _check_once(matrix, path)
    return sp.csr_array(matrix)


def _convert(path: Path) -> sp.coo_array:
    try:
        return sp.coo_array(scipy.io.mmread(path))
    except (ValueError, OverflowError) as problem:
        place = re.fullmatch(r"Line ([0-9]+): (.*)", str(problem))
        if place is None:
            raise
        raise FileProblem(path, place[2], f"row {place[1]}") from problem


def _entries(line: str, layout: str, symmetry: str, path: Path, number: int) -> int:
    """The number of lines that follow the line of sizes."""
    words = line.split()
    if len(words) != (3 if layout == "coordinate" else 2) or not all(
        word.isascii() and word.isdigit() and len(word) < 19 for word in words
    ):
        what = "rows, columns and entries" if layout == "coordinate" else "rows and columns"
        raise FileProblem(path, f"must give {what}, got {line.strip()!r}", f"row {number}")
    rows, cols, *stored = map(int, words)
    if max(rows, cols) > _MOST or (symmetry == "symmetric" and rows != cols):
        raise FileProblem(path, f"must not be {symmetry} {rows} x {cols}", f"row {number}")
    if not stored:
        stored = [rows * cols if symmetry == "general" else rows * (rows + 1) // 2]
    # a line takes two bytes at least
    if 2 * stored[0] > path.stat().st_size:
        raise FileProblem(path, f"must hold {stored[0]} entries, and is too short", f"row {number}")
    check_memory(path, 16 * (rows + cols), f"a matrix of shape {(rows, cols)}")
    return stored[0]


def _check_lines(file: IO[str], entry: str, entries: int, path: Path, start: int) -> None:
    matches = re.compile(rf"[ \t]*{entry}[ \t]*\r?\n?").fullmatch
    found, blank = 0, False
    for number, line in enumerate(file, start + 1):
        if not line.strip():
            blank = True
            continue
        if blank or matches(line) is None:
            raise FileProblem(path, f"must be an entry, got {line.strip()[:60]!r}", f"row {number}")
        found += 1
    if found != entries:
        raise FileProblem(path, f"must hold {entries} entries, got {found}")


def _check_once(matrix: sp.coo_array, path: Path) -> None:
    key = np.sort(matrix.row.astype(np.int64) * matrix.shape[1] + matrix.col)
    twice = np.flatnonzero(key[1:] == key[:-1])
    if twice.size:
        row, col = divmod(int(key[twice[0]]), matrix.shape[1])
        raise FileProblem(
            path,
            "must be given once in a symmetric file, as itself or as its mirror image",
            f"entry ({row + 1}, {col + 1})",
        )

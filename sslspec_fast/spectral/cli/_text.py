"""Files of text, plain or compressed by gzip, and their split into rows of cells."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
from collections.abc import Iterator
from pathlib import Path

from ._problem import FileProblem, check_memory

__all__ = ["DELIMITERS", "delimiter_of", "kind_of", "read_bytes", "row_1", "split"]

DELIMITERS = {".csv": ",", ".tsv": "\t"}
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff]")
_ORDINARY = bytes(range(32, 127)) + b"\t\n\r"
_CHUNK = 1 << 24  # bytes that are decompressed before the size is checked again


def kind_of(path: Path) -> str:
    """The extension in lower case; of a compressed table, that of the table."""
    suffix, inner = path.suffix.lower(), Path(path.stem).suffix.lower()
    return inner if suffix == ".gz" and inner in DELIMITERS else suffix


def read_bytes(path: Path) -> bytes:
    """The text of a file in UTF-8, decompressed, without its byte order mark."""
    raw = _content(path).removeprefix(codecs.BOM_UTF8)
    if raw.translate(None, _ORDINARY):
        _check(path, raw)
    return raw


def _check(path: Path, raw: bytes) -> None:
    """UTF-8, and no control characters but tabs and line ends."""
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise FileProblem(path, "must be UTF-8, got a byte order mark of UTF-16")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as problem:
        row = _row_at(raw[: problem.start].decode("latin-1"))
        byte = raw[problem.start]
        raise FileProblem(path, f"must be UTF-8, got the byte 0x{byte:02x}", row) from problem
    strange = _CONTROL.search(text)
    if strange is not None:
        row = _row_at(text[: strange.start()])
        raise FileProblem(path, f"must be text, got the character {strange.group()!r}", row)


def _content(path: Path) -> bytes:
    if path.suffix.lower() != ".gz":
        return path.read_bytes()
    parts, size = [], 0
    with gzip.open(path) as stream:
        while chunk := stream.read(_CHUNK):
            size += len(chunk)
            check_memory(path, size, "its text")
            parts.append(chunk)
    return b"".join(parts)


def _row_at(before: str) -> str:
    return f"row {len(re.findall(chr(13) + chr(10) + '?|' + chr(10), before)) + 1}"


def delimiter_of(path: Path, line: str) -> str:
    """What ends a cell: a tab in .tsv; in .csv a comma, or the semicolon or tab of a first row
    without a comma.
    """
    usual = DELIMITERS[kind_of(path)]
    outside = re.sub(r'"[^"]*"', "", line)  # of quoted cells
    others = [d for d in (";", "\t") if d in outside]
    return others[0] if usual == "," and "," not in outside and len(others) == 1 else usual


def row_1(raw: bytes) -> str:
    """The first line with its end."""
    found = re.match(rb"[^\r\n]*(\r\n?|\n)?", raw)
    assert found is not None
    return found.group().decode("utf-8")


def split(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(row number, cells): rows of one length, counted from 1 as an editor counts them. Only the
    end of a file of several columns may have empty rows.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
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

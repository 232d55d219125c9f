"""NumPy files, read member by member: nothing is unpickled or allocated before it is checked.

SciPy's own reader of sparse .npz files converts before it checks, and its compiled code writes
where the indices of the file tell it to.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
import scipy.sparse as sp

from ... import _checks as check
from ._problem import FileProblem, check_memory

__all__ = ["Archive", "open_archive", "read_array"]

Array = np.ndarray
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_DEFLATE = 1032  # bytes at most that one byte of a deflated stream stands for


def read_array(path: Path) -> Array:
    """The array of a .npy file."""
    with path.open("rb") as stream:
        return _array(stream, path.stat().st_size, path, "")


def _array(stream: IO[bytes], size: int, path: Path, where: str) -> Array:
    plain = "must be a NumPy file of plain arrays"
    try:
        version = np.lib.format.read_magic(stream)
        if version not in _HEADERS:
            raise ValueError(f"format version {version}")
        shape, fortran, dtype = _HEADERS[version](stream)
    except Exception as problem:  # the header is a Python literal: any error of its parser
        text = " ".join(str(problem).split())
        raise FileProblem(path, f"{plain}: {text}", where) from problem
    if dtype.hasobject:
        raise FileProblem(path, f"{plain}, got pickled objects", where)
    if dtype.kind not in "biufcSU" or dtype.itemsize == 0 or min(shape, default=0) < 0:
        raise FileProblem(path, f"{plain}, got dtype {dtype} and shape {shape}", where)
    declared, stored = prod(map(int, shape)) * dtype.itemsize, size - stream.tell()
    if declared != stored:
        raise FileProblem(
            path, f"shape {shape} of {dtype} must take {declared} bytes, got {stored}", where
        )
    check_memory(path, declared, f"an array of shape {shape}")
    data = stream.read(declared)
    if len(data) != declared:
        raise FileProblem(path, f"must hold {declared} bytes of values, got {len(data)}", where)
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    if dtype.kind == "b" and array.size and array.view(np.uint8).max() > 1:
        raise FileProblem(path, "must hold booleans of 0 and 1", where)
    if dtype.kind == "U":
        array.tolist()  # raises where a number is no character
    return array


class Archive:
    """The arrays of an open .npz file, by name."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._path, self._zip, self._members = path, archive, dict[str, zipfile.ZipInfo]()
        for member in archive.infolist():
            self._add(member)

    def _add(self, member: zipfile.ZipInfo) -> None:
        name, where = member.filename.removesuffix(".npy"), f"member {member.filename!r}"
        if name == member.filename:
            raise FileProblem(self._path, "must be an array (.npy)", where)
        if name in self._members:
            raise FileProblem(self._path, "must be there once, got two of that name", where)
        deflated = member.compress_type == zipfile.ZIP_DEFLATED
        if member.flag_bits & 1 or not (deflated or member.compress_type == zipfile.ZIP_STORED):
            raise FileProblem(self._path, "must be stored or deflated, without password", where)
        limit = member.compress_size * (_DEFLATE if deflated else 1)
        if member.file_size > limit:
            raise FileProblem(
                self._path,
                f"{member.compress_size} bytes in the file must hold at most {limit}, but declare "
                f"{member.file_size}",
                where,
            )
        self._members[name] = member

    @property
    def names(self) -> list[str]:
        return list(self._members)

    @property
    def is_sparse(self) -> bool:
        return {"format", "shape"} <= set(self._members)

    def __getitem__(self, name: str) -> Array:
        where = f"member {name + '.npy'!r}"
        if name not in self._members:
            raise FileProblem(self._path, f"must have a member {name + '.npy'!r}")
        member = self._members[name]
        check_memory(self._path, member.file_size, where)
        with self._zip.open(member) as stream:
            array = _array(stream, member.file_size, self._path, where)
            stream.read(1)  # at the end the checksum is compared
        return array

    def sparse(self) -> sp.csr_array:
        """The matrix that ``scipy.sparse.save_npz`` wrote."""
        path = self._path
        kind, shape = self["format"], self["shape"]
        name = str(kind.astype(str)) if kind.ndim == 0 and kind.dtype.kind in "SU" else "?"
        build = _BUILDERS.get(name)
        if build is None:
            raise FileProblem(path, f"format must be one of {sorted(_BUILDERS)}, got {name!r}")
        if shape.shape != (2,) or shape.dtype.kind not in "iu":
            raise FileProblem(path, f"shape must be two integers, got {shape!r}")
        rows, cols = int(shape[0]), int(shape[1])
        if not (0 <= rows <= _MOST and 0 <= cols <= _MOST):
            raise FileProblem(path, f"shape must be in [0, 2^31), got {(rows, cols)}")
        check_memory(path, 16 * (rows + cols), f"a matrix of shape {(rows, cols)}")
        data = self["data"]
        if data.dtype.kind not in "biuf":
            raise FileProblem(path, f"must be real numbers, got dtype {data.dtype}")
        if data.dtype.itemsize == 2 and data.dtype.kind == "f":
            data = data.astype(np.float32)  # scipy has no float16
        return sp.csr_array(build(self, data, rows, cols))

    def integers(self, name: str) -> Array:
        """(m,) int64."""
        found = self[name]
        if found.ndim != 1 or found.dtype.kind not in "iu":
            shown = f"shape {found.shape} of {found.dtype}"
            raise FileProblem(self._path, f"must be integers (m,), got {shown}", f"member {name}")
        if found.size and (found.max() > _MOST_ENTRIES or found.min() < -_MOST_ENTRIES):
            raise FileProblem(self._path, "must be integers below 2^62", f"member {name}")
        return found.astype(np.int64)


_MOST, _MOST_ENTRIES = 2**31 - 1, 2**62


def _check_entries(archive: Archive, data: Array, ndim: int, *counts: int) -> None:
    if data.ndim != ndim or any(count != len(data) for count in counts):
        raise FileProblem(
            archive._path,
            f"data, indices and pointers must belong together, got data of shape {data.shape} for "
            f"{' and '.join(map(str, counts))} entries",
        )


def _pointers(archive: Archive, rows: int, cols: int) -> tuple[Array, Array]:
    """(indices, indptr) of `rows` compressed rows that hold columns below `cols`."""
    indices, indptr = archive.integers("indices"), archive.integers("indptr")
    try:
        check.compressed("the", "matrix", indptr, indices, rows, cols)
    except ValueError as problem:
        raise FileProblem(archive._path, str(problem).replace("the: ", "the ", 1)) from problem
    return indices, indptr


def _csr(archive: Archive, data: Array, rows: int, cols: int) -> Any:
    indices, indptr = _pointers(archive, rows, cols)
    _check_entries(archive, data, 1, len(indices), int(indptr[-1]))
    return sp.csr_array((data, indices, indptr), shape=(rows, cols))


def _csc(archive: Archive, data: Array, rows: int, cols: int) -> Any:
    indices, indptr = _pointers(archive, cols, rows)
    _check_entries(archive, data, 1, len(indices), int(indptr[-1]))
    return sp.csc_array((data, indices, indptr), shape=(rows, cols))


def _bsr(archive: Archive, data: Array, rows: int, cols: int) -> Any:
    height, width = data.shape[1:] if data.ndim == 3 else (0, 0)
    if not height or not width or rows % height or cols % width:
        raise FileProblem(
            archive._path, f"blocks {data.shape[1:]} must divide the shape {(rows, cols)}"
        )
    indices, indptr = _pointers(archive, rows // height, cols // width)
    _check_entries(archive, data, 3, len(indices), int(indptr[-1]))
    return sp.bsr_array((data, indices, indptr), shape=(rows, cols))


def _coo(archive: Archive, data: Array, rows: int, cols: int) -> Any:
    if "coords" in archive.names:  # sparse arrays of later SciPy versions
        pair = archive["coords"]
        if pair.shape != (2, len(data)) or pair.dtype.kind not in "iu":
            raise FileProblem(
                archive._path, f"coords must be integers (2, {len(data)}), got {pair.shape}"
            )
        row, col = pair.astype(np.int64)
    else:
        row, col = archive.integers("row"), archive.integers("col")
    _check_entries(archive, data, 1, len(row), len(col))
    for name, index, size in (("row", row, rows), ("column", col, cols)):
        if index.size and not (index.min() >= 0 and index.max() < size):
            worst = index.min() if index.min() < 0 else index.max()
            raise FileProblem(
                archive._path, f"{name} indices must be in [0, {size}), got {int(worst)}"
            )
    return sp.coo_array((data, (row, col)), shape=(rows, cols))


def _dia(archive: Archive, data: Array, rows: int, cols: int) -> Any:
    offsets = archive.integers("offsets")
    _check_entries(archive, data, 2, len(offsets))
    inside = offsets.size == 0 or (offsets.min() > -rows and offsets.max() < cols)
    if not inside or len(np.unique(offsets)) < len(offsets):
        raise FileProblem(
            archive._path, f"offsets must be different diagonals of a {rows} x {cols} matrix"
        )
    col = np.broadcast_to(np.arange(data.shape[1]), data.shape)
    row = col - offsets[:, None]
    stored = (row >= 0) & (row < rows) & (col < cols) & (data != 0)
    return sp.coo_array((data[stored], (row[stored], col[stored])), shape=(rows, cols))


_BUILDERS = {"csr": _csr, "csc": _csc, "bsr": _bsr, "coo": _coo, "dia": _dia}


@contextlib.contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """A .npz file, its members checked by what the archive's directory says of them."""
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as problem:
        raise FileProblem(path, f"must be a NumPy file of plain arrays: {problem}") from problem
    with archive:
        yield Archive(path, archive)

"""Files with damaged bytes: read as an independent strict reading says, or refused by name.

A refusal is a ValueError that names the file. No other exception gets out, no row is lost, and a
crash of compiled code would end the test run.
"""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

pytest.importorskip("hypothesis")

from hypothesis import given
from hypothesis import strategies as st

from sslspec_fast.spectral.cli.files import read_input, read_labels

from ...support.budget import budget

X = np.random.default_rng(0).standard_normal((6, 3)).round(4)
W = sp.coo_array((np.arange(1.0, 7), ([0, 1, 2, 1, 3, 4], [1, 0, 1, 2, 4, 3])), shape=(6, 6))
NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*")
REAL = re.compile(r"-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def text_of(save, *arguments, **options):
    stream = io.BytesIO()
    save(stream, *arguments, **options)
    return stream.getvalue()


def table(delimiter, head=()):
    rows = [*head, *(delimiter.join(map(repr, row)) for row in X.tolist())]
    return ("\n".join(rows) + "\n").encode()


FILES = {
    "plain.csv": table(","),
    "names.csv": table(",", ["alpha,beta,gamma"]),
    "index.csv": (",a,b\n" + "".join(f"{i},{v},{w}\n" for i, (v, w, _) in enumerate(X))).encode(),
    "x.tsv": table("\t"),
    "y.txt": b"cat\ndog\n-1\ncat\nmouse\n",
    "x.npy": text_of(np.save, X),
    "x.npz": text_of(np.savez, X=X, y=np.arange(6)),
    "z.npz": text_of(np.savez_compressed, X=X, y=np.array(list("ababab"))),
    "csr.npz": text_of(sp.save_npz, W.tocsr()),
    "csc.npz": text_of(sp.save_npz, W.tocsc(), compressed=False),
    "coo.npz": text_of(sp.save_npz, W, compressed=False),
    "g.mtx": text_of(scipy.io.mmwrite, W, symmetry="general"),
    "s.mtx": text_of(scipy.io.mmwrite, W + W.T, symmetry="symmetric"),
}
# Bytes with a meaning in one of the formats are drawn as often as all the others.
TELLING = [*b'0123456789.,;-+eE"\n\r\t %_#naif\x00\x1a\xef\xbb\xbf\xff\xfe']
BYTE = st.one_of(st.sampled_from(TELLING), st.integers(0, 255))


@st.composite
def damaged(draw, raw):
    raw = bytearray(raw)
    for _ in range(draw(st.integers(1, 3))):
        at, byte = draw(st.integers(0, max(len(raw) - 1, 0))), draw(BYTE)
        how = draw(st.sampled_from(["flip", "set", "insert", "delete", "cut", "repeat"]))
        if how == "flip" and raw:
            raw[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "set" and raw:
            raw[at] = byte
        elif how == "insert":
            raw.insert(at, byte)
        elif how == "delete":
            del raw[at : at + draw(st.integers(1, 8))]
        elif how == "cut":
            del raw[at:]
        else:
            raw[at:at] = raw[at : at + draw(st.integers(1, 40))]
    return bytes(raw)


def lines_of(raw):
    return re.split("\r\n|\r|\n", raw.decode("utf-8-sig").rstrip("\r\n"))


def unquoted(cell):
    quoted = re.fullmatch(r'"(([^"]|"")*)"', cell)
    return (quoted[1].replace('""', '"') if quoted else cell).strip()


def numbers_of(lines, delimiter):
    cells = [[unquoted(cell) for cell in line.split(delimiter)] for line in lines]
    assert all(NUMBER.fullmatch(cell) for row in cells for cell in row)
    return np.array([[float(cell) for cell in row] for row in cells])


def check_table(found, raw, name):
    """Every line is a row, except for a row of names; every column is a feature, except for row
    names that have no name themselves.
    """
    delimiter = "\t" if name.endswith(".tsv") else ","
    lines = lines_of(raw)
    cells = [unquoted(cell) for cell in lines[0].split(delimiter)]
    if not NUMBER.fullmatch(cells[-1]):  # a row of names: no number, and more than one name
        assert len(cells) > 1
        assert not any(map(NUMBER.fullmatch, cells))
        lines = lines[1:]
    if found.notes:
        assert cells[0] == ""
        lines = [line.split(delimiter, 1)[1] for line in lines]
    assert np.array_equal(found.features, numbers_of(lines, delimiter))


def check_matrix(found, raw):
    lines = [line for line in raw.decode("latin-1").split("\n") if line.strip()]
    words = lines[0].lower().split()
    rows, cols, count = map(int, next(line for line in lines[1:] if line[0] != "%").split())
    dense = np.zeros((rows, cols))
    entries = [line.split() for line in lines[-count:]] if count else []
    for i, j, *value in entries:
        assert all(map(REAL.fullmatch, value))
        weight = float(value[0]) if value else 1.0
        dense[int(i) - 1, int(j) - 1] += weight
        if words[4] == "symmetric" and i != j:
            dense[int(j) - 1, int(i) - 1] += weight
    assert np.array_equal(found.graph.toarray(), dense)


@pytest.mark.parametrize("name", FILES)
def test_damaged_bytes_are_read_strictly_or_refused(tmp_path, name):
    path, raw = tmp_path / name, FILES[name]
    read = read_labels if name == "y.txt" else read_input
    path.write_bytes(raw)
    whole = read(path)
    refused = []

    @budget(100)
    @given(damaged(raw))
    def run(mutated):
        path.write_bytes(mutated)
        try:
            found = read(path)
        except ValueError as problem:
            refused.append(str(problem))
            return
        if name == "y.txt":
            assert found.tolist() == list(map(unquoted, lines_of(mutated)))
        elif name.endswith((".csv", ".tsv")):
            check_table(found, mutated, name)
        elif name.endswith(".mtx"):
            check_matrix(found, mutated)
        elif name.endswith(".npy"):
            assert np.array_equal(found.features, np.load(io.BytesIO(mutated)))
        elif whole.graph is not None:  # the checksums of an archive tell other bytes
            assert found.graph is not None
            assert np.array_equal(found.graph.toarray(), whole.graph.toarray())
        else:
            assert np.array_equal(found.features, whole.features)

    run()
    assert refused, "some damage is told"
    assert all(name in message and "\n" not in message for message in refused)

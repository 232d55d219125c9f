"""Tables of every kind hold the same numbers; missing values and scales are what they are told."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from sslspec_fast.spectral.cli import _tables
from sslspec_fast.spectral.cli.files import TableOptions, read_input, read_labels

RNG = np.random.default_rng(0)
X = RNG.standard_normal((30, 4)) * 10.0 ** RNG.integers(-300, 300, (30, 4))
NAMES = [f"t{i % 3}" for i in range(30)]


def text_of(x=X, delimiter=",", labels=True):
    head = [delimiter.join(["a", "b", "c", "d", *(["kind"] if labels else [])])]
    rows = [
        delimiter.join([*map(repr, row), *([name] if labels else [])])
        for row, name in zip(x.tolist(), NAMES, strict=False)
    ]
    return "\n".join([*head, *rows]) + "\n"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_quick_reader_and_the_strict_one_agree(tmp_path, monkeypatch, end):
    pytest.importorskip("pandas")
    path = tmp_path / "x.csv"
    path.write_bytes(text_of().replace("\n", end).encode())
    options = TableOptions(label="kind")
    quick = read_input(path, options)
    assert np.array_equal(quick.features, X)
    assert quick.labels.tolist() == NAMES
    monkeypatch.setattr(_tables, "_strict", None)
    assert np.array_equal(read_input(path, options).features, X)  # it was the quick one
    monkeypatch.undo()
    monkeypatch.setattr(_tables, "_plain", lambda *_: None)
    strict = read_input(path, options)
    assert np.array_equal(strict.features, X)
    assert strict.labels.tolist() == NAMES


@pytest.mark.parametrize(
    ("name", "delimiter"), [("x.csv", ";"), ("x.csv", "\t"), ("x.csv.gz", ","), ("x.TSV.GZ", "\t")]
)
def test_delimiters_and_compression_are_recognized(tmp_path, name, delimiter):
    raw = text_of(delimiter=delimiter).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(raw) if name.lower().endswith("gz") else raw)
    found = read_input(path, TableOptions(label="kind"))
    assert np.array_equal(found.features, X)
    told = [] if name != "x.csv" else [f"x.csv: {delimiter!r} ends a cell"]
    assert found.notes == told


def test_labels_may_be_compressed(tmp_path):
    (tmp_path / "y.txt.gz").write_bytes(gzip.compress("\n".join(NAMES).encode()))
    assert read_labels(tmp_path / "y.txt.gz").tolist() == NAMES


def test_damaged_compression_is_refused_by_name(tmp_path):
    path = tmp_path / "x.csv.gz"
    whole = gzip.compress(text_of().encode())
    for raw in (whole[:-9], whole[:40] + b"\x00" + whole[41:], text_of().encode(), b""):
        path.write_bytes(raw)
        with pytest.raises(ValueError, match=r"x\.csv\.gz"):
            read_input(path, TableOptions(label="kind"))


HOLES = [(2, 1), (7, 1), (9, 3)]


def with_holes(tmp_path, name):
    """(path, the table with NaN in its place) of small numbers with three missing values."""
    x = np.random.default_rng(1).standard_normal((12, 4))
    holed = x.copy()
    for at in HOLES:
        holed[at] = np.nan
    path = tmp_path / name
    if name.endswith(".npy"):
        np.save(path, holed)
    elif name.endswith(".npz"):
        np.savez(path, X=holed)
    else:
        words = iter(["", " NA ", "?"])
        cells = [[next(words) if np.isnan(v) else repr(v) for v in row] for row in holed.tolist()]
        path.write_text("\n".join(["a,b,c,d", *map(",".join, cells)]))
    return path, holed


@pytest.mark.parametrize("name", ["x.csv", "x.npy", "x.npz"])
def test_missing_values_are_named_or_filled_in(tmp_path, name):
    path, holed = with_holes(tmp_path, name)
    place = "row 4, column 2 ('b')" if name == "x.csv" else "row 3, column 2"
    with pytest.raises(ValueError, match=r"missing value \(3 in all; --impute") as told:
        read_input(path)
    assert f"{name}, {place}: must be a number" in str(told.value)
    for how, of in (("mean", np.nanmean), ("median", np.nanmedian)):
        found = read_input(path, TableOptions(impute=how))
        assert np.allclose(found.features, np.where(np.isnan(holed), of(holed, axis=0), holed))
        assert np.array_equal(found.features[~np.isnan(holed)], holed[~np.isnan(holed)])
        assert found.notes == [
            f"filled in: 3 missing value(s) of {name} in 2 column(s), with the {how} of the "
            f"column; the first is {place}"
        ]


def test_what_cannot_be_filled_in_is_refused(tmp_path):
    path = tmp_path / "x.csv"
    for text, message in (
        ("a,b\n1,\n2,\n", r"column 2 \('b'\): must hold a value, all are missing"),
        ("a,b\n1,\n2,inf\n", r"row 3, column 2 \('b'\): must be finite, got inf"),
        ("a,b\n1,\n2,x\n", r"row 3, column 2 \('b'\): must be a number, got 'x'"),
        ("a,b\n1,2\n3\n", r"row 3: must have 2 cells"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_input(path, TableOptions(impute="mean"))


def test_a_mean_of_large_numbers_does_not_overflow(tmp_path):
    np.save(tmp_path / "x.npy", [[1.5e308, 1], [1.5e308, 2], [np.nan, 4]])
    found = read_input(tmp_path / "x.npy", TableOptions(impute="mean"))
    assert found.features[2, 0] == 1.5e308


@pytest.mark.parametrize("unit", [1.0, 1e-200, 1e300])
def test_scaled_columns_have_mean_zero_and_deviation_one(tmp_path, unit):
    x = np.random.default_rng(2).standard_normal((50, 3)) * unit
    x[:, 2] = 0.1
    np.save(tmp_path / "x.npy", x)
    found = read_input(tmp_path / "x.npy", TableOptions(scale=True))
    z = found.features
    assert np.allclose(z.mean(0), 0, atol=1e-14)
    assert np.allclose(z.std(0), [1, 1, 0])
    scaled = x[:, :2] / unit
    assert np.allclose(z[:, :2], (scaled - scaled.mean(0)) / scaled.std(0))
    assert "1 column(s) of one value are 0" in found.notes[0]


def test_parquet_files_hold_their_frame(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow", exc_type=ImportError)
    frame = pandas.DataFrame(X, columns=list("abcd")).assign(kind=NAMES)
    frame["whole"] = pandas.array(range(3, 33), dtype="Int64")
    frame.loc[4, "whole"] = pandas.NA
    frame.index = pandas.Index([f"r{i}" for i in range(30)], name="row")
    frame.to_parquet(tmp_path / "x.parquet")
    options = TableOptions(label="kind")
    with pytest.raises(ValueError, match=r"row 5, column 'whole': must be a number"):
        read_input(tmp_path / "x.parquet", options)
    found = read_input(tmp_path / "x.parquet", TableOptions(label="kind", impute="median"))
    assert np.array_equal(found.features[:, :4], X)
    assert found.features[4, 4] == np.median(np.delete(np.arange(3, 33), 4))
    assert found.labels.tolist() == NAMES
    assert found.notes[0] == "left out of x.parquet: the index 'row'"


def test_numbers_that_only_one_reader_takes_are_refused(tmp_path):
    """The quick reader accepts nothing that the strict one refuses."""
    for cell in ("1_0", "0x1", "1d5", "1e", "+-1", "1 2", "True", "\u0663", "1.5f", "--1", "1,5"):
        (tmp_path / "x.csv").write_text(f"a;b\n1;2\n{cell};4\n5;9\n", encoding="utf-8")
        with pytest.raises(ValueError, match=r"row 3, column 1 \('a'\): must be a number"):
            read_input(tmp_path / "x.csv")


ODD = {  # what pandas would fill, skip, rename or repair by itself
    "short row": "a,b,c\n1,2,3\n4,5\n",
    "long row": "a,b,c\n1,2,3\n4,5,6,7\n",
    "long and short row": "a,b,c\n1,2,3,4\n4,5\n",
    "all rows longer than the names": "a,b\n1,2,3\n4,5,6\n",
    "all rows shorter than the names": "a,b,c\n1,2\n4,5\n",
    "delimiter at the end of each row": "a,b,\n1,2,\n4,5,\n",
    "empty row inside": "a,b\n1,2\n\n4,5\n",
    "empty row below the names": "a,b\n\n1,2\n4,5\n",
    "empty rows at the end": "a,b\n1,2\n4,5\n\n\n",
    "spaces in place of a row": "a,b\n1,2\n   \n4,5\n",
    "one column with an empty row": "--header\na\n1\n\n2\n",
    "words for missing values": "a,b\nna,2\nNaN,5\nN/A,7\n<NA>,nUlL\n,-\n.,?\n8,9\n",
    "another word": "a,b\n1,2\nmissing,5\n",
    "comment": "a,b\n1,2\n#,5\n",
    "quoted number": 'a,b\n1,2\n"4",5\n',
    "quoted delimiter": 'a,kind\n1,x\n4,"y,z"\n',
    "label that is missing": "a,kind\n1,x\n4,NA\n",
    "label that is a number": "a,kind\n1,01\n4,2\n",
    "row names": ",a,b\nx,1,2\ny,4,5\n",
    "row names twice": ",a,b\nx,1,2\nx,4,5\n",
    "row name that is a word for a missing value": ",a,b\nNA,1,2\ny,4,5\n",
    "other line ends": "a,b\r1,2\r\n4,5\n7,8\r",
    "spaces": "a,b\n 1 , 2\n4,5 \n",
    "letters": "é,b\n1,2\n4,5\n",
    "digits of another script": "a,b\n1,2\n\u0664,5\n",
    "large, small and infinite": "a,b\n1e400,2\n1e-400,5\n",
}


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_both_readers_say_the_same_of_an_odd_table(tmp_path, monkeypatch, text):
    header = True if text.startswith("--header") else None
    path = tmp_path / "x.csv"
    path.write_bytes(text.removeprefix("--header\n").encode())
    label = "kind" if "kind" in text else None

    def found(impute):
        try:
            table = read_input(path, TableOptions(header=header, label=label, impute=impute))
        except ValueError as problem:
            return str(problem)
        labels = None if table.labels is None else table.labels.tolist()
        return table.features.tolist(), labels, table.notes

    for impute in (None, "mean"):
        both = found(impute)
        with monkeypatch.context() as strict:
            strict.setattr(_tables, "_plain", lambda *_: None)
            assert found(impute) == both


def test_missing_values_are_read_by_the_quick_reader(tmp_path, monkeypatch):
    pytest.importorskip("pandas")
    path, holed = with_holes(tmp_path, "x.csv")
    path.write_text(path.read_text().replace(" NA ", "NA"))
    monkeypatch.setattr(_tables, "_strict", None)
    found = read_input(path, TableOptions(impute="mean"))
    assert np.array_equal(found.features[~np.isnan(holed)], holed[~np.isnan(holed)])

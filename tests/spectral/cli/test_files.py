"""Files are read as they are or refused by name, row and column; results are written whole."""

from __future__ import annotations

import errno
import os
import zipfile

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

from sslspec_fast.spectral import cli
from sslspec_fast.spectral.cli import _embed
from sslspec_fast.spectral.cli.files import (
    TableOptions,
    read_graph,
    read_input,
    read_labels,
    read_matrix,
)

X = np.random.default_rng(0).standard_normal((12, 3)).round(6)
ROWS = [",".join(map(repr, row)) for row in X.tolist()]


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
    return path


def refusal(read, path, *options):
    """The message of a refusal, which is one line and names the file."""
    with pytest.raises(ValueError, match=path.name) as told:
        read(path, *options)
    assert "\n" not in str(told.value)
    return str(told.value).split(path.name, 1)[1]


# ---- tables ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "options"),
    [
        ("x.csv", "\n".join(ROWS), {}),
        ("x.csv", "\r\n".join(ROWS) + "\r\n\r\n", {}),
        ("x.csv", "\r".join(ROWS), {}),
        ("x.csv", "\ufeff" + "\n".join(ROWS), {}),
        ("x.csv", "\ufeffa,b,c\n" + "\n".join(ROWS), {}),
        ("x.csv", '"sepal length (cm)","b","größe"\n' + "\n".join(ROWS), {}),
        ("x.csv", "1,2,3\n" + "\n".join(ROWS), {"header": True}),
        ("x.csv", "NA,-,?\n" + "\n".join(ROWS), {"header": True}),
        ("x.csv", "\n".join(f" {row.replace(',', ' , ')}" for row in ROWS), {}),
        ("x.tsv", "\n".join(ROWS).replace(",", "\t"), {}),
        ("x.csv", "\n".join(ROWS).replace(",", ";"), {"delimiter": ";"}),
        ("x.csv", ",a,b,c\n" + "\n".join(f"{i},{row}" for i, row in enumerate(ROWS)), {}),
        ("x.csv", '"","a","b","c"\n' + "\n".join(f'"r{i}",{r}' for i, r in enumerate(ROWS)), {}),
        ("x.csv", "I,a,b,c\n" + "\n".join(f"{i},{r}" for i, r in enumerate(ROWS)), {"index": "I"}),
        ("x.csv", "\n".join(f"{r},n{i}" for i, r in enumerate(ROWS)), {"index": "3"}),
    ],
)
def test_a_table_is_its_numbers(tmp_path, name, text, options):
    found = read_input(write(tmp_path / name, text), TableOptions(**options))
    assert np.array_equal(found.features, X)
    assert found.kind == "features"


def test_pandas_tables_with_and_without_index_are_the_same(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=["a", "b", "c"])
    frame["kind"] = ["cat", "dog"] * 6
    paths = {name: tmp_path / f"{name}.csv" for name in ("index", "plain", "shuffled", "again")}
    frame.to_csv(paths["plain"], index=False)
    frame.to_csv(paths["index"])
    frame.sample(frac=1, random_state=0).to_csv(paths["shuffled"])
    pandas.read_csv(paths["index"]).to_csv(paths["again"], index=False)
    found = {name: read_input(path, TableOptions(label="kind")) for name, path in paths.items()}
    for name in ("index", "plain", "again"):
        assert np.array_equal(found[name].features, X)
        assert found[name].labels.tolist() == ["cat", "dog"] * 6
    assert found["shuffled"].features.shape == X.shape
    assert found["plain"].notes == []
    assert found["index"].notes == [
        "left out of index.csv: column 1, which has no name (row names)"
    ]
    every = read_input(paths["index"], TableOptions(label="kind", every=True))
    assert np.array_equal(every.features[:, 0], np.arange(12))


def test_a_parquet_file_is_read_by_its_types(tmp_path, monkeypatch):
    pandas = pytest.importorskip("pandas")
    path = write(tmp_path / "x.parquet", b"")
    frame = pandas.DataFrame(X, columns=["a", "b", "c"]).astype({"a": "float32"})
    monkeypatch.setattr(pandas, "read_parquet", lambda _: frame)
    frame["kind"] = [1, 2] * 6
    found = read_input(path, TableOptions(label="kind"))
    assert np.allclose(found.features, X, atol=1e-6)
    assert found.labels.tolist() == [1, 2] * 6
    frame["kind"] = ["1", "2"] * 6
    assert "column 'kind': must be numbers" in refusal(read_input, path)
    frame.loc[4, "b"] = np.nan
    assert "row 5, column 'b': must be a number, got a missing value" in refusal(
        read_input, path, TableOptions(label="kind")
    )
    monkeypatch.setattr(pandas, "read_parquet", lambda _: 1 / 0)
    assert "cannot be read: division by zero" in refusal(read_input, path)


@pytest.mark.parametrize(
    "hole", ["", " ", "NA", "?", "-", "null", "NaN", "inf", "1e999", "x", "1_0", "٣", "0x1", "1;"]
)
@pytest.mark.parametrize("row", [0, 3, 11])
def test_a_cell_that_is_no_number_is_named(tmp_path, hole, row):
    rows = [*ROWS]
    rows[row] = ",".join([rows[row].split(",")[0], hole, rows[row].split(",")[2]])
    for head in ("", "a,b,c\n"):
        text = refusal(read_input, write(tmp_path / "x.csv", head + "\n".join(rows)))
        assert f"row {row + (2 if head else 1)}" in text
        assert "column 2" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": must hold at least one row of values"),
        ("a,b\n", ": must hold at least one row of values"),
        ("a,b,a\n1,2,3\n", "row 1: columns 1 and 3 must not both be named 'a'"),
        ("1,2\n3\n", "row 2: must have 2 cells as row 1, got 1"),
        ("1,2\n3,4,5\n", "row 2: must have 2 cells as row 1, got 3"),
        ("1,2\n\n3,4\n", "row 2: is empty, with values after it"),
        ("1\n2\n\n", "row 3: is empty: a missing value"),
        ("b\n1\n2\n", "row 1, column 1: must be a row of numbers or a row of names, got 'b'"),
        ("a,2020\n1,2\n", "row 1, column 1: must be a row of numbers or a row of names"),
        ("0,1,2\n5,6,7\n", "row 1: must be called --header if these numbers name the columns"),
        ("1.5,0\n2.5,1\n9,2\n", "column '1': counts the rows from 0: say --index-column 1"),
        ("Id,a\n1,7\n2,7\n3,8\n", "column 'Id': counts the rows from 1: say --index-column Id"),
        (",a\n1,5\n1,6\n2,7\n", "column 1: has no name, as row names have, but holds a value"),
        ('1,"2\n3",4\n', "row 1: must be one line, got a quoted cell with a line end"),
        ('1,2\n"3"4,5\n', "row 2: cannot be split into cells"),
        ('1,2\n"3,4', "row 2: cannot be split into cells: unexpected end of data"),
        ("1,2\n\x1a", "row 2: must be text, got the character '\\x1a'"),
        ("1,2\n\ufeff3,4", "row 2: must be text, got the character '\\ufeff'"),
        ("a b\n1 2\n3 4\n", "row 1, column 1"),
        ("a;b\n1;2\n3,4\n", "row 3: must have 2 cells as row 1, got 1"),
        ("a;b\n1,5;2\n", "row 2, column 1 ('a'): must be a number, got '1,5'"),
        ("x,y\n1;2,3\n", "row 2, column 1 ('x'): must be a number, got '1;2' (say --delimiter ';'"),
        ("1,2\ngr\xf6\xdfe,3".encode("latin-1"), "row 2: must be UTF-8, got the byte 0xf6"),
        ("1,2\n3,4\n".encode("utf-16"), ": must be UTF-8, got a byte order mark of UTF-16"),
        ('1,2\n"' + "1" * 200_000 + '",2', "row 2: cannot be split into cells: field larger"),
    ],
)
def test_a_table_of_two_readings_is_refused(tmp_path, text, message):
    assert message in refusal(read_input, write(tmp_path / "x.csv", text))


def test_labels_in_a_table(tmp_path):
    text = "\n".join(f"{row},{kind}" for row, kind in zip(ROWS, ["a", "-1", "b"] * 4, strict=True))
    found = read_input(write(tmp_path / "x.csv", text), TableOptions(label="3"))
    assert np.array_equal(found.features, X)
    assert found.labels.tolist() == ["a", "-1", "b"] * 4
    for hole in ("", "NA", "nan"):
        path = write(tmp_path / "x.csv", "v,w,x,y\n" + text.replace("-1", hole))
        message = refusal(read_input, path, TableOptions(label="y"))
        assert "row 3, column 4 ('y'): must be a label" in message
    both = TableOptions(label="3", index=("3",))
    assert "must differ" in refusal(read_input, write(tmp_path / "x.csv", text), both)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\n\nb\n", "row 2: is empty: a missing value"),
        ("a\nb\n\n", "row 3: is empty: a missing value"),
        ("a\nNA\n", "row 2: must be a label, got 'NA'; -1 means unlabelled"),
        ("0,1\n1,0\n", "row 1: must be one label, got '0,1': a table?"),
        ("0\t1\n", "row 1: must be one label"),
        ("0;1\n", "row 1: must be one label"),
        ("", ": must hold at least one label"),
        ("a\x1cb\n", "row 1: must be text, got the character '\\x1c'"),
    ],
)
def test_label_files_that_lose_a_row_are_refused(tmp_path, text, message):
    assert message in refusal(read_labels, write(tmp_path / "y.txt", text))


def test_label_files(tmp_path):
    text = '\ufeffcat \n"Paris, France"\n-1\n'
    assert read_labels(write(tmp_path / "y.txt", text)).tolist() == ["cat", "Paris, France", "-1"]
    np.save(tmp_path / "y.npy", [[1, 2]])
    assert "one per row, got shape (1, 2)" in refusal(read_labels, tmp_path / "y.npy")
    np.save(tmp_path / "y.npy", np.array(["a", None]), allow_pickle=True)
    assert "pickled objects" in refusal(read_labels, tmp_path / "y.npy")


# ---- arrays and matrices -----------------------------------------------------------------


W = sp.random_array((12, 12), density=0.3, random_state=np.random.default_rng(1)).tocsr()
W = (W + W.T).tocsr()


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr", "dia"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "int64", "bool"])
@pytest.mark.parametrize("kind", [sp.csr_array, sp.csr_matrix])
def test_every_sparse_format_is_scipys(tmp_path, form, dtype, kind):
    matrix = kind((W != 0) if dtype == "bool" else W * 3).astype(dtype).asformat(form)
    sp.save_npz(tmp_path / "g.npz", matrix)
    found = read_input(tmp_path / "g.npz").graph
    assert np.array_equal(found.toarray(), sp.load_npz(tmp_path / "g.npz").toarray())


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr", "dia"])
def test_indices_are_checked_before_scipy_sees_them(tmp_path, form, monkeypatch):
    """SciPy's conversions write where the indices tell them to, also outside of the matrix."""
    sp.save_npz(tmp_path / "g.npz", W.asformat(form))
    members = dict(np.load(tmp_path / "g.npz"))
    monkeypatch.setattr(sp, "load_npz", None)
    monkeypatch.setattr(np, "load", None)
    for name in set(members) - {"format", "_is_array"}:
        for bad in (10**6, -1, 2**31, -(2**63)):
            if name == "data" or (name == "shape" and bad == 10**6):
                continue
            changed = members[name].astype(np.int64)
            changed.flat[changed.size // 2] = bad
            np.savez(tmp_path / "bad.npz", **{**members, name: changed})
            refusal(read_input, tmp_path / "bad.npz")
        short = members[name].ravel()[:-1]
        np.savez(tmp_path / "bad.npz", **{**members, name: short})
        refusal(read_input, tmp_path / "bad.npz")
        np.savez(tmp_path / "bad.npz", **{k: v for k, v in members.items() if k != name})
        refusal(read_input, tmp_path / "bad.npz")


def test_archives_of_two_readings_are_refused(tmp_path):
    path = tmp_path / "x.npz"

    def message(**arrays):
        np.savez(path, **arrays)
        return refusal(read_input, path)

    y = np.arange(12) % 2
    assert "must hold one of ('X', 'features'), got both" in message(X=X, features=X)
    assert "must hold one of ('y', 'labels'), got both" in message(X=X, y=y, labels=y)
    assert "must hold one array" in message(a=X, b=X)
    assert "must hold one array" in message(y=y)
    assert "pickled objects" in message(X=X, y=y.astype(object))
    assert "row 3, column 2: must be a number, got a missing value" in message(
        X=np.where(X[2, 1] == X, np.nan, X)
    )
    np.savez(path, X=X, y=y, ids=y)
    assert read_input(path).notes == ["left out of x.npz: ids"]
    np.savez(path, a=X, y=y)
    assert np.array_equal(read_input(path).features, X)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a.npy", b"")
    assert "got two of that name" in refusal(read_input, path)
    for how in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(path, "w", how) as archive:
            archive.writestr("X.npy", b"")
        assert "must be stored or deflated" in refusal(read_input, path)


def test_declared_sizes_are_checked_before_anything_is_allocated(tmp_path):
    np.save(tmp_path / "x.npy", X)
    raw = (tmp_path / "x.npy").read_bytes()
    path = tmp_path / "y.npy"
    for shape in (b"(99999999999999, 3), ", b"(-1, 3), }", b"(12, 4), }"):
        write(path, raw.replace(b"(12, 3), }" + b" " * (len(shape) - 10), shape))
        refusal(read_input, path)
    assert "must take 288 bytes, got 296" in refusal(read_input, write(path, raw + bytes(8)))
    big = b"%%MatrixMarket matrix array real general\n100000000 100000000\n1\n"
    assert "and is too short" in refusal(read_input, write(tmp_path / "b.mtx", big))
    empty = b"%%MatrixMarket matrix coordinate real general\n2147483647 2147483647 0\n"
    nodes = read_input  # 34 GB of row pointers, or a matrix, whichever this machine has room for
    if os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") < 2**36:
        assert "must fit in the memory" in refusal(nodes, write(tmp_path / "b.mtx", empty))


REAL = "%%MatrixMarket matrix coordinate real general\n"
SYMMETRIC = REAL.replace("general", "symmetric")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (REAL + "3 3 2\n1 1 1.5abc\n2 2 2\n", "row 3: must be an entry, got '1 1 1.5abc'"),
        (REAL + "3 3 2\n1 1 1 7\n2 2 2\n", "row 3: must be an entry, got '1 1 1 7'"),
        (REAL + "3 3 1\n1 1 1,5\n", "row 3: must be an entry"),
        (REAL + "3 3 1\n1 1\n", "row 3: must be an entry"),
        (REAL + "3 3 2\n1 1 1\n", ": must hold 2 entries, got 1"),
        (REAL + "3 3 1\n1 1 1\n2 2 2\n", ": must hold 1 entries, got 2"),
        (REAL + "% a\n3 3 2\n0 1 1\n2 2 2\n", "row 4: "),
        (REAL + "3 3 2\n1 1 1\n2 4 2\n", "row 4: "),
        (REAL + "3 3 1\n1 1 nan\n", "row 3: must be an entry, got '1 1 nan'"),
        (REAL + "3 3 1\n2 1 1e999\n", "entry (2, 1): must be finite, got inf"),
        (REAL + "3 3\n1 1 1\n", "row 2: must give rows, columns and entries, got '3 3'"),
        (REAL, "row 2: must give rows"),
        (REAL + "3 2 1\n1 1 1\n", ": must hold a square matrix"),
        (REAL + "3 3 1\n2 1 1\n", ": must hold a symmetric matrix, got a directed graph"),
        (SYMMETRIC + "3 3 2\n2 1 1\n1 2 1\n", "entry (1, 2): must be given once"),
        (SYMMETRIC.replace("real", "integer") + "2 2 1\n2 1 99999999999999999999\n", "row 3: "),
        (REAL.replace("real", "complex") + "1 1 1\n1 1 1 0\n", "row 1: must be real numbers"),
        (REAL.replace("general", "hermitian"), "row 1: must be coordinate or array, general or"),
        ("hello\n", "row 1: must begin with %%MatrixMarket matrix"),
        ("", "row 1: must begin with %%MatrixMarket matrix"),
    ],
)
def test_matrix_market_files_are_read_to_the_end_of_each_line(tmp_path, text, message):
    assert message in refusal(read_graph, write(tmp_path / "g.mtx", text))


@pytest.mark.parametrize("field", ["real", "integer", "pattern"])
@pytest.mark.parametrize("symmetry", ["general", "symmetric"])
def test_matrix_market_files_are_scipys(tmp_path, field, symmetry):
    dense = (W.toarray() * 9).round()
    for matrix in (sp.coo_array(dense), dense):
        if field == "pattern" and not sp.issparse(matrix):
            continue
        scipy.io.mmwrite(
            tmp_path / "g.mtx", matrix, "a\xdf comment", field=field, symmetry=symmetry
        )
        expected = dense != 0 if field == "pattern" else dense
        assert np.array_equal(read_input(tmp_path / "g.mtx").graph.toarray(), expected)


def test_only_files_are_read(tmp_path):
    for read in (read_input, read_matrix, read_graph, read_labels):
        for suffix in (".csv", ".npy", ".npz", ".mtx"):
            (tmp_path / f"folder{suffix}").mkdir(exist_ok=True)
            refusal(read, tmp_path / f"folder{suffix}")
            refusal(read, tmp_path / f"nothing{suffix}")
    os.mkfifo(tmp_path / "pipe.csv")
    assert "must be a file that exists" in refusal(read_input, tmp_path / "pipe.csv")


# ---- results -----------------------------------------------------------------------------


@pytest.fixture
def embed(tmp_path, capsys):
    np.save(tmp_path / "x.npy", X)

    def run(*arguments, out="o", path="x.npy"):
        """(status, last line on stderr) of a run."""
        try:
            status = cli.embed(
                [
                    str(tmp_path / path),
                    "--n-neighbors",
                    "4",
                    "--out",
                    str(tmp_path / out),
                    *arguments,
                ]
            )
        except SystemExit as stop:
            status = stop.code
        err = capsys.readouterr().err.splitlines()
        return status, err[-1] if err else ""

    return run


def test_a_later_run_leaves_nothing_of_an_earlier_one(tmp_path, embed):
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "notes.txt").write_text("mine")
    assert embed("--linear", "-k", "3")[0] == 0
    assert (tmp_path / "o" / "weights.npy").exists()
    assert embed("-k", "2")[0] == 0
    kept = {path.name for path in (tmp_path / "o").iterdir()} - {"embedding.png"}
    assert kept == {"embedding.npy", "graph.npz", "spectrum.csv", "report.txt", "notes.txt"}


def test_what_no_run_wrote_is_never_replaced(tmp_path, embed):
    (tmp_path / "o").mkdir()
    np.save(tmp_path / "o" / "embedding.npy", X)
    before = (tmp_path / "o" / "embedding.npy").read_bytes()
    status, line = embed()
    assert status == 2
    assert "with embedding.npy but without spectrum.csv" in line
    status, line = embed(path="o/embedding.npy")
    assert status == 2
    assert "--out must not replace the input" in line
    (tmp_path / "o" / "embedding.npy").rename(tmp_path / "o" / "mine.npy")
    assert embed()[0] == 0
    os.link(tmp_path / "o" / "embedding.npy", tmp_path / "same.npy")
    assert embed(path="same.npy")[0] == 2
    assert (tmp_path / "o" / "mine.npy").read_bytes() == before
    (tmp_path / "p" / "report.txt").mkdir(parents=True)
    assert "must hold files only" in embed(out="p")[1]


def test_a_full_disk_leaves_the_earlier_results(tmp_path, embed, monkeypatch):
    assert embed("-k", "3")[0] == 0

    def contents(folder):
        return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}

    before = contents(tmp_path / "o")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    for place in ("write_spectrum", "plot"):
        with monkeypatch.context() as disk:
            disk.setattr(_embed, place, full)
            status, line = embed("-k", "2")
            assert status == 2
            assert "No space left on device" in line
            assert embed("-k", "2", out="fresh/deep")[0] == 2
        assert contents(tmp_path / "o") == before
        assert not (tmp_path / "fresh").exists()
    renames = []
    rename = type(tmp_path).rename

    def fails_late(self, target):
        renames.append(self)
        if len(renames) == 6:
            full()
        return rename(self, target)

    with monkeypatch.context() as disk:
        disk.setattr(type(tmp_path), "rename", fails_late)
        assert embed("-k", "2")[0] == 2
    assert contents(tmp_path / "o") == before


def test_two_runs_do_not_write_at_once(tmp_path, embed):
    assert embed("-k", "3")[0] == 0
    (tmp_path / "o" / ".sslspec_fast-partial").mkdir()
    status, line = embed("-k", "2")
    assert status == 2
    assert "another run is writing" in line
    assert np.load(tmp_path / "o" / "embedding.npy").shape == (12, 3)


def test_out_of_memory_is_one_line(embed, monkeypatch):
    def needs_too_much(*_, **__):
        raise MemoryError

    def torch_says(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 GB")

    for failing in (needs_too_much, torch_says):
        monkeypatch.setitem(cli.METHODS, "vicreg", failing)
        status, line = embed()
        assert status == 2
        assert "x.npy: not enough memory" in line


@pytest.mark.parametrize(
    ("labels", "isolated", "told"),
    [
        (["-1"] * 4 + ["cat"] * 4 + ["dog"] * 4, 4, "labelled rows"),
        (["a"] * 12, 0, "1 class(es), so there is nothing to align"),
        (["-3"] * 6 + ["1"] * 6, 6, "1 class(es)"),
        (["-1"] * 12, 12, "0 class(es)"),
    ],
)
def test_unlabelled_rows_and_single_classes(tmp_path, labels, isolated, told, capsys):
    np.save(tmp_path / "x.npy", X)
    (tmp_path / "y.txt").write_text("\n".join(labels) + "\n")
    common = [str(tmp_path / "x.npy"), "--labels", str(tmp_path / "y.txt"), "--out"]
    assert cli.embed([*common, str(tmp_path / "knn"), "--n-neighbors", "4"]) == 0
    assert told in (tmp_path / "knn" / "report.txt").read_text()
    if isolated < 12:
        assert cli.embed([*common, str(tmp_path / "own"), "--affinity", "labels"]) == 0
        assert f", {isolated} isolated" in (tmp_path / "own" / "report.txt").read_text()

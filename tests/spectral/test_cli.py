"""`embed` and `gap` from files to files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

from sslspec_fast import PairGraph, spectral
from sslspec_fast.spectral import cli


@pytest.fixture
def data(tmp_path, lab):
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    x = rng.standard_normal((40, 3)) + 3 * y[:, None]
    w = lab.knn_weights(x, 5)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "xy.npz", X=x, y=y)
    np.save(tmp_path / "y.npy", y)
    sp.save_npz(tmp_path / "g.npz", sp.csr_array(w))
    scipy.io.mmwrite(tmp_path / "g.mtx", sp.coo_array(w))
    lines = ["a,b,c,kind"]
    lines += [",".join([*map(repr, row.tolist()), f"t{t}"]) for row, t in zip(x, y, strict=True)]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    return tmp_path, x, y, w


@pytest.mark.parametrize("name", ["g.npz", "g.mtx"])
@pytest.mark.parametrize("method", list(cli.METHODS))
def test_embed_a_graph(data, capsys, name, method):
    folder, _, _, w = data
    out = folder / "out"
    assert cli.embed([str(folder / name), "--method", method, "-k", "3", "--out", str(out)]) == 0
    form = cli.METHODS[method](sp.csr_array(w), 3)
    assert np.allclose(np.load(out / "embedding.npy"), form.embedding, atol=1e-8)
    table = np.genfromtxt(out / "spectrum.csv", delimiter=",", names=True)
    assert np.allclose(table["eigenvalue"], form.eigenvalues, atol=1e-8)
    report = (out / "report.txt").read_text()
    assert "40 nodes" in report
    assert "residual" in report
    assert report.strip() in capsys.readouterr().out


def test_embed_features_with_labels(data):
    folder, x, _, _ = data
    out = folder / "out"
    arguments = ["--label-column", "kind", "--affinity", "labels", "--linear", "-k", "1"]
    assert cli.embed([str(folder / "x.csv"), *arguments, "--out", str(out)]) == 0
    weights = np.load(out / "weights.npy")
    assert weights.shape == (3, 1)
    assert np.allclose(np.load(out / "embedding.npy"), x @ weights)
    assert "alignment of graph and labels: 1.0000" in (out / "report.txt").read_text()
    again = folder / "again"
    npz = ["--affinity", "labels", "--linear", "-k", "1", "--out", str(again)]
    assert cli.embed([str(folder / "xy.npz"), *npz]) == 0
    assert np.allclose(np.load(again / "weights.npy"), weights)
    given = [str(folder / "x.npy"), "--labels", str(folder / "y.npy"), *npz]
    assert cli.embed(given) == 0


def test_embed_features_on_a_given_graph(data):
    folder, x, _, w = data
    out = folder / "out"
    arguments = ["--graph", str(folder / "g.npz"), "--linear", "--invariance", "0.1"]
    assert cli.embed([str(folder / "x.npy"), *arguments, "--out", str(out)]) == 0
    form = spectral.vicreg(sp.csr_array(w), 2, features=x, invariance=0.1)
    assert np.allclose(np.load(out / "embedding.npy"), form.embedding)


@pytest.mark.parametrize("arguments", [[], ["--affinity", "labels", "-k", "3"], ["-k", "1"]])
def test_gap_reads_the_graph_that_embed_wrote(data, capsys, arguments):
    folder, *_ = data
    out = folder / "out"
    cli.embed([str(folder / "xy.npz"), *arguments, "--invariance", "0.1", "--out", str(out)])
    capsys.readouterr()
    common = [str(out / "embedding.npy"), "--invariance", "0.1", "--penalty", "ls_var", "--json"]
    assert cli.gap([*common, str(out / "graph.npz")]) == 0
    assert json.loads(capsys.readouterr().out)["relative_gap"] == pytest.approx(0, abs=1e-9)
    if not arguments:  # the neighbours of the same features
        assert cli.gap([*common, "--knn-from", str(folder / "x.npy")]) == 0
        assert json.loads(capsys.readouterr().out)["relative_gap"] == pytest.approx(0, abs=1e-9)
    again = folder / "again"
    assert cli.embed([str(out / "graph.npz"), "--invariance", "0.1", "--out", str(again)]) == 0


def test_embed_prints_json(data, capsys):
    folder, x, *_ = data
    out = folder / "out"
    asked = [str(folder / "x.csv"), "--label-column", "kind", "-k", "45", "--json"]
    with pytest.raises(SystemExit):  # more dimensions than rows
        cli.embed([*asked, "--out", str(out)])
    capsys.readouterr()
    asked[asked.index("45")] = "40"
    cli.embed([*asked, "--out", str(out)])
    told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert (told["nodes"], told["k"], told["kind"], told["method"]) == (
        40,
        40,
        "features",
        "vicreg",
    )
    assert told["eigenvalues"][-1] is None  # infinite: there are 39 modes
    assert told["labels"]["alignment"] == pytest.approx(1, abs=0.2)
    assert set(told["files"]) == {path.name for path in out.iterdir()}
    z = np.load(out / "embedding.npy")
    form = spectral.vicreg(PairGraph.from_knn(x, 15), 40)
    assert told["loss"] == pytest.approx(form.loss)
    assert z.shape == (40, 40)


def test_an_index_column_changes_nothing(tmp_path):
    """A frame written with and without its index gives one embedding."""
    pytest.importorskip("pandas")
    datasets = pytest.importorskip("sklearn.datasets")
    iris = datasets.load_iris(as_frame=True)
    frame = iris.data.assign(species=iris.target_names[iris.target])
    frame.to_csv(tmp_path / "index.csv")
    frame.to_csv(tmp_path / "plain.csv", index=False)
    frame.to_csv(tmp_path / "semicolon.csv", sep=";")
    for name in ("index", "plain", "semicolon"):
        asked = [str(tmp_path / f"{name}.csv"), "--label-column", "species", "--scale"]
        assert cli.embed([*asked, "--out", str(tmp_path / name)]) == 0
    expected = np.load(tmp_path / "plain" / "embedding.npy")
    assert np.array_equal(np.load(tmp_path / "index" / "embedding.npy"), expected)
    assert np.array_equal(np.load(tmp_path / "semicolon" / "embedding.npy"), expected)


@pytest.mark.parametrize("classes", [0, 3, 30])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_a_plot_names_what_it_shows(data, monkeypatch, k, classes):
    figure_module = pytest.importorskip("matplotlib.figure")
    folder, *_ = data
    drawn = []

    def keep(figure, path, **options):
        drawn.append(figure)
        save(figure, path, **options)

    save = figure_module.Figure.savefig
    monkeypatch.setattr(figure_module.Figure, "savefig", keep)
    labels = [f"c{i % max(classes, 1)}" for i in range(40)]
    labels[0] = "-1"
    (folder / "y.txt").write_text("\n".join(labels))
    arguments = ["--labels", str(folder / "y.txt")] if classes else []
    out = folder / "out"
    cli.embed([str(folder / "x.npy"), *arguments, "-k", str(k), "--out", str(out)])
    assert (out / "embedding.png").stat().st_size > 1000
    figure = drawn[0]
    assert figure.get_suptitle().startswith("vicreg on x.npy: loss ")
    left, right = figure.axes[:2]
    assert ("dimensions 1 and 2 of 5" in left.get_title()) == (k == 5)
    assert left.get_xlabel() == ("row" if k == 1 else "dimension 1")
    assert "filter s_k" in right.get_ylabel()
    legend = left.get_legend()
    if classes == 3:
        assert [t.get_text() for t in legend.get_texts()] == ["no label", "c0", "c1", "c2"]
    else:
        assert legend is None
        assert len(figure.axes) == (3 if classes else 2)  # a colour bar for many classes


def test_embed_says_whether_it_is_complete(data, monkeypatch):
    folder, *_ = data
    report = folder / "out" / "report.txt"

    def embed(name, *arguments):
        status = cli.embed([str(folder / name), *arguments, "--out", str(folder / "out")])
        return status, report.read_text()

    status, text = embed("g.npz")
    assert (status, "completeness" in text) == (0, False)
    status, text = embed("g.npz", "--certify")
    assert status == 0
    assert "completeness: proven complete, no eigenvalue was missed" in text
    for arguments in (["x.npy", "--linear"], ["xy.npz", "--affinity", "labels"]):
        status, text = embed(*arguments, "--certify")
        assert status == 0
        assert "completeness: no proof needed, every eigenvalue is computed or known" in text

    def doubtful(*arguments, certify, **options):
        form = spectral.vicreg(*arguments, certify=certify, **options)
        form.info.complete, form.info.reason = False, "a factor good to 1e-1 only"
        return form

    monkeypatch.setitem(cli.METHODS, "vicreg", doubtful)
    status, text = embed("g.npz", "--certify")
    assert status == 1
    assert "completeness: not proven (a factor good to 1e-1 only)" in text


def test_gap(data, capsys):
    folder, _, _, w = data
    form = spectral.vicreg(sp.csr_array(w), 2, invariance=0.1)
    np.save(folder / "z.npy", form.embedding)
    arguments = [str(folder / "z.npy"), str(folder / "g.npz"), "--invariance", "0.1"]
    assert cli.gap([*arguments, "--penalty", "ls_var", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["relative_gap"] == pytest.approx(0, abs=1e-9)
    assert facts["converged"]
    assert cli.gap(arguments) == 0
    assert "relative_gap" in capsys.readouterr().out


def test_negative_labels_are_unlabelled(data, capsys):
    folder, x, _, _ = data
    labels = np.arange(len(x)) % 3
    labels[20:] = -1
    np.save(folder / "some.npy", labels)
    arguments = ["--affinity", "labels", "--labels", str(folder / "some.npy"), "-k", "2"]
    assert cli.embed([str(folder / "x.npy"), *arguments, "--out", str(folder / "some")]) == 0
    counts = np.bincount(labels[:20])
    isolated = (labels < 0).sum()
    assert f"{(counts**2).sum()} entries, {3 + isolated} component(s), {isolated} isolated" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("embed", ["nothing.npy"], "input must be a file that exists"),
        ("embed", ["x.npy", "--off-diagonal", "1"], "vicreg has no option off_diagonal"),
        ("embed", ["x.npy", "--affinity", "labels"], "needs --labels or --label-column"),
        ("embed", ["g.npz", "--linear"], "--linear needs features"),
        ("embed", ["complex.npy"], "must be real"),
        ("embed", ["x.npy", "--graph", "small.npz"], "one node per row of x.npy: 40 rows, got 30"),
        ("embed", ["x.npy", "--out", "x.npy"], "--out must be a folder"),
        ("embed", ["x.csv"], "x.csv, row 2, column 4 ('kind'): must be a number, got 't0'"),
        ("embed", ["x.csv", "--label-column", "z"], "x.csv: --label-column must be one of"),
        ("embed", ["g.npz", "-k", "41"], "k must be between 1"),
        ("embed", ["bad.npy"], "bad.npy: must be a NumPy file of plain arrays"),
        ("embed", ["bad.npz"], "bad.npz: must be a NumPy file of plain arrays"),
        ("embed", ["folder.npy"], "folder.npy"),
        ("embed", ["empty.npy"], "at least one row and one column, got shape (0, 3)"),
        ("embed", ["nothing_in.npy"], "nothing_in.npy: must be a NumPy file of plain arrays"),
        ("embed", ["cut.npz"], "cut.npz: must be a NumPy file of plain arrays"),
        ("embed", ["zip.npy"], "zip.npy: must be a NumPy file of plain arrays"),
        ("embed", ["none.npz"], "must hold one array, or one named X or features, got []"),
        ("embed", ["words.npy"], "words.npy: must be real numbers, got dtype <U1"),
        ("embed", ["header.csv"], "header.csv: must hold at least one row of values"),
        (
            "embed",
            ["names.csv", "--header", "--label-column", "a"],
            "at least one row and one column",
        ),
        ("embed", ["g.npz", "--affinity", "labels"], "--affinity needs features as input, got the"),
        ("embed", ["g.npz", "--graph", "g.mtx"], "--graph needs features as input, got the graph"),
        ("embed", ["g.npz", "--n-neighbors", "3"], "--n-neighbors needs features as input"),
        (
            "embed",
            ["x.npy", "--graph", "g.npz", "--affinity", "knn"],
            "--affinity builds a graph, so it cannot be given with --graph",
        ),
        (
            "embed",
            ["xy.npz", "--affinity", "labels", "--n-neighbors", "3"],
            "--n-neighbors needs --affinity knn, got labels",
        ),
        ("embed", ["x.npy", "--label-column", "c"], "x.npy: --label-column needs a .csv, .tsv or"),
        (
            "embed",
            ["x.csv", "--label-column", "kind", "--labels", "y.npy"],
            "not allowed with argument",
        ),
        ("embed", ["complex.npz"], "must be real numbers, got dtype complex128"),
        ("gap", ["x.npy", "complex.mtx"], "must be real numbers, got the field 'complex'"),
        (
            "embed",
            ["x.npy", "--affinity", "labels", "--labels", "none.txt"],
            "none.txt: labels must",
        ),
        ("embed", ["x.npy", "--no-header"], "--header and --index-column need a .csv, .tsv or"),
        ("embed", ["x.csv", "--delimiter", "||"], "--delimiter must be one character"),
        ("embed", ["g.npz", "--labels", "short.txt"], "short.txt: labels must be one per row of g"),
        ("gap", ["x.npy", "x.npy"], "square matrix, got shape (40, 3)"),
        ("gap", ["g.npz", "g.npz"], "must hold a dense matrix"),
        ("gap", ["x.npy"], "give one graph, as GRAPH or by --knn-from FEATURES; got none"),
        ("gap", ["x.npy", "g.npz", "--knn-from", "x.npy"], "got g.npz and x.npy"),
        ("gap", ["x.npy", "g.npz", "--n-neighbors", "3"], "--n-neighbors needs --knn-from, got"),
        ("gap", ["x.npy", "g.npz", "--scale"], "--scale needs --features or --knn-from"),
        ("embed", ["g.npz", "--scale"], "--scale needs features as input, got the graph g.npz"),
        ("embed", ["g.npz", "--impute", "mean"], "--impute needs features as input, got the graph"),
    ],
)
def test_bad_input_is_one_line_and_status_two(
    data, capsys, monkeypatch, command, arguments, message
):
    folder, x, _, w = data
    np.save(folder / "complex.npy", x * 1j)
    (folder / "bad.npy").write_text("no array")
    (folder / "bad.npz").write_text("no arrays")
    (folder / "folder.npy").mkdir()
    np.save(folder / "empty.npy", x[:0])
    (folder / "nothing_in.npy").touch()
    (folder / "cut.npz").write_bytes(b"PK\x03\x04")
    np.savez(folder / "none.npz")
    (folder / "zip.npy").write_bytes((folder / "xy.npz").read_bytes())
    np.save(folder / "words.npy", [["a", "b"]])
    (folder / "short.txt").write_text("kind\na\n")
    (folder / "header.csv").write_text("a,b\n")
    (folder / "names.csv").write_text("a\nx\ny\n")
    sp.save_npz(folder / "complex.npz", sp.csr_array(w * 1j))
    scipy.io.mmwrite(folder / "complex.mtx", sp.coo_array(w * 1j))
    sp.save_npz(folder / "small.npz", sp.csr_array(w[:30, :30]))
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as stop:
        getattr(cli, command)(arguments)
    assert stop.value.code == 2
    usage, line = capsys.readouterr().err.splitlines()
    assert usage.startswith("usage: python -m sslspec_fast")
    assert message in line

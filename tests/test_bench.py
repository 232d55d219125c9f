"""The benchmark harness: it runs, its variants compute the same thing, its statistics are right."""

from __future__ import annotations

import csv
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from sslspec_fast.bench import accuracy, cases, main, measure, memory, report
from sslspec_fast.bench.case import Case

from .support.memory_cases import known_cases
from .support.process import fresh_python

SMOKE = cases.smoke_cases()


@pytest.mark.parametrize("case", SMOKE, ids=[case.name for case in SMOKE])
def test_variants_of_a_case_agree(case: Case) -> None:
    leaves = case.inputs("cpu", torch.float64)
    gradients = {}
    for name, variant in case.variants.items():
        if name in ("sparse.mm + mm", "exact"):
            continue  # its stored graph is fp32; the mean over all directions is another number
        gradients[name] = torch.cat(
            [g.flatten() for g in measure.forward_backward(variant, leaves)]
        )
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, gradients["fused"], rtol=1e-8, atol=1e-10, msg=name)


def test_graph_covariance_agrees_with_sparse_torch() -> None:
    case = cases.find("graph_covariance 2000x16", SMOKE)
    leaves = case.inputs("cpu", torch.float32)
    fused, sparse = (measure.forward_backward(v, leaves)[0] for v in case.variants.values())
    torch.testing.assert_close(fused, sparse, rtol=1e-4, atol=1e-3)


def test_smoke_run_prints_a_line_per_case_and_writes_three_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    assert main(["nt_xent", "--smoke", "--no-memory", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "processor:" in printed
    assert "nt_xent 128x32" in printed
    assert "eager x" in printed
    assert "tau=0.01" in printed
    lines = (tmp_path / "bench.csv").read_text().splitlines()
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    assert {row["variant"] for row in rows} == {"fused", "eager"}
    assert all(float(row["p20_s"]) <= float(row["p50_s"]) <= float(row["p80_s"]) for row in rows)
    assert "data:image/png;base64," in (tmp_path / "bench.html").read_text()
    assert (tmp_path / "bench.png").exists()


@pytest.mark.skipif(not memory.available(), reason="needs /proc/self/clear_refs")
def test_memory_of_a_known_computation(tmp_path: Path) -> None:
    # A process of its own finds a case that stores exactly one 32 MiB matrix.
    command = ["-m", "sslspec_fast.bench.memory", "--case", "known 8x1", "--variant", "fused"]
    path = os.pathsep.join([str(Path(__file__).parent / "support"), *sys.path])
    command += ["--registry", "memory_cases:known_cases"]
    printed = fresh_python(tmp_path, *command, PYTHONPATH=path)
    assert float(printed) == pytest.approx(32, abs=3)


def test_subnormals_are_flushed_in_all_threads_of_a_fresh_process(tmp_path: Path) -> None:
    code = (
        "from sslspec_fast.bench.measure import flushed_share, flushed_subnormals\n"
        "with flushed_subnormals():\n"
        "    print(flushed_share())\n"
        "print(flushed_share() < 1)"
    )
    assert fresh_python(tmp_path, "-c", code).split() == ["1.0", "True"]


def test_percentiles() -> None:
    timing = measure._timing([5.0, 1.0, 2.0, 4.0, 3.0], [9.0, 7.0, 6.0, 8.0, 5.0])
    assert (timing.p20, timing.p50, timing.p80, timing.samples, timing.cpu) == (
        pytest.approx(1.8),
        3.0,
        pytest.approx(4.2),
        5,
        7.0,
    )


def test_interleaved_takes_turns() -> None:
    order = []

    def variant(name: str) -> measure.Variant:
        def run(x: Tensor) -> Tensor:
            order.append(name)
            return x.sum()

        return run

    x = torch.ones(3, requires_grad=True)
    variants = {"a": variant("a"), "b": variant("b")}
    measure.interleaved(variants, (x,), seconds=0, least=3)
    assert order == ["a", "b"] * 4


def test_a_peer_that_fails_is_named_and_left_out(tmp_path: Path) -> None:
    from sslspec_fast.bench import run

    def broken(*_: Tensor) -> Tensor:
        raise RuntimeError("not for this size")

    (case,) = known_cases()
    case.variants["broken"] = broken
    (result,) = run(
        [case],
        tmp_path,
        registry="",
        seconds=0.0,
        with_memory=False,
        with_compile=False,
        with_accuracy=False,
    )
    assert result.missing == {"broken": "not for this size"}
    assert "broken n/a (not for this size)" in report.line(result, gemm=1.0)


def test_fused_error_is_at_most_twice_torchs() -> None:
    for row in accuracy.table(rows=512, width=64):
        floor = torch.finfo(torch.float32).eps  # one unit in the last place
        assert row.fused_gradient <= max(2 * row.torch_gradient, floor), row
        assert row.fused_loss <= max(2 * row.torch_loss, floor), row


def test_unknown_case_lists_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"no case 'nothing'.*nt_xent 128x32"):
        cases.find("nothing", SMOKE)


@pytest.mark.skipif(not memory.available(), reason="needs /proc/self/clear_refs")
def test_nothing_of_the_shared_temporary_folder_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody may write there; a module of that folder would come before Python's own."""
    for name in ("argparse.py", "json.py", "torch.py"):
        (tmp_path / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "support"))  # of the registry
    (case,) = known_cases()
    used = memory.peak_extra_mib(case, "fused", "memory_cases:known_cases")
    assert not (tmp_path / "ran").exists()
    assert used == pytest.approx(32, abs=3)


@pytest.mark.parametrize("with_memory", [False, True])
def test_the_picture_has_readable_axes_and_no_empty_panel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_memory: bool
) -> None:
    figures = pytest.importorskip("matplotlib.figure")
    drawn: list[Any] = []
    save = figures.Figure.savefig

    def keep(figure: Any, path: Path, **options: Any) -> None:
        drawn.append(figure)
        save(figure, path, **options)

    monkeypatch.setattr(figures.Figure, "savefig", keep)
    results = []
    for rows in (200, 230, 260):
        case = SimpleNamespace(family="f", width=8, dtype=torch.float32, rows=rows)
        times = {name: SimpleNamespace(p50=1e-6 * rows) for name in ("fused", "eager")}
        stored = {"fused": 1.0 * rows, "eager": 2.0 * rows} if with_memory else {}
        results.append(report.Result(case, times, stored))  # type: ignore[arg-type]
    assert report.draw(tmp_path / "bench.png", results)
    (figure,) = drawn
    assert len(figure.axes) == (2 if with_memory else 1)
    for axis, unit in zip(figure.axes, ("ms", "MiB"), strict=False):
        assert [t.get_text() for t in axis.get_xticklabels()] == ["200", "230", "260"]
        assert not axis.get_xticks(minor=True).size
        assert axis.get_ylabel() == unit
        assert [t.get_text() for t in axis.get_legend().get_texts()] == ["fused", "eager"]

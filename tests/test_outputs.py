"""Results of every command replace those of an earlier run as a whole, and nothing else."""

from __future__ import annotations

import contextlib
import multiprocessing
from pathlib import Path

import pytest

from sslspec_fast._outputs import check_folder, results
from sslspec_fast.bench import main as bench
from sslspec_fast.demo import main as demo

NAMES, ALWAYS = ("a", "b", "c"), ("a", "b")


def write(folder: Path, number: int, *names: str) -> None:
    with results(folder, NAMES, ALWAYS) as aside:
        for name in names:
            (aside / name).write_text(str(number))


def many(folder: Path, number: int) -> None:
    for _ in range(40):
        with contextlib.suppress(FileExistsError):  # the other process is writing
            write(folder, number, *(NAMES if number % 2 else ALWAYS))


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.iterdir())}


def test_a_run_replaces_all_files_of_another(tmp_path: Path) -> None:
    write(tmp_path / "o", 1, "a", "b", "c")
    write(tmp_path / "o", 2, "a", "b")
    assert contents(tmp_path / "o") == {"a": "2", "b": "2"}


def test_runs_side_by_side_do_not_mix(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    runs = [context.Process(target=many, args=(tmp_path / "o", number)) for number in (1, 2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
        assert run.exitcode == 0
    assert contents(tmp_path / "o") in ({"a": "1", "b": "1", "c": "1"}, {"a": "2", "b": "2"})


def test_a_run_that_fails_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path, 1, "a", "b")
    with contextlib.suppress(KeyboardInterrupt), results(tmp_path, NAMES, ALWAYS) as aside:
        (aside / "a").write_text("half")
        raise KeyboardInterrupt
    assert contents(tmp_path) == {"a": "1", "b": "1"}
    with pytest.raises(OSError, match="full"), results(tmp_path / "x" / "y", NAMES, ALWAYS):
        raise OSError("full")
    assert not (tmp_path / "x").exists()


def test_files_of_somebody_else_are_refused(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("mine")
    with pytest.raises(ValueError, match="with c but without a"):
        check_folder(tmp_path, NAMES, ALWAYS)
    for command, name in ((bench, "bench.csv"), (demo, "report.txt")):
        (tmp_path / name).write_text("mine")
        with pytest.raises(SystemExit) as stop:
            command(["--smoke" if command is bench else "--synthetic", "--out", str(tmp_path)])
        assert stop.value.code == 2
        assert (tmp_path / name).read_text() == "mine"

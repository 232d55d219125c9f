"""What the commands share: their name, and results written aside, then moved into their folder
together.

A folder holds the results of one run, whole: files of an earlier run are replaced together, and
what no run wrote is never touched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

__all__ = ["check_folder", "program", "results"]

_ASIDE = ".sslspec_fast-partial"


def program() -> str:
    """What the user typed before the name of a command."""
    return "sslspec" if Path(sys.argv[0]).stem == "sslspec" else "python -m sslspec_fast"


def check_folder(
    folder: Path, names: Sequence[str], always: Sequence[str], inputs: Iterable[Path] = ()
) -> None:
    """Raise ValueError where `results` would replace what no earlier run wrote.

    names: every file that a run may write; always: those that every run writes, so that a folder
    with some but not all of them holds the files of something else. inputs: files that are read.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out must be a folder, got the file {folder}")
    taken = [name for name in names if os.path.lexists(folder / name)]
    for name in taken:
        if not (folder / name).is_file():
            raise ValueError(f"--out must hold files only, got {folder / name}")
    for path in inputs:
        for name in taken:
            if path.exists() and path.samefile(folder / name):
                raise ValueError(f"--out must not replace the input, got {folder} with {path}")
    lacking = [name for name in always if name not in taken]
    if taken and lacking:
        raise ValueError(
            f"--out must be empty or hold the results of an earlier run, got {folder} with "
            f"{taken[0]} but without {lacking[0]}"
        )


@contextlib.contextmanager
def results(
    folder: Path, names: Sequence[str], always: Sequence[str], inputs: Iterable[Path] = ()
) -> Iterator[Path]:
    """A folder to write `names` into, whose files replace those in `folder` when the block ends.

    If the block or the move fails, `folder` is as before. The files are written in `folder` itself,
    below a name that only one run at a time can make: a second one gets FileExistsError.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out must be a folder, got the file {folder}")
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / _ASIDE
    try:
        aside.mkdir()
    except FileExistsError as problem:
        raise FileExistsError(
            f"{aside} exists: another run is writing to {folder}, or one was stopped while it "
            "wrote; remove that folder if no run is left"
        ) from problem
    try:
        check_folder(folder, names, always, inputs)  # no other run moves files now
        new, old = aside / "new", aside / "old"
        new.mkdir()
        old.mkdir()
        yield new
        written = sorted(path.name for path in new.iterdir())
        unknown = set(written) - set(names)
        assert not unknown, f"files that no list names: {unknown}"
        for name in written:
            with (new / name).open("rb") as stream:  # on the disk, before anything is replaced
                os.fsync(stream.fileno())
        check_folder(folder, names, always, inputs)
        _exchange(folder, names, new, old)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        for path in created:
            with contextlib.suppress(OSError):  # not empty: the results are there
                path.rmdir()


def _exchange(folder: Path, names: Sequence[str], new: Path, old: Path) -> None:
    """Files of `folder` to `old` and those of `new` to `folder`; undone if one move fails."""
    moved: list[tuple[Path, Path]] = []
    try:
        for source, target in ((folder, old), (new, folder)):
            for name in names:
                if os.path.lexists(source / name):
                    (source / name).rename(target / name)
                    moved.append((source / name, target / name))
    except BaseException:
        for source, target in reversed(moved):
            target.rename(source)
        raise

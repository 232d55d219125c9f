"""What is wrong with a file, in one line that names it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ...solvers.linalg.basis import physical_memory

__all__ = ["FileProblem", "check_memory", "reading"]


class FileProblem(ValueError):
    """A file that cannot be read without a guess; ``where`` is a row, a column or a member."""

    def __init__(self, path: Path, message: str, where: str = "") -> None:
        place = f"{path}, {where}" if where else str(path)
        super().__init__(f"{place}: {message}")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Every failure inside is a `FileProblem`, whichever library it comes from."""
    try:
        yield
    except (FileProblem, ImportError):
        raise
    except MemoryError as problem:
        raise FileProblem(path, "does not fit in memory") from problem
    except OSError as problem:
        raise FileProblem(path, f"cannot be read: {problem.strerror or problem}") from problem
    except Exception as problem:  # zlib, csv, scipy, pandas … have no common class
        text = " ".join(str(problem).split()) or type(problem).__name__
        raise FileProblem(path, f"cannot be read: {text}") from problem


def check_memory(path: Path, needed: int, what: str) -> None:
    """Refuse a declared size that this machine cannot hold, before anything is allocated."""
    memory = physical_memory()
    if memory is not None and needed > memory:
        raise FileProblem(
            path,
            f"{what} must fit in the memory of {memory / 2**30:.3g} GiB, but declares "
            f"{needed / 2**30:.3g} GiB",
        )

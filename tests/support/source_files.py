"""The files that the rules of the code base are about, and searches in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CSRC = ROOT / "csrc"
PACKAGE = ROOT / "sslspec_fast"
CPP = (".cpp", ".h", ".cu", ".cuh")
SEAM_FILES = {"bindings.cpp", "tensor_caster.h"}


def sources(folder: Path, *suffixes: str) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix in suffixes and p.is_file())


def core() -> list[Path]:
    return sources(CSRC, *CPP)


def code_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines without // comments and without block comments, as close as a script needs."""
    text = re.sub(
        r"/\*.*?\*/", lambda m: "\n" * m.group().count("\n"), path.read_text("utf-8"), flags=re.S
    )
    for number, line in enumerate(text.splitlines(), 1):
        yield number, line.split("//", 1)[0]


def offences(paths: list[Path], pattern: str) -> list[str]:
    found = re.compile(pattern)
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in paths
        for number, line in code_lines(path)
        if found.search(line)
    ]

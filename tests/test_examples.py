"""The examples, which `make docs` runs, have titles, and name a package that is missing."""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
PLAIN = {"distributed_simclr", "c3_dino"}  # need no optional package to start


def test_all_examples_are_found() -> None:
    assert len(SCRIPTS) >= 12


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_an_example_begins_with_a_title(script: Path) -> None:
    text = ast.get_docstring(ast.parse(script.read_text("utf-8")))
    assert text is not None
    title, under, *rest = text.splitlines()
    assert under == "=" * len(title)
    assert any(rest)


@pytest.mark.parametrize(
    "script", [path for path in SCRIPTS if path.stem not in PLAIN], ids=lambda path: path.stem
)
def test_an_example_names_the_package_that_is_missing(
    script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("matplotlib", "matplotlib.pyplot"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit, match=r"matplotlib.*: pip install '.*\[examples\]'"):
        runpy.run_path(str(script))

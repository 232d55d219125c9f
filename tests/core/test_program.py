"""The program of `make sanitize` and `make test-aarch64` calls the core as it is now."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_the_program_compiles() -> None:
    flags = ["-std=c++17", "-fsyntax-only", "-fopenmp", "-Wall", "-Wextra", "-Werror"]
    core = f"-I{HERE.parent.parent / 'csrc'}"
    run = subprocess.run(
        ["g++", *flags, core, HERE / "program.cpp"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr

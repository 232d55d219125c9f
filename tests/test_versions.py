"""One version, whose home is `sslspec_fast/__init__.py`; everything else that has one agrees."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest

import sslspec_fast as sf

ROOT = Path(__file__).resolve().parent.parent


def test_the_version_is_that_of_semantic_versioning() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", sf.__version__)


def test_the_citation_has_it() -> None:
    text = (ROOT / "CITATION.cff").read_text("utf-8")
    assert re.findall(r"^version: (.*)$", text, flags=re.M) == [sf.__version__]


def test_the_build_reads_it_and_has_no_other() -> None:
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    assert 'dynamic = ["version"]' in project
    assert 'input = "sslspec_fast/__init__.py"' in project
    cmake = (ROOT / "CMakeLists.txt").read_text("utf-8")
    assert re.findall(r"project\(.* VERSION (\S+)", cmake) == ["${SKBUILD_PROJECT_VERSION}"]


def test_the_installed_package_has_it() -> None:
    try:
        installed = importlib.metadata.version("sslspec-fast")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package is on the path and not installed")
    assert installed == sf.__version__

"""The examples in the docstrings run and print what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

import sslspec_fast.losses

FOLDER = Path(sslspec_fast.losses.__file__).parent
MODULES = [f"sslspec_fast.losses.{p.stem}" for p in sorted(FOLDER.glob("[a-z]*.py"))]


@pytest.mark.parametrize("name", [*MODULES, "sslspec_fast.metrics.batch"])
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0, "a loss shows a runnable example"
    assert result.failed == 0

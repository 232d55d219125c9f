"""The types that users see are those of the functions; mypy itself runs in `make lint`."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import get_args

import pytest
import torch

import sslspec_fast.functional as F
from sslspec_fast import PairGraph
from sslspec_fast.losses import _options

STUB = Path(F.__file__).with_suffix(".pyi")


def declared() -> dict[str, list[ast.FunctionDef]]:
    """The overloads of each function in the stub."""
    found: dict[str, list[ast.FunctionDef]] = {}
    for node in ast.parse(STUB.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found.setdefault(node.name, []).append(node)
    return found


def test_every_function_is_declared() -> None:
    assert sorted(declared()) == sorted(F.__all__)


@pytest.mark.parametrize("name", F.__all__)
def test_declared_parameters_are_those_of_the_function(name: str) -> None:
    parameters = inspect.signature(getattr(F, name)).parameters
    overloads = declared()[name]
    assert len(overloads) == (3 if "return_terms" in parameters else 1)
    for node in overloads:
        positional = [a.arg for a in node.args.args]
        assert positional == [
            p.name for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD
        ]
        keywords = {a.arg for a in node.args.kwonlyargs}
        rest = node.args.kwarg
        if rest is not None and rest.arg == "options":
            kind = ast.unparse(rest.annotation).split("kw.")[1].rstrip("]")
            assert hasattr(_options, kind), f"losses/_options.py has no {kind}, see functional.pyi"
            options = getattr(_options, kind)
            assert not keywords & set(options.__annotations__)
            keywords |= set(options.__annotations__)
        assert keywords == {p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY}
        defaults = node.args.defaults
        assert len(defaults) == sum(
            p.default is not p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
            for p in parameters.values()
        )


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("reduction", _options.Reduction),
        ("impl", _options.Implementation),
        ("negatives", _options.Negatives),
        ("penalty", _options.Penalty),
        ("measure", _options.Measure),
    ],
)
def test_declared_choices_are_those_that_are_taken(name: str, choices: object) -> None:
    loss = F.graph_vicreg if name in ("penalty", "measure") else F.graph_info_nce
    with pytest.raises(ValueError, match=f"{name} must be one of ") as told:
        loss(torch.eye(4), PairGraph.from_views(2), **{name: "no such choice"})
    taken = re.findall(r"'(\w+)'", str(told.value).split("must be one of")[1].split(", got")[0])
    assert sorted(taken) == sorted(get_args(choices))

"""Every public function says what it takes, returns and raises; every class what it is made of."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest

import sslspec_fast as sf
from sslspec_fast import functional, metrics, operators, spectral
from sslspec_fast.ranks import buffer_bytes

HOMES = (sf, functional, metrics, operators, spectral)
OF_TORCH = ("forward", "extra_repr", "get_extra_state", "set_extra_state")
MADE_BY = {  # classes that users get from functions, and an exception
    *("PairGraph", "ConvergenceWarning"),
}


def public() -> Iterator[tuple[str, Any]]:
    for home in HOMES:
        for name in home.__all__:
            if not inspect.ismodule(getattr(home, name)):
                yield f"{home.__name__}.{name}", getattr(home, name)
    yield "sslspec_fast.ranks.buffer_bytes", buffer_bytes


FUNCTIONS = {name: thing for name, thing in public() if not inspect.isclass(thing)}
CLASSES = {name: thing for name, thing in public() if inspect.isclass(thing)}
NAMED_CONSTRUCTORS = {
    f"PairGraph.{name}": getattr(sf.PairGraph, name)
    for name in dir(sf.PairGraph)
    if name.startswith("from_")
}


def sections(thing: Any) -> dict[str, str]:
    """The text of the docstring by the heading above it; what comes first is under ""."""
    text = inspect.getdoc(thing) or ""
    parts = re.split(r"^(Args|Returns|Raises|Attributes):\n", text, flags=re.M)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def items(section: str) -> set[str]:
    """The names before the colon: "a, b: text" has two."""
    found = re.findall(r"^ {4}(\w+(?:, \w+)*): ", section, flags=re.M)
    return {name for names in found for name in names.split(", ")}


def parameters(thing: Any) -> set[str]:
    return {p for p in inspect.signature(thing).parameters if p not in ("self", "cls")}


def test_sections_are_found() -> None:
    def sample(a: int, b: int) -> int:
        """Adds.

        Args:
            a, b: numbers,
                of any size.

        Returns:
            Their sum: a number.
        """
        return a + b

    found = sections(sample)
    assert list(found) == ["", "Args", "Returns"]
    assert items(found["Args"]) == parameters(sample) == {"a", "b"}


@pytest.mark.parametrize("name", [*FUNCTIONS, *NAMED_CONSTRUCTORS])
def test_functions_have_args_returns_and_raises(name: str) -> None:
    thing = (FUNCTIONS | NAMED_CONSTRUCTORS)[name]
    found = sections(thing)
    assert found[""].strip()
    assert "Returns" in found
    if parameters(thing):
        assert items(found["Args"]) == parameters(thing)
        assert "Raises" in found


@pytest.mark.parametrize("name", CLASSES)
def test_classes_name_what_they_are_made_of(name: str) -> None:
    thing = CLASSES[name]
    found = sections(thing)
    assert found[""].strip()
    if thing.__name__ in MADE_BY:
        return
    if dataclasses.is_dataclass(thing):
        inherited = {f.name for base in thing.__mro__[1:] for f in _fields(base)}
        own = {f.name for f in _fields(thing)} - inherited
        assert items(found["Attributes"]) == own
    else:
        assert items(found.get("Args", "")) == parameters(thing)


def _fields(thing: type) -> tuple[Any, ...]:
    return dataclasses.fields(thing) if dataclasses.is_dataclass(thing) else ()


@pytest.mark.parametrize("name", CLASSES)
def test_methods_have_a_docstring(name: str) -> None:
    missing = []
    for base in CLASSES[name].__mro__:
        if not base.__module__.startswith("sslspec_fast"):
            continue
        for method, value in vars(base).items():
            public_method = not method.startswith("_") and method not in OF_TORCH
            described = isinstance(value, (classmethod, staticmethod, property))
            if public_method and (described or inspect.isfunction(value)):
                inherited = getattr(CLASSES[name], method)
                if not inspect.getdoc(inherited):
                    missing.append(f"{base.__name__}.{method}")
    assert missing == []

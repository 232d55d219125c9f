"""What ``group=`` does: value and gradient of a batch whose rows are spread over ranks.

`over_ranks(form)` gives a functional its meaning with a group; without one, or with a group of one
rank, the functional runs as it is.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

from ... import _checks as check
from ...graph._checks import group_of_graph
from ...ranks import told_to_all
from ...ranks.group import by_name, name_and_size
from ._form import Form, Given
from ._operator import call

__all__ = ["over_ranks"]

P = ParamSpec("P")
R = TypeVar("R")


def over_ranks(form: Form) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorates the functional `form.op`, whose keyword ``group`` may then have several ranks."""

    def decorate(single: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(single)
        defaults = {
            p.name: p.default for p in signature.parameters.values() if p.default is not p.empty
        }
        names = list(signature.parameters)
        known = {"impl", "return_terms", "group", *inspect.signature(form.check).parameters}
        alone = [name for name in names if name not in known]  # options of one process only

        def checked(args: Any, keywords: Any) -> tuple[Given, dict[str, Any]]:
            arguments = {**defaults, **dict(zip(names[: len(args)], args, strict=True)), **keywords}
            options = {"reduction": arguments.get("reduction", form.reduction)}
            options["impl"] = arguments.pop("impl")
            options["return_terms"] = arguments.pop("return_terms", False)
            arguments.pop("group", None)
            for name in alone:
                value = arguments.pop(name)
                if value is not defaults[name] and value != defaults[name]:
                    raise ValueError(
                        f"{form.op}: {name} must be left at {defaults[name]} with a group of "
                        f"several ranks, got {value}"
                    )
            check.choice(form.op, "impl", options["impl"], check.IMPLEMENTATIONS)
            check.choice(form.op, "reduction", options["reduction"], check.REDUCTIONS)
            return form.check(**arguments), options

        @functools.wraps(single)
        def loss(*args: Any, group: Any = None, **keywords: Any) -> Any:
            if form.graph:
                at = names.index(form.graph)
                graph = args[at] if len(args) > at else keywords.get(form.graph)
                group = group_of_graph(form.op, graph, group, needed=form.needs_graph)
            if group is None:
                return single(*args, **keywords)
            name, size = name_and_size(form.op, group)
            if size == 1:
                return single(*args, **keywords)
            compiling = torch.compiler.is_compiling()
            with told_to_all(form.op, None if compiling else by_name(name)):
                if not compiling:  # torch 2.4 cannot trace `bind`; form.check refuses names as well
                    signature.bind(*args, **keywords)
                given, options = checked(args, keywords)
            if form.prepare is not None:
                given = form.prepare(given, name)
            return call(form, name, given, single=single, **options)

        return loss

    return decorate

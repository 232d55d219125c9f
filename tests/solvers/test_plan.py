"""`info.plan`: what was chosen before the first step, and why not the others."""

from __future__ import annotations

import dataclasses
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as sla
import torch

import sslspec_fast.operators as ops
from sslspec_fast.graph import PairGraph
from sslspec_fast.solvers import eigsh
from sslspec_fast.solvers.linalg.factorization import Structure
from sslspec_fast.solvers.methods import METHODS
from sslspec_fast.solvers.plan import RULES

from ..support import graphs

PAGE = Path(__file__).resolve().parents[2] / "docs" / "eigensolver.md"


def _strip() -> sp.csr_array:
    """A long strip of a grid: low fill and a tiny gap."""
    return sp.csr_array(
        sp.kronsum(graphs.path(3000)[0], sp.diags_array([np.ones(3), np.ones(3)], offsets=[-1, 1]))
    )


CHOICES: dict[str, tuple[Any, str, str]] = {
    "few rows": (graphs.path(300)[0], "dense", "n = 300 <= 400"),
    "many pairs": (sp.diags_array(np.arange(24.0)), "dense", "n = 24 <= 400"),
    "identity": (sp.eye_array(700, format="csr") * 3.0, "lanczos", "multiple of the identity"),
    "communities": (graphs.blocks_graph(2000, 6), "chebyshev", "well separated top"),
    "callable": (sla.aslinearoperator(_strip()), "chebyshev", "no entries to factorise"),
    "small": (graphs.path(900)[0], "chebyshev", "small problem, n = 900"),
    "strip": (_strip(), "shift_invert", "predicted fill"),
}


@pytest.mark.parametrize("name", CHOICES)
def test_auto_gives_a_reason_for_its_choice_and_against_every_other(name: str) -> None:
    matrix, method, reason = CHOICES[name]
    info = eigsh(matrix, 6, tol=1e-5).info
    plan = info.plan
    assert (plan.method, info.method) == (method, method)
    assert reason in plan.reason
    assert info.reason == plan.reason
    assert set(plan.rejected) == set(METHODS) - {method}
    assert all(plan.rejected.values())


def test_filters_are_chosen_where_a_factor_would_cost_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Structure, "seconds", lambda *a: math.inf)
    plan = eigsh(_strip(), 3, tol=1e-3).info.plan
    assert plan.method == "chebyshev"
    assert plan.rejected["shift_invert"] == plan.reason
    assert "by filtering" in plan.reason


@pytest.mark.parametrize("method", METHODS)
def test_a_method_that_was_asked_for_needs_no_reason(method: str) -> None:
    plan = eigsh(graphs.blocks_graph(700, 4), 4, method=method).info.plan
    assert (plan.method, plan.reason, plan.rejected) == (method, "as asked", {})


def test_width_and_degree_are_those_of_the_run() -> None:
    found = eigsh(graphs.blocks_graph(6000, 9), 9, tol=1e-9).info
    assert found.plan.width == 16
    assert found.plan.degree == found.extra["start_degree"] > 1
    assert found.plan.first_filter.cut == found.extra["start_cut"]
    assert not found.plan.reordered
    tiny = eigsh(graphs.blocks_graph(6000, 9) * 2.0**-80, 9, tol=1e-9).info
    assert tiny.plan.first_filter.cut == tiny.extra["start_cut"] < 1e-20
    warm = eigsh(
        graphs.blocks_graph(700, 4), 4, method="chebyshev", x0=np.eye(700)[:, :40]
    ).info.plan
    assert (warm.width, warm.degree) == (40, None)


def test_a_plan_is_frozen_and_can_be_stored() -> None:
    plan = eigsh(graphs.blocks_graph(2000, 6), 6).info.plan
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.method = "dense"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_known_pairs_have_a_plan_too() -> None:
    graph = PairGraph.from_labels(torch.arange(1000) % 4)
    plan = eigsh(ops.adjacency(graph, normalized=True), 2).info.plan
    assert "known exactly" in plan.reason


def test_problems_are_converted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients, scaling and a pencil wrap the solve, and not the conversion."""
    from sslspec_fast.solvers.problem import eigenproblem

    calls = []
    convert = eigenproblem.as_operator
    monkeypatch.setattr(
        eigenproblem, "as_operator", lambda A: (calls.append(type(A)), convert(A))[1]
    )
    dense = torch.from_numpy(graphs.blocks_graph(700, 4).toarray())
    values, vectors = eigsh(dense.clone().requires_grad_(), 3, method="chebyshev")
    (values.sum() + (vectors[:, :1] @ vectors[:, :1].T).sum()).backward()
    assert len(calls) == 1
    eigsh(dense * 1e-30, 3, method="chebyshev")
    eigsh(dense, 3, B=np.full(700, 2.0))
    assert len(calls) == 3


def test_the_page_begins_with_what_auto_picks() -> None:
    lines = ["| | where | picks | because |", "|--:|---|---|---|"]
    for number, rule in enumerate(RULES, 1):
        lines.append(f"| {number} | {rule.when} | `{rule.method}` | {rule.because} |")
    table = "\n".join(lines)
    assert table in PAGE.read_text("utf-8"), f"docs/eigensolver.md needs this table:\n{table}"

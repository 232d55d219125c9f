"""What a solve is predicted to take: its inputs, and how it follows them. No clock is read."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import sslspec_fast.operators as ops
from sslspec_fast.graph import PairGraph
from sslspec_fast.solvers import eigsh
from sslspec_fast.solvers.linalg.factorization import Structure
from sslspec_fast.solvers.prediction import Cost
from sslspec_fast.solvers.problem.first_filter import FirstFilter
from sslspec_fast.solvers.problem.probe import Probe
from sslspec_fast.solvers.problem.task import Task

from ..support import graphs

FILTER = FirstFilter(-0.5, 0.4, 0.8, 0.6, 10, True)
KRYLOV = replace(FILTER, degree=7, of_ritz=False, krylov=True)


@pytest.fixture(scope="module")
def op() -> ops.SymmetricOperator:
    return ops.as_operator(graphs.blocks_graph(4000, 8))


def _cost(op: ops.SymmetricOperator, first: FirstFilter = FILTER, **changes: object) -> Cost:
    """32 pairs, behind a probe of 4 blocks of 16 columns."""
    task = Task(op, 32, op.n, 1.0, 1e-4, None, 10, 0, columns=64)
    held = torch.linspace(0.8, -0.5, 64, dtype=torch.float64)
    basis = [torch.empty(op.n, 16) for _ in range(4)]
    found = Probe(held, held, -0.5, 0.8, held, 16, basis, torch.eye(64))
    cost = Cost(task, found, 48, first, 0.1, 0)
    for name in changes.keys() & {"tol", "angle_tol", "columns", "low", "dtype"}:
        cost = replace(cost, task=replace(cost.task, **{name: changes.pop(name)}))
    return replace(cost, **changes)  # type: ignore[arg-type]


def test_filters_take_what_their_products_and_passes_take(op: ops.SymmetricOperator) -> None:
    usual = _cost(op).filtered(True)
    longer = _cost(op, replace(FILTER, degree=20)).filtered(True)
    longest = _cost(op, replace(FILTER, degree=30)).filtered(True)
    assert longest - longer == pytest.approx(longer - usual)
    assert longer > usual
    # Ritz vectors that are good as they are need no filter, of any degree
    ready = replace(FILTER, needed=False)
    assert _cost(op, ready).filtered(True) < usual
    same = _cost(op, replace(ready, degree=99)).filtered(True)
    assert same == _cost(op, ready).filtered(True)
    for more in ({"width": 64}, {"columns": 640}, {"dtype": torch.float64}):
        single = {"dtype": torch.float32, **more}
        assert _cost(op, **single).filtered(True) > _cost(op, dtype=torch.float32).filtered(True)
    assert _cost(op, low=torch.float64).filtered(True) > usual
    wide = ops.as_operator(graphs.blocks_graph(8000, 8))
    assert 1.8 < _cost(wide).filtered(True) / usual < 2.2


def test_a_krylov_space_takes_no_more_degrees_for_more_columns(op: ops.SymmetricOperator) -> None:
    """The rate of the spectrum sets them, and the tolerance; passes over the basis grow."""
    slow = {"rate": 1e-3}
    space = _cost(op, KRYLOV, **slow).filtered(False)
    assert space < 0.5 * _cost(op, **slow).filtered(False)
    wider = _cost(op, KRYLOV, width=96, **slow).filtered(False)
    assert space < wider < 1.9 * space
    assert _cost(op, KRYLOV, rate=5e-4).filtered(False) > 1.9 * space
    assert _cost(op, KRYLOV, tol=1e-8, **slow).filtered(False) > 1.5 * space
    assert _cost(op, KRYLOV, angle_tol=1e-8, **slow).filtered(False) > space
    assert _cost(op, KRYLOV, rate=9.0).filtered(False) == _cost(op, KRYLOV, rate=1.0).filtered(
        False
    )


def test_steps_behind_the_first_filter_are_those_of_a_dense_end(op: ops.SymmetricOperator) -> None:
    """A square root at the end: eigenvalue j lies (j / count)^(2/3) of the depth below it."""
    width, count, depth = 48, 1000.0, 0.3
    usual = _cost(op, replace(FILTER, degree=2))
    values = torch.linspace(0.8, 0.8 - depth, 64, dtype=torch.float64)
    counts = torch.linspace(1.0, count, 64, dtype=torch.float64)
    dense = replace(usual.found, values=values, counts=counts)
    cost = replace(usual, found=dense)
    at = int((counts < 0.03 * op.n).sum())
    deep, number = 0.8 - float(values[at]), float(counts[at])
    last, cut = (0.8 - deep * (j / number) ** (2 / 3) for j in (32, width))
    x = 2.0 * (last + 0.5) / (cut + 0.5) - 1.0
    rate = float(torch.acosh(torch.tensor(x, dtype=torch.float64)))
    need = math.log(2.0 * float(dense.residuals[:32].max()) / 1e-4)
    assert cost._later_degrees(cost.first) == pytest.approx(need / rate - 2.0, rel=1e-6)
    assert cost._later_degrees(replace(FILTER, needed=False)) == 0.0
    assert usual._later_degrees(usual.first) == 0.0  # there the Ritz values show a gap
    assert cost.filtered(True) > usual.filtered(True)
    # a gap that has only some of the wanted pairs above it says nothing of the last one
    few = replace(usual.found, counts=counts / 100)
    assert replace(usual, found=few)._gap_rate == 0.0


def test_levels_and_rates_ask_for_degrees(op: ops.SymmetricOperator) -> None:
    by_rate = _cost(op).filtered(False)
    assert _cost(op, levels=1).filtered(False) == by_rate
    many, more = (_cost(op, levels=x).filtered(False) for x in (40_000, 80_000))
    assert by_rate < many
    assert more == pytest.approx(math.sqrt(2.0) * many)
    shape = Structure(1000, 10, 20_000, 1e5, 1e7)
    assert _cost(op).factored(shape) < _cost(op, tol=1e-9).factored(shape)
    for more in ({"fill": 1e6}, {"work": 1e9}, {"entries": 10**6}):
        assert _cost(op).factored(shape) < _cost(op).factored(replace(shape, **more))


def test_a_plan_says_what_it_predicts() -> None:
    matrix = graphs.blocks_graph(6000, 9)
    operator = ops.adjacency(PairGraph.from_sparse(matrix), normalized=True)
    plan = eigsh(operator, 9, tol=1e-4).info.plan
    assert plan.method == "chebyshev"
    assert 0.0 < plan.seconds < 10.0
    assert eigsh(operator, 9, tol=1e-4).info.plan.seconds == plan.seconds  # no clock
    assert eigsh(operator, 9, tol=1e-4, method="chebyshev").info.plan.seconds == plan.seconds
    assert eigsh(operator, 9, tol=1e-4, method="lanczos").info.plan.seconds is None
    assert eigsh(operator, 9, x0=torch.randn(6000, 9), method="chebyshev").info.plan.seconds is None
    assert eigsh(matrix[:300, :300], 9).info.plan.seconds is None


def test_the_choice_is_the_lesser_prediction() -> None:
    strip = graphs.path(6000)[0]
    info = eigsh(strip, 6, tol=1e-4).info
    assert info.plan.method == "shift_invert"
    assert f"predicted {info.plan.seconds:.2g} s against" in info.plan.reason
    asked = eigsh(strip, 6, tol=1e-4, method="shift_invert").info.plan
    assert asked.seconds is None  # its levels were not counted

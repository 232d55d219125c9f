"""The filter of a start block: which of the probe's Ritz vectors it is applied to."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from sslspec_fast.operators import as_operator
from sslspec_fast.solvers.linalg.cost import start_width
from sslspec_fast.solvers.methods.chebyshev import _start
from sslspec_fast.solvers.problem.first_filter import first_filter
from sslspec_fast.solvers.problem.probe import Probe
from sslspec_fast.solvers.problem.task import Task

N, PAIRS, HELD = 600, 20, 60


def _task(k: int) -> Task:
    values = np.r_[np.linspace(0.83, 0.8, PAIRS), np.linspace(0.44, -0.44, N - PAIRS)]
    op = as_operator(sp.csr_array(sp.diags_array(values)))
    return Task(op, k, N, 1.0, 1e-4, None, 10, 0)


def _found(task: Task, gap: bool) -> Probe:
    """Unit vectors, and residuals that a short run leaves."""
    values = torch.from_numpy(task.op.assemble().diagonal()[:HELD].copy())
    if not gap:
        values = torch.linspace(0.83, 0.4, HELD, dtype=torch.float64)
    residuals = torch.full((HELD,), 3e-2, dtype=torch.float64)
    residuals[:PAIRS] = 5e-4
    basis = [torch.eye(N, HELD, dtype=task.low)]
    eye = torch.eye(HELD, dtype=torch.float64)
    counts = torch.arange(1.0, HELD + 1.0, dtype=torch.float64)
    return Probe(values, counts, -0.45, 0.84, residuals, 16, basis, eye)


@pytest.mark.parametrize("k", [PAIRS, PAIRS - 5])
def test_vectors_behind_a_gap_stay_as_they_are(k: int) -> None:
    """The filter damps them and all that lies below: what is left of them would be a mixture of
    the dense spectrum, and the pair behind the wanted ones would have to be found again.
    """
    task = _task(k)
    found = _found(task, gap=True)
    width = start_width(PAIRS, N)
    first = first_filter(task, found, width)
    assert first is not None
    assert first.of_ritz
    assert first.needed
    assert float(found.values[PAIRS]) < first.cut < float(found.values[PAIRS - 1])
    assert first.vectors == PAIRS  # all that lie above the gap, also behind the wanted ones
    before = found.vectors(width)
    assert before is not None
    start = _start(task, first, found, width).block
    assert torch.equal(start[:, PAIRS:], before[:, PAIRS:])
    assert not torch.equal(start[:, :PAIRS], before[:, :PAIRS])
    assert task.columns == first.degree * PAIRS


def test_in_a_dense_spectrum_all_vectors_are_filtered() -> None:
    task = _task(PAIRS)
    found = _found(task, gap=False)
    width = start_width(PAIRS, N)
    first = first_filter(task, found, width)
    assert first is not None
    assert first.vectors is None
    _start(task, first, found, width)
    assert task.columns == first.degree * width

"""A start block from a Krylov space of the first filter: the Ritz vectors of a narrow block.

The number of degrees that a dense spectrum asks for does not depend on the columns that they are
applied to. A block of one cache line per row takes it with a fraction of the products that a filter
of all wanted columns takes, and passes over a basis of some columns per wanted pair.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...primitives.basis import column_norms, gram
from ...primitives.spread import meet
from ..linalg.basis import host_memory
from ..linalg.cost import (
    FILTER_RESIDUAL,
    KEPT_BYTES,
    KRYLOV_FIRST,
    KRYLOV_MOST,
    KRYLOV_RESTARTS,
    LINE,
)
from ..linalg.krylov import FilteredKrylov
from ..problem.first_filter import FirstFilter
from ..problem.probe import Probe
from ..problem.task import Task

__all__ = ["krylov_start"]

_CHECKED = 8  # of the last wanted pairs, whose residuals are measured


def krylov_start(
    task: Task, first: FirstFilter, found: Probe, width: int
) -> tuple[Tensor, int, int]:
    """(width start vectors, columns of the random block, degrees of the polynomials of A that it
    was multiplied with); the vectors are as good as the task asks where the basis and the dtype
    allow it.
    """
    fine = task.tol < FILTER_RESIDUAL * task.norm
    dtype = torch.float64 if fine and task.dtype == torch.float64 else task.low
    target = max(0.9 * task.tol, FILTER_RESIDUAL * task.norm if dtype == torch.float32 else 0.0)
    x = task.op.random_block(LINE, task.seed, dtype)
    ends = first.lo, first.cut, first.wanted
    room = found.release()
    space = FilteredKrylov(task.op, x, ends, first.degree, task.deflated, room)
    capacity, restarts = _capacity(task, width, dtype), 0
    until = KRYLOV_FIRST * width
    while True:
        until = min(until, capacity)
        while space.size < until and not space.ended:
            space.extend()
        values, q, slack = space.ritz()
        if space.size < width:
            break
        worst = _worst(task, space, q)
        meet(space.size, worst)
        # no better than the products are
        rounded = float(slack[: task.k].max()) < 8.0 * torch.finfo(dtype).eps * float(values[0])
        if worst <= target or rounded or space.ended:
            break
        if space.size + LINE > capacity:
            if restarts == KRYLOV_RESTARTS:
                break
            restarts += 1
            space.restart(values[:width], q[:, :width])
        until = space.size + LINE * _more(values, task, worst / target, space.size // LINE)
    task.columns += space.columns
    return space.vectors(q[:, : min(width, space.size)]), LINE, space.columns // LINE


def _capacity(task: Task, width: int, dtype: torch.dtype) -> int:
    """Columns of the basis."""
    kept = min(KEPT_BYTES, host_memory() / 8) / (task.op.most_rows * dtype.itemsize)
    return max(int(min(KRYLOV_MOST * width, kept)), width + 4 * LINE)


def _worst(task: Task, space: FilteredKrylov, q: Tensor) -> float:
    """The largest residual of the last wanted pairs and the one behind them."""
    stop = min(task.k + task.guard, space.size)
    x = space.vectors(q[:, max(stop - _CHECKED, 0) : stop])
    y = task.apply(x)
    values = gram(x, y).diagonal()
    return float(column_norms(y.sub_(x * values.to(x))).max())


def _more(values: Tensor, task: Task, missing: float, steps: int) -> int:
    """Blocks until the next check: of what the filter says, no more than a third of the steps."""
    last = float(values[min(task.k, len(values) - 1)])
    rate = max(math.acosh(last) if last > 1.0 else 0.0, 1e-3)
    return max(2, min(math.ceil(math.log(missing) / rate), steps // 3))

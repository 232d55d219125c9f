"""The Chebyshev filter that makes a start block: of the probe's Ritz vectors, or of random columns.

Its degree is what the probe says is missing, within what pays beside the orthogonalisation that
follows. Where that does not suffice and the block is wide, the filter makes a Krylov space of a
narrow one instead: a dense spectrum asks for a degree that does not depend on the columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..linalg.chebyshev_filter import growth_rate
from ..linalg.cost import (
    EDGE_RATE,
    FILTER_RESIDUAL,
    KRYLOV_DEGREE,
    KRYLOV_WIDTH,
    LOG_LEAD,
    ONE_FILTER,
    ONE_FILTER_RATE,
    OPEN_CUT,
    OPEN_EDGE,
    OPEN_EDGE_RATE,
    STEP,
    SURE_DEGREE,
    SURE_RATE,
    longest_first_filter,
    padded,
    product_cost,
)
from .probe import Probe
from .task import Task

__all__ = ["FirstFilter", "first_filter", "is_multiple_of_identity"]


@dataclass(frozen=True)
class FirstFilter:
    """C_degree of A, with [lo, cut] damped, top scaled to 1, and `wanted` the lowest value that it
    is to lift.

    of_ritz: it is applied to the probe's Ritz vectors, else to random columns; needed: False where
    these Ritz vectors are good as they are; vectors: of these, the first ones that it is applied
    to, None for all. krylov: it makes a Krylov space of a narrow random block, whose Ritz vectors
    are the start.
    """

    lo: float
    cut: float
    top: float
    wanted: float
    degree: int
    of_ritz: bool
    needed: bool = True
    krylov: bool = False
    vectors: int | None = None

    def times(self, scale: float) -> FirstFilter:
        """The same filter of scale * A."""
        ends = {name: getattr(self, name) * scale for name in ("lo", "cut", "top", "wanted")}
        return replace(self, **ends)


def is_multiple_of_identity(task: Task, found: Probe) -> bool:
    return found.hi - found.lo <= 1e-12 * task.norm


def first_filter(task: Task, found: Probe, width: int) -> FirstFilter | None:
    """The filter of a start block of `width` columns; None for a multiple of the identity."""
    if is_multiple_of_identity(task, found):
        return None
    return _of_ritz(task, found, width) if found.holds(width) else _of_random(task, found, width)


def _of_ritz(task: Task, found: Probe, width: int) -> FirstFilter:
    """Ritz vectors lack only what their residuals say."""
    lo = found.lo
    at = min(width, len(found.values) - 1)
    # a Ritz value lies below its eigenvalue, by less than its residual
    wanted = float(found.values[task.k - 1] + found.residuals[task.k - 1] / 3)
    cut = max(float(found.values[at]), lo + 1e-6 * task.norm)
    rate = growth_rate(float(found.values[task.k - 1]), lo, cut)
    vectors = None
    worst = float(found.residuals[: task.k].max())
    # Ritz values near a dense spectrum are low, and so is the cut: what lies between grows as well
    edge = cut + float(found.residuals[at])
    raised = growth_rate(wanted, lo, edge)
    if raised > EDGE_RATE * rate:
        cut, rate = edge, raised
        if rate < OPEN_EDGE:  # no gap behind the cut: values there are as unsure as it is
            rate *= OPEN_EDGE_RATE
        else:  # vectors behind the gap would be mixed with all that is damped
            vectors = max(task.k, int((found.values[:width] > cut).sum()))
    elif rate < OPEN_CUT:
        rate *= EDGE_RATE
    need = math.log(max(2.0 * worst / max(task.tol, FILTER_RESIDUAL * task.norm), 1.0))
    n, block = task.op.n, product_cost(task.op, task.op.n) * padded(width)
    sure = rate > SURE_RATE
    longest = SURE_DEGREE if sure else longest_first_filter(n, width, block, STEP)
    # beyond, the first vector would be all that rounding leaves of the last ones
    lead = growth_rate(found.hi, lo, cut) - growth_rate(wanted, lo, cut)
    longest = min(longest, LOG_LEAD[task.low] / max(lead, 1e-3))
    if need > longest * rate and width >= KRYLOV_WIDTH:
        # a Ritz value lies below its eigenvalue: nothing that is wanted is damped
        low = max(float(found.values[at]), lo + 1e-6 * task.norm)
        return _of_krylov(task, lo, low, found.hi, wanted)
    degree = int(min(need / max(rate, 1e-6), longest)) + 1
    top = max(found.hi, cut)
    return FirstFilter(lo, cut, top, cut, degree, True, need > 0.0, vectors=vectors)


def _of_random(task: Task, found: Probe, width: int) -> FirstFilter:
    """Random vectors carry n / k times more of the unwanted: grow until that is paid back."""
    cut, last = found.split(width)
    n, block = task.op.n, product_cost(task.op, task.op.n) * width
    longest = int(longest_first_filter(n, width, block, STEP / 2))
    degree = longest
    lo = min(found.lo, cut - 1e-6 * task.norm)
    if last is not None:
        rate = growth_rate(last, lo, cut)
        reachable = max(task.tol / task.norm, FILTER_RESIDUAL)
        need = math.log(8.0 * math.sqrt(n) / reachable)
        # a well separated top needs no second filter: finish in one
        most = ONE_FILTER if rate > ONE_FILTER_RATE else 1.5 * longest
        degree = int(min(max(need / max(rate, 1e-6), 4), most))
    return FirstFilter(lo, cut, max(found.hi, cut), cut if last is None else last, degree, False)


def _of_krylov(task: Task, lo: float, cut: float, hi: float, wanted: float) -> FirstFilter:
    """The longest filter after which the top does not hide the last wanted value in rounding.

    Its degree is odd: what lies below `lo` after all is damped too.
    """
    lead = growth_rate(hi, lo, cut) - growth_rate(wanted, lo, cut)
    longest = LOG_LEAD[task.low] / max(lead, 1e-3)
    degree = max(int(min(longest, KRYLOV_DEGREE) + 1) // 2 * 2 - 1, 1)
    return FirstFilter(lo, cut, max(hi, cut), max(wanted, cut), degree, False, krylov=True)

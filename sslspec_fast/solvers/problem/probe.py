"""A block Lanczos run that says where the spectrum ends and how dense it is near the top.

The Ritz values of s steps from b random vectors, weighted by their share of the start block, are a
Gauss quadrature of the density of states (Lin, Saad and Yang 2016): n * (sum of weights above t)
estimates how many eigenvalues lie above t. ChASE and EVSL start in the same way.

Where the solver can start from Ritz vectors, the blocks are kept, and the run goes on for as long
as that is cheaper than a filter of the wanted ones: a block of one cache line per row has the
convergence of a filter for any number of them. Where the blocks would take much memory, the run is
one of a short polynomial of A, whose cut a shorter run tells: a third of the blocks holds the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ...primitives.basis import multiply
from ..linalg.basis import host_memory
from ..linalg.chebyshev_filter import ChebyshevPolynomial, growth_rate
from ..linalg.cost import (
    CLUSTER_COLUMNS,
    FILLED_ROWS,
    GHOST_BEHIND,
    GHOST_WEIGHT,
    HOLE,
    HOLE_EDGE,
    HOLE_ODDS,
    HOLE_RATE,
    HOLE_RESIDUAL,
    KEPT_BYTES,
    LINE,
    LOG_LEAD,
    LONG_PROBE,
    ONE_BLOCK,
    PASS_BYTE,
    POLYNOMIAL_DEGREE,
    POLYNOMIAL_LOSS,
    POLYNOMIAL_STEPS,
    PROBE_BLOCK,
    PROBE_STEPS,
    PROJECTED_CUBE,
    PROJECTED_PART,
    RITZ_COLUMNS,
    machine,
    padded,
    product_cost,
    start_width,
    whole_cluster_limit,
)
from .recurrence import Recurrence
from .task import Task

__all__ = ["Probe", "probe"]


@dataclass
class Probe:
    """values (m,) Ritz values, largest first; counts (m,) eigenvalues estimated at or above each;
    lo, hi: bounds of the spectrum (safe bounds of the operator tightened by Ritz + residual).
    residuals (m,) of the Ritz pairs. block: columns of the start, so copies of an eigenvalue that
    it holds. basis: the Krylov blocks, one after the other, when they were kept, with rows to be
    multiplied by `scale` (n, 1); coefficients (m, m) are those of the Ritz vectors in it. whole:
    pairs above a hole in the spectrum a little below the wanted ones, where it pays to solve for
    all of them.
    """

    values: Tensor
    counts: Tensor
    lo: float
    hi: float
    residuals: Tensor
    block: int
    basis: list[Tensor] = field(default_factory=list)
    coefficients: Tensor | None = None
    scale: Tensor | None = None
    whole: int | None = None

    def holds(self, width: int) -> bool:
        """There are that many Ritz vectors, and the basis was kept."""
        kept = bool(self.basis) and self.coefficients is not None
        return kept and width <= len(self.values)

    def release(self) -> list[Tensor]:
        """The blocks of the basis, for their memory: what was never touched costs more to write to
        than a product. The probe holds no vectors from then on.
        """
        blocks, self.basis = self.basis, []
        return blocks

    def vectors(self, width: int) -> Tensor | None:
        """(n, width) the first Ritz vectors, or None where the probe does not hold them."""
        if not self.holds(width) or self.coefficients is None:
            return None
        x = multiply(self.basis, self.coefficients[:, :width])
        return x if self.scale is None else x.mul_(self.scale)

    def split(self, wanted: int) -> tuple[float, float | None]:
        """(cut, last): damp below `cut`; `last` estimates eigenvalue number `wanted` above it.

        The counts are noisy, so a wide hole in the spectrum near the wanted count beats them.
        `last` is None where the wanted end is not resolved.
        """
        values, counts, spread = self.values, self.counts, self.hi - self.lo
        near = torch.nonzero((counts[:-1] > wanted / 2) & (counts[:-1] < 2.0 * wanted))[:, 0]
        if len(near):
            holes = values[near] - values[near + 1]
            widest = int(near[holes.argmax()])
            if float(holes.max()) > HOLE * spread:
                return float(values[widest + 1]), float(values[widest])
        above = torch.nonzero(counts > wanted)[:, 0]
        first = int(above[0]) if len(above) else len(values) - 1
        if first == 0:  # the top itself holds more than that: cut below it
            lower = torch.nonzero(values < values[0] - 1e-3 * spread)[:, 0]
            first = int(lower[0]) if len(lower) else 0
            return float(values[first]), None
        return float(values[first]), float(values[first - 1])


def _line(k: int, dtype: torch.dtype) -> int:
    """Columns whose gathered rows are a cache line each: a product with fewer costs as much.

    Narrower blocks get further per column, but hold fewer copies of an eigenvalue: where many
    values are wanted and some lie together, the search for what they missed would cost more.
    """
    return LINE // 2 if dtype == torch.float64 and k <= 2 * LINE else LINE


def _limits(task: Task, dtype: torch.dtype) -> tuple[int, int]:
    """Columns of the shortest run that leaves Ritz vectors to start from, and of the longest.

    The projected problem (m^3) must stay a minor share of the products (m), and the basis of the
    memory.
    """
    n = task.op.n
    kept = min(KEPT_BYTES, host_memory() / 8) / (task.op.most_rows * dtype.itemsize)
    most = max(math.sqrt(PROJECTED_PART * product_cost(task.op, n)), float(LONG_PROBE * LINE))
    least = max(RITZ_COLUMNS * (task.k + 1) // 2, PROBE_STEPS * LINE)
    return padded(least), int(min(most, n / LINE, kept))


def _more(task: Task, found: Probe, dtype: torch.dtype, degree: int) -> int:
    """Steps after which the wanted Ritz pairs should be good enough; 0 when they are.

    Also 0 when the first ones are so good that rounding makes copies of them, or where a filter of
    the wanted ones does the same for less.
    """
    k, n, values, slack = task.k, task.op.n, found.values, found.residuals
    norm = max(abs(float(values[0])), abs(float(values[-1])))
    floor, lost = (2e-6, 1e-5) if dtype == torch.float32 else (1e-12, 1e-11)
    target = 0.5 * max(task.tol, floor) * norm
    worst = float(slack[:k].max())
    if worst <= target or float(slack[:k].min()) < lost * norm:
        return 0
    at = min(k + 3, len(values) - 1)
    cut = float(values[at] + slack[at])
    rate = degree * growth_rate(float(values[k - 1] + slack[k - 1] / 3), found.lo, cut)
    more = math.ceil(min(math.log(worst / target) / max(rate, 1e-3), 1e4))
    # in nanoseconds: a step passes over three blocks, and LAPACK solves the projected problem again
    cost, b = product_cost(task.op, n) * dtype.itemsize / 4, found.block
    projected = PROJECTED_CUBE * (len(values) + b * more) ** 3
    lanczos = more * b * (degree * cost + PASS_BYTE * dtype.itemsize * n) + projected
    width = padded(start_width(k, task.free))
    return more if lanczos < more * degree * width * cost else 0


def _cluster(task: Task, found: Probe) -> tuple[int, bool] | None:
    """(pairs above a hole in the spectrum, counted or else estimated) where the wanted ones are
    some of these, and a filter that tells them from the rest needs many times the degree of one
    that ends in the hole.
    """
    values, counts, k = found.values, found.counts, task.k
    width = start_width(k, task.free)
    above = int((counts <= (1 + HOLE_ODDS) * whole_cluster_limit(k)).sum())
    # a hole has few eigenvalues; Ritz values on their way to the cluster may lie in it
    below = torch.searchsorted(counts, (1 + HOLE_ODDS) * counts[:above] + 1.0)
    below = below.clamp_max(len(values) - 1)
    if above < 2:
        return None
    holes = values[:above] - values[below]
    if float(holes.max()) <= HOLE * (found.hi - found.lo):
        return None
    # b columns see one layer of b after the other of values that lie close together, and residuals
    # fall below their distances once the last one has come
    distances = (values[0] - values[:above]) / torch.arange(1, above + 1)
    apart = found.residuals[:above].cummax(0).values < HOLE_RESIDUAL * distances
    apart &= (counts[:above] - torch.arange(1, above + 1)).abs() <= HOLE_ODDS * counts[:above]
    edges = holes >= HOLE_EDGE * holes.max()
    counted = bool((edges & apart).any())
    i = int(torch.nonzero(edges & apart if counted else edges)[-1])
    size = i + 1 if counted else round(float(counts[i]))
    if size <= (k if counted else width) or size > whole_cluster_limit(k):
        return None
    # the first value may be far above, as that of a constant vector is, the last ones on their way
    hole, spread = float(holes[i]), 4.0 * float(values[i // 4] - values[i // 2])
    inside = spread * max(width - k, 1) / size
    rate = growth_rate(float(values[i]), found.lo, float(values[i]) - hole)
    narrow = growth_rate(float(values[i]), found.lo, float(values[i]) - inside)
    more = start_width(size, task.free) / width
    return (size, counted) if rate > HOLE_RATE * more * narrow else None


def _see_cluster(task: Task, run: Recurrence, found: Probe, most: int) -> Probe:
    """Go on until a cluster that holds all wanted pairs has been counted, where there is one."""
    cluster, b = _cluster(task, found), found.block
    while cluster is not None and not cluster[1]:
        steps = run.steps + max(run.steps // (4 * run.degree), 1)
        long = _plain_columns(run, steps) > CLUSTER_COLUMNS * cluster[0]
        if b * steps > most or long or len(set(run.sizes)) > 1:
            return found
        run.run(steps)
        found = _read(task, run, found.lo)
        cluster = _cluster(task, found)
    return found if cluster is None else replace(found, whole=cluster[0])


def _plain_columns(run: Recurrence, steps: int) -> float:
    """Columns of a run by A itself that gets as far as these steps do."""
    loss = 1.0 if run.polynomial is None else POLYNOMIAL_LOSS
    return run.sizes[0] * steps * run.degree / loss


def _polynomial(task: Task, found: Probe, dtype: torch.dtype) -> ChebyshevPolynomial | None:
    """What lifts all that the probe is to tell apart, from what a shorter run found; None where
    that does not tell, or rounding would hide the lower ones.
    """
    below = torch.nonzero(found.counts > 2.0 * whole_cluster_limit(task.k))[:, 0]
    if not len(below) or int(below[0]) == 0:
        return None
    cut = float(found.values[below[0]])
    top = found.hi if task.deflated is None else max(found.hi, task.op.bounds()[1])
    if POLYNOMIAL_DEGREE * growth_rate(top, found.lo, cut) > LOG_LEAD[dtype]:
        return None
    return ChebyshevPolynomial(found.lo, cut, POLYNOMIAL_DEGREE)


def _scouted(task: Task) -> Probe:
    """A short run of few columns, which is not kept: it tells an interval to damp, so float32 will
    do.
    """
    b = min(PROBE_BLOCK, max(task.free // 2, 1))
    scout = Recurrence(task, b, torch.float32, keep=False)
    scout.run(PROBE_STEPS)
    return _read(task, scout)


def _by_polynomial(
    task: Task,
    polynomial: ChebyshevPolynomial,
    dtype: torch.dtype,
    least: int,
    k: int,
    room: list[Tensor],
) -> Recurrence:
    """least: columns of a run by A itself, whose blocks are `room`; k: pairs that it is to tell."""
    b = _line(k, dtype)
    needed = max(POLYNOMIAL_LOSS * least / polynomial.degree, start_width(k, task.free))
    run = Recurrence(task, b, dtype, True, polynomial, room)
    run.run(max(math.ceil(needed / b), POLYNOMIAL_STEPS))
    return run


def _kept(task: Task, dtype: torch.dtype, least: int) -> tuple[Recurrence, Probe]:
    """A run that leaves Ritz vectors, by A itself or by a polynomial of it: where its blocks would
    take much memory, or those that count a cluster.
    """
    limits, wide = machine(task.op.device), least > PROBE_STEPS * LINE
    held = least * task.op.most_rows * dtype.itemsize
    polynomial, room, k = None, list[Tensor](), task.k
    if wide and held > limits.polynomial_bytes:
        scout = _scouted(task)
        polynomial, cluster = _polynomial(task, scout, dtype), _cluster(task, scout)
        k = task.k if cluster is None else cluster[0]
    if polynomial is None:
        b = _line(task.k, dtype)
        run = Recurrence(task, b, dtype, True)
        run.reserve(least // b)
        # where all steps together take long, the first ones tell a cluster
        early = [PROBE_STEPS] if wide and held > limits.cluster_bytes else []
        for steps in [*early, least // b]:
            run.run(steps)
            found = _read(task, run)
            polynomial = _of_cluster(task, found, dtype)
            if polynomial is not None:
                room = found.release()
                break
        else:
            return run, found
    run = _by_polynomial(task, polynomial, dtype, least, k, room)
    return run, _read(task, run, polynomial.lo)


def _of_cluster(task: Task, found: Probe, dtype: torch.dtype) -> ChebyshevPolynomial | None:
    """For a run that counts a cluster, where one by A itself would take many blocks."""
    cluster = _cluster(task, found)
    # few blocks hold what is hardly more than one
    if cluster is None or cluster[1] or cluster[0] <= ONE_BLOCK * found.block:
        return None
    columns = CLUSTER_COLUMNS * cluster[0]
    if columns * task.op.most_rows * dtype.itemsize <= machine(task.op.device).cluster_bytes:
        return None
    return _polynomial(task, found, dtype)


def probe(task: Task, keep: bool = False) -> Probe:
    """keep: the solver can start from Ritz vectors, so a run that makes good ones pays."""
    op, nnz, dtype = task.op, task.op.nnz(), task.low
    least, most = _limits(task, dtype)
    # grids and trees (few entries a row) end in a factorisation or a long filter: few steps will do
    if not keep or least > most or (nnz is not None and nnz < FILLED_ROWS * op.n):
        b = min(PROBE_BLOCK, max(task.free // 2, 1))
        run = Recurrence(task, b, dtype, False)
        run.run(min(PROBE_STEPS, max(task.free // b, 1)))
        return _read(task, run)
    run, found = _kept(task, dtype, least)
    b, found = found.block, _see_cluster(task, run, found, most)
    whole = found.whole
    wanted = task if whole is None else replace(task, k=whole)
    while len(set(run.sizes)) == 1:
        more = min(_more(wanted, found, dtype, run.degree), max(run.steps // 2, 1))
        if more == 0 or b * (run.steps + more) > most:
            break
        run.run(run.steps + more)
        found = _read(task, run, found.lo)
    return replace(found, whole=whole)


def _read(task: Task, run: Recurrence, lo: float = 0.0) -> Probe:
    """lo: of the spectrum, which a run by a polynomial does not tell."""
    values, vectors, slack = run.ritz()
    first, bounds = run.sizes[0], task.op.bounds()
    weights = task.free * (vectors[:first] ** 2).sum(0) / max(first, 1)
    counts = weights.cumsum(0)
    if run.keep:
        kept = _no_ghosts(values, slack, weights)
        values, slack, counts, vectors = values[kept], slack[kept], counts[kept], vectors[:, kept]
    if run.polynomial is None:
        lo = max(bounds[0], float(values[-1] - slack[-1]) - 1e-6 * abs(float(values[-1])))
    hi = min(bounds[1], float(values[0] + slack[0]) + 1e-6 * abs(float(values[0])))
    coefficients = vectors if run.keep else None
    return Probe(values, counts, lo, hi, slack, first, run.basis, coefficients, run.inner.t)


def _no_ghosts(values: Tensor, slack: Tensor, weights: Tensor) -> Tensor:
    """Indices of Ritz values without those that rounding makes.

    Once a pair has converged, blocks that are orthogonal to the last two alone bring it back, as a
    Ritz value that rises past others. These have converged, and it has no share of the random
    start, of which each eigenvalue has about 1 / n.
    """
    real = weights >= GHOST_WEIGHT
    resolved = torch.nonzero(real & (slack <= GHOST_BEHIND * (values[0] - values[-1])))[:, 0]
    if not len(resolved):
        return torch.arange(len(values))
    real[int(resolved[-1]) :] = True
    return torch.nonzero(real)[:, 0]

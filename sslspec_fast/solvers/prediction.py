"""Seconds that a solve takes on one core of the host, from what is known before its first step.

By filters: products with A, blocks that are written for the first time, passes over a basis, steps
behind the first filter, and the products of the end. docs/eigensolver.md has tables of what was
predicted and measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch

from .linalg.chebyshev_filter import growth_rate
from .linalg.cost import (
    KRYLOV_MOST,
    LINE,
    OPEN_EDGE,
    balanced_degree,
    guarded_width,
    guards,
    padded,
    product_cost,
    step_width,
)
from .linalg.factorization import Structure
from .problem.first_filter import FirstFilter
from .problem.probe import Probe
from .problem.task import Task

__all__ = ["Cost"]

# Degrees that 20 digits (base e) take, for the square root of the levels of the graph over the
# columns: further eigenvalues of a body lie further apart, and what steps keep needs fewer. Over 29
# grids, clouds of points and power grids with 8 and 30 pairs, in float32 and float64, nearly all
# are within 2x; for each level, without the columns, it would be up to 20x too much.
LEVELS_TO_DEGREE = 130.0
# Solves with a factor, for each pair and digit (base e): usa 0.15 with tol 1e-4, 0.3 with tol 1e-8
# and angle_tol 1e-6, mnist5k 0.4, a path of 40,000 nodes 0.15 and 0.5.
SOLVES_PER_DIGIT = 0.25
# Of the degrees that the rate of a dense spectrum asks for, those that take a filter's time; steps
# that keep a basis need fewer: 60 pairs of 120,000 nodes in 40 communities 17 s of 41.
RATE_TO_DEGREE = 0.5
# Degrees of a Krylov space of a filter, of those that the rate asks for where no gap is seen; and
# columns of its basis, for each one of the start: 60 pairs of 120,000 nodes end with 528 for 80.
OPEN_TO_DEGREE = 2.2
KRYLOV_COLUMNS = 6
# Eigenvalues behind which a spectrum is taken to be dense, as a fraction of the rows; least rate
# that it is said to have; of the wanted pairs, those that lie above a gap if it is the one behind
# them.
DENSE_PART, LEAST_RATE, WANTED_PART = 0.03, 1e-3, 0.9
# Seconds of a column of a filter, for each nanosecond of `product_cost`, with its share of the
# steps that follow: of a product alone.
COLUMN = 1.5e-9
PRODUCT = 0.4e-9
# Seconds for a byte of a block of the probe, written for the first time and passed over three
# times; a byte of a basis in a pass; a byte of the start block from its first touch to its measured
# residuals; a byte of it in a later step; two float32 operations of a product of tall blocks; a
# cube of the columns of a projected problem; a step, whatever the sizes are. They were set on the
# graphs of docs/eigensolver.md, to the geometric mean of the times of two machines (AMD EPYC of
# Zen 5, Intel Xeon with AVX512-FP16).
KEPT_BYTE, PASSED_BYTE, START_BYTE, STEP_BYTE = 0.41e-9, 0.05e-9, 7.2e-9, 2.6e-9
TALL, CUBE, STEP_SECONDS = 3e-11, 0.37e-9, 2.6e-3
PASSES = 4  # over the basis of a Krylov space of a filter, for each of its blocks


@dataclass(frozen=True)
class Cost:
    """Of a task, from what its probe found: width columns behind `first`, the filter of the start.

    rate: log of what a degree of a filter gains, 0 where the probe does not tell; levels: of the
    graph, 0 where they were not counted.
    """

    task: Task
    found: Probe
    width: int
    first: FirstFilter | None
    rate: float
    levels: int

    @property
    def degree_seconds(self) -> float:
        """A degree of a filter of the start block; orthogonalisation is a minor part of it."""
        k = self.task.k
        return (k + guards(k)) * COLUMN * product_cost(self.task.op, self.task.op.n)

    @property
    def digits(self) -> float:
        """To be gained from a random start, base e."""
        task, n = self.task, self.task.op.n
        digits = math.log(math.sqrt(n) * task.norm / max(task.tol, 1e-14 * task.norm))
        if task.angle_tol is not None:
            digits = max(digits, math.log(math.sqrt(n) / max(task.angle_tol, 1e-14)) + 5.0)
        return digits

    @property
    def _degrees(self) -> float:
        """Of all filters: what the levels ask for, and the rate of a dense spectrum."""
        columns = self.task.k + guards(self.task.k)
        degrees = LEVELS_TO_DEGREE * math.sqrt(self.levels / columns) * (self.digits / 20.0)
        if self.rate > 0.0:
            degrees = max(degrees, RATE_TO_DEGREE * self.digits / self.rate)
        return degrees

    def factored(self, shape: Structure) -> float:
        """With a factor and its solves."""
        k = self.task.k
        solves = math.ceil(SOLVES_PER_DIGIT * self.digits * (k + guards(k)))
        return shape.seconds(self.task.op.n, solves, guarded_width(k, self.task.free))

    @cached_property
    def _dense_rate(self) -> float:
        """Log of what a degree gains where the spectrum has no gap behind the wanted pairs.

        It ends as that of a random matrix or of a body in space does, so that eigenvalue number j
        is j^(2/3) from the end; the probe tells how far one further down is.
        """
        found, n = self.found, self.task.op.n
        at = min(int((found.counts < DENSE_PART * n).sum()), len(found.values) - 1)
        count = max(float(found.counts[at]), self.width + 1.0)
        depth = found.hi - float(found.values[at])
        last, cut = (found.hi - depth * (j / count) ** (2 / 3) for j in (self.task.k, self.width))
        return max(growth_rate(last, found.lo, cut), LEAST_RATE)

    @property
    def _gap_rate(self) -> float:
        """`rate` where the probe's gap has all wanted pairs above it, else 0."""
        found, k = self.found, self.task.k
        last = found.split(k + guards(k))[1]
        above = 0 if last is None else int((found.values >= last).sum())
        seen = above > 0 and float(found.counts[above - 1]) >= WANTED_PART * k
        return self.rate if seen else 0.0

    def _later_degrees(self, first: FirstFilter) -> float:
        """Of the steps behind the first filter, where it ends in a dense spectrum."""
        task, found, k = self.task, self.found, self.task.k
        if not first.needed or first.krylov:
            return 0.0
        if first.of_ritz:
            low = max(
                float(found.values[min(self.width, len(found.values) - 1)]),
                found.lo + 1e-6 * task.norm,
            )
            rate = growth_rate(float(found.values[k - 1]), found.lo, low)
            need = math.log(max(2.0 * float(found.residuals[:k].max()) / task.tol, 1.0))
        else:
            rate, need = self.rate, math.log(8.0 * math.sqrt(task.op.n) * task.norm / task.tol)
        if rate >= OPEN_EDGE:
            return 0.0
        return max(need / self._dense_rate - first.degree, 0.0)

    def _krylov_degrees(self, first: FirstFilter) -> float:
        """Of a Krylov space of a filter."""
        rate = max(self._dense_rate, self._gap_rate)
        least = first.degree * KRYLOV_COLUMNS * self.width / LINE
        return max(self._degrees, OPEN_TO_DEGREE * self.digits / rate, least)

    def filtered(self, separated: bool) -> float:
        """With filters; separated: levels set no bound on their degrees."""
        first = self.first
        by_levels = self._degrees * self.degree_seconds
        if first is None or not (separated or first.krylov or first.of_ritz):
            return by_levels
        seconds = self._by_parts(first)
        return seconds if separated or first.krylov else max(seconds, by_levels)

    def _by_parts(self, first: FirstFilter) -> float:
        """Probe, first filter, what follows it, and the end."""
        task, found, width, n = self.task, self.found, self.width, self.task.op.n
        low = task.low.itemsize
        column = PRODUCT * product_cost(task.op, n) * low / torch.float32.itemsize
        start = n * width * task.dtype.itemsize  # bytes
        kept = sum(block.numel() * block.element_size() for block in found.basis)
        held = len(found.values)
        seconds = STEP_SECONDS + column * task.columns + KEPT_BYTE * kept + CUBE * held**3
        if first.krylov:
            degrees = self._krylov_degrees(first)
            blocks = degrees / first.degree
            held = int(min(LINE * blocks, KRYLOV_MOST * width))  # then it restarts
            seconds += column * LINE * degrees + CUBE * held**3
            seconds += PASSES * PASSED_BYTE * n * low * blocks * min(LINE * blocks / 2, held)
        elif first.needed:
            later, block = self._later_degrees(first), min(width, step_width(task.k))
            steps = later / balanced_degree(task.op, block, 2 * width)
            filtered = width if first.vectors is None else first.vectors
            seconds += column * (padded(filtered) * first.degree + padded(block) * later)
            seconds += steps * (STEP_SECONDS + STEP_BYTE * start)
        if not first.of_ritz:
            held = held if first.krylov else width  # orthonormalised by two passes
        whole = task.dtype.itemsize / low  # products of the end
        tall = TALL * low / torch.float32.itemsize
        seconds += tall * n * width * held + column * whole * padded(width)
        return seconds + START_BYTE * start

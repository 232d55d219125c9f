"""Seconds that a solve takes on one core of the host, from what is known before its first step.

By filters: products with A, blocks that are written for the first time, passes over a basis, and
the products of the end. docs/eigensolver.md has a table of what was predicted and measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .linalg.cost import KRYLOV_MOST, LINE, guards, padded, product_cost
from .linalg.factorization import Structure
from .problem.first_filter import FirstFilter
from .problem.probe import Probe
from .problem.task import Task

__all__ = ["Cost"]

# Degrees that 20 digits (base e) take, for each level of the graph: usa 4.0, mnist5k 6.9, geonames
# 7.9 of all degrees that chebyshev runs.
LEVELS_TO_DEGREE = 5.0
# Solves with a factor, for each pair and digit (base e): usa 0.15 with tol 1e-4, 0.3 with tol 1e-8
# and angle_tol 1e-6, mnist5k 0.4, a path of 40,000 nodes 0.15 and 0.5.
SOLVES_PER_DIGIT = 0.25
# Of the degrees that the rate of a dense spectrum asks for, those that take a filter's time; steps
# that keep a basis need fewer: 60 pairs of 120,000 nodes in 40 communities 17 s of 41.
RATE_TO_DEGREE = 0.5
# Columns of the basis of a Krylov space of a filter, for each one of the start: 60 pairs of 120,000
# nodes end with 528 for 80.
KRYLOV_COLUMNS = 6
# Seconds of a column of a filter, for each nanosecond of `product_cost`, with its share of the
# steps that follow: of a product alone.
COLUMN = 1.5e-9
PRODUCT = 0.4e-9
# Seconds for a byte of a block of the probe, written for the first time and passed over three
# times; a byte of a basis in a pass; a byte of the start block from its first touch to its measured
# residuals; two operations of a product of tall blocks; a cube of the columns of a projected
# problem.
KEPT_BYTE, PASSED_BYTE, START_BYTE = 0.75e-9, 0.06e-9, 1.5e-9
TALL, CUBE = 2.5e-11, 1e-9
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
        degrees = LEVELS_TO_DEGREE * self.levels * (self.digits / 20.0)
        if self.rate > 0.0:
            degrees = max(degrees, RATE_TO_DEGREE * self.digits / self.rate)
        return degrees

    def factored(self, shape: Structure) -> float:
        """With a factor and its solves."""
        k = self.task.k
        solves = math.ceil(SOLVES_PER_DIGIT * self.digits * (k + guards(k)))
        return shape.seconds(self.task.op.n, solves)

    def filtered(self, separated: bool) -> float:
        """With filters; separated: the first one is nearly all that it takes."""
        first = self.first
        if first is None or not (separated or first.krylov):
            return self._degrees * self.degree_seconds
        task, found, width, n = self.task, self.found, self.width, self.task.op.n
        low = task.low.itemsize
        column = PRODUCT * product_cost(task.op, n) * low / torch.float32.itemsize
        kept = sum(block.numel() * block.element_size() for block in found.basis)
        held = len(found.values)
        seconds = column * task.columns + KEPT_BYTE * kept + CUBE * held**3
        if first.krylov:
            degrees = max(self._degrees, first.degree * KRYLOV_COLUMNS * width / LINE)
            blocks = degrees / first.degree
            held = int(min(LINE * blocks, KRYLOV_MOST * width))  # then it restarts
            seconds += column * LINE * degrees + CUBE * held**3
            seconds += PASSES * PASSED_BYTE * n * low * blocks * min(LINE * blocks / 2, held)
        elif first.needed:
            seconds += column * padded(width) * first.degree
        if not first.of_ritz and not first.krylov:
            held = width  # orthonormalised by two passes
        whole = task.dtype.itemsize / low  # products of the end
        seconds += TALL * n * width * held + column * whole * padded(width)
        return seconds + START_BYTE * n * width * task.dtype.itemsize

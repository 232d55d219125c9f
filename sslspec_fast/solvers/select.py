"""`method="auto"`: which solver, and one sentence that says why.

The probe tells whether the wanted end is well separated; then a Chebyshev filter of known degree is
all it takes. If it is not, a level structure of the graph predicts both sides: the fill of a
factorisation, and the degree that any polynomial method needs (about five times the number of
levels: products carry information one level at a time).
"""

from __future__ import annotations

import math

import torch

from ..operators.base import SymmetricOperator
from .linalg.basis import host_memory
from .linalg.chebyshev_filter import growth_rate
from .linalg.cost import FILLED_ROWS, guards, product_cost
from .linalg.factorization import structure
from .problem.probe import Probe
from .problem.task import Task

__all__ = ["choose", "dense_pays", "lapack_pays", "low_dtype", "separated"]

_DENSE_ROWS = 600  # LAPACK beats any iteration below this
_DENSE_LIMIT = 20_000  # 3.2 GB of float64 per copy
_LEVELS_TO_DEGREE = 5.0


def dense_pays(op: SymmetricOperator, k: int) -> str | None:
    """Why dense is the right choice, or None. Needs no product with A."""
    return None if op.ranks is not None else lapack_pays(op.n, k)  # gathered, if it did


def lapack_pays(n: int, k: int) -> str | None:
    """`dense_pays` of a matrix of n rows that is at hand."""
    if n <= _DENSE_ROWS:
        return f"n = {n} <= {_DENSE_ROWS}"
    if k > n // 5 and n <= _DENSE_LIMIT:
        return f"k = {k} > n / 5 = {n // 5}"
    return None


def separated(task: Task, found: Probe) -> str | None:
    """Why a filter of moderate degree is all it takes, or None: the probe did not see that."""
    op = task.op
    cut, last = found.split(task.k + guards(task.k))
    if last is None:
        return None
    rate = growth_rate(last, found.lo, cut)
    # rows of many entries fill in: a factorisation of theirs pays for long filters only
    if rate <= (0.15 if (op.nnz() or 0) < FILLED_ROWS * op.n else 0.05):
        return None
    return f"well separated top, {rate:.2f} digits (base e) per degree"


def choose(task: Task, found: Probe, angle_tol: float | None) -> tuple[str, str, int]:
    """(method, reason, levels of the graph or 0 when nobody looked)."""
    op, n, k = task.op, task.op.n, task.k
    if found.hi - found.lo <= 1e-12 * task.norm:
        return "lanczos", "A is a multiple of the identity", 0
    width = k + guards(k)
    column = 1.5e-9 * product_cost(op, n)  # orthogonalisation is tuned to be a minor share
    digits = math.log(math.sqrt(n) * task.norm / max(task.tol, 1e-14 * task.norm))
    if angle_tol is not None:
        digits = max(digits, math.log(math.sqrt(n) / max(angle_tol, 1e-14)) + 5.0)
    clear = separated(task, found)
    if clear is not None:
        return "chebyshev", clear, 0
    if op.device.type != "cpu" or op.nnz() is None:
        return "chebyshev", "no entries to factorise on the host", 0
    if width * column * 10.0 < 1e-3 and n < 5000:
        return "chebyshev", f"small problem, n = {n}", 0
    matrix = op.assemble()
    if matrix is None:
        return "chebyshev", "A has no stored entries to factorise", 0
    shape = structure(matrix)
    polynomial = _LEVELS_TO_DEGREE * shape.levels * (digits / 20.0) * width * column
    direct = shape.seconds(n, 5 * width)
    memory = 24.0 * shape.fill
    facts = (
        f"{shape.levels} levels, separator {shape.separator}, predicted fill "
        f"{shape.fill / max(matrix.nnz, 1):.1f}x; predicted {direct:.2g} s against "
        f"{polynomial:.2g} s by filtering"
    )
    if direct < polynomial and memory < 0.25 * host_memory():
        return "shift_invert", facts, shape.levels
    return "chebyshev", facts, shape.levels


def low_dtype(precision: str) -> torch.dtype:
    """dtype of filter products."""
    return torch.float64 if precision == "float64" else torch.float32

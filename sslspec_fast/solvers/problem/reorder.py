"""Renumber the nodes of a graph before a long iteration, when that makes its products faster.

A product gathers a row of X for each entry. With neighbours far apart in memory each of them is a
trip to memory; reverse Cuthill-McKee (George 1971) brings them within about n / levels of each
other, so that the rows in use fit in cache. Graphs of few levels (random graphs, high-dimensional
neighbours) have no such order and are left alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse
import torch
from scipy.sparse.csgraph import reverse_cuthill_mckee
from torch import Tensor

from ...operators.base import ShiftOperator, SymmetricOperator
from ...operators.csr import CsrOperator
from ...operators.known import KnownPairs
from ..linalg.basis import host_memory
from ..linalg.cost import CACHE_BYTES, LEAST_LEVELS, RENUMBERED_ENTRY, SCATTERED
from ..linalg.factorization import INT32_LIMIT, structure
from .probe import Probe
from .task import Task

__all__ = ["order", "renumber", "renumbering_pays"]

_SAMPLE = 20_000  # rows that show how far apart neighbours are


def renumbering_pays(op: SymmetricOperator, levels: int | None = None) -> bool:
    """Whether the nodes have a better order. levels: of a breadth-first search, if it was made."""
    n, op = op.n, op.op if isinstance(op, ShiftOperator) else op
    if not isinstance(op, CsrOperator) or op.device.type != "cpu" or n * 64 <= CACHE_BYTES:
        return False
    if op.nnz() > min(INT32_LIMIT, host_memory() / RENUMBERED_ENTRY):
        return False
    if levels is not None:
        return _pays(op, levels)
    return _pays(op, structure(_pattern(op)).levels)


def order(op: SymmetricOperator) -> np.ndarray:
    """(n,) node in each place of the better order."""
    op = op.op if isinstance(op, ShiftOperator) else op
    assert isinstance(op, CsrOperator)
    return np.asarray(reverse_cuthill_mckee(_pattern(op), symmetric_mode=True), dtype=np.int64)


def _pattern(op: CsrOperator) -> Any:
    ones = np.ones(op.nnz(), dtype=np.int8)
    indices, indptr = (t.numpy().astype(np.int32, copy=False) for t in (op.indices, op.indptr))
    return scipy.sparse.csr_array((ones, indices, indptr), shape=op.shape)


def _pays(op: CsrOperator, levels: int) -> bool:
    """A band holds the neighbours of the levels before and after."""
    return levels >= LEAST_LEVELS and _distance(op) * levels >= SCATTERED * op.n


def _distance(op: CsrOperator) -> float:
    """Mean |i - j| over the entries of a sample of rows."""
    rows = torch.linspace(0, op.n - 1, min(op.n, _SAMPLE)).long().unique()
    start, stop = op.indptr[rows].long(), op.indptr[rows + 1].long()
    counts = stop - start
    total = int(counts.sum())
    if total == 0:
        return 0.0
    first = torch.repeat_interleave(start - (counts.cumsum(0) - counts), counts)
    columns = op.indices[first + torch.arange(total)].long()
    return float((columns - torch.repeat_interleave(rows, counts)).abs().double().mean())


def renumber(task: Task, found: Probe, permutation: np.ndarray) -> tuple[Task, Probe]:
    """The same problem with node permutation[i] in place i; vectors come back in that order."""
    p = torch.from_numpy(permutation)
    op = _permuted(task.op, p)
    deflated = None if task.deflated is None else task.deflated.reordered(p)
    warm = None if task.warm is None else task.warm[p]
    basis = [block[p] for block in found.basis]
    scale = None if found.scale is None else found.scale[p]
    return (
        replace(task, op=op, deflated=deflated, warm=warm),
        replace(found, basis=basis, scale=scale),
    )


def _permuted(op: SymmetricOperator, p: Tensor) -> SymmetricOperator:
    if isinstance(op, ShiftOperator):
        return ShiftOperator(_permuted(op.op, p), op.a, op.b)
    assert isinstance(op, CsrOperator)
    values = np.ones(op.nnz(), np.int8) if op.values is None else op.values.numpy()
    arrays = (values, op.indices.numpy(), op.indptr.numpy())
    matrix: Any = scipy.sparse.csr_array(arrays, shape=op.shape)
    matrix = matrix[p.numpy()]
    place = np.empty(op.n, dtype=matrix.indices.dtype)
    place[p.numpy()] = np.arange(op.n)
    matrix.indices = place[matrix.indices]
    matrix.has_sorted_indices = False
    matrix.sort_indices()
    known = tuple(KnownPairs(pair.value, pair.vectors.reordered(p)) for pair in op.known())
    return CsrOperator(
        torch.from_numpy(matrix.indptr),
        torch.from_numpy(matrix.indices),
        None if op.values is None else torch.from_numpy(matrix.data),
        n=op.n,
        scale=None if op.scale is None else op.scale[p],
        diagonal=None if op.diagonal is None else op.diagonal[p],
        sign=op.sign,
        bounds=op.bounds(),
        known=known,
        trusted=True,
    )

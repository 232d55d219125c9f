"""LOBPCG: search space [X, P, M R], as the block Davidson driver with a short basis.

Knyazev 2001; the basis is kept orthonormal (Hetmaniuk and Lehoucq 2006, Duersch et al. 2018), so it
cannot break down as the textbook form does. M is the preconditioner that was given; else a
smoothed-aggregation V-cycle of pyamg for sigma I - A when pyamg is installed and A has entries;
else the identity.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from ...primitives.basis import random_block
from ..completeness.missed_pairs import MissedPairSearch
from ..linalg.basis import Basis
from ..plan import Plan
from ..problem.probe import Probe
from ..problem.task import Outcome, Task
from ._davidson import Sizes, davidson

__all__ = ["lobpcg"]


class _Multigrid:
    """R -> one V-cycle per column; pyamg has no block cycle."""

    def __init__(self, task: Task, sigma: float) -> None:
        import pyamg  # type: ignore[import-not-found, import-untyped, unused-ignore]

        matrix = task.op.assemble()
        shifted = sigma * scipy.sparse.eye_array(task.op.n, format="csr") - matrix
        shifted = scipy.sparse.csr_matrix(shifted)
        shifted.indptr = shifted.indptr.astype(np.int32)
        shifted.indices = shifted.indices.astype(np.int32)
        # pyamg starts its spectral radius estimates from numpy's global state
        state = np.random.get_state()  # noqa: NPY002
        np.random.seed(task.seed % 2**32)  # noqa: NPY002
        self.cycle = pyamg.smoothed_aggregation_solver(shifted).aspreconditioner(cycle="V")
        np.random.set_state(state)  # noqa: NPY002
        self.columns = 0

    def __call__(self, r: Tensor, values: Tensor, basis: Basis, ritz: Tensor) -> Tensor:
        self.columns += r.shape[1]
        block = r.double().cpu().numpy()
        out = np.stack([self.cycle.matvec(column) for column in block.T], axis=1)
        return torch.from_numpy(out).to(r)


class _Given:
    """R -> M R of the caller's preconditioner, outside the deflated vectors."""

    def __init__(self, task: Task) -> None:
        self.task, self.columns = task, 0

    def __call__(self, r: Tensor, values: Tensor, basis: Basis, ritz: Tensor) -> Tensor:
        self.columns += r.shape[1]
        assert self.task.preconditioner is not None
        out = self.task.preconditioner(r)
        return out if self.task.deflated is None else self.task.deflated.remove_(out)


def lobpcg(task: Task, plan: Plan, found: Probe) -> Outcome:
    n, width = task.op.n, plan.width
    start = random_block(n, width, task.seed, task.dtype, task.op.device)
    if task.warm is not None:  # beside as many random directions: it may lack wanted ones
        start = torch.cat([task.warm[:, :width].to(start), start], 1)
    expand: _Given | _Multigrid | None = None
    facts: dict[str, Any] = {"preconditioner": "identity"}
    stored = n > 0 and task.op.assemble() is not None
    if task.preconditioner is not None:
        expand, facts["preconditioner"] = _Given(task), "given"
    elif stored and importlib.util.find_spec("pyamg") is not None:
        expand = _Multigrid(task, found.hi + 1e-5 * task.norm)
        facts["preconditioner"] = "pyamg smoothed aggregation"
    outcome = davidson(
        task,
        start,
        expand,
        Sizes(
            block=width,
            keep=2 * width + 1,
            capacity=width + max(2 * width, start.shape[1]) + 1,
        ),
        MissedPairSearch(task, found.lo, found.hi, task.dtype),
    )
    if expand is not None:
        facts["n_solve"] = expand.columns
    outcome.facts = facts
    return outcome

"""Dense corner: LAPACK / cuSOLVER on the assembled matrix, exact multiplicities, no tuning."""

from __future__ import annotations

import math
from typing import Any

import torch

from ...primitives.basis.blocks import column_norms
from ..plan import Plan
from ..problem.task import Outcome, Task, rounded

__all__ = ["dense"]


def dense(task: Task, plan: Plan, found: Any) -> Outcome:
    """All eigenpairs of P A P, with the deflated directions moved below the spectrum.

    task.tol is relative here: only the spectrum tells ||A|| where the operator has no bounds.
    """
    lo, hi = task.op.bounds()
    norm = max(abs(lo), abs(hi)) if math.isfinite(lo) and math.isfinite(hi) else 0.0
    n, k = task.op.n, task.k
    matrix = task.op.to_dense()
    scale = float(matrix.abs().sum(1).max()) if n else 0.0
    if task.deflated is not None and n:
        identity = torch.eye(n, dtype=torch.float64, device=matrix.device)
        complement = task.deflated.remove_(identity.clone())
        below = 4.0 * scale or 1.0
        matrix = complement @ matrix @ complement - below * (identity - complement)
        scale = below
        matrix = (matrix + matrix.T) / 2
    values, vectors = torch.linalg.eigh(matrix)
    values, vectors = values.flip(0).cpu(), vectors.flip(1)
    if norm == 0.0 and task.free:
        norm = float(values[: task.free].abs().max())
    task.set_norm(norm)
    x = vectors[:, :k].contiguous()
    residual = task.apply(x)
    if task.deflated is not None:
        task.deflated.remove_(residual)
    residual -= x * values[:k].to(x)
    norms = column_norms(residual)
    gap = float(values[k - 1] - values[k]) if k < task.free else math.inf
    # LAPACK is backward stable: what it returns is as good as float64 allows
    floor = 1e-14 * math.sqrt(max(n, 1)) * max(task.norm, scale)
    good = bool((norms <= max(task.tol, floor)).all()) and task.angle_met(norms, gap)
    entry = {
        "iteration": 1,
        "converged": int((norms <= max(task.tol, floor)).sum()),
        "basis": n,
        "residual": float(norms.max()) / max(task.norm, 1e-300),
        "n_matvec": task.columns,
    }
    if task.callback is not None:  # nothing is left to stop
        task.callback({**entry, "k": k, "values": values[:k].clone()})
    outcome = Outcome(values[:k], x, norms, gap, good, "all eigenpairs", 1, [entry])
    return rounded(outcome, task)

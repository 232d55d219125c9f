"""The last step of `eigsh`: what was found, held against what was asked, as it is returned."""

from __future__ import annotations

import math
import time
import warnings
from typing import Any

import torch
from torch import Tensor

from ..operators.base import SymmetricOperator
from ..operators.convert import to_array
from ..primitives.basis import column_norms, lengths
from ..primitives.spread import current, first_found, highest
from .completeness.inertia import Count, Proof
from .problem.task import Known, Outcome, Task
from .result import ConvergenceWarning, EigInfo, EigResult

__all__ = ["report"]

_SIGN_ROWS = 64
_ROUNDED = 1e-6  # defect of orthonormal columns in float32
_COARSE = 1e-5  # relative tolerance that residuals in float32 sums can judge


def report(
    op: SymmetricOperator,
    outcome: Outcome,
    known: Known,
    back: Any,
    task: Task,
    facts: dict[str, Any],
    kind: str,
    which: str,
    labels: tuple[str, str, str],
    start: float,
    count: Count | None = None,
) -> EigResult:
    """The result, with residuals of A itself, and `converged` only if they are what was asked.

    count: of the eigenvalues beyond the wanted ones' end (`counting`), where a proof is wanted and
    the method brought none; it is asked last.
    """
    values, vectors = outcome.values, outcome.vectors
    residuals = outcome.residuals
    if known is not None:
        extra = op.matmat(known[1])
        sign = 1.0 if which == "LA" else -1.0
        extra -= known[1] * (sign * known[0]).to(extra)
        residuals = torch.cat([lengths(extra).cpu(), residuals])
        values = torch.cat([known[0], values])
        vectors = torch.cat([known[1].to(vectors), vectors], 1)
    wanted = values
    if which == "SA":
        values = -values
    given = known is None and task.deflated is not None and len(values)
    # float32 sums of V c know residuals to some 1e-6 ||A||
    single = vectors.dtype == torch.float32
    coarse = single and (task.angle_tol is not None or task.tol < _COARSE * task.norm)
    if given or coarse:  # `deflate` may not be invariant, and the solver saw its complement
        x = vectors.double()
        residuals = column_norms(op.matmat(x) - x * values.to(x))
    gap = 0.0 if math.isnan(outcome.gap) else outcome.gap
    norm = max(task.norm, 0.0)
    if back is not None:
        vectors = back(vectors)
    vectors = _signs(vectors)
    worst = float(residuals.max()) if len(residuals) else 0.0
    frobenius = float(residuals.norm()) if len(residuals) else 0.0
    method, reason, precision = labels
    converged, why = outcome.converged, outcome.reason
    # whatever the method found: what is reported must meet what was asked
    limit = max(task.tol, 1e-13 * norm * math.sqrt(op.n)) * (1 + 1e-6)
    if converged and norm > 0.0 and worst > limit:
        converged = False
        why = f"rounded to {vectors.dtype}".replace("torch.", "")
        if given or known is not None:
            why = "deflate is not invariant under A" if given else "the known vectors are not exact"
    proof = outcome.proof
    if proof is None and count is not None and converged:
        # vectors in float32 are orthonormal to its rounding only
        slack = frobenius + (_ROUNDED * norm if single else 0.0)
        proof = count(wanted.numpy(), slack, gap, task.tol, norm, None)
    if proof is not None:
        facts.update(
            count=proof.counted, count_shift=proof.shift if which == "LA" else -proof.shift
        )
        if proof.missing:
            converged, why, gap = False, f"{proof}", 0.0
        elif proof.complete:  # a shift above the cut proves no gap
            gap = min(gap, max(float(wanted[-1]) - proof.shift - proof.error, 0.0))
    # a gap that the residuals cannot resolve is no gap
    cut = gap <= 10.0 * max(worst, 1e-14 * norm)
    if converged and not task.angle_met(residuals, gap):
        converged, why = False, "the residuals do not resolve the gap"
    if not converged:
        reason = f"{reason}; stopped: {why}"
        _warn(residuals, gap, task, cut, why, proof)
    elif proof is not None and not proof.complete:
        reason = f"{reason}; completeness not proven: {proof}"
        warnings.warn(f"eigsh: not proven complete: {proof}", ConvergenceWarning, stacklevel=3)
    asked = count is not None or proof is not None
    complete = converged and (proof is None or proof.complete) if asked else None
    info = EigInfo(
        converged=converged,
        residuals=residuals.numpy(),
        norm=norm,
        gap=gap,
        angle_bound=frobenius / gap if gap > 0 else math.inf,
        cluster_cut=bool(cut),
        method=method,
        reason=reason,
        n_iter=outcome.n_iter,
        n_matvec=task.columns,
        n_solve=int(facts.pop("n_solve", 0)),
        seconds=time.perf_counter() - start,
        tol=task.tol,
        angle_tol=task.angle_tol,
        precision=precision,
        complete=complete,
        history=outcome.history,
        extra=facts,
    )
    values = values.to(vectors.dtype) + 0.0  # no -0
    values = values.to(vectors.device if kind != "numpy" else "cpu")
    return EigResult(to_array(values, kind), to_array(vectors, kind), info)


def _signs(vectors: Tensor) -> Tensor:
    """Entry of largest magnitude positive; the lowest row within a tie of 1e-6. In place."""
    n, k = vectors.shape
    if k == 0 or (n == 0 and current() is None):
        return vectors
    # largest entries of blocks of rows first: one pass over the vectors, then one block a column
    whole = n // _SIGN_ROWS * _SIGN_ROWS
    blocks = vectors[:whole].reshape(-1, _SIGN_ROWS * k).abs()
    while blocks.shape[1] > k:  # by halves: torch is slow at short reductions
        blocks = torch.maximum(*blocks.chunk(2, 1))
    if whole < n:
        blocks = torch.cat([blocks, vectors[whole:].abs().amax(0, keepdim=True)])
    if n == 0:
        blocks = vectors.new_zeros(1, k)
    tie = highest(blocks.amax(0)) * (1 - 1e-6)
    large = blocks >= tie
    if n == 0:
        entry = vectors.new_zeros(k)
    else:
        first = large.to(torch.int8).argmax(0)
        rows = first * _SIGN_ROWS + torch.arange(_SIGN_ROWS, device=vectors.device)[:, None]
        entries = vectors.gather(0, rows.clamp_max(n - 1))
        pivot = (entries.abs() >= tie).to(torch.int8).argmax(0, keepdim=True)
        entry = entries.gather(0, pivot)[0]
    sign = torch.sign(first_found(large.any(0), entry))
    return vectors.mul_(torch.where(sign == 0, torch.ones_like(sign), sign))


def _warn(
    residuals: Tensor, gap: float, task: Task, cut: bool, why: str, proof: Proof | None
) -> None:
    bad = int((residuals > task.tol).sum())
    if proof is not None and proof.missing:
        what = f"{proof.missing} eigenvalues are missing"
    elif bad:
        worst = float(residuals.max())
        what = f"{bad} of {len(residuals)} pairs have residuals above {task.tol:.2e} ({worst=:.2e})"
    else:
        what = f"the angle bound is above angle_tol = {task.angle_tol} (gap {gap:.2e})"
        if cut:
            what += "; the cut lies inside a cluster, so the span of k vectors is not unique"
    warnings.warn(f"eigsh: not converged, {what}: {why}", ConvergenceWarning, stacklevel=4)

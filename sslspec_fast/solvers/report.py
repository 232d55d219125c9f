"""The last step of `eigsh`: what was found, compared with what was asked, in the units of A."""

from __future__ import annotations

import inspect
import math
import time
import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .._arrays import to_array
from ..primitives.basis import column_norms, lengths, new_block
from .completeness.inertia import Proof
from .linalg.signs import canonical_signs
from .plan import Plan
from .problem.eigenproblem import Eigenproblem
from .problem.task import Outcome
from .result import ConvergenceWarning, EigInfo, EigResult

__all__ = ["finish"]

_ROUNDED = 1e-6  # defect of orthonormal columns in float32
_COARSE = 1e-5  # relative tolerance that residuals in float32 sums can judge
_FACTS = ("bounds", "start_cut", "sigma", "count_shift")  # of info.extra, in units of A


@dataclass
class _Pairs:
    """All wanted pairs, known ones first: values of A and of the task, vectors, residuals of A."""

    values: Tensor
    wanted: Tensor  # of the task, whose wanted end is the upper one
    vectors: Tensor
    residuals: Tensor
    remeasured: bool  # the residuals are those of vectors that the method did not deflate

    @property
    def worst(self) -> float:
        return float(self.residuals.max()) if len(self.residuals) else 0.0

    @property
    def frobenius(self) -> float:
        return float(self.residuals.norm()) if len(self.residuals) else 0.0


def finish(problem: Eigenproblem, plan: Plan, outcome: Outcome) -> EigResult:
    """The result, with residuals of A itself, and `converged` only if they are what was asked."""
    task = problem.task
    pairs = _all_pairs(problem, outcome)
    norm = max(task.norm, 0.0)
    gap = 0.0 if math.isnan(outcome.gap) else outcome.gap
    vectors = pairs.vectors if problem.pencil is None else problem.pencil.back(pairs.vectors)
    vectors = canonical_signs(vectors)
    converged, why = _judged(problem, pairs, outcome, norm)
    proof = _proof(problem, pairs, outcome, gap, norm, converged)
    facts = dict(outcome.facts)
    if proof is not None:
        facts.update(proof.facts(-1.0 if problem.settings.which == "SA" else 1.0))
        if proof.missing:
            converged, why, gap = False, f"{proof}", 0.0
        elif proof.complete:  # a shift above the cut proves no gap
            gap = min(gap, proof.gap(float(pairs.wanted[-1])))
    # a gap that the residuals cannot resolve is no gap
    cut = gap <= 10.0 * max(pairs.worst, 1e-14 * norm)
    if converged and not task.angle_met(pairs.residuals, gap):
        converged, why = False, "the residuals do not resolve the gap"
    reason = plan.reason
    if not converged:
        reason = f"{reason}; stopped: {why}"
        _warn(pairs.residuals, gap, problem, cut, why, proof)
    elif proof is not None and not proof.complete:
        reason = f"{reason}; completeness not proven: {proof}"
        text = f"eigsh: not proven complete: {proof}"
        warnings.warn(text, ConvergenceWarning, stacklevel=_frames_to_caller())
    asked = problem.count is not None or proof is not None
    complete = converged and (proof is None or proof.complete) if asked else None
    info = EigInfo(
        converged=converged,
        residuals=pairs.residuals.numpy(),
        norm=norm,
        gap=gap,
        angle_bound=pairs.frobenius / gap if gap > 0 else math.inf,
        cluster_cut=bool(cut),
        method=plan.method,
        reason=reason,
        n_iter=outcome.n_iter,
        n_matvec=task.columns,
        n_solve=int(facts.pop("n_solve", 0)),
        seconds=time.perf_counter() - problem.started,
        tol=task.tol,
        angle_tol=task.angle_tol,
        precision=problem.settings.precision,
        complete=complete,
        history=outcome.history,
        extra=facts,
        plan=plan,
    )
    return _in_units_of_a(problem, pairs.values, vectors, info)


def _all_pairs(problem: Eigenproblem, outcome: Outcome) -> _Pairs:
    """Known and computed pairs, with residuals of op itself where those of the task may differ."""
    task, op, known = problem.task, problem.op, problem.known
    values, vectors, residuals = outcome.values, outcome.vectors, outcome.residuals
    sign = -1.0 if problem.settings.which == "SA" else 1.0
    if known is not None:
        extra = op.matmat(known[1])
        extra -= known[1] * (sign * known[0]).to(extra)
        residuals = torch.cat([lengths(extra).cpu(), residuals])
        values = torch.cat([known[0], values])
        room = new_block(len(vectors), len(values), vectors.dtype, vectors.device)
        vectors = torch.cat([known[1].to(vectors), vectors], 1, out=room)
    wanted = values
    values = values if sign > 0.0 else -values
    given = known is None and task.deflated is not None and len(values) > 0
    # residuals from float32 sums of V c are good to some 1e-6 ||A||
    single = vectors.dtype == torch.float32
    coarse = single and (task.angle_tol is not None or task.tol < _COARSE * task.norm)
    if given or coarse:  # `deflate` may not be invariant, and the method worked in its complement
        x = vectors.double()
        residuals = column_norms(op.matmat(x) - x * values.to(x))
    return _Pairs(values, wanted, vectors, residuals, given)


def _judged(
    problem: Eigenproblem, pairs: _Pairs, outcome: Outcome, norm: float
) -> tuple[bool, str]:
    """(converged, why not): whatever the method says, what is returned must meet what was asked."""
    limit = max(problem.task.tol, 1e-13 * norm * math.sqrt(problem.op.n)) * (1 + 1e-6)
    if not outcome.converged or norm == 0.0 or pairs.worst <= limit:
        return outcome.converged, outcome.reason
    if pairs.remeasured:
        return False, "deflate is not invariant under A"
    if problem.known is not None:
        return False, "the known vectors are not exact"
    return False, f"rounded to {pairs.vectors.dtype}".replace("torch.", "")


def _proof(
    problem: Eigenproblem, pairs: _Pairs, outcome: Outcome, gap: float, norm: float, converged: bool
) -> Proof | None:
    """Of the method, or a count of the eigenvalues where one is asked for."""
    if outcome.proof is not None or problem.count is None or not converged:
        return outcome.proof
    # vectors in float32 are orthonormal to its rounding only
    single = pairs.vectors.dtype == torch.float32
    slack = pairs.frobenius + (_ROUNDED * norm if single else 0.0)
    return problem.count(pairs.wanted.numpy(), slack, gap, problem.task.tol, norm, None)


def _in_units_of_a(
    problem: Eigenproblem, values: Tensor, vectors: Tensor, info: EigInfo
) -> EigResult:
    kind, scale = problem.kind, problem.scale
    values = values.to(vectors.dtype) + 0.0  # no -0
    if scale is not None:
        values = (values.double() * scale).to(values.dtype)
        info = _scaled(info, scale)
    values = values.to(vectors.device if kind != "numpy" else "cpu")
    return EigResult(to_array(values, kind), to_array(vectors, kind), info)


def _scaled(info: EigInfo, scale: float) -> EigInfo:
    extra: dict[str, Any] = dict(info.extra)
    for name in _FACTS:
        if name in extra:
            fact = extra[name]
            several = isinstance(fact, tuple)
            extra[name] = tuple(x * scale for x in fact) if several else fact * scale
    plan = info.plan
    if plan is not None and plan.first_filter is not None:
        plan = replace(plan, first_filter=plan.first_filter.times(scale))
    return replace(
        info,
        plan=plan,
        residuals=info.residuals * scale,
        norm=info.norm * scale,
        gap=info.gap * scale,
        tol=info.tol * scale,
        extra=extra,
    )


def _warn(
    residuals: Tensor, gap: float, problem: Eigenproblem, cut: bool, why: str, proof: Proof | None
) -> None:
    task = problem.task
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
    text = f"eigsh: not converged, {what}: {why}"
    warnings.warn(text, ConvergenceWarning, stacklevel=_frames_to_caller())


def _frames_to_caller() -> int:
    """Frames from the function that calls this one to the line that calls `eigsh`."""
    frame, count = inspect.currentframe(), 0
    while frame is not None and frame.f_code.co_name != "eigsh":
        frame, count = frame.f_back, count + 1
    return count + 1

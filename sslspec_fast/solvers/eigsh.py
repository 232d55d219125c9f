"""eigsh: the front door of the eigensolvers.

    A x = lambda x   or   A x = lambda B x,      A (n, n) symmetric, k extreme eigenpairs

Checks the input, takes out what is known exactly (deflated and null vectors), chooses a method,
runs it and reports residuals, gap and angle bound. Nothing here touches more than k columns.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..operators.base import ShiftOperator, SymmetricOperator
from ..operators.convert import (
    array_kind,
    as_operator,
    real_array,
)
from ..operators.known import Deflated, DenseVectors, GroupVectors
from ..ranks import several
from ._checks import check_count, check_settings
from ._threads import at_most_threads, full_products
from .autograd import differentiable
from .completeness.inertia import Count, counting
from .linalg.cost import machine
from .methods.dense import dense
from .methods.lobpcg import lobpcg
from .methods.polynomial import chebyshev, lanczos
from .methods.shift_invert import shift_invert
from .problem import pencil
from .problem.over_ranks import (
    group_of,
    independent,
    of_first_rank,
    run_on_all,
    solve_small,
    unit_groups,
)
from .problem.pencil import Back
from .problem.probe import probe
from .problem.reorder import order, renumber
from .problem.scaling import at_unit_norm, unit_of
from .problem.task import Known, Outcome, Task
from .report import report
from .result import EigResult
from .select import choose, dense_pays, low_dtype, separated

__all__ = ["eigsh"]


def eigsh(
    A: Any,
    k: int,
    *,
    which: str = "LA",
    B: Any = None,
    method: str = "auto",
    tol: float = 1e-6,
    angle_tol: float | None = None,
    x0: Any = None,
    deflate: Any = None,
    precision: str = "mixed",
    max_iter: int | None = None,
    seed: int = 0,
    callback: Callable[[dict[str, Any]], Any] | None = None,
    progress: bool = False,
    certify: bool = False,
    group: Any = None,
) -> EigResult:
    """The k largest ("LA") or smallest ("SA") eigenpairs of a symmetric A, with proof of accuracy.

    A: operator, PairGraph (G itself), scipy / torch / cupy sparse, LinearOperator-like (.matmat),
        or dense (n, n); real, float32 or float64. B: None, diagonal as (n,) or sparse, or dense
        symmetric positive definite (n, n); vectors are then B-orthonormal.
    tol: largest residual ||A x - lambda x|| relative to ||A||. angle_tol: also ask for
        ||R||_F / gap <= angle_tol, which bounds the sine between the returned and the true
        subspace (Davis and Kahan 1970).
    method: "auto" probes the spectrum and the graph and says in ``info.reason`` what it picked.
    x0: (n, m) warm start. deflate: (n, c) block or `operators.GroupVectors` whose span is removed
        from the problem (it must be invariant under A, e.g. known null vectors). Without it, the
        null vectors that a graph operator knows are used, exactly, as first results.
    precision: "mixed" (float32 filters around a float64 anchor: full accuracy), "float64",
        "float32" (everything; residuals stop near 1e-6 ||A||).
    callback: called with a dict each outer iteration (once by "dense"): iteration, k, how many
        pairs have converged, values, residual (largest, relative), basis, n_matvec; a true return
        value stops the run. progress: the same as a line on stderr.
    certify: prove that no eigenvalue was missed: count those beyond the cut by the inertia of a
        factor of A - sigma I (Sylvester; ``info.complete``). Needs the entries of A and room for
        the factor; the gap is then proven too. The count disagrees: not converged.
    group: a process group or 1-D DeviceMesh of ranks that hold the rows together. A is then the
        (n_r, n) rows of this rank, scipy or torch sparse with global columns, or an
        `operators.partitioned`; x0, deflate and the vectors are this rank's rows, 0 allowed. All
        ranks call with the same settings and get the same values and info, to rounding those of
        one process. Methods chebyshev, lanczos and dense (docs/distributed_eigensolver.md).

    Returns `EigResult` (values wanted first, vectors, info) in the array type of A. A run that did
    not reach its tolerance warns with `ConvergenceWarning` and has ``info.converged`` False.
    Eigenvalues and gauge-invariant functions of the vectors are differentiable when A is a torch
    tensor (dense or sparse CSR / COO) that requires grad; inside operators or B it is refused.

    Methods: block Chebyshev-Davidson (Zhou and Saad 2007) with the residual-form filter of
    arXiv 2503.22652, its corners block Lanczos, LOBPCG and shift-invert, and LAPACK.

    >>> import numpy as np, sslspec_fast as sf
    >>> values, vectors = sf.eigsh(np.diag([1.0, 5.0, 3.0]), 2)
    >>> values
    array([5., 3.])
    """
    start = time.perf_counter()
    settings = {
        "which": which,
        "method": method,
        "tol": tol,
        "angle_tol": angle_tol,
        "x0": x0,
        "deflate": deflate,
        "precision": precision,
        "max_iter": max_iter,
        "seed": seed,
        "callback": callback,
        "progress": progress,
        "certify": certify,
    }
    group = several("eigsh", group_of(A) if group is None else group)
    if group is not None:
        with run_on_all(A, k, B, settings, group) as spread_op:
            kind = array_kind(A)
            small = solve_small(spread_op, k, settings, kind, eigsh)
            if small is not None:
                return small
            return _at_its_norm(spread_op, k, None, 1.0, kind, start, settings)
    check_settings(settings)
    if isinstance(A, Tensor) and A.requires_grad and torch.is_grad_enabled():
        if B is not None:
            raise NotImplementedError("eigsh: gradients with B are not supported, got B and A.grad")
        return differentiable(eigsh, A, k, settings)
    kind = array_kind(A)
    op = as_operator(A)
    k = check_count(k, op.n)
    back: Back | None = None
    over = 1.0
    if B is not None:
        if deflate is not None:
            raise NotImplementedError("eigsh: deflate together with B is not supported")
        op, back, over = pencil.reduce(op, B)
    return _at_its_norm(op, k, back, over, kind, start, settings)


def _at_its_norm(
    op: SymmetricOperator,
    k: int,
    back: Back | None,
    over: float,
    kind: str,
    start: float,
    settings: dict[str, Any],
) -> EigResult:
    """`eigsh` of an operator of any norm. over: what a pencil's values have been divided by."""
    unit = unit_of(op)

    def solve(op: SymmetricOperator, settings: dict[str, Any], kind: str = "torch") -> EigResult:
        return _solve(op, k, back, kind, start, **settings)

    if unit is None and over == 1.0:
        return solve(op, settings, kind)
    return at_unit_norm(solve, op, unit or 1.0, over, settings, kind)


def _solve(
    op: SymmetricOperator,
    k: int,
    back: Back | None,
    kind: str,
    start: float,
    *,
    which: str,
    method: str,
    tol: float,
    angle_tol: float | None,
    x0: Any,
    deflate: Any,
    precision: str,
    max_iter: int | None,
    seed: int,
    callback: Callable[[dict[str, Any]], Any] | None,
    progress: bool,
    certify: bool,
) -> EigResult:
    """`eigsh` of an operator near norm 1. back: from its vectors to those of a pencil."""
    n = op.n
    solve_op = op if which == "LA" else ShiftOperator(op, -1.0, 0.0)
    known, deflated = _exact(solve_op, k, deflate)
    removed = 0 if deflated is None else deflated.count
    have = 0 if known is None else known[1].shape[1]
    free = n - removed
    if k - have > free:
        raise ValueError(
            f"eigsh: k must be at most n minus the deflated vectors = {free + have}, got k = {k}"
        )
    low = low_dtype(precision)
    basis_dtype = torch.float32 if precision == "float32" else torch.float64
    task = Task(
        solve_op,
        k - have,
        free,
        0.0,
        tol,
        angle_tol,
        max_iter if max_iter is not None else 1000,
        int(seed),
        deflated,
        basis_dtype,
        _watch(callback, progress, which),
    )
    warm = _warm_start(x0, task, back is not None)
    facts: dict[str, Any] = {}
    count: Count | None = None
    if certify:
        whole = task.k > 0 and (method == "dense" or (method == "auto" and dense_pays(op, task.k)))
        count = (lambda *_: None) if whole else counting(solve_op, deflated, known)
    if task.k == 0:
        outcome, method = _nothing(task, free, have, removed), "dense"
        if math.isnan(outcome.gap):
            outcome.gap = _gap_behind(task, known)
        reason = f"all {k} wanted vectors are known exactly (one per connected component)"
    else:
        threads = machine(op.device).threads(n, k)
        with at_most_threads(threads), full_products(op.device):
            outcome, facts, method, reason = _run(task, method, warm, low, known)
    if progress:
        sys.stderr.write("\n")
    labels = (method, reason, precision)
    return report(op, outcome, known, back, task, facts, kind, which, labels, start, count)


def _exact(op: SymmetricOperator, k: int, deflate: Any) -> tuple[Known, Deflated | None]:
    """((values, vectors) known at the wanted end or None, what the problem is to be rid of)."""
    if deflate is not None:
        if isinstance(deflate, GroupVectors):
            if deflate.n != op.rows:
                raise ValueError(f"eigsh: deflate must have n = {op.rows} rows, got {deflate.n}")
            if op.ranks is not None and not unit_groups(deflate):
                raise ValueError(
                    "eigsh: deflate must be GroupVectors(..., group=group), got lengths that are "
                    "not 1 over all ranks"
                )
            return None, deflate if deflate.count else None
        block = real_array("eigsh", "deflate", deflate).to(device=op.device, dtype=torch.float64)
        if block.dim() != 2 or block.shape[0] != op.rows:
            raise ValueError(f"eigsh: deflate must be (n = {op.rows}, c), got {tuple(block.shape)}")
        q = _orthonormal(block) if op.ranks is None else independent(block)
        if q is None:
            raise ValueError("eigsh: deflate must have linearly independent columns")
        return None, DenseVectors(q.contiguous()) if block.shape[1] else None
    top = op.bounds()[1]
    for pair in op.known():
        # only vectors at the wanted end of the spectrum help
        if pair.value >= top and pair.vectors.count:
            vectors = pair.vectors.dense(k)
            values = torch.full((vectors.shape[1],), pair.value, dtype=torch.float64)
            return (values, vectors), pair.vectors
    return None, None


def _orthonormal(block: Tensor) -> Tensor | None:
    """An orthonormal basis of the columns; None if they are dependent."""
    q, r = torch.linalg.qr(block)
    diagonal = r.diagonal().abs()
    if block.shape[1] and float(diagonal.min()) <= 1e-12 * float(diagonal.max()):
        return None
    return q


def _warm_start(x0: Any, task: Task, pencil_given: bool) -> Tensor | None:
    n = task.op.rows
    if x0 is None:
        return None
    if pencil_given:
        raise NotImplementedError("eigsh: x0 together with B is not supported")
    block = real_array("eigsh", "x0", x0)
    block = block[:, None] if block.dim() == 1 else block
    if block.dim() != 2 or block.shape[0] != n or block.shape[1] == 0:
        raise ValueError(f"eigsh: x0 must be (n = {n}, m >= 1), got {tuple(block.shape)}")
    return block.to(device=task.op.device, dtype=torch.float64).clone()


def _watch(
    callback: Callable[[dict[str, Any]], Any] | None, progress: bool, which: str
) -> Callable[[dict[str, Any]], Any] | None:
    callback = of_first_rank(callback)
    if not progress and callback is None:
        return None

    def report(entry: dict[str, Any]) -> Any:
        if progress:
            width = 24
            filled = width * entry["converged"] // max(entry["k"], 1)
            bar, done = "#" * filled + "." * (width - filled), entry["converged"]
            sys.stderr.write(
                f"\reigsh [{bar}] {done}/{entry['k']} pairs, step {entry['iteration']}, "
                f"{entry['n_matvec']} columns, residual {entry['residual']:.1e}   "
            )
            sys.stderr.flush()
        if callback is None:
            return None
        # the solvers look for the largest eigenvalues of -A
        values = entry["values"] if which == "LA" else 0.0 - entry["values"]
        return callback({**entry, "values": values})

    return report


def _nothing(task: Task, free: int, have: int, removed: int) -> Outcome:
    """Everything wanted was known; the cut is clean when no further known vector was left out."""
    empty = torch.zeros(0, dtype=torch.float64)
    inside = removed > have
    vectors = torch.zeros(task.op.rows, 0, dtype=torch.float64, device=task.op.device)
    if free == 0 and not inside:
        gap = math.inf
    elif inside:
        gap = 0.0
    else:
        gap = math.nan  # filled in from one more pair by the caller's residual report
    good = task.angle_tol is None or not inside
    return Outcome(empty, vectors, empty, gap, good, "the cut lies inside a cluster", 0)


def _run(
    task: Task, method: str, warm: Tensor | None, low: torch.dtype, known: Known
) -> tuple[Outcome, dict[str, Any], str, str]:
    """Set the scale of the tolerance and hand over to the chosen method."""
    asked = method != "auto"
    reason = "as asked"
    if not asked:
        why = dense_pays(task.op, task.k)
        if why is not None:
            method, reason = "dense", why
    facts: dict[str, Any]
    if method == "dense":
        lo, hi = task.op.bounds()
        task.norm = max(abs(lo), abs(hi)) if math.isfinite(lo) and math.isfinite(hi) else 0.0
        outcome, facts = dense(task)
        return outcome, facts, method, reason
    found = probe(task, low, keep=warm is None and method in ("auto", "chebyshev"))
    task.norm = max(abs(found.lo), abs(found.hi))
    task.tol *= task.norm
    levels: int | None = None
    if not asked:
        method, reason, levels = choose(task, found, task.angle_tol)
    elif separated(task, found):
        levels = 0  # a short filter pays for no other order, so nobody need count them
    better = order(task.op, levels) if method == "chebyshev" else None
    if better is not None:
        inner, found, warm = renumber(task, found, warm, better)
        outcome, facts = chebyshev(inner, warm, low, found)
        task.tol, task.norm, task.columns = inner.tol, inner.norm, inner.columns
        vectors = torch.empty_like(outcome.vectors)
        vectors[torch.from_numpy(better)] = outcome.vectors
        facts["reordered"] = "reverse Cuthill-McKee"
        return replace(outcome, vectors=vectors), facts, method, reason
    if method == "lanczos":
        outcome, facts = lanczos(task, warm, found)
    elif method == "chebyshev":
        outcome, facts = chebyshev(task, warm, low, found)
    elif method == "lobpcg":
        outcome, facts = lobpcg(task, warm, found)
    else:
        outcome, facts = shift_invert(task, warm, found, task.op.top_attained(), known)
    return outcome, facts, method, reason


def _gap_behind(task: Task, known: Known) -> float:
    """Everything wanted was exact: the distance to the next value, by one more pair.

    Sets the scale of the task's tolerance, which nobody has needed before.
    """
    assert known is not None
    relative = 1e-3
    while True:
        one = replace(task, k=1, tol=relative, angle_tol=None, callback=None, columns=0, norm=0.0)
        outcome, _, _, _ = _run(one, "auto", None, torch.float32, known)
        task.columns += one.columns
        distance = float(known[0][-1] - outcome.values[0])
        residual = float(outcome.residuals[0])
        if residual <= distance / 4 or relative < 1e-10:
            break
        relative = min(relative / 10, 0.2 * abs(distance) / max(one.norm, 1e-300))
    task.norm, task.tol = one.norm, task.tol * one.norm
    return max(distance - residual, 0.0)

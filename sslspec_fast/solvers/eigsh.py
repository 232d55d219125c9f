"""eigsh: the front door of the eigensolvers.

    A x = lambda x   or   A x = lambda B x,      A (n, n) symmetric, k extreme eigenpairs

    settings -> Eigenproblem -> probe -> Plan -> METHODS[plan.method] -> finish

The problem is made once: converted, reduced, near norm 1, without what is known exactly (deflated
and null vectors). The plan is made before the first step of a method and says why. Nothing here
touches more than k columns.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, overload

import torch
from torch import Tensor

from ..operators.convert import array_kind
from ..primitives.spread import over_ranks
from ..ranks import several
from ._checks import Settings, check_settings
from ._threads import at_most_threads, full_products
from .autograd import differentiable
from .linalg.cost import machine
from .methods import METHODS
from .plan import Plan, make_plan, plan_of_cluster, takes_lapack
from .problem.eigenproblem import Eigenproblem
from .problem.over_ranks import gather_small, group_of, own_rows, run_on_all
from .problem.probe import Probe, probe
from .problem.task import Outcome, Task
from .problem.watch import Watch
from .report import finish
from .result import EigResult
from .selection import selected

__all__ = ["eigsh"]


@overload
def eigsh(
    A: Any,
    k: int,
    *,
    which: Literal["LA", "SA", "LM", "SM", "BE"] | None = None,
    sigma: float | None = None,
    B: Any = None,
    method: Literal["auto", "dense", "lanczos", "chebyshev", "lobpcg", "shift_invert"] = "auto",
    tol: float = 1e-6,
    angle_tol: float | None = None,
    x0: Any = None,
    deflate: Any = None,
    precision: Literal["mixed", "float64", "float32"] = "mixed",
    max_iter: int | None = None,
    seed: int = 0,
    callback: Callable[[dict[str, Any]], Any] | None = None,
    progress: bool = False,
    certify: bool = False,
    group: Any = None,
    preconditioner: Any = None,
    return_eigenvectors: Literal[True] = True,
) -> EigResult: ...


@overload
def eigsh(
    A: Any,
    k: int,
    *,
    which: Literal["LA", "SA", "LM", "SM", "BE"] | None = None,
    sigma: float | None = None,
    B: Any = None,
    method: Literal["auto", "dense", "lanczos", "chebyshev", "lobpcg", "shift_invert"] = "auto",
    tol: float = 1e-6,
    angle_tol: float | None = None,
    x0: Any = None,
    deflate: Any = None,
    precision: Literal["mixed", "float64", "float32"] = "mixed",
    max_iter: int | None = None,
    seed: int = 0,
    callback: Callable[[dict[str, Any]], Any] | None = None,
    progress: bool = False,
    certify: bool = False,
    group: Any = None,
    preconditioner: Any = None,
    return_eigenvectors: Literal[False],
) -> Any: ...


def eigsh(
    A: Any,
    k: int,
    *,
    which: Literal["LA", "SA", "LM", "SM", "BE"] | None = None,
    sigma: float | None = None,
    B: Any = None,
    method: Literal["auto", "dense", "lanczos", "chebyshev", "lobpcg", "shift_invert"] = "auto",
    tol: float = 1e-6,
    angle_tol: float | None = None,
    x0: Any = None,
    deflate: Any = None,
    precision: Literal["mixed", "float64", "float32"] = "mixed",
    max_iter: int | None = None,
    seed: int = 0,
    callback: Callable[[dict[str, Any]], Any] | None = None,
    progress: bool = False,
    certify: bool = False,
    group: Any = None,
    preconditioner: Any = None,
    return_eigenvectors: bool = True,
) -> Any:
    """k eigenpairs of a symmetric A: the largest, the smallest, or those nearest to a number, with
    proof of accuracy.

    Args:
        A: operator, PairGraph (G itself), scipy / torch / cupy sparse, LinearOperator-like
            (.matmat), or dense (n, n); real, float32 or float64. A Hermitian A = R + iS has the
            eigenvalues of the symmetric [[R, -S], [S, R]], each twice, with x + iy for [x, y].
        k, which: how many, 1 <= k <= n, and which: "LA" largest (None without sigma), "SA"
            smallest, "LM" of largest magnitude (with sigma: nearest to it), "SM" of smallest
            magnitude, "BE" from both ends, one more from the upper one where k is odd.
        sigma: the k eigenvalues nearest to this number. Needs a factor of A - sigma I: entries of
            A (sparse or a stored graph), or n <= 10,000. Two more factors count the eigenvalues
            around sigma; ``info.complete`` says whether that proves the set complete. "SM" is the
            same at 0, but for an A that is known to be semidefinite.
        B: None, diagonal as (n,), sparse (n, n), or dense (n, n); symmetric positive definite.
            Vectors are then B-orthonormal.
        method: "auto" probes the spectrum and the graph; ``info.plan`` says what it picked and why;
            or one of those in docs/eigensolver.md (Zhou and Saad 2007, arXiv 2503.22652).
        tol: largest residual ``||A x - lambda x||`` relative to ``||A||``.
        angle_tol: also ask for ``||R||_F / gap`` <= angle_tol, which bounds the sine between the
            returned and the true subspace (Davis and Kahan 1970).
        x0: (n, m) warm start; eigenvectors x of A x = lambda B x, where there is a B.
        deflate: (n, c) block or `operators.GroupVectors` whose span is removed from the problem (it
            must be invariant under A). Without it, the null vectors that a graph operator knows are
            used, exactly, as first results.
        precision: "mixed" (float32 filters around a float64 anchor: full accuracy), "float64",
            "float32" (everything; residuals stop near 1e-6 ``||A||``).
        max_iter, seed: outer iterations (None: 1000), and the seed of random starts.
        callback: called with a dict each outer iteration (once by "dense"): iteration, k, how many
            pairs have converged, values, residual (largest, relative), basis, n_matvec; a true
            return value stops the run.
        progress: the same on stderr, as a bar of tqdm on a terminal, as lines in a log.
        certify: prove that no eigenvalue was missed, and the gap, by the inertia of a factor of A -
            sigma I (Sylvester; ``info.complete``). Needs the entries of A and room for the factor.
            The count disagrees: not converged.
        group: a process group or 1-D DeviceMesh of ranks that hold the rows together. A is then the
            (n_r, n) rows of this rank, or an `operators.partitioned`; x0, deflate and the vectors
            are this rank's rows, 0 allowed (docs/distributed_eigensolver.md).
        preconditioner: (n, b) -> (n, b), or a matrix or operator that multiplies by @: what is near
            (t I - A)^-1 for t just beyond the wanted end (A - t I for "SA"; B in the place
            of I), in the place of multigrid. For "lobpcg", which "auto" then picks.
        return_eigenvectors: False: only the values are returned, as scipy does.

    Returns:
        `EigResult` (values wanted first, "BE" descending; vectors; info) in the array type of A,
        and in float64 whatever the dtype of A, or float32 with ``precision="float32"``. A run that
        did not reach its tolerance warns with `ConvergenceWarning` and has ``info.converged``
        False. Without eigenvectors: the values alone.
        Eigenvalues and gauge-invariant functions of the vectors are differentiable when A is a
        torch tensor (dense or sparse CSR / COO) that requires grad.

    Raises:
        ValueError or TypeError: A, B or a setting that does not fit.
        NotImplementedError: gradients of operators, of B or of pairs other than those of one end;
            a method, or other pairs than those of one end, over ranks.

    >>> import numpy as np, sslspec_fast as sf
    >>> sf.eigsh(np.diag([1.0, 5.0, 3.0]), 2).values
    array([5., 3.])
    """
    started = time.perf_counter()
    settings = Settings(
        which=("LA" if sigma is None else "LM") if which is None else which,
        sigma=sigma,
        method=method,
        tol=tol,
        angle_tol=angle_tol,
        x0=x0,
        deflate=deflate,
        precision=precision,
        max_iter=max_iter,
        seed=seed,
        callback=callback,
        progress=progress,
        certify=certify,
        preconditioner=preconditioner,
    )
    if not isinstance(return_eigenvectors, bool):
        got = type(return_eigenvectors).__name__
        raise TypeError(f"eigsh: return_eigenvectors must be True or False, got {got}")
    group = several("eigsh", group_of(A) if group is None else group)
    if group is None:
        result = _of_one_process(A, B, k, settings, started)
    else:
        result = _over_ranks(A, B, k, settings, group, started)
    return result if return_eigenvectors else result.values


def _of_one_process(A: Any, B: Any, k: int, settings: Settings, started: float) -> EigResult:
    check_settings(vars(settings))
    if not (isinstance(A, Tensor) and A.requires_grad and torch.is_grad_enabled()):
        problem = Eigenproblem.of(A, B, k, settings, started)
        return _solve(problem) if settings.one_end else selected(_solve, problem)
    if B is not None:
        raise NotImplementedError("eigsh: gradients with B are not supported, got B and A.grad")
    if not settings.one_end:
        raise NotImplementedError(
            "eigsh: which must be 'LA' or 'SA' for gradients, got "
            f"which={settings.which!r} and A.grad"
        )
    return differentiable(_solve, Eigenproblem.of(A.detach(), None, k, settings, started), A)


def _over_ranks(
    A: Any, B: Any, k: int, settings: Settings, group: Any, started: float
) -> EigResult:
    """Of the rows of all ranks. Every rank solves a small problem as one process does."""
    kind = array_kind(A)
    with run_on_all(A, k, B, settings, group) as (op, own):
        gathered = gather_small(op, k, own)
        if gathered is None:
            return _solve(Eigenproblem.of(op, None, k, own, started, kind))
        with over_ranks(None):
            result = _solve(Eigenproblem.of(gathered.op, None, k, gathered.settings, started))
        return own_rows(result, op, kind)


def _solve(problem: Eigenproblem) -> EigResult:
    """The task of a problem, and its result in the words of the problem."""
    task, settings = problem.task, problem.settings
    if task.k == 0:
        why = f"all {problem.k} wanted vectors are known exactly (one per connected component)"
        plan, outcome = Plan("dense", why), empty_outcome(problem)
    else:
        threads = machine(problem.op.device).threads(problem.op.n, problem.k)
        with at_most_threads(threads), full_products(problem.op.device):
            plan, outcome = _run(task, settings.method)
    if isinstance(task.callback, Watch):
        task.callback.close()
    return finish(problem, plan, outcome)


def _run(task: Task, method: str) -> tuple[Plan, Outcome]:
    """Probe, plan, method."""
    found: Probe | None = None
    if not takes_lapack(task.op, task.k, method):
        found = probe(task, keep=task.warm is None and method in ("auto", "chebyshev"))
        task.set_norm(max(abs(found.lo), abs(found.hi)))
    plan = None if found is None else plan_of_cluster(task, method, found)
    plan = make_plan(task, method, found) if plan is None else plan
    return plan, METHODS[plan.method](task, plan, found)


def empty_outcome(problem: Eigenproblem) -> Outcome:
    """Every wanted pair is known; the cut is clean when no further known vector is left out."""
    task = problem.task
    inside = problem.removed > problem.k
    if inside:
        gap = 0.0
    else:
        gap = _gap_behind(task) if task.free else math.inf
    empty = torch.zeros(0, dtype=torch.float64)
    vectors = torch.zeros(task.op.rows, 0, dtype=torch.float64, device=task.op.device)
    good = task.angle_tol is None or not inside
    return Outcome(empty, vectors, empty, gap, good, "the cut lies inside a cluster", 0)


def _gap_behind(task: Task) -> float:
    """Every wanted pair is exact: the distance to the next value, by one more pair.

    Sets the scale of the task's tolerance, which no run has set.
    """
    assert task.known is not None
    relative = 1e-3
    while True:
        one = replace(
            task,
            k=1,
            tol=relative,
            angle_tol=None,
            callback=None,
            columns=0,
            norm=0.0,
            low=torch.float32,
            warm=None,
        )
        _, outcome = _run(one, "auto")
        task.columns += one.columns
        distance = float(task.known[0][-1] - outcome.values[0])
        residual = float(outcome.residuals[0])
        if residual <= distance / 4 or relative < 1e-10:
            break
        relative = min(relative / 10, 0.2 * abs(distance) / max(one.norm, 1e-300))
    task.set_norm(one.norm)
    return max(distance - residual, 0.0)

"""What `eigsh` is asked, ready to be solved: converted, reduced, near norm 1, exact pairs out.

A x = lambda B x   ->   (F^-1 A F^-T / scale) y = mu y      on the complement of known vectors
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..._arrays import from_array, real_array, to_array
from ...operators.base import ShiftOperator, SymmetricOperator
from ...operators.convert import array_kind, as_operator
from ...operators.known import Deflated, DenseVectors, GroupVectors
from .._checks import Settings, check_count
from ..completeness.inertia import Count, counting
from ..plan import takes_lapack
from . import pencil
from .over_ranks import independent, unit_groups
from .pencil import ReducedPencil
from .scaling import divided, norm_scale, refuse_scale
from .task import Known, Task
from .watch import Watch

__all__ = ["Eigenproblem"]


@dataclass
class Eigenproblem:
    """A question to `eigsh`, and the task that is left of it.

    task      the pairs to be computed: the largest of op, or of -op for which="SA"
    given     A itself
    op        A, or F^-1 A F^-T for a pencil, divided by `scale`
    scale     a power of two; None: op is not divided
    pencil    op stands for A x = lambda B x; None: there is no B
    known     (values, vectors) of wanted pairs that need no solve
    removed   vectors that are taken out of the problem
    kind      array type of the result
    count     of eigenvalues beyond the wanted ones, for `certify`
    started   time.perf_counter() when it was asked
    """

    task: Task
    settings: Settings
    given: SymmetricOperator
    op: SymmetricOperator
    scale: float | None
    pencil: ReducedPencil | None
    kind: str
    count: Count | None
    started: float

    @property
    def known(self) -> Known:
        return self.task.known

    @property
    def k(self) -> int:
        """Wanted pairs, known ones among them."""
        return self.task.k + (0 if self.known is None else len(self.known[0]))

    @property
    def removed(self) -> int:
        return 0 if self.task.deflated is None else self.task.deflated.count

    @classmethod
    def of(
        cls,
        A: Any,
        B: Any,
        k: int,
        settings: Settings,
        started: float,
        kind: str | None = None,
    ) -> Eigenproblem:
        """Settings have been checked. kind: array type of the result, where A is not the input."""
        kind = array_kind(A) if kind is None else kind
        given = op = as_operator(A)
        k = check_count(k, op.n)
        reduced: ReducedPencil | None = None
        over = 1.0  # what a pencil's values have been divided by
        if B is not None:
            reduced = pencil.reduce(op, B)
            op, over = reduced.op, reduced.size
        scale = norm_scale(op)
        if scale is not None or over != 1.0:
            op, scale = divided(op, scale or 1.0), (scale or 1.0) / over
            refuse_scale(scale, settings.precision)
        task = _task(op, k, settings, scale, reduced, kind)
        count = _count(op, task, settings) if settings.certify and settings.one_end else None
        return cls(task, settings, given, op, scale, reduced, kind, count, started)

    def end(self, which: str, k: int) -> Eigenproblem:
        """k pairs of op itself from one end."""
        settings = replace(self.settings, which=which, sigma=None)
        task = _task(self.op, k, settings, self.scale, self.pencil, self.kind)
        count = _count(self.op, task, settings) if settings.certify else None
        return replace(
            self,
            task=task,
            settings=settings,
            given=self.op,
            scale=None,
            pencil=None,
            kind="torch",
            count=count,
        )


def _task(
    op: SymmetricOperator,
    k: int,
    settings: Settings,
    scale: float | None,
    reduced: ReducedPencil | None,
    kind: str,
) -> Task:
    op = ShiftOperator(op, -1.0, 0.0) if settings.which == "SA" else op
    known, deflated = exact_pairs(op, k, settings.deflate, reduced, settings.one_end)
    have = 0 if known is None else known[1].shape[1]
    free = op.n - (0 if deflated is None else deflated.count)
    if k - have > free:
        raise ValueError(
            f"eigsh: k must be at most n minus the deflated vectors = {free + have}, got k = {k}"
        )
    precision = settings.precision
    return Task(
        op,
        k - have,
        free,
        0.0,
        settings.tol,
        settings.angle_tol,
        settings.max_iter if settings.max_iter is not None else 1000,
        int(settings.seed),
        deflated,
        torch.float32 if precision == "float32" else torch.float64,
        Watch.of(settings, scale),
        low=torch.float64 if precision == "float64" else torch.float32,
        warm=_warm_start(op, settings.x0, reduced),
        known=known,
        preconditioner=_preconditioner(settings.preconditioner, kind, reduced),
    )


def _preconditioner(
    given: Any, kind: str, reduced: ReducedPencil | None
) -> Callable[[Tensor], Tensor] | None:
    """given, which takes arrays of that kind, on float64 tensors. Its scale plays no part.

    Of a pencil: a residual of F^-1 A F^-T is F^-1 that of A x = lambda B x, so F^T M F takes the
    place of M.
    """
    if given is None:
        return None

    def apply(r: Tensor) -> Tensor:
        x = to_array(r.double(), kind)
        out = from_array(given(x) if callable(given) else given @ x)
        if out.shape != r.shape or not bool(torch.isfinite(out).all()):
            raise ValueError(
                f"eigsh: preconditioner must return a finite {tuple(r.shape)} block, got "
                f"{tuple(out.shape)}"
            )
        return out.to(r)

    if reduced is None:
        return apply
    return lambda r: reduced.into(apply(reduced.times(r)))


def exact_pairs(
    op: SymmetricOperator,
    k: int,
    deflate: Any,
    reduced: ReducedPencil | None = None,
    one_end: bool = True,
) -> tuple[Known, Deflated | None]:
    """((values, vectors) known at the wanted end or None, what the problem is to be rid of)."""
    if deflate is not None:
        return None, _deflated(op, deflate, reduced)
    if not one_end:
        return None, None
    top = op.bounds()[1]
    for pair in op.known():
        # only vectors at the wanted end of the spectrum help
        if pair.value >= top and pair.vectors.count:
            vectors = pair.vectors.dense(k)
            values = torch.full((vectors.shape[1],), pair.value, dtype=torch.float64)
            return (values, vectors), pair.vectors
    return None, None


def _deflated(
    op: SymmetricOperator, deflate: Any, reduced: ReducedPencil | None
) -> Deflated | None:
    if isinstance(deflate, GroupVectors):
        if deflate.n != op.rows:
            raise ValueError(f"eigsh: deflate must have n = {op.rows} rows, got {deflate.n}")
        if op.ranks is not None and not unit_groups(deflate):
            raise ValueError(
                "eigsh: deflate must be GroupVectors(..., group=group), got lengths that are "
                "not 1 over all ranks"
            )
        if reduced is None or not deflate.count:
            return deflate if deflate.count else None
        deflate = deflate.dense()
    block = real_array("eigsh", "deflate", deflate).to(device=op.device, dtype=torch.float64)
    if block.dim() != 2 or block.shape[0] != op.rows:
        raise ValueError(f"eigsh: deflate must be (n = {op.rows}, c), got {tuple(block.shape)}")
    if (
        reduced is not None
    ):  # B V is orthogonal to the other eigenvectors: V is given, F^T V taken out
        block = reduced.into(block)
    q = _orthonormal(block) if op.ranks is None else independent(block)
    if q is None:
        raise ValueError("eigsh: deflate must have linearly independent columns")
    return DenseVectors(q.contiguous()) if block.shape[1] else None


def _orthonormal(block: Tensor) -> Tensor | None:
    """An orthonormal basis of the columns; None if they are dependent."""
    q, r = torch.linalg.qr(block)
    diagonal = r.diagonal().abs()
    if block.shape[1] and float(diagonal.min()) <= 1e-12 * float(diagonal.max()):
        return None
    return q


def _warm_start(op: SymmetricOperator, x0: Any, reduced: ReducedPencil | None) -> Tensor | None:
    if x0 is None:
        return None
    block = real_array("eigsh", "x0", x0)
    block = block[:, None] if block.dim() == 1 else block
    if block.dim() != 2 or block.shape[0] != op.rows or block.shape[1] == 0:
        raise ValueError(f"eigsh: x0 must be (n = {op.rows}, m >= 1), got {tuple(block.shape)}")
    block = block.to(device=op.device, dtype=torch.float64)
    return block.clone() if reduced is None else reduced.into(block)


def _count(op: SymmetricOperator, task: Task, settings: Settings) -> Count:
    """How to count the eigenvalues; LAPACK finds all, and leaves nothing to count."""
    if task.k > 0 and takes_lapack(op, task.k, settings.method):
        return lambda *_: None
    count = counting(task.op, task.deflated, task.known)
    assert count is not None
    return count

"""`eigsh` over ranks: the rows of A, and of every block, are spread over a process group.

The methods run as they are. What is a sum over rows becomes one over all rows, results of LAPACK
are those of the first rank (`primitives.spread`), and the operator fetches the rows it points to.
So every rank takes the decisions that one process would. Small problems, and those that LAPACK
solves, are gathered and solved by every rank.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import scipy.sparse
import torch
from torch import Tensor

from ..._arrays import from_array, real_array, to_array
from ...graph.pair_graph import PairGraph
from ...operators.base import SymmetricOperator
from ...operators.csr import CsrOperator
from ...operators.known import GroupVectors
from ...operators.partitioned import PartitionedOperator, partitioned
from ...primitives.spread import current, over_ranks, total
from ...ranks import Ranks, agree, told_to_all
from ...ranks.differentiable import start_gather
from ...ranks.lockstep import Lockstep
from .._checks import Settings, check_count, check_settings
from ..linalg.basis import host_memory, orthonormalize
from ..plan import lapack_pays
from ..result import EigResult

__all__ = [
    "gather_small",
    "group_of",
    "independent",
    "of_first_rank",
    "own_rows",
    "run_on_all",
    "unit_groups",
]

_METHODS = ("auto", "chebyshev", "lanczos", "dense")
_ALIKE = ("which", "method", "tol", "angle_tol", "precision", "max_iter", "seed")


def group_of(A: Any) -> Any:
    """The process group of an operator or graph whose rows are spread over one, else None."""
    if isinstance(A, PairGraph):
        return A.group
    ranks = A.ranks if isinstance(A, SymmetricOperator) else None
    return None if ranks is None else ranks.group


@contextlib.contextmanager
def run_on_all(
    A: Any, k: int, B: Any, settings: Settings, group: Any
) -> Iterator[tuple[SymmetricOperator, Settings]]:
    """The operator of which A is this rank's part, for a run over the ranks of the group, and the
    settings of this rank: the first one shows the progress.

    What one rank raises within it is raised on all.
    """
    with told_to_all("eigsh", group):
        check_settings(vars(settings))
        _check_scope(A, B, settings)
        facts = {name: getattr(settings, name) for name in _ALIKE}
        given = A if isinstance(A, SymmetricOperator) else None
        facts |= {"k": k, "A": "rows" if given is None else f"an operator of n = {given.n}"}
        facts |= {name: _columns(getattr(settings, name)) for name in ("x0", "deflate")}
        facts["callback"] = "None" if settings.callback is None else "given"
        if given is not None and group_of(given) is not group:
            raise ValueError("eigsh: group must be that of the operator A, got another one")
    agree("eigsh", group, facts, 0)
    op = partitioned(A, group, name="eigsh") if given is None else given
    assert op.ranks is not None
    check_count(k, op.n)
    settings = replace(settings, progress=settings.progress and op.ranks.rank == 0)
    lockstep = Lockstep("eigsh", op.ranks, host_memory())
    try:
        with over_ranks(lockstep):
            yield op, settings
        lockstep.meet()
    except Exception as error:
        lockstep.fail(error)
        raise


def _check_scope(A: Any, B: Any, settings: Settings) -> None:
    if B is not None:
        raise NotImplementedError("eigsh: B together with a group is not supported")
    if not settings.one_end or settings.preconditioner is not None:
        raise NotImplementedError(
            "eigsh: which must be 'LA' or 'SA', without a preconditioner, with a group, got "
            f"which={settings.which!r}"
        )
    if settings.certify:
        raise NotImplementedError("eigsh: certify together with a group is not supported")
    if settings.method not in _METHODS:
        raise NotImplementedError(
            f"eigsh: method must be one of {_METHODS} with a group, got {settings.method!r}"
        )
    if isinstance(A, Tensor) and A.requires_grad and torch.is_grad_enabled():
        raise NotImplementedError("eigsh: gradients with a group are not supported, got A.grad")


def _columns(x: Any) -> str:
    """How many columns a block has, which must be as many on all ranks."""
    if x is None:
        return "None"
    if isinstance(x, GroupVectors):
        return f"{x.count} groups"
    shape = tuple(getattr(x, "shape", ()))
    return f"columns {shape[1:]}" if shape else type(x).__name__


def of_first_rank(
    callback: Callable[[dict[str, Any]], Any] | None,
) -> Callable[[dict[str, Any]], Any] | None:
    """callback on every rank, with the answer of the first. It may use `eigsh` itself."""
    exchange = current()
    if callback is None or exchange is None:
        return callback

    def call(entry: dict[str, Any]) -> bool:
        with over_ranks(None):
            answer = bool(callback(entry))
        return bool(exchange.first(torch.tensor([float(answer)], dtype=torch.float64))[0])

    return call


def independent(block: Tensor) -> Tensor | None:
    """An orthonormal basis of the columns of a block over ranks, None if they are dependent.

    By Cholesky factors, twice: the first one leaves a defect of condition^2 eps.
    """
    width = block.shape[1]
    q = orthonormalize(block.clone())
    if q.shape[1] == width:
        q = orthonormalize(q)
    return q if q.shape[1] == width else None


def unit_groups(deflate: GroupVectors) -> bool:
    """Whether the vectors have unit length over all ranks, as those made with a group have."""
    square = torch.zeros(deflate.count, dtype=torch.float64, device=deflate.labels.device)
    square = total(square.index_add_(0, deflate.labels, deflate.weights.square()))
    return bool(((square - 1.0).abs() < 1e-8).all())


@dataclass(frozen=True)
class Gathered:
    """The rows of all ranks, of A and of the settings' blocks."""

    op: SymmetricOperator
    settings: Settings


def gather_small(op: SymmetricOperator, k: int, settings: Settings) -> Gathered | None:
    """The whole problem on every rank where LAPACK is the right method, else None."""
    assert op.ranks is not None
    asked = settings.method
    if asked != "dense" and not (asked == "auto" and lapack_pays(op.n, k)):
        return None
    if not isinstance(op, PartitionedOperator):
        if asked == "auto":
            return None
        raise NotImplementedError(
            f"eigsh: A must be rows or `partitioned` for 'dense' with a group, got {type(op)}"
        )
    whole = _gathered(op, op.ranks)
    x0, deflate = (_whole(n, getattr(settings, n), op.ranks) for n in ("x0", "deflate"))
    callback = of_first_rank(settings.callback)
    return Gathered(whole, replace(settings, x0=x0, deflate=deflate, callback=callback))


def own_rows(found: EigResult, op: SymmetricOperator, kind: str) -> EigResult:
    """This rank's rows of a result that every rank has; the first rank's, bit for bit."""
    ranks, exchange = op.ranks, current()
    assert ranks is not None
    assert exchange is not None
    values, vectors = found.values, found.vectors
    same = exchange.first(values.double(), vectors.double())
    mine = same[1][ranks.here].to(vectors)
    return EigResult(
        to_array(same[0].to(values if kind != "numpy" else values.cpu()), kind),
        to_array(mine, kind),
        found.info,
    )


def _gathered(op: PartitionedOperator, ranks: Ranks) -> CsrOperator:
    """A on every rank."""
    parts = op.entries()
    stored = agree("eigsh", ranks.group, {}, len(parts[0]))[0]
    rows, columns, values = (start_gather(t, stored)().cpu().numpy() for t in parts)
    matrix = scipy.sparse.csr_array((values, (rows, columns)), shape=op.shape)
    indptr, indices = (torch.from_numpy(t).to(op.device) for t in (matrix.indptr, matrix.indices))
    entries = torch.from_numpy(matrix.data).to(op.device, op.dtype)
    return CsrOperator(indptr, indices, entries, n=op.n, bounds=op.bounds(), trusted=True)


def _whole(name: str, x: Any, ranks: Ranks) -> Any:
    """The rows of all ranks."""
    if x is None:
        return None
    if isinstance(x, GroupVectors):
        member = torch.where(x.weights != 0, x.labels, -1)
        labels, weights = (start_gather(t, ranks)() for t in (member, x.weights))
        return GroupVectors(labels, weights, x.count)
    block = from_array(real_array("eigsh", name, x)).double()
    rows = ranks.counts[ranks.rank]
    if block.shape[0] != rows:
        raise ValueError(f"eigsh: {name} must have this rank's {rows} rows, got {block.shape[0]}")
    return start_gather(block, ranks)()

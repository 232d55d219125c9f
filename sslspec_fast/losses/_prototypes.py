"""What the losses over prototypes are given, checked: rows, prototypes, and who is whose target."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _checks as check
from .._dtypes import computed_dtype
from ..graph._checks import check_graph
from ..graph.pair_graph import PairGraph
from ..primitives.pairwise.soft import Pairs

NAMES = ("student", "teacher")  # of the rows in messages


class Targets(NamedTuple):
    """Who is whose target, and how much: pairs of students and teachers with weights."""

    pairs: Pairs | None  # None: teacher i is the only target of student i
    weight: Tensor  # (nnz,), or (n,) without pairs, in the dtype that is computed in

    def of_students(self, values: Tensor) -> Tensor:
        """Values of the students (n,), for each pair."""
        return values if self.pairs is None else values[self.pairs.row_of()]

    def of_teachers(self, values: Tensor) -> Tensor:
        return values if self.pairs is None else values[self.pairs.indices]

    def by_student(self, values: Tensor) -> Tensor:
        """(n,) sums of values of the pairs."""
        if self.pairs is None:
            return values
        return torch.segment_reduce(values, "sum", offsets=self.pairs.indptr, initial=0)

    def weights(self, of_students: Tensor | None) -> Tensor:
        """The weights of the pairs, times those of their students (n,)."""
        return self.weight if of_students is None else self.weight * self.of_students(of_students)

    def dense(self, n: int, m: int) -> Tensor:
        """(n, m), for the references."""
        if self.pairs is None:
            return self.weight.diag()
        at = self.pairs.row_of() * m + self.pairs.indices
        return self.weight.new_zeros(n * m).index_add(0, at, self.weight).view(n, m)


def from_pattern(rows: Tensor, columns: Tensor, weight: Tensor, n: int, m: int) -> Targets:
    """Targets of n students among m teachers; entries in any order."""
    order = torch.argsort(rows, stable=True)
    rows, columns = rows[order], columns[order]
    back = torch.argsort(columns, stable=True)
    pairs = Pairs(_indptr(rows, n), columns, _indptr(columns, m), rows[back], back)
    return Targets(pairs, weight[order])


def _indptr(index: Tensor, n: int) -> Tensor:
    counts = torch.zeros(n + 1, dtype=torch.int64, device=index.device)
    return counts.scatter_add(0, index + 1, torch.ones_like(index)).cumsum(0)


def targets(op: str, pairs: Any, n: int, m: int, like: Tensor) -> Targets:
    """The checked `pairs` of a loss: None, a PairGraph, or (rows, columns[, weights])."""
    kind = computed_dtype(like)
    if pairs is None:
        if n != m:
            raise ValueError(
                f"{op}: without pairs there must be a teacher row for each student row, "
                f"got {n} and {m}"
            )
        return Targets(None, torch.ones(n, dtype=kind, device=like.device))
    if isinstance(pairs, PairGraph):
        check_pair_graph(op, pairs, n, m, like)
        indptr, indices, values = pairs.csr()
        rows = torch.repeat_interleave(indptr.diff(), output_size=indices.shape[0])
        weight = like.new_ones(rows.shape, dtype=kind) if values is None else values.to(kind)
        return from_pattern(rows, indices.long(), weight, n, m)
    if not isinstance(pairs, (tuple, list)) or len(pairs) not in (2, 3):
        raise TypeError(
            f"{op}: pairs must be None, a PairGraph, (rows, columns) or (rows, columns, weights), "
            f"got {type(pairs).__name__}"
        )
    first = pairs[0]
    count = first.shape[0] if isinstance(first, Tensor) and first.dim() else len(first)
    rows = check.integers(op, "pairs[0]", first, like, count)
    columns = check.integers(op, "pairs[1]", pairs[1], like, count)
    for name, index, size in (("pairs[0]", rows, n), ("pairs[1]", columns, m)):
        if check.readable(index) and count:
            low, high = int(index.min()), int(index.max())
            if low < 0 or high >= size:
                worst = low if low < 0 else high
                raise ValueError(f"{op}: {name} must lie in [0, {size}), got {worst}")
    weight = like.new_ones(count, dtype=kind)
    if len(pairs) == 3:
        given = torch.as_tensor(pairs[2], device=like.device)
        weight = _pair_weights(op, given, count).to(kind)
    return from_pattern(rows, columns, weight, n, m)


def check_pair_graph(op: str, pairs: PairGraph, n: int, m: int, like: Tensor) -> None:
    """Of n students and as many teachers; over ranks, those of this rank."""
    if n != m:
        raise ValueError(
            f"{op}: pairs as a PairGraph need as many teacher rows as student rows, got {n} and {m}"
        )
    check_graph(op, pairs, like, symmetric=False)
    if pairs.has_negative_weights:
        raise ValueError(f"{op}: pairs must have weights >= 0, got a negative one")


def _pair_weights(op: str, weight: Tensor, count: int) -> Tensor:
    if weight.shape != (count,):
        raise ValueError(
            f"{op}: pairs[2] must have one weight per pair ({count},), got {tuple(weight.shape)}"
        )
    check.refuse_grad(op, "pairs[2]", weight.requires_grad, "detach it")
    if check.readable(weight):
        bad = weight[~((weight >= 0) & weight.isfinite())]
        if bad.numel():
            raise ValueError(f"{op}: pairs[2] must be finite and >= 0, got {bad[0].item()}")
    return weight


def check_heads(
    op: str,
    student: Tensor,
    teacher: Tensor,
    prototypes: Tensor | None,
    teacher_prototypes: Tensor | None,
    names: tuple[str, str] = NAMES,
    min_rows: int = 1,
) -> int:
    """The shapes and dtypes of rows and prototypes; returns k."""
    own, other = names
    check.matrix(op, own, student, min_rows=min_rows)
    check.matrix(op, other, teacher, min_rows=min_rows)
    if teacher.device != student.device:
        raise ValueError(
            f"{op}: {other} must be on the device of {own}, {student.device}, got {teacher.device}"
        )
    if prototypes is None:
        if teacher_prototypes is not None:
            raise ValueError(f"{op}: teacher_prototypes need prototypes, got None")
        if teacher.shape[1] != student.shape[1]:
            raise ValueError(
                f"{op}: without prototypes, {other} must have the {student.shape[1]} logits of "
                f"{own}, got {tuple(teacher.shape)}"
            )
        return student.shape[1]
    _check_prototypes(op, "prototypes", prototypes, own, student)
    name = "prototypes" if teacher_prototypes is None else "teacher_prototypes"
    columns = prototypes if teacher_prototypes is None else teacher_prototypes
    _check_prototypes(op, name, columns, other, teacher)
    if columns.shape[0] != prototypes.shape[0]:
        raise ValueError(
            f"{op}: teacher_prototypes must have the {prototypes.shape[0]} rows of prototypes, "
            f"got {tuple(columns.shape)}"
        )
    return prototypes.shape[0]


def _check_prototypes(op: str, name: str, x: Tensor, other_name: str, rows: Tensor) -> None:
    check.matrix(op, name, x)
    if x.shape[1] != rows.shape[1]:
        raise ValueError(
            f"{op}: {name} must have the {rows.shape[1]} features of {other_name} "
            f"{tuple(rows.shape)}, got {tuple(x.shape)}"
        )
    if x.device != rows.device:
        raise ValueError(
            f"{op}: {name} must be on the device of {other_name}, {rows.device}, got {x.device}"
        )


def check_bias(op: str, bias: Tensor | None, k: int, m: int, like: Tensor) -> Tensor | None:
    """(k,), or (g, k) with g a divisor of m, without a gradient, in the computed dtype."""
    if bias is None:
        return None
    check.dense(op, "bias", bias)
    blocks = bias.shape[0] if bias.dim() == 2 else 1
    if bias.dim() not in (1, 2) or bias.shape[-1] != k or blocks < 1 or m % blocks:
        raise ValueError(
            f"{op}: bias must be ({k},), or (g, {k}) with g a divisor of the {m} teacher rows, "
            f"got {tuple(bias.shape)}"
        )
    if bias.device != like.device:
        raise ValueError(
            f"{op}: bias must be on the device of the rows, {like.device}, got {bias.device}"
        )
    check.refuse_grad(op, "bias", bias.requires_grad, "detach it")
    return bias.detach().to(computed_dtype(like))


def check_total(op: str, graph: Targets, weight: Tensor | None, reduction: str) -> None:
    """A mean needs a pair with a weight."""
    if reduction != "mean" or not check.readable(graph.weight):
        return
    if not float(graph.weights(weight).detach().sum()) > 0:
        raise ValueError(f"{op}: pairs must have a positive total weight for a mean, got 0")


def check_mean_entropy(op: str, mean_entropy: float, reduction: str) -> float:
    """A weight >= 0; what it weighs is of all rows, and no part of theirs."""
    mean_entropy = check.number(op, "mean_entropy", mean_entropy, low=0.0)
    if mean_entropy and reduction == "none":
        raise ValueError(
            f"{op}: mean_entropy must be 0 for reduction='none', got mean_entropy={mean_entropy}"
        )
    return mean_entropy


def check_clusters(op: str, assignment: Any, like: Tensor, k: int) -> Tensor:
    """(n,) the numbers of clusters in [0, k)."""
    own = check.integers(op, "assignment", assignment, like, like.shape[0])
    if check.readable(own) and own.numel():
        low, high = int(own.min()), int(own.max())
        if low < 0 or high >= k:
            worst = low if low < 0 else high
            raise ValueError(f"{op}: assignment must lie in [0, {k}), got {worst}")
    return own

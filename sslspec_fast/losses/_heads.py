"""The losses over prototypes: a student and a teacher with their last layers, as the two softmaxes
of `primitives.pairwise.soft`, and the reduction over pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _checks as check
from .._dtypes import as_multiplied, computed_dtype, is_half, widen
from ..primitives.pairwise.soft import (
    OwnSides,
    Sides,
    as_columns,
    mean_softmax,
    soft_rows,
    soft_total,
)
from ..primitives.rows.unit_rows import unit_rows
from ._common import LossOrTerms, Terms, with_terms
from ._prototypes import NAMES, Targets, check_bias, check_heads
from ._prototypes import targets as targets_of

Head = tuple[Tensor, "Tensor | None", "float | Tensor"]  # rows, prototypes, temperature
Total = Callable[..., "tuple[Tensor, ...]"]  # sums over rows, added up over ranks


class Heads(NamedTuple):
    """Checked rows, prototypes and temperatures of both, and who is whose target.

    teacher_prototypes: None for those of the student; logits have none.
    scaled: whether the prototypes are to be scaled to unit length too, where the rows are.
    half: whether the student's rows came as bfloat16.
    """

    student: Tensor
    prototypes: Tensor | None
    student_temperature: Tensor
    teacher: Tensor
    teacher_prototypes: Tensor | None
    teacher_temperature: Tensor
    graph: Targets
    bias: Tensor | None
    normalize: bool = True
    scaled: bool = True
    half: bool = False

    def sides(self, bias: Tensor | None = None) -> Sides:
        """The two logits, those of the teacher without a gradient.

        bias: in place of the one given, where it is computed from the rows themselves.
        """
        normalize = self.normalize and self.prototypes is not None
        a = self._over(self.student, self.student_temperature, normalize)
        w, unit = self._columns(self.prototypes)
        with torch.no_grad():
            b = self._over(self.teacher, self.teacher_temperature, normalize)
            own = self.teacher_prototypes
            v = w if own is None else self._columns(own)[0]
        return Sides(a, w, b, v, self.bias if bias is None else bias, unit)

    def own_sides(self) -> OwnSides | None:
        """The two logits where the rows are the prototypes; None if temperatures differ."""
        student, teacher = self.student_temperature, self.teacher_temperature
        if student.dim() or teacher.dim():
            return None
        u = self._unit(self.student, self.normalize)
        with torch.no_grad():
            t = self._unit(self.teacher, self.normalize)
        half = self.half and is_half(self.teacher)
        return OwnSides(u, student.reciprocal(), t, teacher.reciprocal(), half)

    def _unit(self, rows: Tensor, normalize: bool) -> Tensor:
        x = widen(rows).to(computed_dtype(self.student))
        return unit_rows(x) if normalize else x

    def _over(self, rows: Tensor, temperature: Tensor, normalize: bool) -> Tensor:
        """Rows over their temperature, in the dtype that the student is multiplied in."""
        x = self._unit(rows, normalize)
        scale = temperature.reciprocal()
        return as_multiplied(x * (scale if scale.dim() == 0 else scale[:, None]), self.half)

    def _columns(self, prototypes: Tensor | None) -> tuple[Tensor | None, bool]:
        if prototypes is None:
            return None, False
        w = widen(prototypes).to(computed_dtype(self.student))
        return as_columns(w, self.half, self.normalize and self.scaled)

    def tensors(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """student, teacher, prototypes, teacher_prototypes as a reference takes them."""
        kind = computed_dtype(self.student)

        def wide(x: Tensor | None) -> Tensor | None:
            return None if x is None else widen(x).to(kind)

        student, teacher = widen(self.student).to(kind), widen(self.teacher).to(kind)
        return student, teacher, wide(self.prototypes), wide(self.teacher_prototypes)

    def options(self) -> dict[str, Any]:
        """The keywords of a reference."""
        return {
            "student_temperature": self.student_temperature,
            "teacher_temperature": self.teacher_temperature,
            "bias": self.bias,
            "normalize": self.normalize,
        }


def prepare(
    op: str,
    student: Head,
    teacher: Head,
    *,
    pairs: Any = None,
    bias: Tensor | None = None,
    normalize: bool = True,
    scaled: bool = True,
    names: tuple[str, str] = NAMES,
    temperatures: tuple[str, str] = ("student_temperature", "teacher_temperature"),
    by_row: bool = False,
    min_rows: int = 1,
) -> Heads:
    """The checks that every loss over prototypes makes.

    pairs: `Targets`, or what `_prototypes.targets` takes.
    by_row: whether a temperature may have a value per row.
    """
    (rows, prototypes, own), (targets, other_prototypes, other) = student, teacher
    k = check_heads(op, rows, targets, prototypes, other_prototypes, names, min_rows)
    n, m = rows.shape[0], targets.shape[0]
    own = check.positive(op, temperatures[0], own, rows, rows=(n,) if by_row else ())
    other = check.positive(op, temperatures[1], other, rows, rows=(m,) if by_row else ())
    check.refuse_grad(op, temperatures[1], other.requires_grad, "detach it")
    bias = check_bias(op, bias, k, m, rows)
    graph = pairs if isinstance(pairs, Targets) else targets_of(op, pairs, n, m, rows)
    sides = (rows, prototypes, own), (targets, other_prototypes, other)
    return Heads(*sides[0], *sides[1], graph, bias, normalize, scaled, is_half(rows))


def answer(
    impl: str,
    plain: Callable[[], Tensor],
    fused: Callable[[], tuple[Tensor, Terms]],
    return_terms: bool,
) -> LossOrTerms:
    """The loss of `plain` or `fused`; the terms are those of `fused`."""
    total = plain() if impl == "torch" else None
    if total is not None and not return_terms:
        return total
    loss, terms = fused()
    return with_terms(loss if total is None else total, terms if return_terms else None)


def _as_they_are(*sums: Tensor) -> tuple[Tensor, ...]:
    """The sums over the rows of one process: these are all rows."""
    return sums


def mean_probability(sides: Sides, rows: int | None = None, over: Total = _as_they_are) -> Tensor:
    """(k,) mean over the students of their probabilities; rows, over: as many students are there
    over all ranks, and what adds up the sums of ranks.
    """
    a, w = sides.a, sides.w
    n = a.shape[0] if rows is None else rows
    if w is None:
        return over(a.softmax(1).sum(0) / n)[0]
    weight = torch.full_like(a[:, 0], 1 / n, dtype=computed_dtype(a))
    return over(mean_softmax(a, w, weight, sides.unit))[0]


def loss_and_terms(
    sides: Sides | OwnSides,
    graph: Targets,
    reduction: str = "mean",
    weight: Tensor | None = None,
    *,
    skip_self: bool = False,
    over: Total = _as_they_are,
) -> tuple[Tensor, Terms]:
    """The loss, and in the same reduction the entropy of its targets and the divergence from them.

    "mean" is over the weights of the pairs, "none" the sums of the students.
    over: adds up, over ranks, sums over the rows of each.
    """
    loss, entropy = _reduced(sides, graph, reduction, weight, skip_self, over)
    return loss, {"entropy": entropy, "divergence": loss - entropy}


def _reduced(
    sides: Sides | OwnSides,
    graph: Targets,
    reduction: str,
    weight: Tensor | None,
    skip_self: bool,
    over: Total,
) -> tuple[Tensor, Tensor]:
    if reduction == "none" or (weight is not None and weight.requires_grad):
        rows, entropy = soft_rows(sides, graph.weight, graph.pairs, skip_self=skip_self)
        each = graph.by_student(graph.weight * graph.of_teachers(entropy))
        if weight is not None:
            rows, each = rows * weight, each * weight.detach()
        if reduction == "none":
            return rows, each
        total, own = over(rows.sum(), each.sum())
        if reduction == "sum":
            return total, own
        degree = graph.by_student(graph.weight)
        (norm,) = over((degree if weight is None else degree * weight).sum())
        return total / norm, own / norm.detach()
    weights = graph.weights(weight)
    if reduction == "mean":
        weights = weights / over(weights.sum())[0]
    loss, entropy = soft_total(sides, weights, graph.pairs, skip_self=skip_self)
    total, own = over(loss, (weights * graph.of_teachers(entropy)).sum())
    return total, own

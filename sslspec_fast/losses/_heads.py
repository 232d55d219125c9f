"""The losses over prototypes: a student and a teacher with their last layers, as the two softmaxes
of `primitives.pairwise.soft`, and the reduction over pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _checks as check
from .._dtypes import computed_dtype, products, widen
from ..primitives.pairwise.soft import Sides, mean_softmax, soft_rows, soft_total
from ..primitives.rows.unit_rows import unit_rows
from ._common import LossOrTerms, Terms, reduce_rows, with_terms
from ._prototypes import NAMES, Targets, check_bias, check_heads
from ._prototypes import targets as targets_of

Head = tuple[Tensor, "Tensor | None", "float | Tensor"]  # rows, prototypes, temperature


class Heads(NamedTuple):
    """Checked rows, prototypes and temperatures of both, and who is whose target.

    teacher_prototypes: None for those of the student; logits have none.
    scaled: whether the prototypes are to be scaled to unit length too, where the rows are.
    """

    student: Tensor
    prototypes: Tensor | None
    student_temperature: Tensor
    teacher: Tensor
    teacher_prototypes: Tensor | None
    teacher_temperature: Tensor
    graph: Targets
    bias: Tensor | None
    normalize: bool
    scaled: bool

    def sides(self) -> Sides:
        """The two logits, those of the teacher without a gradient."""
        like, normalize = self.student, self.normalize and self.prototypes is not None
        scaled = normalize and self.scaled
        a = _over(like, self.student_temperature, normalize, like)
        w = None if self.prototypes is None else _columns(self.prototypes, scaled, like)
        with torch.no_grad():
            b = _over(self.teacher, self.teacher_temperature, normalize, like)
            own = self.teacher_prototypes
            v = w if own is None else _columns(own, scaled, like)
        return Sides(a, w, b, v, self.bias)

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
) -> Heads:
    """The checks that every loss over prototypes makes.

    pairs: `Targets`, or what `_prototypes.targets` takes.
    """
    (rows, prototypes, own), (targets, other_prototypes, other) = student, teacher
    k = check_heads(op, rows, targets, prototypes, other_prototypes, names)
    n, m = rows.shape[0], targets.shape[0]
    own = check.positive(op, temperatures[0], own, rows, rows=(n,))
    other = check.positive(op, temperatures[1], other, rows, rows=(m,))
    check.refuse_grad(op, temperatures[1], other.requires_grad, "detach it")
    bias = check_bias(op, bias, k, m, rows)
    graph = pairs if isinstance(pairs, Targets) else targets_of(op, pairs, n, m, rows)
    return Heads(
        rows, prototypes, own, targets, other_prototypes, other, graph, bias, normalize, scaled
    )


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


def _over(rows: Tensor, temperature: Tensor, normalize: bool, like: Tensor) -> Tensor:
    """Rows over their temperature, in the dtype in which those of `like` are multiplied."""
    x = widen(rows).to(computed_dtype(like))
    x = unit_rows(x) if normalize else x
    scale = temperature.reciprocal()
    return products(x * (scale if scale.dim() == 0 else scale[:, None]), like)


def _columns(prototypes: Tensor, normalize: bool, like: Tensor) -> Tensor:
    w = widen(prototypes).to(computed_dtype(like))
    return products(unit_rows(w) if normalize else w, like)


def mean_probability(sides: Sides) -> Tensor:
    """(k,) mean over the students of their probabilities."""
    a, w = sides.a, sides.w
    if w is None:
        return a.softmax(1).mean(0)
    return mean_softmax(a, w, torch.full_like(a[:, 0], 1 / a.shape[0], dtype=computed_dtype(a)))


def loss_and_terms(
    sides: Sides,
    graph: Targets,
    reduction: str = "mean",
    weight: Tensor | None = None,
    *,
    skip_self: bool = False,
) -> tuple[Tensor, Terms]:
    """The loss, and in the same reduction the entropy of its targets and the divergence from them.

    "mean" is over the weights of the pairs, "none" the sums of the students.
    """
    loss, entropy = _reduced(sides, graph, reduction, weight, skip_self)
    return loss, {"entropy": entropy, "divergence": loss - entropy}


def _reduced(
    sides: Sides, graph: Targets, reduction: str, weight: Tensor | None, skip_self: bool
) -> tuple[Tensor, Tensor]:
    if reduction == "none" or (weight is not None and weight.requires_grad):
        rows, entropy = soft_rows(sides, graph.weight, graph.pairs, skip_self=skip_self)
        each = graph.by_student(graph.weight * graph.of_teachers(entropy))
        if reduction == "mean":
            degree = graph.by_student(graph.weight)
            norm = (degree if weight is None else degree * weight).sum()
            total = (rows if weight is None else rows * weight).sum()
            own = (each if weight is None else each * weight.detach()).sum()
            return total / norm, own / norm.detach()
        fixed = None if weight is None else weight.detach()
        return reduce_rows(rows, reduction, weight), reduce_rows(each, reduction, fixed)
    weights = graph.weight if weight is None else graph.weight * graph.of_students(weight)
    if reduction == "mean":
        weights = weights / weights.sum()
    loss, entropy = soft_total(sides, weights, graph.pairs, skip_self=skip_self)
    return loss, (weights * graph.of_teachers(entropy)).sum()

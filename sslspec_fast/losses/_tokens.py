"""The checked arguments of CAPI, in one process and of a rank: tokens by their positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _checks as check
from .._dtypes import computed_dtype
from ._heads import Heads, prepare
from ._prototypes import Targets, from_pattern
from ._sinkhorn import balance, scaled


def _same(lse: Tensor) -> Tensor:
    """The log-sum-exps of columns over the rows of one process: these are all rows."""
    return lse


class Tokens(NamedTuple):
    """Checked arguments of `capi`. The rows of both heads are sorted by position, then by image."""

    heads: Heads
    images: int
    positions: int  # of the teacher
    targets: Tensor  # (b, p) the teacher's token of each predicted one
    teacher_temperature: float
    iterations: int

    def by_image(self, rows: Tensor) -> Tensor:
        """(b, tokens, ...) of rows of either head."""
        return rows.unflatten(0, (-1, self.images)).transpose(0, 1)


@torch.no_grad()
def biases_of_positions(given: Tokens, over_columns: Callable[[Tensor], Tensor] = _same) -> Tensor:
    """(s, k) what balances the teacher's logits at each position, by Sinkhorn's iteration.

    over_columns: as in `_sinkhorn.balance`.
    """
    h, how = given.heads, (given.teacher_temperature, given.iterations, "zero")
    columns = h.prototypes if h.teacher_prototypes is None else h.teacher_prototypes
    rows, w = scaled(h.teacher, columns, h.normalize)
    each = rows.view(given.positions, given.images, rows.shape[1]).unbind()
    biases = [balance(x, w, *how, over_columns=over_columns) for x in each]
    return torch.stack(biases).to(computed_dtype(h.student))


def by_position(op: str, name: str, x: Any, min_rows: int) -> Tensor:
    """(tokens * b, d) of (b, tokens, d): the rows of a position lie together."""
    check.dense(op, name, x)
    if x.dim() != 3 or x.shape[0] < min_rows or 0 in x.shape[1:]:
        raise ValueError(
            f"{op}: {name} must be (images, tokens, features), at least {min_rows} image, 1 token "
            f"and 1 feature, got {tuple(x.shape)}"
        )
    return x.transpose(0, 1).reshape(-1, x.shape[2])


def _index(op: str, index: Any, student: Tensor, teacher: Tensor) -> Tensor | None:
    """(b, p) in [0, s), or None where token i is that of token i."""
    (b, p), s = student.shape[:2], teacher.shape[1]
    if teacher.shape[0] != b:
        raise ValueError(
            f"{op}: teacher must have the {b} images of student, got {teacher.shape[0]}"
        )
    if index is None:
        if p != s:
            raise ValueError(
                f"{op}: without index, teacher must have the {p} tokens of student, got {s}"
            )
        return None
    if not isinstance(index, Tensor):
        raise check.not_a_tensor(op, "index", index)
    if index.shape != (b, p):
        raise ValueError(
            f"{op}: index must be {(b, p)}, one for each token of student, got {tuple(index.shape)}"
        )
    flat = check.integers(op, "index", index.reshape(-1), student, b * p)
    if check.readable(flat) and flat.numel():
        bad = flat[(flat < 0) | (flat >= s)]
        if bad.numel():
            raise ValueError(f"{op}: index must lie in [0, {s}), got {bad[0].item()}")
    return flat.long().view(b, p)


def capi_tokens(
    student: Tensor,
    teacher: Tensor,
    prototypes: Tensor | None,
    teacher_prototypes: Tensor | None,
    index: Any,
    student_temperature: float | Tensor,
    teacher_temperature: float,
    iterations: int,
    normalize: bool,
    min_rows: int = 1,
) -> Tokens:
    op = "capi"
    students = by_position(op, "student", student, min_rows)
    teachers = by_position(op, "teacher", teacher, min_rows)
    given = _index(op, index, student, teacher)
    teacher_temperature = check.number(
        op, "teacher_temperature", teacher_temperature, low=0.0, strict=True
    )
    heads = prepare(
        op,
        (students, prototypes, student_temperature),
        (teachers, teacher_prototypes, teacher_temperature),
        pairs=pairs_of_tokens(student, teacher, given),
        normalize=normalize,
        min_rows=min_rows,
    )
    b, s = teacher.shape[:2]
    at = torch.arange(s, device=student.device).expand(b, s) if given is None else given
    iterations = check.count(op, "iterations", iterations, 0)
    return Tokens(heads, b, s, at, teacher_temperature, iterations)


def pairs_of_tokens(student: Tensor, teacher: Tensor, index: Tensor | None) -> Targets:
    """Predicted token (b, p) has the target (b, index[b, p]); rows sorted by position."""
    (b, p), s = student.shape[:2], teacher.shape[1]
    weight = torch.ones(p * b, dtype=computed_dtype(student), device=student.device)
    if index is None:
        return Targets(None, weight)
    row = torch.arange(p * b, device=student.device)
    image = torch.arange(b, device=student.device)
    return from_pattern(row, (index.T * b + image).reshape(-1), weight, p * b, s * b)

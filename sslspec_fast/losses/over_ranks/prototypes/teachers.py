"""DINO and iBOT of samples that are spread over ranks.

Formulas: the files of the losses. A rank holds all views of its samples, or the tokens of its
images. A center is the same on all ranks.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..._column_bias import center_bias
from ..._head_inputs import dino_heads, ibot_heads, token_weights
from ..._heads import Heads
from ..._prototypes import Targets
from ..._views import Views, pairs_of_views
from .._form import COPY, MORE, ROWS, SCALE, Form, Given, Problem, Result
from .._reduce import scale_of
from ._loss import (
    by_sample,
    by_view,
    copy_of,
    detached,
    loss_of,
    options_of,
    scalar,
    with_wanted,
)


def _teacher_bias(p: Problem) -> Tensor | None:
    center = p.tensors["center"]
    if center is None:
        return p.tensors["bias"]
    return center_bias(center, p.numbers["teacher_temperature"])


def _check_dino(
    student_views: Views,
    teacher_views: Views,
    prototypes: Tensor | None,
    teacher_prototypes: Tensor | None,
    student_temperature: float | Tensor,
    teacher_temperature: float,
    center: Tensor | None,
    bias: Tensor | None,
    normalize: bool,
) -> Given:
    op, own = "dino", (prototypes, teacher_prototypes)
    heads, _ = dino_heads(
        student_views,
        teacher_views,
        *own,
        student_temperature,
        teacher_temperature,
        center,
        bias,
        normalize,
        min_rows=0,
    )
    tensors = {
        "student_views": by_sample(op, "student_views", student_views),
        "teacher_views": by_sample(op, "teacher_views", teacher_views).detach(),
        "prototypes": prototypes,
        "teacher_prototypes": detached(teacher_prototypes),
        "student_temperature": heads.student_temperature,
        "center": detached(center),
        "bias": bias,
    }
    numbers = {"teacher_temperature": teacher_temperature, "normalize": float(normalize)}
    return Given(tensors, numbers)


def _dino(p: Problem) -> Result:
    student, teacher = (p.rows(k).transpose(0, 1) for k in ("student_views", "teacher_views"))
    n = student.shape[1]
    heads = Heads(
        student.flatten(0, 1),
        copy_of(p, "prototypes"),
        scale_of(p, "student_temperature"),
        teacher.flatten(0, 1),
        p.tensors["teacher_prototypes"],
        scalar(student, p.numbers["teacher_temperature"]),
        pairs_of_views(student, n, len(student), len(teacher)),
        _teacher_bias(p),
        bool(p.numbers["normalize"]),
        half=p.half,
    )
    return with_wanted(p, *loss_of(p, heads.sides(), heads.graph))


def _dino_of(arguments: dict[str, Any]) -> dict[str, Any]:
    views = {k: by_view(arguments[k]) for k in ("student_views", "teacher_views")}
    return {**options_of(arguments), **views}


DINO = Form(
    "dino",
    {
        "student_views": ROWS,
        "teacher_views": ROWS,
        "prototypes": COPY,
        "teacher_prototypes": COPY,
        "student_temperature": SCALE,
        "center": COPY,
        "bias": COPY,
    },
    ("teacher_temperature", "normalize"),
    _check_dino,
    _dino,
    terms=("entropy", "divergence"),
    reduces=False,
    restore=_dino_of,
)

# ---- iBOT ----

_ONLY_MASKED = -1.0  # in place of the weight of visible tokens


def _check_ibot(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor,
    prototypes: Tensor | None,
    teacher_prototypes: Tensor | None,
    student_temperature: float | Tensor,
    teacher_temperature: float,
    center: Tensor | None,
    bias: Tensor | None,
    visible_weight: float | None,
    normalize: bool,
) -> Given:
    heads, masked, visible = ibot_heads(
        student,
        teacher,
        mask,
        prototypes,
        teacher_prototypes,
        student_temperature,
        teacher_temperature,
        center,
        bias,
        visible_weight,
        normalize,
        min_rows=0,
    )
    tensors = {
        "student": student,
        "teacher": teacher.detach(),
        "mask": masked,
        "prototypes": prototypes,
        "teacher_prototypes": detached(teacher_prototypes),
        "student_temperature": heads.student_temperature,
        "center": detached(center),
        "bias": bias,
    }
    numbers = {
        "teacher_temperature": teacher_temperature,
        "visible_weight": _ONLY_MASKED if visible is None else visible,
        "normalize": float(normalize),
    }
    return Given(tensors, numbers)


def _ibot(p: Problem) -> Result:
    student, visible = p.rows("student"), p.numbers["visible_weight"]
    heads = Heads(
        student,
        copy_of(p, "prototypes"),
        scale_of(p, "student_temperature"),
        p.rows("teacher"),
        p.tensors["teacher_prototypes"],
        scalar(student, p.numbers["teacher_temperature"]),
        Targets(None, student.new_ones(len(student))),
        _teacher_bias(p),
        bool(p.numbers["normalize"]),
        half=p.half,
    )
    of_visible = None if visible == _ONLY_MASKED else visible
    weight = token_weights(p.rows("mask"), of_visible, student, p.more.n)
    return with_wanted(p, *loss_of(p, heads.sides(), heads.graph, "sum", weight))


def _ibot_of(arguments: dict[str, Any]) -> dict[str, Any]:
    visible = arguments["visible_weight"]
    of_visible = None if visible == _ONLY_MASKED else visible
    return {**options_of(arguments), "visible_weight": of_visible}


IBOT = Form(
    "ibot",
    {
        "student": ROWS,
        "teacher": ROWS,
        "mask": MORE,
        "prototypes": COPY,
        "teacher_prototypes": COPY,
        "student_temperature": SCALE,
        "center": COPY,
        "bias": COPY,
    },
    ("teacher_temperature", "visible_weight", "normalize"),
    _check_ibot,
    _ibot,
    terms=("entropy", "divergence"),
    reduces=False,
    restore=_ibot_of,
)

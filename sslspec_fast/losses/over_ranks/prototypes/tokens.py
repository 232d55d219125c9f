"""CAPI of images that are spread over ranks.

Formulas: the file of the loss. Sinkhorn's iteration of a position runs over the images of all
ranks: k numbers of each rank travel in a round.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._heads import Heads
from ..._tokens import Tokens, biases_of_positions, capi_tokens, pairs_of_tokens
from .._form import COPY, ROWS, SCALE, Form, Given, Problem, Result
from .._reduce import scale_of
from ._loss import copy_of, detached, loss_of, options_of, over_columns, scalar, with_wanted


def _check_capi(
    student: Tensor,
    teacher: Tensor,
    prototypes: Tensor | None,
    teacher_prototypes: Tensor | None,
    index: Any,
    student_temperature: float | Tensor,
    teacher_temperature: float,
    iterations: int,
    normalize: bool,
) -> Given:
    given = capi_tokens(
        student,
        teacher,
        prototypes,
        teacher_prototypes,
        index,
        student_temperature,
        teacher_temperature,
        iterations,
        normalize,
        min_rows=0,
    )
    tensors = {
        "student": student,
        "teacher": teacher.detach(),
        "prototypes": prototypes,
        "teacher_prototypes": detached(teacher_prototypes),
        "index": None if index is None else given.targets,
        "student_temperature": given.heads.student_temperature,
    }
    numbers = {
        "teacher_temperature": given.teacher_temperature,
        "iterations": float(given.iterations),
        "normalize": float(normalize),
    }
    return Given(tensors, numbers)


def _capi(p: Problem) -> Result:
    student, teacher = p.rows("student"), p.rows("teacher")
    temperature, iterations, normalize = p.numbers.values()
    images, positions = teacher.shape[:2]
    index = p.tensors["index"]
    heads = Heads(
        student.transpose(0, 1).flatten(0, 1),
        copy_of(p, "prototypes"),
        scale_of(p, "student_temperature"),
        teacher.transpose(0, 1).flatten(0, 1),
        p.tensors["teacher_prototypes"],
        scalar(student, temperature),
        pairs_of_tokens(student, teacher, index),
        None,
        bool(normalize),
        half=p.half,
    )
    at = torch.zeros(0) if index is None else index
    tokens = Tokens(heads, images, positions, at, temperature, int(iterations))
    sides = heads.sides(biases_of_positions(tokens, over_columns(p.ranks)))
    return with_wanted(p, *loss_of(p, sides, heads.graph))


CAPI = Form(
    "capi",
    {
        "student": ROWS,
        "teacher": ROWS,
        "prototypes": COPY,
        "teacher_prototypes": COPY,
        "index": ROWS,
        "student_temperature": SCALE,
    },
    ("teacher_temperature", "iterations", "normalize"),
    _check_capi,
    _capi,
    terms=("entropy", "divergence"),
    reduces=False,
    restore=options_of,
)

"""Gram anchoring of images that are spread over ranks.

Formula: the file of the loss. Images have no term between them: nothing but the loss is added up.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...primitives.gram.difference import gram_difference
from ...primitives.rows.unit_rows import unit_rows
from .._inputs import prepare_patches
from ._form import ROWS, Form, Given, Problem, Result
from ._reduce import reduce_rows


def _check_gram_anchor(student: Tensor, teacher: Tensor, clamp: bool, reduction: str) -> Given:
    x, y = prepare_patches("gram_anchor", student, teacher, min_images=0)
    return Given({"student": x, "teacher": y}, {"clamp": float(clamp)})


def _gram_anchor(p: Problem) -> Result:
    x, y = p.rows("student"), p.rows("teacher")
    u, v = (unit_rows(z.flatten(0, 1)).view(z.shape) for z in (x, y))
    images = gram_difference(u, v, clamp=bool(p.numbers["clamp"])) / x.shape[1] ** 2
    return reduce_rows(p, images, None), ()


def _clamp_of(arguments: dict[str, Any]) -> dict[str, Any]:
    return {**arguments, "clamp": bool(arguments["clamp"])}


GRAM_ANCHOR = Form(
    "gram_anchor",
    {"student": ROWS, "teacher": ROWS},
    ("clamp",),
    _check_gram_anchor,
    _gram_anchor,
    restore=_clamp_of,
)

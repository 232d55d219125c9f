"""The negative cosine similarity of rows that are spread over ranks: one number is added up."""

from __future__ import annotations

from torch import Tensor

from ... import _checks as check
from ...primitives.rows.unit_rows import cosines
from ._form import ROWS, Form, Given, Problem, Result
from ._reduce import check_weight, reduce_rows


def _check(p: Tensor, z: Tensor, eps: float, reduction: str, sample_weight: Tensor | None) -> Given:
    op = "negative_cosine"
    check.pair(op, ("p", "z"), p, z, min_rows=0)
    weight = check.sample_weight(op, sample_weight, p, p.shape[0], "sum")
    eps = check.number(op, "eps", eps, low=1e-12)
    return Given({"p": p, "z": z, "sample_weight": weight}, {"eps": eps})


def _negative_cosine(p: Problem) -> Result:
    weight = p.tensors["sample_weight"]
    check_weight(p, weight)
    rows = -cosines(p.rows("p"), p.rows("z"), p.numbers["eps"])
    return reduce_rows(p, rows, weight), ()


NEGATIVE_COSINE = Form(
    "negative_cosine",
    {"p": ROWS, "z": ROWS, "sample_weight": ROWS},
    ("eps",),
    _check,
    _negative_cosine,
)

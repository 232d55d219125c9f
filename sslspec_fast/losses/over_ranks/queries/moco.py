"""MoCo of rows that are spread over ranks.

Formulas: the file of the loss. Every rank holds the whole queue, so that nothing but the loss is
added up.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .... import _checks as check
from ...._dtypes import as_multiplied
from ....primitives.pairwise.common import constant
from ....primitives.pairwise.value_and_grad import one_positive_total
from ....primitives.rows.unit_rows import paired_rows
from ....ranks import sum_to_rows, sum_to_value
from ..._queue import check_queue, check_queue_ids
from ..._softmax import FalseNegatives, check_column_weight, one_positive_rows
from .._agreed import scale_given
from .._form import COPY, ROWS, SCALE, Form, Given, Problem, Result
from .._reduce import check_weight, reduce_rows, result, scale_of


def _check_moco(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    temperature: float | Tensor,
    margin: float,
    ids: Any,
    queue_ids: Any,
    threshold: float | Tensor | None,
    hardness: float,
    column_weight: Tensor | None,
    reduction: str,
    sample_weight: Tensor | None,
) -> Given:
    op = "moco"
    check.pair(op, ("query", "key"), query, key, min_rows=0)
    n = query.shape[0]
    queue = check_queue(op, queue, query)
    ids, queue_ids = check_queue_ids(op, ids, queue_ids, query, queue)
    bound = None if threshold is None else check.threshold(op, threshold, query, n)
    tensors = {
        "query": query,
        "key": key,
        "queue": queue,
        "temperature": scale_given(op, "temperature", temperature, query),
        "sample_weight": check.sample_weight(op, sample_weight, query, n, "sum"),
        "ids": ids,
        "queue_ids": queue_ids,
        "threshold": None if bound is None else bound.expand(n),
        "column_weight": column_weight,
    }
    none = FalseNegatives(None, None, None)
    check_column_weight(op, column_weight, query, queue.shape[0], none)
    numbers = {"margin": margin, "hardness": hardness}
    return Given(tensors, {k: check.number(op, k, x, low=0.0) for k, x in numbers.items()})


def _moco(p: Problem) -> Result:
    weight, queue = p.tensors["sample_weight"], p.rows("queue")
    check_weight(p, weight)
    scale = scale_of(p, "temperature").reciprocal()
    u, _, similarity = paired_rows(p.rows("query"), p.rows("key"))
    positive = (similarity - p.numbers["margin"]) * scale
    false = FalseNegatives(p.tensors["ids"], p.tensors["queue_ids"], p.tensors["threshold"])
    false = check_column_weight(p.op, p.tensors["column_weight"], u, len(queue), false)
    hardness = p.numbers["hardness"]
    half = p.half
    a, b = as_multiplied(u, half), constant(queue, half)
    if len(queue) and not false.some() and not hardness and p.reduction != "none":
        row_weight = torch.ones_like(positive) if weight is None else weight
        if p.reduction == "mean":
            of_all = p.ranks.n if weight is None else sum_to_rows(weight.sum(), p.ranks)
            row_weight = row_weight / of_all
        # a rank without rows depends on the temperature too, whose gradient is a collective
        own = (positive * row_weight).sum()
        if len(u):
            own = one_positive_total(a, b, scale, positive, row_weight, skip_self=False, half=half)
        loss = sum_to_value(own, p.ranks)
    else:
        lse = torch.full_like(positive, -torch.inf)
        if len(u) and len(queue):
            lse = false.reweighted(a, b, scale, hardness, half)
        loss = reduce_rows(p, one_positive_rows(lse, positive), weight)
    return result(p, loss, positive, weight)


MOCO = Form(
    "moco",
    {
        "query": ROWS,
        "key": ROWS,
        "queue": COPY,
        "temperature": SCALE,
        "sample_weight": ROWS,
        "ids": ROWS,
        "queue_ids": COPY,
        "threshold": ROWS,
        "column_weight": COPY,
    },
    ("margin", "hardness"),
    _check_moco,
    _moco,
    terms=("alignment", "uniformity"),
)

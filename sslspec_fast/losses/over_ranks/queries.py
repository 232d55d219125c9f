"""InfoNCE and MoCo of rows that are spread over ranks.

Formulas: the files of the losses. A query has the keys and negatives of all ranks as columns, or
the rows of MoCo's queue, of which every rank holds all: then nothing but the loss is added up.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from ... import _checks as check
from ..._dtypes import as_multiplied, multiplies_half
from ...primitives.pairwise.filtered import Bound, pairs_above
from ...primitives.pairwise.value_and_grad import one_positive_total
from ...primitives.rows.unit_rows import paired_rows
from ...ranks import Ranks, gather_rows, sum_to_rows, sum_to_value
from ...ranks.agreement import sample_ids
from ...ranks.differentiable import start_gather
from ...ranks.pieces import Piece
from .._candidates import (
    KEY_TO_QUERY,
    QUERY_TO_KEY,
    QUERY_TO_QUERY,
    Selection,
    candidates,
    check_default,
    select,
)
from .._common import numbered, row_ids
from .._graph_queries import logaddexp
from .._queue import check_queue_ids, unit_queue
from .._softmax import (
    FalseNegatives,
    check_column_weight,
    check_false_negatives,
    check_margin,
    check_softmax,
    debiased,
    hardened,
    one_positive_rows,
    smoothing,
)
from ._agreed import scale_given
from ._form import COPY, FURTHER, MORE, MORE_OF_ROW, ROWS, SCALE, Form, Given, Problem, Result
from ._reduce import check_weight, reduce_rows, result, scale_of
from .sums.log_sum_exp import Columns, Pattern, log_sum_exp

# ---- InfoNCE ----

_GUIDE = "guide of query", "guide of key", "guide of negatives"


def _check_info_nce(
    query: Tensor,
    key: Tensor,
    temperature: float | Tensor,
    negatives: Tensor | None,
    target: Any,
    reduction: str,
    sample_weight: Tensor | None,
    label_smoothing: float,
    tau_plus: float,
    margin: float,
    ids: Any,
    negative_ids: Any,
    threshold: float | Tensor | None,
    directions: Any,
    guide: Any,
    guide_margin: float,
    guide_relative: bool,
    hardness: float,
) -> Given:
    op = "info_nce"
    if target is None:
        check.pair(op, ("query", "key"), query, key, min_rows=0)
    else:
        check.matrix(op, "query", query, min_rows=0)
        check.columns(op, "key", key, "query", query, min_rows=0)
    smooth, tau_plus = check_softmax(op, label_smoothing, tau_plus)
    n = query.shape[0]
    if negatives is not None:
        check.columns(op, "negatives", negatives, "query", query, min_rows=0)
    ids, own, threshold = check_false_negatives(op, query, ids, negatives, negative_ids, threshold)
    by_guide = guide, guide_margin, guide_relative
    chosen = select(op, (query, key, negatives), target, ids, directions, by_guide, hardness)
    false = ids is not None or threshold is not None or guide is not None
    margin = check_margin(op, margin, false, smooth, tau_plus)
    check_default(op, chosen, smooth, tau_plus)
    of_guide = chosen.guide or (None, None, None)
    tensors = {
        "query": query,
        "key": key,
        "temperature": scale_given(op, "temperature", temperature, query),
        "sample_weight": check.sample_weight(op, sample_weight, query, n, "sum"),
        "negatives": negatives,
        "target": chosen.target,
        "ids": ids,
        "negative_ids": own,
        "threshold": None if threshold is None else threshold.expand(n),
        **dict(zip(_GUIDE, of_guide, strict=True)),
    }
    numbers = {
        "label_smoothing": smooth,
        "tau_plus": tau_plus,
        "margin": margin,
        "guide_margin": chosen.guide_margin,
        "guide_relative": float(chosen.guide_relative),
        "hardness": chosen.hardness,
    }
    return Given(tensors, numbers, choices={"directions": " ".join(chosen.directions)})


def _columns(
    p: Problem, half: bool, direction: str, directions: Sequence[str], guide: Bound | None
) -> Columns:
    """The columns of a direction on all ranks, without what the arguments leave out of them."""
    ids, threshold = p.tensors["ids"], p.tensors["threshold"]
    of_queries = direction == QUERY_TO_KEY
    rows = p.ranks if direction in (QUERY_TO_QUERY, KEY_TO_QUERY) else p.more
    keys = not of_queries or QUERY_TO_KEY in directions
    counts = zip(rows.counts, p.further.counts, strict=True)
    every = rows.with_counts([n * keys + m * of_queries for n, m in counts])
    given, skip = None, None
    if not keys:  # nothing of the batch, for which the numbers of its samples stand
        n, m = p.ranks.counts[p.ranks.rank], p.further.n
        device = p.rows("query").device
        given = torch.zeros(n, device=device).int(), torch.ones(m, device=device).int()
    elif rows is p.more and p.tensors["target"] is not None:
        own = p.rows("target") + rows.here.start
        given = own.int(), sample_ids(rows.counts, _everything(every), 1, own.device)
    if ids is not None:
        own, further = p.tensors["negative_ids"], p.further.counts[p.ranks.rank] * of_queries
        if own is None or not of_queries:  # numbers below those of all keys
            ids = numbered(gather_rows(ids, p.ranks))[p.ranks.here]
            own = ids.new_full((further,), -1)
        columns = torch.cat([ids, own]) if keys else own
        given = row_ids(ids), row_ids(gather_rows(columns, every))
    if threshold is not None or guide is not None:

        def skip(left: Tensor, right: Tensor, piece: Piece) -> Pattern:
            bounds = [] if threshold is None else [Bound(left, right, threshold)]
            if guide is not None:
                by = start_gather(guide.b[piece.own], piece.ranks)()
                bounds.append(guide._replace(b=by))
            return pairs_above(bounds)

    return Columns(every, rows, 1, half, ids=given, skip=skip)


def _everything(ranks: Ranks) -> tuple[tuple[int, int], ...]:
    return tuple((0, count) for count in ranks.counts)


def _info_nce(p: Problem) -> Result:
    weight, (smooth, tau_plus, margin, less, relative, hardness) = (
        p.tensors["sample_weight"],
        p.numbers.values(),
    )
    check_weight(p, weight)
    scale = scale_of(p, "temperature").reciprocal()
    target = p.tensors["target"]
    embedded, similarity = candidates(
        p.rows("query"), p.rows("key"), p.tensors["negatives"], target
    )
    positive, count = (similarity - margin) * scale, p.more.n + p.further.n
    by_query, by_key, by_negatives = (p.tensors[name] for name in _GUIDE)
    guide = None if by_query is None or by_key is None else (by_query, by_key, by_negatives)
    directions = tuple(p.choices["directions"].split())
    chosen = Selection(directions, target, guide, less, bool(relative))
    sides, bounds = embedded.sides(directions), chosen.bounds()
    half = multiplies_half(embedded.query, p.half)

    def at(power: float) -> Tensor:
        parts = []
        for name, (rows, others) in sides.items():
            bound = None if bounds is None else Bound(*bounds[0][name], bounds[1])
            columns = _columns(p, half, name, directions, bound)
            found, _ = log_sum_exp(rows, others, power * scale, columns)
            again = name == KEY_TO_QUERY
            parts.append(logaddexp(found, power * positive) if again else found)
        return reduce(logaddexp, parts)

    lse = hardened(at, hardness, None)
    if tau_plus:
        lse = debiased(lse, positive, scale, count - 1, tau_plus)
    rows = one_positive_rows(lse, positive)
    if smooth:
        total = (embedded.query * sum_to_rows(sides[QUERY_TO_KEY][1].sum(0), p.ranks)).sum(1)
        total = total * scale
        rows = rows + smoothing(positive, total, count, smooth)
    return result(p, reduce_rows(p, rows, weight), positive, weight)


def _restored(arguments: dict[str, Any]) -> dict[str, Any]:
    guide = [arguments.pop(name) for name in _GUIDE]
    arguments["guide"] = [x for x in guide if x is not None] or None
    arguments["guide_relative"] = bool(arguments["guide_relative"])
    return {**arguments, "directions": arguments["directions"].split()}


INFO_NCE = Form(
    "info_nce",
    {
        "query": ROWS,
        "key": MORE,
        "temperature": SCALE,
        "sample_weight": ROWS,
        "negatives": FURTHER,
        "target": MORE_OF_ROW,
        "ids": ROWS,
        "negative_ids": FURTHER,
        "threshold": ROWS,
        **dict(zip(_GUIDE, (ROWS, MORE, FURTHER), strict=True)),
    },
    (
        "label_smoothing",
        "tau_plus",
        "margin",
        "guide_margin",
        "guide_relative",
        "hardness",
    ),
    _check_info_nce,
    _info_nce,
    terms=("alignment", "uniformity"),
    choices=("directions",),
    restore=_restored,
)

# ---- MoCo ----


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
    queue = unit_queue(op, queue, query)
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
    half = multiplies_half(u, p.half)
    a, b = as_multiplied(u, half), as_multiplied(queue, half)
    if len(queue) and not false and not hardness and p.reduction != "none":
        row_weight = torch.ones_like(positive) if weight is None else weight
        if p.reduction == "mean":
            of_all = p.ranks.n if weight is None else sum_to_rows(weight.sum(), p.ranks)
            row_weight = row_weight / of_all
        # that of no rows has the collectives of all others behind it too
        own = (positive * row_weight).sum()
        if len(u):
            own = one_positive_total(a, b, scale, positive, row_weight, skip_self=False)
        loss = sum_to_value(own, p.ranks)
    else:
        lse = torch.full_like(positive, -torch.inf)
        if len(u) and len(queue):
            lse = false.reweighted(a, b, scale, hardness)
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

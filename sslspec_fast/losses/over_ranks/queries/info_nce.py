"""InfoNCE of rows that are spread over ranks.

Formulas: the file of the loss. A query has the keys and negatives of all ranks as columns, and
those that are of this query alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from .... import _checks as check
from ...._dtypes import as_multiplied, computed_dtype, stays_wide
from ....primitives.pairwise.common import logaddexp
from ....primitives.pairwise.filtered import Bound, pairs_above
from ....ranks import Ranks, gather_rows, sum_to_rows
from ....ranks.agreement import sample_ids
from ....ranks.differentiable import start_gather
from ....ranks.pieces import Piece
from ..._candidates import (
    KEY_TO_QUERY,
    QUERY_TO_KEY,
    QUERY_TO_QUERY,
    OfEach,
    Selection,
    candidates,
    check_columns,
    check_default,
    check_of_each,
    of_each_query,
    select,
)
from ..._common import numbered, row_ids
from ..._softmax import (
    FalseNegatives,
    check_false_negatives,
    check_margin,
    check_softmax,
    debiased,
    hardened,
    log_weight,
    one_positive_rows,
    smoothing,
    weighed,
    weighed_half,
)
from .._agreed import scale_given
from .._form import FURTHER, MORE, MORE_OF_ROW, ROWS, SCALE, Form, Given, Problem, Result
from .._reduce import check_weight, reduce_rows, result, scale_of
from ..sums.log_sum_exp import Columns, Pattern, log_sum_exp

_GUIDE = "guide of query", "guide of key", "guide of negatives"
_WEIGHTS = "column_weight of key", "column_weight of negatives"
_OF_EACH = "negatives of each query", "negative_ids of each query"


def _check_negatives(
    op: str,
    query: Tensor,
    negatives: Any,
    ids: Any,
    negative_ids: Any,
    threshold: float | Tensor | None,
    guide: object,
) -> dict[str, Tensor | None]:
    """The negatives, and what leaves columns out, by their names in the form."""
    each, own = None, None
    if isinstance(negatives, Tensor) and negatives.dim() == 3:
        own = check_of_each(op, query, negatives, ids, negative_ids, guide)
        each, negatives, negative_ids = negatives, None, None
    elif negatives is not None:
        check.columns(op, "negatives", negatives, "query", query, min_rows=0)
    found = check_false_negatives(op, query, ids, negatives, negative_ids, threshold)
    ids, own_of_shared, threshold = found
    return {
        "negatives": negatives,
        "ids": ids,
        "negative_ids": own_of_shared,
        "threshold": None if threshold is None else threshold.expand(query.shape[0]),
        **dict(zip(_OF_EACH, (each, own), strict=True)),
    }


def _by_part(
    weight: Tensor | None, key: Tensor, negatives: Tensor | None, chosen: Selection
) -> tuple[Tensor | None, Tensor | None]:
    """The weights of the columns that are keys, and of those that are negatives."""
    if weight is None:
        return None, None
    weight = weight.to(computed_dtype(key))
    m = key.shape[0] if chosen.directions else 0
    return weight[:m] if chosen.directions else None, None if negatives is None else weight[m:]


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
    column_weight: Tensor | None,
) -> Given:
    op = "info_nce"
    if target is None:
        check.pair(op, ("query", "key"), query, key, min_rows=0)
    else:
        check.matrix(op, "query", query, min_rows=0)
        check.columns(op, "key", key, "query", query, min_rows=0)
    smooth, tau_plus = check_softmax(op, label_smoothing, tau_plus)
    n = query.shape[0]
    found = _check_negatives(op, query, negatives, ids, negative_ids, threshold, guide)
    by_guide = guide, guide_margin, guide_relative
    chosen = select(op, (query, key, negatives), target, ids, directions, by_guide, hardness)
    false = FalseNegatives(found["ids"], None, found["threshold"])
    false = check_columns(op, false, chosen, column_weight, (query, key, negatives))
    filtered = false.some() or guide is not None
    margin = check_margin(op, margin, filtered, smooth, tau_plus)
    check_default(op, chosen, smooth, tau_plus)
    of_guide = chosen.guide or (None, None, None)
    tensors = {
        "query": query,
        "key": key,
        "temperature": scale_given(op, "temperature", temperature, query),
        "sample_weight": check.sample_weight(op, sample_weight, query, n, "sum"),
        "target": chosen.target,
        **found,
        **dict(zip(_GUIDE, of_guide, strict=True)),
        **dict(zip(_WEIGHTS, _by_part(column_weight, key, negatives, chosen), strict=True)),
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
    p: Problem,
    half: bool,
    direction: str,
    directions: Sequence[str],
    guide: Bound | None,
    unit: Tensor | None,
) -> Columns:
    """The columns of a direction on all ranks, without what the arguments leave out of them.

    unit: (n_r, d) the rows, where those that are multiplied have the feature of `weighed`.
    """
    ids, threshold = p.tensors["ids"], p.tensors["threshold"]
    of_queries = direction == QUERY_TO_KEY
    rows = p.ranks if direction in (QUERY_TO_QUERY, KEY_TO_QUERY) else p.more
    keys = not of_queries or QUERY_TO_KEY in directions
    counts = zip(rows.counts, p.further.counts, strict=True)
    every = rows.with_counts([n * keys + m * of_queries for n, m in counts])
    given, skip = None, None
    if not keys:  # negatives alone: no column has the id of a row
        n, m = p.ranks.counts[p.ranks.rank], p.further.n
        device = p.rows("query").device
        given = torch.zeros(n, device=device).int(), torch.ones(m, device=device).int()
    elif rows is p.more and p.tensors["target"] is not None:
        own = p.rows("target") + rows.here.start
        given = own.int(), sample_ids(rows.counts, _everything(every), 1, own.device)
    if ids is not None:
        own, further = p.tensors["negative_ids"], p.further.counts[p.ranks.rank] * of_queries
        if own is None or not of_queries:  # ids are numbered from 0, so that -1 is none of them
            ids = numbered(gather_rows(ids, p.ranks))[p.ranks.here]
            own = ids.new_full((further,), -1)
        columns = torch.cat([ids, own]) if keys else own
        given = row_ids(ids), row_ids(gather_rows(columns, every))
    if threshold is not None or guide is not None:

        def skip(left: Tensor, right: Tensor, piece: Piece) -> Pattern:
            cosines = (left, right) if unit is None else (unit, right[:, : unit.shape[1]])
            bounds = [] if threshold is None else [Bound(*cosines, threshold)]
            if guide is not None:
                by = start_gather(guide.b[piece.own], piece.ranks)()
                bounds.append(guide._replace(b=by))
            return pairs_above(bounds)

    return Columns(every, rows, 1, half, ids=given, skip=skip)


def _everything(ranks: Ranks) -> tuple[tuple[int, int], ...]:
    return tuple((0, count) for count in ranks.counts)


def _log_weight(p: Problem) -> Tensor | None:
    """Of this rank's keys and then of its negatives."""
    given = [p.tensors[name] for name in _WEIGHTS]
    parts = [log_weight(x) for x in given if x is not None]
    return torch.cat(parts) if parts else None


def _negatives_of_each(p: Problem, query: Tensor) -> OfEach | None:
    """query: (n_r, d) unit rows."""
    each, own = (p.tensors[name] for name in _OF_EACH)
    false = FalseNegatives(p.tensors["ids"], None, p.tensors["threshold"])
    return None if each is None else of_each_query(query, each, false, own)


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
    factors, of_each = _log_weight(p), _negatives_of_each(p, embedded.query)
    half = p.half

    def at(power: float) -> Tensor:
        parts = [] if of_each is None else [of_each.lse(scale, power)]
        for name, (rows, others) in sides.items():
            bound = None if bounds is None else Bound(*bounds[0][name], bounds[1])
            a, b, unit, c, narrow = rows, others, None, power * scale, half
            if factors is not None:
                narrow = stays_wide(rows, half)
                a, b = as_multiplied(rows, half), as_multiplied(others, half)
                unit = a.detach()
                a, b, c = (weighed_half if narrow else weighed)(a, b, scale, factors, power)
            columns = _columns(p, narrow, name, directions, bound, unit)
            found, _ = log_sum_exp(a, b, c, columns)
            again = name == KEY_TO_QUERY
            parts.append(logaddexp(found, power * positive) if again else found)
        return reduce(logaddexp, parts)

    lse = hardened(at, hardness, None)
    count += 0 if of_each is None else of_each.cosines.shape[1]
    if tau_plus:
        lse = debiased(lse, positive, scale, count - 1, tau_plus)
    rows = one_positive_rows(lse, positive)
    if smooth:
        total = (embedded.query * sum_to_rows(sides[QUERY_TO_KEY][1].sum(0), p.ranks)).sum(1)
        total = total if of_each is None else total + of_each.cosines.sum(1)
        rows = rows + smoothing(positive, total * scale, count, smooth)
    return result(p, reduce_rows(p, rows, weight), positive, weight)


def _restored(arguments: dict[str, Any]) -> dict[str, Any]:
    guide = [arguments.pop(name) for name in _GUIDE]
    arguments["guide"] = [x for x in guide if x is not None] or None
    arguments["guide_relative"] = bool(arguments["guide_relative"])
    weights = [arguments.pop(name) for name in _WEIGHTS]
    parts = [x for x in weights if x is not None]
    arguments["column_weight"] = torch.cat(parts) if parts else None
    each, own = (arguments.pop(name) for name in _OF_EACH)
    if each is not None:
        arguments |= {"negatives": each, "negative_ids": own}
    return {**arguments, "directions": arguments["directions"].split()}


INFO_NCE = Form(
    "info_nce",
    {
        "query": ROWS,
        "key": MORE,
        "temperature": SCALE,
        "sample_weight": ROWS,
        "target": MORE_OF_ROW,
        "negatives": FURTHER,
        "ids": ROWS,
        "negative_ids": FURTHER,
        "threshold": ROWS,
        **dict.fromkeys(_OF_EACH, ROWS),
        **dict(zip(_GUIDE, (ROWS, MORE, FURTHER), strict=True)),
        **dict(zip(_WEIGHTS, (MORE, FURTHER), strict=True)),
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

"""KoLeo of rows that are spread over ranks.

The unit rows of all ranks are gathered; a rank looks for the neighbours of its own rows, and what
pushes a neighbour is sent to the rank of that row: N d numbers each way.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...primitives.pairwise.nearest import nearest
from ...ranks import gather_rows, sum_to_value
from ...ranks.differentiable import sum_over_ranks
from .._koleo import check_koleo, check_neighbours, mean_log_distances, unit_or_shorter
from ._form import ROWS, Form, Given, Problem, Result


def _check_koleo(
    z: Tensor, k: int, ids: Any, group_size: int | None, eps: float, reduction: str
) -> Given:
    k, ids, group_size, eps = check_koleo(z, k, ids, group_size, eps, min_rows=0)
    return Given({"z": z, "ids": ids}, {"k": k, "group_size": group_size or 0, "eps": eps})


def _koleo(p: Problem) -> Result:
    k, group_size, eps = p.numbers.values()
    z, ids = p.rows("z"), p.tensors["ids"]
    u = unit_or_shorter(z, eps) if len(z) else z
    if group_size:  # consecutive rows of one rank
        every, index = u, nearest(u, int(k), ids=ids, group=int(group_size))
    else:
        check_neighbours(int(k), p.ranks.n)
        every = gather_rows(u, p.ranks)
        ids = None if ids is None else gather_rows(ids, p.ranks)
        index = nearest(every, int(k), ids=ids, rows=p.ranks.here)
    values, found = mean_log_distances(u, every, index, eps)
    if p.reduction == "none":
        return values, ()
    total = sum_to_value(values.sum(), p.ranks)
    if p.reduction == "sum":
        return total, ()
    return total / sum_over_ranks(found.sum().to(total), p.ranks).clamp(min=1), ()


def _group_size_of(arguments: dict[str, Any]) -> dict[str, Any]:
    return {**arguments, "group_size": arguments["group_size"] or None}


KOLEO = Form(
    "koleo",
    {"z": ROWS, "ids": ROWS},
    ("k", "group_size", "eps"),
    _check_koleo,
    _koleo,
    min_rows=2,
    restore=_group_size_of,
)

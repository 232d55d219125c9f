"""Column means and Sinkhorn's iteration of rows that are spread over ranks.

Formulas: `losses._column_bias`. For a mean the sums of the rows travel, d numbers; in a round of
Sinkhorn's iteration a log-sum-exp for each prototype, k numbers of each rank.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .... import _checks as check
from ....ranks.differentiable import sum_over_ranks
from ..._prototypes import check_heads
from ..._sinkhorn import STARTS, balance, scaled
from .._form import COPY, ROWS, Form, Given, Problem, Result
from ._loss import options_of, over_columns


def _tensors(
    op: str, rows: Tensor, prototypes: Tensor | None, weight: Tensor | None
) -> dict[str, Tensor | None]:
    check_heads(op, rows, rows, prototypes, None, min_rows=0)
    return {
        "rows": rows.detach(),
        "prototypes": None if prototypes is None else prototypes.detach(),
        "sample_weight": check.sample_weight(op, weight, rows, rows.shape[0], "sum"),
    }


def _columns(rows: Tensor, prototypes: Tensor | None = None, *_: Tensor | None) -> Sequence[int]:
    return (rows.shape[1] if prototypes is None else prototypes.shape[0],)


def _total_weight(p: Problem) -> Tensor:
    """The number of rows, or the sum of their weights."""
    weight = p.tensors["sample_weight"]
    return p.rows("rows").new_tensor(len(p.rows("rows"))) if weight is None else weight.sum()


def _check_weight(p: Problem, total: Tensor) -> None:
    if total.device.type == "cpu" and not float(total) > 0:
        raise ValueError(
            f"{p.op}: sample_weight must have a positive sum over all ranks, got {float(total):g}"
        )


# ---- means ----


def _check_mean(
    rows: Tensor, prototypes: Tensor | None, normalize: bool, sample_weight: Tensor | None
) -> Given:
    tensors = _tensors("column_mean", rows, prototypes, sample_weight)
    return Given(tensors, {"normalize": float(normalize)})


def _mean(p: Problem) -> Result:
    weight = p.tensors["sample_weight"]
    x, w = scaled(p.rows("rows"), p.tensors["prototypes"], bool(p.numbers["normalize"]))
    total = (x if weight is None else x * weight[:, None]).sum(0)
    sums = sum_over_ranks(torch.cat([total, _total_weight(p)[None]]), p.ranks)
    _check_weight(p, sums[-1])
    mean = sums[:-1] / sums[-1]
    return mean if w is None else w @ mean, ()


COLUMN_MEAN = Form(
    "column_mean",
    {"rows": ROWS, "prototypes": COPY, "sample_weight": ROWS},
    ("normalize",),
    _check_mean,
    _mean,
    shape=_columns,
    reduction="none",
    reduces=False,
    restore=options_of,
)

# ---- Sinkhorn's iteration ----


def _check_sinkhorn(
    rows: Tensor,
    prototypes: Tensor | None,
    temperature: float,
    iterations: int,
    start: str,
    normalize: bool,
    sample_weight: Tensor | None,
) -> Given:
    op = "sinkhorn_bias"
    tensors = _tensors(op, rows, prototypes, sample_weight)
    check.choice(op, "start", start, STARTS)
    numbers = {
        "temperature": check.number(op, "temperature", temperature, low=0.0, strict=True),
        "iterations": float(check.count(op, "iterations", iterations, 0)),
        "normalize": float(normalize),
    }
    return Given(tensors, numbers, choices={"start": start})


def _sinkhorn(p: Problem) -> Result:
    temperature, iterations, normalize = p.numbers.values()
    weight = p.tensors["sample_weight"]
    if weight is not None:
        _check_weight(p, sum_over_ranks(weight.sum(), p.ranks))
    x, w = scaled(p.rows("rows"), p.tensors["prototypes"], bool(normalize))
    merge = over_columns(p.ranks)
    return balance(x, w, temperature, int(iterations), p.choices["start"], weight, merge), ()


SINKHORN_BIAS = Form(
    "sinkhorn_bias",
    {"rows": ROWS, "prototypes": COPY, "sample_weight": ROWS},
    ("temperature", "iterations", "normalize"),
    _check_sinkhorn,
    _sinkhorn,
    choices=("start",),
    shape=_columns,
    reduction="none",
    reduces=False,
    restore=options_of,
)

"""Sinkhorn's iteration on the logits of rows and prototypes: column_bias has the formulas."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .._dtypes import widen
from ..primitives import pairwise
from ..primitives.rows.unit_rows import unit_rows

STARTS = ("zero", "rows")
_KEPT = 1 << 23  # logits that are kept: 32 MiB in float32


def balance(
    x: Tensor,
    w: Tensor | None,
    temperature: float,
    iterations: int,
    start: str,
    weight: Tensor | None = None,
    over_columns: Callable[[Tensor], Tensor] = lambda lse: lse,
) -> Tensor:
    """(k,) the bias of scaled rows x (m, d) and prototypes w, or of logits x (m, k) without w.

    weight: (m,), as `sample_weight` of `sinkhorn_bias`.
    over_columns: takes log-sum-exps of columns (k,) over the rows of one rank, and returns those
        over the rows of all ranks.
    """
    x = x / temperature
    k = x.shape[1] if w is None else w.shape[0]
    logs = x.new_zeros(x.shape[0]) if weight is None else weight.log()
    logits: _Kept | _Recomputed
    if w is None or x.shape[0] * k <= _KEPT:
        with torch.autocast(x.device.type, enabled=False):
            logits = _Kept(x if w is None else x @ w.T)
    else:
        logits = _Recomputed(x, w)
    v = x.new_zeros(k)
    for i in range(iterations):
        r = logits.of_rows(-v) if i or start == "rows" else 0.0
        v = over_columns(logits.of_columns(logs - r))
    return -v


def scaled(
    rows: Tensor, prototypes: Tensor | None, normalize: bool
) -> tuple[Tensor, Tensor | None]:
    x = widen(rows)
    if prototypes is None:
        return x, None
    w = widen(prototypes).to(x.dtype)
    return (unit_rows(x), unit_rows(w)) if normalize else (x, w)


class _Kept:
    """The log-sum-exps of stored logits."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def of_columns(self, plus: Tensor) -> Tensor:
        return torch.logsumexp(self.logits + plus[:, None], 0)

    def of_rows(self, plus: Tensor) -> Tensor:
        return torch.logsumexp(self.logits + plus, 1)


class _Recomputed:
    """The log-sum-exps of products, what is added to them being one more feature."""

    def __init__(self, x: Tensor, w: Tensor) -> None:
        one = x.new_ones(())
        self.x, self.w, self.scale = _with_column(x, one), _with_column(w, one), one

    def of_columns(self, plus: Tensor) -> Tensor:
        return pairwise.lse(self.w, _with_column(self.x[:, :-1], plus), self.scale)[0]

    def of_rows(self, plus: Tensor) -> Tensor:
        return pairwise.lse(self.x, _with_column(self.w[:, :-1], plus), self.scale)[0]


def _with_column(x: Tensor, column: Tensor) -> Tensor:
    return torch.cat([x, column.expand(x.shape[0])[:, None]], 1)

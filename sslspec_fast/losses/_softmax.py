"""Rows of the softmax family with one positive: -log(e^p / (e^p + sum over negatives e^s)).

The positive logit never enters the dense log-sum-exp. With a = log sum over negatives, the row is
softplus(a - p): the derivative is the probability of a mistake, so the rounding of two large,
nearly equal numbers is never amplified, however small the temperature.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _checks as check
from ..primitives import pairwise
from ..primitives.pairwise.filtered import Bound
from ._common import numbered, row_ids


def check_softmax(op: str, label_smoothing: float, tau_plus: float) -> tuple[float, float]:
    """label_smoothing and tau_plus in [0, 1), at most one of them in use."""
    label_smoothing = check.fraction(op, "label_smoothing", label_smoothing)
    tau_plus = check.fraction(op, "tau_plus", tau_plus)
    if label_smoothing and tau_plus:
        raise ValueError(
            f"{op}: label_smoothing and tau_plus exclude each other, "
            f"got {label_smoothing} and {tau_plus}"
        )
    return label_smoothing, tau_plus


class FalseNegatives(NamedTuple):
    """Columns that are no negatives of a row: those with its id, or above its bound, of their
    cosine or of the cosine that a guide gives them.
    """

    ids: Tensor | None  # (n,) int64
    column_ids: Tensor | None  # (m,) int64
    threshold: Tensor | None  # () or (n,)
    guide: Bound | None = None

    def __bool__(self) -> bool:
        return self.ids is not None or self.threshold is not None or self.guide is not None

    def by_part(self, n: int) -> tuple[Tensor, Tensor, Tensor | None] | None:
        """Ids of rows, of n columns and of the further ones, if any."""
        if self.ids is None or self.column_ids is None:
            return None
        further = self.column_ids[n:]
        return self.ids, self.column_ids[:n], further if further.shape[0] else None

    def lse(
        self,
        rows: Tensor,
        columns: Tensor,
        scale: Tensor,
        own: bool | Tensor,
        half: bool = False,
    ) -> Tensor:
        """(n,) log sum of exp(scale_i rows_i . columns_j) over the negatives of a row.

        own: (n,) a further column of each row that is none; True: i of row i, False: no column.
        half: as in `pairwise.lse`.
        """
        ids_a = None if self.ids is None else row_ids(self.ids)
        ids_b = None if self.column_ids is None else row_ids(self.column_ids)
        left_out = pairwise.LeftOut(ids_a, ids_b, self_pairs=own is True)
        if isinstance(own, Tensor):
            indptr = torch.arange(own.shape[0] + 1, device=own.device)
            left_out = left_out._replace(indptr=indptr, indices=own)
        if self.threshold is None and self.guide is None:
            return pairwise.lse(rows, columns, scale, left_out, half=half)[0]
        return pairwise.lse_below(rows, columns, scale, self.threshold, left_out, self.guide)


def false_negatives(
    op: str,
    query: Tensor,
    ids: Any,
    negatives: Tensor | None,
    negative_ids: Any,
    threshold: float | Tensor | None,
) -> FalseNegatives:
    """What the ids of n rows, keys alike, and of further columns say, and a threshold."""
    ids, own, threshold = check_false_negatives(op, query, ids, negatives, negative_ids, threshold)
    if ids is None or negatives is None:
        return FalseNegatives(ids, ids, threshold)
    if own is None:
        ids = numbered(ids)  # 0 ... n - 1, so that -1 is none of them
        own = ids.new_full((negatives.shape[0],), -1)
    return FalseNegatives(ids, torch.cat([ids, own]), threshold)


def check_false_negatives(
    op: str,
    query: Tensor,
    ids: Any,
    negatives: Tensor | None,
    negative_ids: Any,
    threshold: float | Tensor | None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """ids, negative_ids and threshold."""
    n, own = query.shape[0], None
    if negative_ids is not None and (ids is None or negatives is None):
        missing = "ids" if ids is None else "negatives"
        raise ValueError(f"{op}: negative_ids need {missing}, got None")
    if ids is not None:
        ids = check.ids(op, ids, query, n)
    if negative_ids is not None and negatives is not None:
        own = check.ids(op, negative_ids, query, negatives.shape[0], "negative_ids")
    if threshold is not None:
        threshold = check.threshold(op, threshold, query, n)
    return ids, own, threshold


def check_margin(
    op: str, margin: float, false: bool, label_smoothing: float, tau_plus: float
) -> float:
    """margin >= 0; it and what leaves columns out go without smoothing and debiasing."""
    margin = check.number(op, "margin", margin, low=0.0)
    if (margin or false) and (label_smoothing or tau_plus):
        raise ValueError(
            f"{op}: margin, ids, threshold and guide go without label_smoothing and tau_plus, "
            f"got label_smoothing={label_smoothing}, tau_plus={tau_plus}"
        )
    return margin


def one_positive_rows(negatives: Tensor, positive: Tensor) -> Tensor:
    """softplus(negatives - positive); exact for negatives = -inf (no negative at all)."""
    return -F.logsigmoid(positive - negatives)


def debiased(
    negatives: Tensor, positive: Tensor, scale: Tensor, count: int | Tensor, tau_plus: float
) -> Tensor:
    """log of the debiased sum over negatives (Chuang et al. 2020, arXiv 2007.00224, eq. 8).

    A fraction tau_plus of the count negatives is taken to be of the anchor's own class, and the
    positive says what those look like: (S - tau_plus count e^p) / (1 - tau_plus), at least
    count e^-scale, the smallest value that unit rows allow. An anchor without negatives has S = 0
    and nothing to correct: its -inf stays, and has no gradient.
    """
    count = torch.as_tensor(count, dtype=negatives.dtype, device=negatives.device)
    none = count == 0
    count = torch.where(none, 1, count)
    given = torch.where(none, positive, negatives)
    highest = -torch.log(count * tau_plus)  # from here on, nothing would be left
    ratio = torch.exp(torch.minimum(positive - given, highest)) * (count * tau_plus)
    left = (1 - ratio).clamp_min(torch.finfo(ratio.dtype).tiny)
    estimate = given + left.log() - math.log1p(-tau_plus)
    return torch.where(none, negatives, torch.maximum(estimate, torch.log(count) - scale))


def smoothing(positive: Tensor, total: Tensor, count: int, label_smoothing: float) -> Tensor:
    """What label smoothing adds to a row: eps (p - mean logit), over count logits of sum total."""
    return label_smoothing * (positive - total / count)

"""Rows of the softmax family with one positive: -log(e^p / (e^p + sum over negatives e^s)).

The positive logit never enters the dense log-sum-exp. With a = log sum over negatives, the row is
softplus(a - p): the derivative is the probability of a mistake, so the rounding of two large,
nearly equal numbers is never amplified, however small the temperature.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _checks as check
from .._dtypes import computed_dtype, stays_wide
from ..primitives import pairwise
from ..primitives.pairwise.filtered import Bound
from ._common import numbered, row_ids

# log of the weight 0: below every logit, and its square is a float32
_NO_WEIGHT = -1e15


def check_softmax(op: str, label_smoothing: float, tau_plus: float) -> tuple[float, float]:
    """label_smoothing and tau_plus in [0, 1), at most one of them in use."""
    if type(label_smoothing) is type(tau_plus) is float and label_smoothing == tau_plus == 0:
        return label_smoothing, tau_plus
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
    cosine or of the cosine that a guide gives them; and what the others count.
    """

    ids: Tensor | None  # (n,) int64
    column_ids: Tensor | None  # (m,) int64
    threshold: Tensor | None  # () or (n,)
    guide: Bound | None = None
    log_weight: Tensor | None = None  # (m,)

    def some(self) -> bool:
        """Whether a column is left out or weighed."""
        by_cosine = self.threshold is not None or self.guide is not None
        return self.ids is not None or by_cosine or self.log_weight is not None

    def by_part(
        self, n: int, of_each: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None] | None:
        """Ids of rows, of n columns and of the further ones, if any, or of those of each row."""
        if self.ids is None or self.column_ids is None:
            return None
        further = self.column_ids[n:] if of_each is None else of_each
        return self.ids, self.column_ids[:n], further if further.shape[0] else None

    def lse(
        self,
        rows: Tensor,
        columns: Tensor,
        scale: Tensor,
        own: bool | Tensor,
        half: bool = False,
        power: float = 1.0,
    ) -> Tensor:
        """(n,) log sum of w_j exp(power scale_i rows_i . columns_j) over the negatives of a row.

        own: (n,) a further column of each row that is none; True: i of row i, False: no column.
        half: as in `pairwise.lse`.
        """
        ids_a = None if self.ids is None else row_ids(self.ids)
        ids_b = None if self.column_ids is None else row_ids(self.column_ids)
        starts = ends = None
        if isinstance(own, Tensor):
            starts, ends = torch.arange(own.shape[0] + 1, device=own.device), own
        left_out = pairwise.LeftOut(ids_a, ids_b, starts, ends, self_pairs=own is True)
        threshold, guide = self.threshold, self.guide
        if self.log_weight is None:
            scale = scale if power == 1 else power * scale
        else:
            if threshold is not None:
                guide = Bound(rows.detach(), columns.detach(), threshold)
            given, half = (rows, columns, scale, self.log_weight, power), stays_wide(rows, half)
            rows, columns, scale = (weighed_half if half else weighed)(*given)
            threshold = None
        if threshold is None and guide is None:
            return pairwise.lse(rows, columns, scale, left_out, half=half)[0]
        return pairwise.lse_below(rows, columns, scale, threshold, left_out, guide, half=half)

    def reweighted(
        self, rows: Tensor, columns: Tensor, scale: Tensor, hardness: float, half: bool = False
    ) -> Tensor:
        """`lse` of all columns as negatives, harder ones weighing more; see `hardened`."""
        count = None if self.some() else columns.shape[0]
        return hardened(
            lambda power: self.lse(rows, columns, scale, False, half, power), hardness, count
        )


Weighed = tuple[Tensor, Tensor, Tensor]


def weighed(
    rows: Tensor, columns: Tensor, scale: Tensor, log_weight: Tensor, power: float
) -> Weighed:
    """a, b and the scale c with one feature more:
    c_i a_i . b_j = power scale_i rows_i . columns_j + log w_j. In the dtype of the scale, because
    half precision would round the logarithm.
    """
    inverse = scale.reciprocal().expand(rows.shape[0])[:, None]
    a = torch.cat([power * rows.to(scale.dtype), inverse], 1)
    return a, torch.cat([columns.to(scale.dtype), log_weight[:, None]], 1), scale


def weighed_half(
    rows: Tensor, columns: Tensor, scale: Tensor, log_weight: Tensor, power: float
) -> Weighed:
    """The same with three features more, for rows that are rounded to bfloat16: the logarithm in
    three parts that are not changed by that, against ones. The scale is in the rows.
    """
    a = power * (scale if scale.dim() == 0 else scale[:, None]) * rows
    parts, left = [], log_weight
    for _ in range(3):
        parts.append(left.bfloat16().to(left.dtype))
        left = left - parts[-1]
    ones = a.new_ones(()).expand(a.shape[0], 3)
    b = torch.cat([columns.to(scale.dtype), torch.stack(parts, 1)], 1)
    return torch.cat([a, ones], 1), b, scale.new_ones(())


def check_column_weight(
    op: str, weight: Any, like: Tensor, m: int, false: FalseNegatives, guided: bool = False
) -> FalseNegatives:
    """The same with a factor of each of m columns: (m,) finite and >= 0, without a gradient."""
    if weight is None:
        return false
    if not isinstance(weight, Tensor):
        raise check.not_a_tensor(op, "column_weight", weight)
    check.dense(op, "column_weight", weight)
    check.refuse_grad(op, "column_weight", weight.requires_grad, "detach it")
    if weight.shape != (m,):
        raise ValueError(
            f"{op}: column_weight must have a number for each of the {m} columns, "
            f"got {tuple(weight.shape)}"
        )
    if weight.device != like.device:
        raise ValueError(
            f"{op}: column_weight must be on the device of query, {like.device}, "
            f"got {weight.device}"
        )
    if false.threshold is not None and guided:
        raise ValueError(f"{op}: column_weight goes with a threshold or a guide, got both")
    if check.readable(weight):
        bad = weight[~((weight >= 0) & weight.isfinite())]
        if bad.numel():
            raise ValueError(f"{op}: column_weight must be finite and >= 0, got {bad[0].item()}")
    return FalseNegatives(*false[:4], log_weight(weight.to(computed_dtype(like))))


def log_weight(weight: Tensor) -> Tensor:
    """Logarithms of the factors of columns: finite, of 0 too."""
    return weight.log().clamp_min(_NO_WEIGHT)


def hardened(lse: Callable[[float], Tensor], hardness: float, count: int | None) -> Tensor:
    r"""(n,) log of the sum over negatives whose factors e^(b s), of mean 1, favour hard ones.

    .. math::
        \log \sum_j w_j \frac{\sum_k w_k}{\sum_k w_k e^{b s_{ik}}} e^{(1 + b) s_{ij}}

    (Robinson et al. 2021, arXiv 2010.04592, section 4).

    lse: of a power p, log sum of w_j e^(p s_ij) over the negatives.
    count: of the negatives of every row, where they all have the weight 1.
    """
    if not hardness:
        return lse(1.0)
    hard, base = lse(1 + hardness), lse(hardness)
    total = math.log(max(1, count)) if count is not None else lse(0.0).detach()
    none = torch.isneginf(base)  # a row without negatives
    return torch.where(none, base, hard - torch.where(none, 0.0, base) + total)


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
    """margin >= 0; it and what leaves columns out or weighs them go without smoothing and
    debiasing.
    """
    margin = check.number(op, "margin", margin, low=0.0)
    if (margin or false) and (label_smoothing or tau_plus):
        raise ValueError(
            f"{op}: margin, ids, threshold, guide and column_weight go without label_smoothing "
            f"and tau_plus, got label_smoothing={label_smoothing}, tau_plus={tau_plus}"
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

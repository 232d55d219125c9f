"""The candidates of InfoNCE: which pairs of a batch are logits, and which a guide leaves out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _checks as check
from .._dtypes import is_half, products, widen
from ..fused import guided
from ..primitives.pairwise.common import logaddexp
from ..primitives.pairwise.filtered import Bound
from ..primitives.rows.unit_rows import paired_rows, unit_rows
from ._common import numbered, rows_at, self_lse
from ._softmax import FalseNegatives, check_column_weight, false_negatives, hardened

QUERY_TO_KEY, QUERY_TO_QUERY, KEY_TO_KEY, KEY_TO_QUERY = check.DIRECTIONS


class Candidates(NamedTuple):
    """Unit rows by their part in the batch: embeddings, or what a guide has in their place.

    query: (n, d). key: (m, d). own: (n, d) the key of each query. negatives: (l, d) or None.
    """

    query: Tensor
    key: Tensor
    own: Tensor
    negatives: Tensor | None

    def sides(self, directions: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
        """Rows and columns of each direction; the negatives are further columns of the queries."""
        columns = [self.key] if QUERY_TO_KEY in directions else []
        columns += [] if self.negatives is None else [self.negatives]
        found = {}
        if columns:
            found[QUERY_TO_KEY] = self.query, torch.cat(columns) if columns[1:] else columns[0]
        for name, rows, others in (
            (QUERY_TO_QUERY, self.query, self.query),
            (KEY_TO_KEY, self.own, self.key),
            (KEY_TO_QUERY, self.own, self.query),
        ):
            if name in directions:
                found[name] = rows, others
        return found


def candidates(
    query: Tensor, key: Tensor, negatives: Tensor | None, target: Tensor | None
) -> tuple[Candidates, Tensor]:
    """Unit rows, and the cosine of each query and its key."""
    extra = None if negatives is None else unit_rows(negatives)
    if target is None:
        u, v, cosine = paired_rows(query, key)
        return Candidates(u, v, v, extra), cosine
    u, v = unit_rows(query), unit_rows(key)
    own = rows_at(v, target)
    return Candidates(u, v, own, extra), (u * own).sum(1)


class Selection(NamedTuple):
    """Which pairs are logits, as the arguments of `info_nce` of these names say.

    guide: (n, e), (m, e) and (l, e) or None.
    """

    directions: tuple[str, ...]
    target: Tensor | None
    guide: tuple[Tensor, Tensor, Tensor | None] | None
    guide_margin: float
    guide_relative: bool
    hardness: float = 0.0

    def own_keys(self) -> bool | Tensor:
        """The key of each query, which is no negative: True for that of its number."""
        return True if self.target is None else self.target

    def only_columns(self) -> bool:
        """Whether all rows are queries, and their keys, if they are columns, those of their number:
        what needs no log-sum-exp but one.
        """
        return self.target is None and all(name == QUERY_TO_KEY for name in self.directions)

    def guided(self) -> tuple[Candidates, Tensor] | None:
        """Unit rows of the guide, and (n,) what their cosines may be: that of a query and its key,
        less the margin, or less that share of its absolute value.
        """
        if self.guide is None:
            return None
        query, key, more = self.guide
        extra = None if more is None else widen(more.detach())
        rows, of_pair = candidates(widen(query.detach()), widen(key.detach()), extra, self.target)
        less = self.guide_margin * (of_pair.abs() if self.guide_relative else 1.0)
        return rows, of_pair - less

    def bounds(self) -> tuple[dict[str, tuple[Tensor, Tensor]], Tensor] | None:
        """The same on both sides of each direction."""
        found = self.guided()
        return None if found is None else (found[0].sides(self.directions), found[1])

    def guided_total(
        self, rows: Candidates, scale: Tensor, positive: Tensor, weight: Tensor, like: Tensor
    ) -> Tensor | None:
        """The sum of the losses of the rows times (n,) weights, where a guide alone leaves out
        columns and one operator takes all directions; else None.
        """
        if self.guide is None or self.target is not None or self.hardness:
            return None
        if not guided.fits(rows.query, widen(self.guide[0]), scale, is_half(like)):
            return None
        found = self.guided()
        assert found is not None
        by, bound = found
        sides = [guided.Side(rows.query, by.query), guided.Side(rows.key, by.key)]
        if rows.negatives is not None and by.negatives is not None:
            sides.append(guided.Side(rows.negatives, by.negatives))
        return guided.guided_total(sides, self.directions, bound, scale, positive, weight)

    def lse(
        self,
        sides: dict[str, tuple[Tensor, Tensor]],
        scale: Tensor,
        positive: Tensor,
        false: FalseNegatives,
        like: Tensor,
        of_each: OfEach | None = None,
    ) -> Tensor:
        """(n,) log-sum-exp over all columns of a row but its positive, harder ones weighing more.

        positive: (n,) the logits of the positives, which KEY_TO_QUERY has once more as columns.
        false: with column ids of the keys and the negatives. like: whose dtype is multiplied.
        of_each: negatives of each query alone.
        """
        own: dict[str, bool | Tensor] = {
            QUERY_TO_KEY: self.own_keys() if QUERY_TO_KEY in self.directions else False,
            QUERY_TO_QUERY: True,
            KEY_TO_KEY: self.own_keys(),
            KEY_TO_QUERY: True,
        }
        guide = self.bounds()

        def at(power: float) -> Tensor:
            parts = [] if of_each is None else [of_each.lse(scale, power)]
            for name, (rows, columns) in sides.items():
                bound = None if guide is None else Bound(*guide[0][name], guide[1])
                ids = false.ids
                if name == QUERY_TO_KEY and false.column_ids is not None:
                    ids = false.column_ids[false.column_ids.shape[0] - columns.shape[0] :]
                left_out = FalseNegatives(false.ids, ids, false.threshold, bound, false.log_weight)
                if rows is columns and not left_out.some():
                    lse = self_lse(products(rows, like), power * scale, None, is_half(like))
                else:
                    a, b = products(rows, like), products(columns, like)
                    lse = left_out.lse(a, b, scale, own[name], is_half(like), power)
                parts.append(logaddexp(lse, power * positive) if name == KEY_TO_QUERY else lse)
            return reduce(logaddexp, parts)

        some = false.some() or guide is not None
        return hardened(at, self.hardness, None if some else self._count(sides, own, of_each))

    @staticmethod
    def _count(
        sides: dict[str, tuple[Tensor, Tensor]],
        own: dict[str, bool | Tensor],
        of_each: OfEach | None,
    ) -> int:
        """Columns of a row, none of which is left out."""
        count = 0 if of_each is None else of_each.cosines.shape[1]
        for name, (_, columns) in sides.items():
            count += columns.shape[0] - (own[name] is not False) + (name == KEY_TO_QUERY)
        return count


class OfEach(NamedTuple):
    """Negatives of one query each: their cosines, and those that are left out, (n, l)."""

    cosines: Tensor
    false: Tensor | None

    def lse(self, scale: Tensor, power: float) -> Tensor:
        c = power * scale
        logits = self.cosines * (c if c.dim() == 0 else c[:, None])
        if self.false is not None:
            logits = logits.masked_fill(self.false, -torch.inf)
        return logits.logsumexp(1)


def of_each_query(
    query: Tensor, negatives: Tensor, false: FalseNegatives, ids: Tensor | None
) -> OfEach:
    """query: (n, d) unit rows. negatives: (n, l, d). ids: theirs, (n, l), where rows have ids."""
    n, length, d = negatives.shape
    rows = unit_rows(widen(negatives).reshape(n * length, d)).view(n, length, d)
    cosines = (rows * query[:, None]).sum(2)  # a matrix product would follow autocast
    left_out = None
    if false.threshold is not None:
        left_out = cosines.detach() > false.threshold.reshape(-1, 1)
    if ids is not None and false.ids is not None:
        same = ids == false.ids[:, None]
        left_out = same if left_out is None else left_out | same
    return OfEach(cosines, left_out)


def select(
    op: str,
    rows: tuple[Tensor, Tensor, Tensor | None],
    target: Any,
    ids: object,
    directions: Any,
    guide: tuple[Any, float, bool],
    hardness: float = 0.0,
) -> Selection:
    """The checked arguments. rows: query, key and negatives. guide: with its margin, and whether
    that is relative.
    """
    given, margin, relative = guide
    return Selection(
        _directions(op, directions, rows[2]),
        _target(op, target, rows[0], rows[1], ids),
        _guide(op, given, rows, margin, relative),
        check.number(op, "guide_margin", margin),
        bool(relative),
        check.number(op, "hardness", hardness, low=0.0),
    )


def check_of_each(
    op: str, query: Tensor, negatives: Tensor, ids: Any, negative_ids: Any, guide: object
) -> Tensor | None:
    """negatives: (n, l, d). Their ids, (n, l), if they have some."""
    n, d = query.shape
    check.dense(op, "negatives", negatives)
    if negatives.shape[0] != n or negatives.shape[2] != d or not negatives.shape[1]:
        raise ValueError(
            f"{op}: negatives of each query must be ({n}, l, {d}), l >= 1, "
            f"got {tuple(negatives.shape)}"
        )
    check.same_kind(op, "negatives", negatives, "query", query)
    if guide is not None:
        raise ValueError(f"{op}: guide goes with negatives (l, d), got {tuple(negatives.shape)}")
    if negative_ids is None:
        return None
    if ids is None:
        raise ValueError(f"{op}: negative_ids need ids, got None")
    given = negative_ids if isinstance(negative_ids, Tensor) else torch.as_tensor(negative_ids)
    if given.shape != negatives.shape[:2]:
        raise ValueError(
            f"{op}: negative_ids must be {tuple(negatives.shape[:2])}, one for each of "
            f"negatives, got {tuple(given.shape)}"
        )
    own = check.ids(op, given.reshape(-1), query, given.numel(), "negative_ids")
    return own.view(given.shape)


def false_of_each(
    op: str,
    query: Tensor,
    negatives: Tensor,
    ids: Any,
    negative_ids: Any,
    threshold: float | Tensor | None,
    guide: object,
) -> tuple[FalseNegatives, Tensor | None]:
    """negatives: (n, l, d). What ids of the rows and a threshold say, and with ids (n, l) those of
    the negatives.
    """
    own = check_of_each(op, query, negatives, ids, negative_ids, guide)
    false = false_negatives(op, query, ids, None, None, threshold)
    if false.ids is not None and own is None:
        ids = numbered(false.ids)  # 0 ... n - 1, so that -1 is none of them
        return FalseNegatives(ids, ids, false.threshold), ids.new_full(negatives.shape[:2], -1)
    return false, own


def check_columns(
    op: str,
    false: FalseNegatives,
    chosen: Selection,
    weight: Any,
    rows: tuple[Tensor, Tensor, Tensor | None],
) -> FalseNegatives:
    """The same with the column weights, which are those of keys and negatives."""
    if weight is None:
        return false
    query, key, negatives = rows
    if not set(chosen.directions) <= {QUERY_TO_KEY}:
        raise ValueError(
            f"{op}: column_weight needs directions=('{QUERY_TO_KEY}',) or (), "
            f"got {chosen.directions}"
        )
    if negatives is not None and negatives.dim() == 3:
        raise ValueError(
            f"{op}: column_weight goes with negatives (l, d), got {tuple(negatives.shape)}"
        )
    m = key.shape[0] if chosen.directions else 0
    m += 0 if negatives is None else negatives.shape[0]
    return check_column_weight(op, weight, query, m, false, chosen.guide is not None)


def check_default(op: str, chosen: Selection, label_smoothing: float, tau_plus: float) -> None:
    """Both count the keys as columns, and nothing else of the batch; smoothing has no weights."""
    if label_smoothing and chosen.hardness:
        raise ValueError(
            f"{op}: hardness and label_smoothing exclude each other, got {chosen.hardness} and "
            f"{label_smoothing}"
        )
    if (label_smoothing or tau_plus) and chosen.directions != (QUERY_TO_KEY,):
        raise ValueError(
            f"{op}: label_smoothing and tau_plus need directions=('{QUERY_TO_KEY}',), "
            f"got {chosen.directions}"
        )


def _directions(op: str, directions: Any, negatives: Tensor | None) -> tuple[str, ...]:
    """Names out of `check.DIRECTIONS`, in its order; without negatives at least one."""
    if isinstance(directions, str) or not isinstance(directions, Sequence):
        raise TypeError(
            f"{op}: directions must be a sequence of names, got {type(directions).__name__}"
        )
    for name in directions:
        check.choice(op, "directions", name, check.DIRECTIONS)
    if not directions and negatives is None:
        raise ValueError(f"{op}: directions must name one where negatives are None, got none")
    return tuple(name for name in check.DIRECTIONS if name in directions)


def _target(op: str, target: Any, query: Tensor, key: Tensor, ids: object) -> Tensor | None:
    """(n,) int64 in [0, m): the key of each query; None: key i of query i."""
    if target is None:
        return None
    if ids is not None:
        raise ValueError(f"{op}: ids go without target, whose keys have no ids; got both")
    m = key.shape[0]
    target = check.integers(op, "target", target, query, query.shape[0])
    if check.readable(target):
        bad = target[(target < 0) | (target >= m)]
        if bad.numel():
            raise ValueError(f"{op}: target must have rows of key in [0, {m}), got {bad[0].item()}")
    return target


def _guide(
    op: str, guide: Any, rows: tuple[Tensor, Tensor, Tensor | None], margin: float, relative: bool
) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """Embeddings by the guide of queries and keys, and of negatives where there are some."""
    if guide is None:
        if margin or relative:
            raise ValueError(
                f"{op}: guide_margin and guide_relative need a guide, got "
                f"guide_margin={margin}, guide_relative={relative}"
            )
        return None
    parts = [x for x in zip(("query", "key", "negatives"), rows, strict=True) if x[1] is not None]
    if not isinstance(guide, (tuple, list)) or len(guide) != len(parts):
        names = ", ".join(name for name, _ in parts)
        got = f"{len(guide)}" if isinstance(guide, (tuple, list)) else type(guide).__name__
        raise ValueError(
            f"{op}: guide must be {len(parts)} tensors, embeddings of {names}, got {got}"
        )
    for (name, x), given in zip(parts, guide, strict=True):
        assert x is not None
        what = f"guide of {name}"
        check.matrix(op, what, given, min_rows=0)
        if given.shape != (x.shape[0], guide[0].shape[1]):
            raise ValueError(
                f"{op}: {what} must be {(x.shape[0], guide[0].shape[1])}, a row for each of "
                f"{name}, got {tuple(given.shape)}"
            )
        check.same_kind(op, what, given, "guide of query", guide[0])
        check.refuse_grad(op, what, given.requires_grad, "detach it")
    if guide[0].device != rows[0].device:
        raise ValueError(
            f"{op}: guide must be on the device of the rows, {rows[0].device}, got "
            f"{guide[0].device}"
        )
    return guide[0], guide[1], guide[2] if len(guide) > 2 else None

"""Exact k nearest neighbours: products propose, their rounding bound says where that is certain.

With a = |x_i| and computed squares |x_i|^2 + |x_j|^2 - 2 x_i.x_j that err by at most
e (a + |x_j|)^2, a row that is no candidate is farther away than the root of

    reach - e (2 a + sqrt(reach))^2,         reach: computed square of the farthest candidate

since rows with |x_j| > a + sqrt(reach) are farther than sqrt(reach) anyway. Three steps, each for
the rows that the one before leaves open: products about the mean, in the precision of the rows;
products in float64 about the median of those rows, with all candidates that the bound leaves open;
differences to every row. So outliers and clusters far apart cost time and nothing else. Among
candidates, distances from differences decide (`distances`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .distances import (
    copies_beyond,
    distances,
    integer_rows,
    nearest_of,
    relative_error,
    times_power,
)

__all__ = ["SPARE", "centred", "neighbours"]

SPARE = 8  # candidates beyond k, so that rounding in the products need not lose a neighbour
_BLOCK_BYTES = 64 << 20
_GROUP = 32
_OPEN = 256  # candidates of a row that is rechecked
_EXACT_ENTRIES = 1 << 18  # of the candidates of one row in the last step
_FAR = 2.0**400  # coordinates beyond, in units of the rows in question, are cut: squares fit


def centred(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(2^-e (x - mean), e) in a unit near its size, rounded to dtype."""
    x = x - x.mean(0)  # smaller norms: less cancellation in the products
    exponent = torch.frexp(x.abs().amax()).exponent
    return times_power(x, -exponent).to(dtype), exponent


def neighbours(
    x: Tensor,
    k: int,
    *,
    dtype: torch.dtype | None = None,
    proposed: tuple[Tensor, Tensor] | None = None,
    of: slice = slice(None),
) -> tuple[Tensor, Tensor]:
    """Indices (n, k) int64 and float64 distances of the k nearest other rows, ties by index.

    of: the rows whose neighbours are asked for.
    x: (n, d) float32 or float64, at most 2^1000 in size. dtype: of the first products, else that of
    x. proposed: candidates (n, c) by products in float32 of rows `centred`, and the computed square
    of the farthest, (n,).

    A row has room for 2^18 / d candidates (and at least 256): where float64 tells more than that
    not apart from the k-th nearest, those of lowest index are compared.
    """
    search = _Search(x.double(), k)
    n, count = x.shape[0], min(k + SPARE, x.shape[0] - 1)
    dtype = (x.dtype if dtype is None else dtype) if proposed is None else torch.float32
    if dtype == torch.float32 and not _full_products(x.device):
        dtype = torch.float64
    products = _Products(*centred(search.x, dtype))
    left, asked = [], torch.arange(n, device=x.device)[of]
    for rows in asked.split(products.block) if len(asked) else ():
        if proposed is None:
            found, reach = products.nearest(rows, products.scores(rows), count)
        else:
            found, reach = (part[rows].to(x.device) for part in proposed)
        search.settle(rows, found)
        if count < n - 1:
            left.append(rows[~products.certain(rows, reach, search.length[rows, -1])])
    if left:
        search.differences(search.recheck(torch.cat(left)))
    return search.index[of], times_power(search.length[of], search.exponent)


class _Products:
    """Squared distances of y (n, d), rows in units of 2^exponent, by products, and their bound."""

    def __init__(self, y: Tensor, exponent: Tensor, *, exact: bool = False) -> None:
        self.y, self.exponent, n = y, exponent, y.shape[0]
        self.norms = y.square().sum(1)
        self.width = -(-n // _GROUP) * _GROUP
        self.block = max(1, min(n, _BLOCK_BYTES // (self.width * y.element_size())))
        # a sum of d products, its terms, and the rounding of y itself; what vanishes in squares
        self.relative = 0.0 if exact else torch.finfo(y.dtype).eps * (y.shape[1] / 2 + 8)
        self.least = 0.0 if exact else 4.0 * y.shape[1] * torch.finfo(y.dtype).smallest_normal
        self._scratch = y.new_empty(0)

    def scores(self, rows: Tensor) -> Tensor:
        """|y_j|^2 - 2 y_i.y_j, (r, width); inf for the row itself and beyond n. Scratch."""
        n, r = self.y.shape[0], len(rows)
        if len(self._scratch) < r:
            self._scratch = self.y.new_full((r, self.width), torch.inf)
        scores = self._scratch[:r]
        torch.addmm(self.norms[None], self.y[rows], self.y.T, alpha=-2.0, out=scores[:, :n])
        scores[torch.arange(r, device=rows.device), rows] = torch.inf
        return scores

    def nearest(self, rows: Tensor, scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """(r, count) columns of the smallest scores, and the square of the farthest."""
        found = _smallest(scores, count)
        return found, scores.gather(1, found).amax(1).double() + self.norms[rows].double()

    def _error(self, rows: Tensor, reach: Tensor) -> Tensor:
        """Of the computed squares to rows at most sqrt(reach) away."""
        a = self.norms[rows].double().sqrt()
        return self.relative * (2 * a + reach.clamp_min(0).sqrt()).square() + self.least

    def _unit(self, length: Tensor) -> Tensor:
        """In units of y, and no less for its own error."""
        return times_power(length, -self.exponent) * (1 + relative_error(self.y.shape[1]))

    def certain(self, rows: Tensor, reach: Tensor, length: Tensor) -> Tensor:
        """Whether rows that are no candidates are farther away than `length`."""
        return self._unit(length).square() < reach - self._error(rows, reach)

    def within(self, rows: Tensor, length: Tensor) -> Tensor:
        """Scores up to which a row may be as near as `length`."""
        square = self._unit(length).square()
        return square + self._error(rows, square) - self.norms[rows].double()


class _Search:
    """index, length (n, k): the nearest that were seen so far."""

    def __init__(self, x: Tensor, k: int) -> None:
        integers = integer_rows(x)
        self.exact = integers is not None  # then no square rounds, nor does one meet the next
        self.x, self.exponent = (
            (x, torch.zeros_like(x[0, :1]).int()) if integers is None else integers
        )
        self.k = k
        self.spare = torch.empty(0, dtype=torch.int64, device=x.device)
        self.index = torch.empty(x.shape[0], k, dtype=torch.int64, device=x.device)
        self.length = torch.empty(x.shape[0], k, dtype=torch.float64, device=x.device)

    def settle(self, rows: Tensor, found: Tensor) -> None:
        near = nearest_of(self.x, rows, found, self.k, exact=self.exact)
        self.index[rows], self.length[rows] = near

    def _count(self, most: int = 0) -> int:
        """Candidates, where the copies that are to spare are none."""
        return min(max(most, self.k + SPARE), self.x.shape[0] - len(self.spare) - 1)

    def recheck(self, left: Tensor) -> Tensor:
        """Products about the median of the rows that are left; returns what they leave open."""
        if not len(left):
            return left
        # one more than those that can be neighbours, and room for as many that only look near
        self.spare = copies_beyond(self.x, 2 * self.k + SPARE + 1)
        count = self._count()
        y = self.x - self.x[left].median(0).values
        size = y[left].abs().amax(1)
        usual = size[size > 0].median() if bool((size > 0).any()) else size.amax()
        exponent = torch.frexp(usual).exponent
        products = _Products(
            times_power(y, -exponent).clamp_(-_FAR, _FAR), exponent, exact=self.exact
        )
        still = []
        for rows in left.split(products.block):
            scores = products.scores(rows)
            scores[:, self.spare] = torch.inf
            found, reach = products.nearest(rows, scores, count)
            self.settle(rows, found)
            open_ = ~products.certain(rows, reach, self.length[rows, -1])
            rows, scores, found = rows[open_], scores[open_], found[open_]
            limit = products.within(rows, self.length[rows, -1])
            found, whole = _with_ties(found, scores, limit, self._count(max(_OPEN, 2 * count)))
            self.settle(rows, found)
            # whole numbers that tie are equal, and the lowest of them are among the candidates
            still.append(rows[~whole] if not self.exact else rows[:0])
        return torch.cat(still)

    def differences(self, left: Tensor) -> None:
        """Distances to every row decide which are candidates."""
        n, d = self.x.shape
        count = self._count()
        every = torch.arange(n, device=left.device)[None]
        for rows in left.split(max(1, _BLOCK_BYTES // (8 * n))):
            away = distances(self.x, rows, every.expand(len(rows), n))[1]
            away[torch.arange(len(rows), device=rows.device), rows] = torch.inf
            away[:, self.spare] = torch.inf
            found = away.topk(count, dim=1, largest=False, sorted=True)
            limit = found.values[:, self.k - 1] * (1 + 4 * relative_error(d))
            most = self._count(max(_EXACT_ENTRIES // d, _OPEN, 2 * count))
            self.settle(rows, _with_ties(found.indices, away, limit, most)[0])


def _full_products(device: torch.device) -> bool:
    """Whether float32 products on the device are products of float32, not of TF32."""
    if device.type == "cpu":
        return True
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # set in torch's newer way
        return False


def _with_ties(found: Tensor, scores: Tensor, limit: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """(r, c) columns: `found`, and the lowest others with scores up to limit (r,), at most `most`
    in all; and whether that is all of them.
    """
    inside = scores <= limit[:, None]
    inside.scatter_(1, found, True)
    inside &= scores < torch.inf  # never the row itself
    size = inside.sum(1)
    width = scores.shape[1]
    index = torch.arange(width, device=scores.device)
    rank = torch.where(inside, index, width + index)
    rank.scatter_(1, found, -1)
    rank.masked_fill_(scores == torch.inf, 2 * width)
    most = min(most, int(size.max()) if len(size) else 1)
    return rank.topk(max(most, found.shape[1]), dim=1, largest=False).indices, size <= most


def _smallest(scores: Tensor, count: int) -> Tensor:
    """(rows, count) columns of the smallest scores of each row.

    They lie in the `count` groups of columns with the smallest minima, so one pass for the minima
    and two short selections replace a long one.
    """
    minima = scores.view(scores.shape[0], -1, _GROUP).amin(2)
    best = minima.topk(min(count, minima.shape[1]), dim=1, largest=False, sorted=False).indices
    offsets = torch.arange(_GROUP, device=scores.device)
    cols = (best[:, :, None] * _GROUP + offsets).flatten(1)
    pick = scores.gather(1, cols).topk(count, dim=1, largest=False, sorted=False).indices
    return cols.gather(1, pick)

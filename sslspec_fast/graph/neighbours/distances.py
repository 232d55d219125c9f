"""Distances between rows from differences, and their order where float64 does not tell it.

A difference of two float64 numbers is as good as its own last digit, whatever offset they share, so
a distance from differences has a relative error of about d eps. Distances that are nearer to each
other than that are compared by double-double arithmetic on the exact differences (Dekker 1971,
Shewchuk 1997), which keeps some 30 digits. Where squares would overflow or vanish, each pair has a
power of two of its own as its unit.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "copies_beyond",
    "distances",
    "integer_rows",
    "nearest_of",
    "relative_error",
    "times_power",
]

_CACHE_BYTES = 1 << 20
_SPLIT = 2.0**27 + 1  # halves of 26 bits, whose products are exact
_KEPT = 2.0**95  # digits of a double-double sum that its rounding does not reach
_NORMAL = 2.0**-900, 2.0**900  # squares between have lost no digit to the range of float64

Double = tuple[Tensor, Tensor]


def relative_error(d: int) -> float:
    """Bound of the relative error of a distance from d differences in float64."""
    return (d / 2 + 3) * torch.finfo(torch.float64).eps


def times_power(x: Tensor, exponent: Tensor) -> Tensor:
    """x 2^exponent, float64; exact where the result is a normal number."""
    half = exponent.div(2, rounding_mode="floor")
    return x * _power(half) * _power(exponent - half)


def _power(exponent: Tensor) -> Tensor:
    """2^exponent, from its bits."""
    return ((exponent.long() + 1023).clamp_(1, 2046) << 52).view(torch.float64)


def integer_rows(x: Tensor) -> tuple[Tensor, Tensor] | None:
    """(X, e) with x = 2^e X for integers X (n, d) so small that products and sums of d squared
    differences do not round in float64, nor come near each other by `relative_error`: counts, bits,
    images. None for other rows.
    """
    d = x.shape[1]
    exponent = torch.frexp(x.abs().amax()).exponent
    # 2 d relative_error (2 X)^2 < 1/2
    exponent = exponent - (47 - 2 * int(d + 4).bit_length()) // 2
    scaled = times_power(x, -exponent)
    return (scaled, exponent) if bool((scaled == scaled.round()).all()) else None


def copies_beyond(x: Tensor, most: int) -> Tensor:
    """Rows of x (n, d) float64 that come after at least `most` copies of themselves."""
    bits = (x + 0.0).view(torch.int64)  # no -0
    odd = torch.randint(-(2**62), 2**62, (x.shape[1],), generator=torch.Generator().manual_seed(0))
    odd = (2 * odd + 1).to(x.device)
    key = torch.cat([(part * odd).sum(1) for part in bits.split(_CACHE_BYTES // 8)])
    _, group, size = key.unique(return_inverse=True, return_counts=True)
    by_group = group.sort(stable=True).indices
    begin = (size.cumsum(0) - size)[group[by_group]]
    place = torch.arange(len(x), device=x.device) - begin
    first, beyond = by_group[begin][place >= most], by_group[place >= most]
    return beyond[(x[first] == x[beyond]).all(1)]  # whatever the key says


def nearest_of(
    x: Tensor, rows: Tensor, found: Tensor, k: int, *, exact: bool
) -> tuple[Tensor, Tensor]:
    """The k nearest of the candidates `found` (r, c) of each row, by distance, then by index.

    x (n, d) float64; exact: x is `integer_rows`. Returns indices and float64 distances, (r, k).
    """
    found = found.sort(dim=1).values  # a stable sort by distance then breaks ties by index
    square, length = distances(x, rows, found)
    order = (square if exact else length).sort(dim=1, stable=True)
    near, length = found.gather(1, order.indices), length.gather(1, order.indices)
    if not exact:  # k places are decided by k + 1 distances
        before, after = length[:, :-1][:, :k], length[:, 1 : k + 1]
        close = (after - before <= 2 * relative_error(x.shape[1]) * after) | after.isinf()
        close &= after > 0  # copies are copies
        unsure = torch.nonzero(close.any(1))[:, 0]
        for part in unsure.split(_pieces(x, found)) if len(unsure) else ():
            place = _exact_order(x, rows[part], found[part])
            near[part] = found[part].gather(1, place)
    return near[:, :k], length[:, :k]


def _pieces(x: Tensor, cols: Tensor) -> int:
    """Rows of `cols` whose differences fit a cache."""
    return max(1, _CACHE_BYTES // (8 * max(1, x.shape[1] * cols.shape[1])))


def distances(x: Tensor, rows: Tensor, cols: Tensor) -> tuple[Tensor, Tensor]:
    """(r, c) squared distances, and distances, which neither overflow nor vanish."""
    squares, lengths = [], []
    size = _pieces(x, cols)
    for r, c in zip(rows.split(size), cols.split(size), strict=True):
        square = x[c].sub_(x[r][:, None]).square_().sum(2)
        length = square.sqrt()
        if not bool(((square > _NORMAL[0]) & (square < _NORMAL[1])).all()):
            t = x[c].sub_(x[r][:, None])
            exponent = _exponent(t)
            unit = times_power(t, -exponent).square_().sum(2)
            length = times_power(unit.sqrt_(), exponent[:, :, 0])
        squares.append(square)
        lengths.append(length)
    return torch.cat(squares), torch.cat(lengths)


def _exponent(t: Tensor) -> Tensor:
    """(r, c, 1) of the largest magnitude of each pair."""
    return torch.frexp(t.abs().amax(2, keepdim=True)).exponent


# ---- order by exact differences
def _exact_order(x: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """(r, c) places of the columns by distance, equal ones as they come."""
    a, b = x[cols], x[rows][:, None]
    high = a - b
    back = high - a
    low = (a - (high - back)) - (b + back)  # high + low = a - b
    exponent = _exponent(high)
    high, low = times_power(high, -exponent), times_power(low, -exponent)
    s, t = _sum(_square(high, low))
    mantissa, more = torch.frexp(s)
    rest = (times_power(t, -more) * _KEPT).round_()
    scale = torch.where(s == 0, torch.iinfo(torch.int32).min, 2 * exponent[:, :, 0] + more)
    place = rest.sort(dim=1, stable=True).indices
    for key in (mantissa, scale):
        place = place.gather(1, key.gather(1, place).sort(dim=1, stable=True).indices)
    return place


def _square(high: Tensor, low: Tensor) -> Double:
    product = high * high
    big = high * _SPLIT
    big = big - (big - high)
    small = high - big
    error = ((big * big - product) + 2 * big * small) + small * small
    return product, error + (2 * high * low + low * low)


def _sum(terms: Double) -> Double:
    """Over the last dimension, by halves."""
    high, low = terms
    while high.shape[2] > 1:
        if high.shape[2] % 2:
            high, low = (torch.nn.functional.pad(part, (0, 1)) for part in (high, low))
        (a, b), (c, d) = high.chunk(2, 2), low.chunk(2, 2)
        s = a + b
        back = s - a
        error = ((a - (s - back)) + (b - back)) + (c + d)
        high = s + error
        low = error - (high - s)
    return high[:, :, 0], low[:, :, 0]

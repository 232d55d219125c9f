"""Chebyshev filters: grow the wanted end of the spectrum, damp [lo, cut] to |C_d| <= 1.

Plain form, for start blocks: Y = C_d((A - m) / e) X with m, e the middle and half width.

Residual form (Das, Kanungo, Gavini et al., R-ChFSI, arXiv 2503.22652), for Ritz vectors: with
A X = X T + R and t = (T - m) / e,

    Z_k = C_k(Â) X - X C_k(t):   Z_0 = 0,  Z_1 = R / e,
    Z_{k+1} = 2 Â Z_k - Z_{k-1} + 2 (R / e) C_k(t).

Z_d completes X to the filtered vectors, span(X, Z_d) contains them, and every rounding error is
proportional to R: float32 products converge to float64 accuracy. Columns are scaled by 1 / C_d(t).

Both run in the coordinates of a similar operator where its products are cheaper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...operators.base import SymmetricOperator
from ...operators.known import Deflated, Removable
from ...primitives.spread import meet
from .coordinates import Coordinates

__all__ = [
    "ChebyshevPolynomial",
    "Clean",
    "cleaner",
    "filter_block",
    "filter_residual",
    "growth_rate",
]


_LONG = 4  # degrees that pay for a change of coordinates


@dataclass(frozen=True)
class Clean:
    """Remove deflated vectors every few degrees: they outgrow everything from rounding alone."""

    deflated: Removable
    every: int

    def __call__(self, degree: int, inner: Coordinates, *blocks: Tensor) -> None:
        if degree % self.every == 0:
            for block in blocks:
                inner.remove_(block)


def _inside(op: SymmetricOperator, clean: Clean | None, degree: int, like: Tensor) -> Coordinates:
    deflated = None if clean is None else clean.deflated
    return Coordinates(op, deflated, like.dtype, change=degree >= _LONG)


def growth_rate(value: float, lo: float, cut: float) -> float:
    """log of the factor by which one degree grows `value` over the damped interval [lo, cut]."""
    t = (2.0 * value - cut - lo) / max(cut - lo, 1e-300)
    return math.acosh(t) if t > 1.0 else 0.0


@dataclass(frozen=True)
class ChebyshevPolynomial:
    """p = C_degree on [lo, cut], of odd degree: |p| <= 1 there, p < 1 below, and p grows above."""

    lo: float
    cut: float
    degree: int

    @property
    def half(self) -> float:
        """Half width of [lo, cut]."""
        return (self.cut - self.lo) / 2

    def eigenvalues(self, values: Tensor) -> Tensor:
        """Those of A, from values of p(A) above 1; the cut for all others."""
        t = torch.cosh(torch.acosh(values.clamp_min(1.0)) / self.degree)
        return (self.cut + self.lo) / 2 + self.half * t

    def residuals(self, values: Tensor, residuals: Tensor) -> Tensor:
        """About what residuals of A are, from those of Ritz pairs of p(A), which lie in the damped
        interval: (t - m) / p(t) of them, with m its middle.
        """
        values = values.clamp_min(1.0)
        t = torch.cosh(torch.acosh(values) / self.degree)
        return residuals * self.half * t / values


def cleaner(
    op: SymmetricOperator, deflated: Deflated | None, lo: float, cut: float, wanted: float
) -> Clean | None:
    """Deflated vectors sit at most at the bound of the spectrum: keep their lead within 1e3."""
    if deflated is None:
        return None
    top = op.bounds()[1]
    lead = growth_rate(top, lo, cut) - growth_rate(max(wanted, cut), lo, cut)
    every = math.log(1e3) / lead if 0.0 < lead < math.inf else 1.0 if lead else 1e9
    return Clean(deflated, max(int(min(every, 1e9)), 1))


def filter_block(
    op: SymmetricOperator,
    x: Tensor,
    lo: float,
    cut: float,
    degree: int,
    top: float,
    clean: Clean | None = None,
    room: Tensor | None = None,
) -> Tensor:
    """C_degree(Â) X / C_degree(top); x (n, b) and room (n, b), if given, are overwritten, and one
    of them is the result.
    """
    meet(degree, lo, cut, top)
    middle, half = (cut + lo) / 2, (cut - lo) / 2
    inner = _inside(op, clean, degree, x)
    # 1 / C_d(top), kept in range: float32 overflows at 1e38
    scale = math.exp(-min(degree * growth_rate(top, lo, cut), 60.0))
    if scale != 1.0:
        x.mul_(scale)
    inner.enter(x)
    y = inner.op.matmat(x, room, alpha=1.0 / half, gamma=-middle / half, w=x)
    for k in range(1, degree):
        x = inner.op.matmat(y, x, alpha=2.0 / half, beta=-1.0, gamma=-2.0 * middle / half, w=y)
        x, y = y, x
        if clean is not None:
            clean(k, inner, x, y)
    return inner.leave(y)


def filter_residual(
    op: SymmetricOperator,
    r: Tensor,
    values: Tensor,
    lo: float,
    cut: float,
    degree: int,
    clean: Clean | None = None,
) -> Tensor:
    """Z_degree for residuals r (n, b) of Ritz values (b,) float64; runs in r's dtype.

    degree - 1 products. Values below the cut (guards) keep |t| <= 1, where C_k stays bounded.
    """
    meet(degree, lo, cut)
    middle, half = (cut + lo) / 2, (cut - lo) / 2
    t = (values - middle) / half
    growth = torch.ones(degree + 1, len(values), dtype=torch.float64)
    growth[1] = t
    for k in range(1, degree):
        growth[k + 1] = 2 * t * growth[k] - growth[k - 1]
    scale = growth[1:].abs().max(0).values.clamp_min(1.0)
    source = (growth * (1.0 / scale)).to(device=r.device, dtype=r.dtype)
    inner = _inside(op, clean, degree, r)
    r = inner.enter(r / half)
    z = r * source[0]
    previous = torch.zeros_like(z)
    for k in range(1, degree):
        # out <- 2 Â z - (previous - 2 r C_k): the sign of `previous` is turned by beta = -1
        previous.addcmul_(r, source[k], value=-2.0)
        previous = inner.op.matmat(
            z, previous, alpha=2.0 / half, beta=-1.0, gamma=-2.0 * middle / half, w=z
        )
        z, previous = previous, z
        if clean is not None:
            clean(k, inner, z, previous)
    return inner.leave(z)

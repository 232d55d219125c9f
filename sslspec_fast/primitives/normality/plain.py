"""`sliced_ecf` and `pairwise_kernel` in plain torch: what their second derivatives are taken of."""

from __future__ import annotations

import torch
from torch import Tensor

from .radial import Radial, epps_pulley

__all__ = ["kernel_mean", "kernel_rows", "sliced_mean"]


def sliced_mean(z: Tensor, directions: Tensor, *, knots: int, t_max: float) -> Tensor:
    """The mean over views of the sliced statistic; stores (views, n, S) twice a knot."""
    total = z.new_zeros(z.shape[0], directions.shape[1])
    p = z @ directions
    for t, w, phi in zip(*(x.tolist() for x in epps_pulley(knots, t_max)), strict=True):
        c, s = (t * p).cos().mean(1), (t * p).sin().mean(1)
        total = total + w * ((c - phi).square() + s.square())
    return z.shape[1] * total.mean()


def kernel_mean(z: Tensor, radial: Radial) -> Tensor:
    """The mean over views of the kernel statistic; stores (views, n, n) for each term of k."""
    n = z.shape[1]
    length = z.square().sum(2)
    distance = length[:, :, None] + length[:, None, :] - 2 * z @ z.mT
    if radial.table is not None:
        pairs = _series(radial.table[0], radial.parameter, distance)
    elif radial.kind == 1:
        pairs = (-radial.parameter * distance).exp()
    else:
        pairs = (radial.parameter + distance.clamp(min=0)).rsqrt()
    own = torch.eye(n, dtype=torch.bool, device=z.device)
    pairs = pairs.masked_fill(own, radial.at_zero)
    rows, _ = kernel_rows(length, radial)
    return n * (pairs.mean() - 2 * rows.mean() + radial.constant)


def kernel_rows(length: Tensor, radial: Radial) -> tuple[Tensor, Tensor]:
    """mu and its derivative at the squared lengths of rows."""
    if radial.row_table is not None:
        value, slope = (_series(c, radial.row_top, length) for c in radial.row_table)
        return value, slope
    scale, rate = radial.row_gaussian
    value = scale * (-rate * length).exp()
    return value, -rate * value


def _series(coefficients: Tensor, top: float, r: Tensor) -> Tensor:
    """The values of a series of `radial`, by Clenshaw's sum."""
    x = 1 - 2 / top * r
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    constant, *others = coefficients.tolist()
    for c in reversed(others):
        first, second = 2 * x * first + (c - second), first
    return x * first + (constant - second)

r"""Radial kernels and their means under N(0, I), as the tables that `pairwise_kernel` takes.

For a kernel k of the squared distance and y, y' ~ N(0, I) in d dimensions, the mean of
:math:`k(|x - y|^2)` is a function :math:`\mu(|x|^2)`, and c the mean of :math:`k(|y - y'|^2)`.

"slices", the average of the sliced statistic over all unit directions a: with
:math:`\Omega_d(u) = E_a \cos(u\, a \cdot e)`, e any unit vector,

.. math::
    k(r) = \sum_k w_k \Omega_d(t_k \sqrt r), \quad
    \mu(r) = \sum_k w_k \phi_k \Omega_d(t_k \sqrt r), \quad c = \sum_k w_k \phi_k^2 .

"gaussian": :math:`k(r) = e^{-r / 2h^2}`. "imq": :math:`k(r) = (b + r)^{-1/2}`, a mixture of
Gaussians, so that its means are integrals of theirs. All of this is float64 NumPy on a few hundred
points, done once for a range of lengths and kept.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy  # its submodules load on first use
import torch
from torch import Tensor

__all__ = ["KINDS", "Radial", "epps_pulley", "longest_row", "radial"]

KINDS = {"slices": 0, "gaussian": 1, "imq": 2}
_WIDEST = 2048.0  # t_max times the largest distance: the number of terms is half of it and more
_LONGEST_IMQ = 512.0  # its means have a series of 2 * 10^3 points there

_DIGITS = 1e-15
Array = Any  # np.ndarray of float64
Function = Callable[[Array], tuple[Array, Array]]  # r -> value and derivative


@functools.lru_cache(maxsize=64)
def epps_pulley(knots: int, t_max: float) -> tuple[Tensor, Tensor, Tensor]:
    """(3, knots - 1) float64: points t_k > 0, weights w_k and the N(0, 1) function phi_k there.

    The trapezoid rule for the integral of exp(-t^2 / 2) |.|^2 over [-t_max, t_max], folded onto
    t >= 0. At t = 0 every characteristic function is 1, so that point is left out.
    """
    step = t_max / (knots - 1)
    t = step * torch.arange(1, knots, dtype=torch.float64)
    phi = torch.exp(-t.square() / 2)
    weights = 2 * step * phi
    weights[-1] /= 2
    return t, weights, phi


class Radial(NamedTuple):
    """A kernel on rows of a limited length; `table` and `row_table` are (2, terms) float64 series
    of value and derivative, in csrc/normality/pairwise_kernel.h's sense.
    """

    kind: int
    parameter: float  # top of the series, 1 / 2h^2, or b
    table: Tensor | None
    at_zero: float
    constant: float  # c
    row_top: float
    row_table: Tensor | None  # mu; for "gaussian" none, but
    row_gaussian: tuple[float, float] = (0.0, 0.0)  # (m, b): mu(r) = m exp(-b r)


def longest_row(kernel: str, t_max: float) -> float:
    """Rows up to this length have the series that the kernel takes."""
    if kernel == "slices":
        return _WIDEST / (2 * t_max)
    return _LONGEST_IMQ if kernel == "imq" else math.inf


@functools.lru_cache(maxsize=128)
def radial(
    kernel: str, parameter: float, knots: int, t_max: float, d: int, octave: int, precise: bool
) -> Radial:
    """The tables for rows with |x|^2 <= 2^(octave / 2).

    precise: the series of k to the last digit of float64, else of float32.
    """
    row_top = 2.0 ** (octave / 2)
    top = 4 * row_top  # |x - y| <= |x| + |y|
    if kernel == "slices":
        t, w, phi = (x.numpy() for x in epps_pulley(knots, t_max))
        pair, row = _mean_cosines(d, t, w, top), _mean_cosines(d, t, w * phi, row_top)
        points = 40 + int(t_max * math.sqrt(top))
        table = _series(pair, top, points, _DIGITS if precise else 1e-9)
        row_table = _series(row, row_top, points, _DIGITS)
        return Radial(0, top, table, float(w.sum()), float((w * phi**2).sum()), row_top, row_table)
    if kernel == "gaussian":
        a = 1 / (2 * parameter**2)
        mean = (1 + 2 * a) ** (-d / 2), a / (1 + 2 * a)
        return Radial(1, a, None, 1.0, (1 + 4 * a) ** (-d / 2), row_top, None, mean)
    row_table = _series(_imq_mean(parameter, d), row_top, 60 + int(4 * math.sqrt(row_top)), _DIGITS)
    # |y - y'|^2 is twice a chi-squared: (b + 2 |y|^2)^(-1/2)
    constant = float(_imq_mean(parameter / 2, d)(np.zeros(1))[0][0]) / math.sqrt(2)
    return Radial(2, parameter, None, parameter**-0.5, constant, row_top, row_table)


def _series(function: Function, top: float, points: int, digits: float) -> Tensor:
    """(2, terms) Chebyshev coefficients on [0, top] of value and derivative, from `points` points
    and cut where all that follow are below `digits` of the largest value.
    """
    odd = 2 * np.arange(points)[:, None] + 1
    # whole turns are taken off in integers: rounded angles would cost two digits
    basis = np.cos(np.pi / (2 * points) * (odd * np.arange(points) % (4 * points)))
    values = np.stack(function(top * np.sin(np.pi / (4 * points) * odd[:, 0]) ** 2))
    table = 2 / points * values @ basis
    table[:, 0] /= 2
    kept = np.abs(table) > digits * np.abs(values).max(1, keepdims=True)
    terms = int(np.flatnonzero(kept.any(0)).max(initial=0)) + 1
    return torch.from_numpy(np.ascontiguousarray(table[:, :terms]))


def _mean_cosines(d: int, t: Array, weights: Array, top: float) -> Function:
    """sum_k weights_k E_a cos(t_k sqrt(r) a . e) for r <= top."""
    s, mass = _cosine_of_directions(d, float(t.max()) * math.sqrt(top))
    frequency = np.outer(t, s).ravel()
    weight = np.outer(weights, mass).ravel()

    def function(r: Array) -> tuple[Array, Array]:
        value, slope = np.empty_like(r), np.empty_like(r)
        for i, root in enumerate(np.sqrt(r)):  # a row at a time: memory stays small
            angle = frequency * root
            value[i] = weight @ np.cos(angle)
            slope[i] = -0.5 * (weight * frequency**2) @ np.sinc(angle / np.pi)
        return value, slope

    return function


def _cosine_of_directions(d: int, largest: float) -> tuple[Array, Array]:
    """Nodes s >= 0 and weights of the law of a . e, a uniform on the sphere: right to rounding for
    cos(u s) with u <= largest. Its density is proportional to (1 - s^2)^((d - 3) / 2).
    """
    if d == 1:
        return np.ones(1), np.ones(1)
    if d <= 40:
        s, mass = scipy.special.roots_gegenbauer(40 + int(largest / 2), (d - 2) / 2)
        s, mass = s[s > -1e-12], mass[s > -1e-12]
        mass = np.where(s > 1e-12, 2 * mass, mass)
    else:  # the trapezoid rule in the angle: its integrand and many derivatives vanish at the ends
        count = 64 + 8 * math.isqrt(d) + int(largest)
        angle = np.pi / 2 * np.arange(count) / count
        s, mass = np.sin(angle), np.cos(angle) ** (d - 2)
        mass[1:] *= 2
        s, mass = s[mass > 1e-20], mass[mass > 1e-20]
    return s, mass / mass.sum()


def _imq_mean(b: float, d: int) -> Function:
    r"""E (b + |x - y|^2)^(-1/2): with (b + r)^(-1/2) an integral over s of exp(-s (b + r)) and
    p^2 = 2 s / (1 + 2 s), sqrt(2 / pi) times the integral over p in (0, 1) of
    (1 - p^2)^((d - 3) / 2) exp(-b p^2 / 2 (1 - p^2)) exp(-p^2 r / 2).
    """
    end = min(1.0, 12 / math.sqrt(max(d - 3.0, 1.0)))
    node, weight = np.polynomial.legendre.leggauss(400)
    p, rest = end * (node + 1) / 2, 1 - (end * (node + 1) / 2) ** 2
    with np.errstate(under="ignore"):
        log_weight = (d - 3) / 2 * np.log(rest) - b * p**2 / (2 * rest)
        weight = math.sqrt(2 / math.pi) * end / 2 * weight * np.exp(log_weight)

    def function(r: Array) -> tuple[Array, Array]:
        terms = np.exp(-(p**2) * r[:, None] / 2)
        return terms @ weight, terms @ (-(p**2) / 2 * weight)

    return function

r"""SIGReg of a Gaussian law, and LeJEPA's K x K problem.

With the points t, weights w and phi = exp(-t^2 / 2) of SIGReg's quadrature, N(mu, C) in K
dimensions has per row

    F = sum_t w [E_a e^{-t^2 a'Ca} - 2 phi E_a e^{-t^2 a'Ca / 2} cos(t a.mu) + phi^2],

a uniform on the sphere. It depends on the spectrum s of C and, in its axes, on mu; it is least at
mu = 0. Each mean over a is one contour integral,

    E_a e^{-a'Ma + i b.a} = Gamma(K/2) / (2 pi i)
        int e^z prod_k (z + m_k)^{-1/2} e^{-b_k^2 / 4 (z + m_k)} dz,

on the parabola z = -min m + z0 (1 + i u)^2 by the trapezoid rule, z0 the saddle without b, or |b| /
4 where that is more: the parabola then meets the saddles at +-i |b| / 2, and nothing cancels.

Source: Balestriero & LeCun (arXiv 2511.08544) for SIGReg; derived in docs/closed_forms.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq, minimize
from scipy.special import gammaln

from ...primitives.normality.radial import epps_pulley

__all__ = ["curvature", "exact_filter", "gaussian_sigreg", "second_order_filter"]

Array = np.ndarray


def _tables(knots: int, t_max: float) -> tuple[Array, Array, Array]:
    t, w, phi = (x.numpy() for x in epps_pulley(knots, t_max))
    return t, w, phi


def curvature(knots: int = 17, t_max: float = 3.0) -> float:
    """A2: near the identity F = A2 (2 |C - I|_F^2 + tr(C - I)^2) / (K (K + 2))."""
    t, w, phi = _tables(knots, t_max)
    return float((w * t**4 * phi**2).sum()) / 4


def _saddle(apart: Array) -> float:
    """z > 0 with sum_k 1 / (z + apart_k) = 2, apart >= 0 and least 0."""
    low, high = 0.25, len(apart) / 2 + 1.0

    def excess(z: float) -> float:
        return float((1 / (z + apart)).sum()) - 2

    return float(brentq(excess, low, high))


def _sphere_mean(m: Array, b: Array | None = None) -> tuple[float, Array]:
    """E_a exp(-sum m_k a_k^2) cos(b.a) for m >= 0, and its derivative in m."""
    least = float(m.min())
    apart = m - least
    z0 = max(_saddle(apart), 0.0 if b is None else float(np.linalg.norm(b)) / 4)
    step = min(0.15, (0.3 if b is None else 0.2) / math.sqrt(z0))
    u = step * np.arange(int((math.sqrt(45 / z0) + (b is not None)) / step) + 2)
    root = 1 + 1j * u
    poles = z0 * root[:, None] ** 2 + apart
    exponent = z0 * root**2 - 0.5 * np.log(poles).sum(1) + gammaln(len(m) / 2) - least
    if b is not None:
        exponent = exponent - 0.25 * (b**2 / poles).sum(1)
    terms = np.exp(exponent) * (2 * z0 * step / np.pi) * root
    terms[0] /= 2
    inner = 0.5 / poles if b is None else 0.5 / poles - 0.25 * b**2 / poles**2
    return float(terms.sum().real), -(terms @ inner).real


def gaussian_sigreg(
    s: Array, mean: Array | None = None, knots: int = 17, t_max: float = 3.0
) -> tuple[float, Array]:
    """F of N(mean, diag(s)), s (K,) >= 0, and its derivative in s."""
    value, slope = 0.0, np.zeros(len(s))
    for t, w, phi in zip(*_tables(knots, t_max), strict=True):
        both, by_both = _sphere_mean(t**2 * s)
        one, by_one = _sphere_mean(t**2 / 2 * s, None if mean is None else t * mean)
        value += w * (both - 2 * phi * one + phi**2)
        slope += w * t**2 * (by_both - phi * by_one)
    return value, slope


def second_order_filter(cost: Array, k: int, strength: float, a2: float) -> tuple[Array, float]:
    """min over s >= 0 of strength A2 (2 sum e^2 + (sum e)^2) / (K (K + 2)) + sum cost s, e = s - 1.

    cost (r,) ascending; the k - r other columns have s = 0. With alpha = 2 A2 strength / (K (K +
    2)): s_k = (1 + D / 2 - cost_k / 2 alpha)_+, D = sum_k (1 - s_k). Returns s and the minimum.
    """
    alpha = 2 * a2 * strength / (k * (k + 2))

    def spectrum(d: float) -> Array:
        return np.maximum(0.0, 1 + d / 2 - cost / (2 * alpha))

    def excess(d: float) -> float:
        return k - float(spectrum(d).sum()) - d

    bound = k + float(np.abs(cost).max(initial=0.0)) / alpha
    s = spectrum(float(brentq(excess, -4 * bound, 4 * bound, xtol=1e-14, rtol=1e-15)))
    e = np.concatenate([s, np.zeros(k - len(s))]) - 1
    value = alpha * (float((e**2).sum()) + float(e.sum()) ** 2 / 2) + float(cost @ s)
    return s, value


def exact_filter(
    cost: Array, k: int, strength: float, knots: int = 17, t_max: float = 3.0
) -> tuple[Array, float]:
    """min over s >= 0 of strength F(s) + sum cost s; cost (r,) ascending, r <= k.

    Best of descents from the second-order filter and from several numbers of open modes. Returns s
    and the minimum.
    """
    r = len(cost)
    rest = np.zeros(k - r)

    def objective(s: Array) -> tuple[float, Array]:
        value, slope = gaussian_sigreg(np.concatenate([s, rest]), None, knots, t_max)
        return strength * value + float(cost @ s), strength * slope[:r] + cost

    starts = [second_order_filter(cost, k, strength, curvature(knots, t_max))[0]]
    opened = np.unique(np.linspace(0, r, min(r + 1, max(3, 100 // k))).astype(int))
    starts += [(np.arange(r) < count).astype(np.float64) for count in opened]
    best, least = np.zeros(r), objective(np.zeros(r))[0]
    scale = max(strength, 1e-300)
    for start in starts:
        run = minimize(
            lambda s: tuple(x / scale for x in objective(s)),
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=[(0.0, None)] * r,
            options={"maxiter": 2000, "ftol": 1e-16, "gtol": 1e-13, "maxcor": 30},
        )
        if run.fun * scale < least - 1e-13 * abs(least):
            best, least = run.x, run.fun * scale
    best = _polished(best, objective)
    return -np.sort(-best), objective(best)[0]  # equal costs: any order of theirs


def _polished(s: Array, objective: Callable[[Array], tuple[float, Array]]) -> Array:
    """Newton steps on the open modes, with differences of the gradient as the second derivative."""
    free = np.flatnonzero(s > 1e-8)
    for _ in range(4):
        if not len(free):
            break
        value, slope = objective(s)
        h = 1e-6
        hessian = np.empty((len(free), len(free)))
        for column, i in enumerate(free):
            up, down = s.copy(), s.copy()
            up[i] += h
            down[i] = max(0.0, down[i] - h)
            change = objective(up)[1] - objective(down)[1]
            hessian[:, column] = change[free] / (up[i] - down[i])
        step = np.linalg.lstsq((hessian + hessian.T) / 2, slope[free], rcond=None)[0]
        trial = s.copy()
        trial[free] = np.maximum(0.0, trial[free] - step)
        if objective(trial)[0] > value + 1e-15 * abs(value):
            break
        s = trial
    return s

"""VICReg's K x K problem: given x_k = gamma c lambda_k, the best covariance of the embedding.

Reduction theorem: any loss F(Cov(Z)) + (2 gamma/N) tr Z^T L Z is minimised by
Z = sqrt(N-1) Q B with Q the lowest modes and B (r, k) the minimiser of

    value(B) = alpha sum_k pen(C_kk) + beta sum_{k != l} C_kl^2 + 2 sum_i x_i (B B^T)_ii,  C = B^T B

Closed forms where there is one (docs/closed_forms.md, V1 to V3B), a multistart otherwise.
Source: Balestriero & LeCun 2022 (arXiv 2205.11508), section 2, for the loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from .rotation import schur_horn

__all__ = ["Filter", "nested_filter", "penalty", "penalty_slope", "vicreg_filter"]

Array = np.ndarray


_SEARCHED = 8  # columns up to which a local minimum is checked by a multistart


@dataclass
class Filter:
    """s (r,) eigenvalues of C by mode; mix (r, k) = B; the minimum; how it was found."""

    s: Array
    mix: Array
    value: float
    regime: str
    certified: bool
    lower_bound: float


@dataclass(frozen=True)
class _VicregProblem:
    x: Array
    k: int
    alpha: float
    beta: float
    kind: str
    eps: float

    @property
    def ceiling(self) -> float:
        """Variance beyond which a hinge is flat; larger variances never pay."""
        return {"hinge_std": 1.0 - self.eps, "hinge_var": 1.0}.get(self.kind, np.inf)

    @property
    def useful(self) -> float:
        """No optimal column has more variance: shrinking it would lower every term of the loss."""
        return 1.0 - self.eps if self.kind.endswith("std") else 1.0

    def value(self, mix: Array) -> float:
        c = mix.T @ mix
        off = float((c**2).sum() - (np.diag(c) ** 2).sum())
        energy = 2.0 * float(self.x @ (mix**2).sum(axis=1))
        return (
            self.alpha * float(penalty(np.diag(c), self.kind, self.eps).sum())
            + self.beta * off
            + energy
        )


def penalty(v: Array, kind: str, eps: float = 0.0) -> Array:
    """pen(v) of a variance v; eps sits inside the square root of the std forms."""
    v = np.asarray(v, dtype=np.float64)
    if kind == "hinge_std":
        return np.maximum(0.0, 1.0 - np.sqrt(v + eps))
    if kind == "ls_std":
        return (1.0 - np.sqrt(v + eps)) ** 2
    if kind == "ls_var":
        return (1.0 - v) ** 2
    return np.maximum(0.0, 1.0 - v)


def penalty_slope(v: Array, kind: str, eps: float = 0.0) -> Array:
    """d pen / dv from below the hinge's kink; -inf at zero variance of the std forms."""
    v = np.asarray(v, dtype=np.float64)
    with np.errstate(divide="ignore"):
        if kind == "hinge_std":
            return np.where(v + eps <= 1.0 + 1e-12, -0.5 / np.sqrt(v + eps), 0.0)
        if kind == "ls_std":
            return 1.0 - 1.0 / np.sqrt(v + eps)
    if kind == "ls_var":
        return 2.0 * (v - 1.0)
    return np.where(v <= 1.0 + 1e-12, -1.0, 0.0)


def vicreg_filter(
    x: Array,
    k: int,
    alpha: float,
    beta: float,
    kind: str,
    eps: float,
    seed: int,
    starts: int | None,
) -> Filter:
    """Minimise value(B) for x (r,) ascending, r <= k. Columns beyond r modes stay possible."""
    p = _VicregProblem(np.asarray(x, dtype=np.float64), k, alpha, beta, kind, eps)
    if kind != "ls_var" and p.x.size and p.x.min() < -1e-9 * max(1.0, float(np.abs(p.x).max())):
        raise ValueError(
            f"graph must have a non-negative Laplacian for penalty={kind!r}, got an eigenvalue "
            f"term {p.x.min():.3g} < 0 (the loss is unbounded below); use penalty='ls_var'"
        )
    if beta == 0:
        return _single_mode(p)
    decorrelated = _decorrelated(p)
    if decorrelated.certified:
        return decorrelated
    equal = _equal_variance(p)
    if equal.certified:
        return equal
    if k > _SEARCHED and beta >= _beta_star(p, decorrelated.s):
        # a local minimum, as a rule the global one; a search over k x k mixtures would take long
        return min(decorrelated, equal, key=lambda found: found.value)
    return _multistart(p, [decorrelated, equal], seed, starts)


def nested_filter(x: Array, k: int, alpha: float, beta: float, weights: list[float]) -> Filter:
    """The minimum of the weighted sum of value over prefixes of the columns of B, for ls_var and
    beta >= alpha: the decorrelated optimum, whose first m columns are that of m columns alone.
    """
    p = _VicregProblem(np.asarray(x, dtype=np.float64), k, alpha, beta, "ls_var", 0.0)
    s = _decorrelated(p).s
    each = np.full(k, alpha)  # of a column of zeros
    each[: len(s)] = alpha * (s - 1.0) ** 2 + 2.0 * p.x * s
    value = float(np.cumsum(weights[::-1])[::-1] @ each)
    mix = np.zeros((len(s), k))
    np.fill_diagonal(mix, np.sqrt(s))
    return Filter(s, mix, value, "nested", True, value)


def _finish(p: _VicregProblem, mix: Array, regime: str, certified: bool) -> Filter:
    value = p.value(mix)
    s = (mix**2).sum(axis=1)
    return Filter(s, mix, value, regime, certified, value if certified else -np.inf)


def _decorrelated_s(p: _VicregProblem, x: Array) -> Array:
    """Best variance of one axis at cost 2 x per unit (regime A, V3A; V1 for ls_var)."""
    a, eps = p.alpha, p.eps
    with np.errstate(divide="ignore"):
        if p.kind == "hinge_std":
            return np.minimum(1.0, np.maximum(np.sqrt(eps), a / (4.0 * x))) ** 2 - eps
        if p.kind == "ls_std":
            return np.maximum(np.sqrt(eps), a / (a + 2.0 * x)) ** 2 - eps
    if p.kind == "ls_var":
        return np.maximum(0.0, 1.0 - x / a)
    return (2.0 * x < a).astype(np.float64)


def _decorrelated(p: _VicregProblem) -> Filter:
    s = np.maximum(_decorrelated_s(p, p.x), 0.0)
    mix = np.zeros((len(s), p.k))
    np.fill_diagonal(mix, np.sqrt(s))
    proven = p.kind == "ls_var" and p.beta >= p.alpha
    result = _finish(p, mix, "decorrelated", proven)
    if len(s) and p.x[0] >= 0:  # every column alone on the cheapest mode, no covariance paid
        cheapest = np.maximum(_decorrelated_s(p, p.x[:1]), 0.0)
        per_column = p.alpha * penalty(cheapest, p.kind, p.eps) + 2.0 * p.x[0] * cheapest
        result.lower_bound = max(result.lower_bound, p.k * float(per_column[0]))
        if result.value <= result.lower_bound + 1e-14 * max(1.0, result.value):
            result.certified = True
    return result


def _beta_star(p: _VicregProblem, s: Array) -> float:
    """Smallest beta at which no pair of axes of the decorrelated point gains by rotating (V3A).

    Moving variance from axis j to axis k saves min(2 x_k, -alpha pen'(s_k)) per unit, costs 2 x_j,
    and correlates them by (s_j - s_k). Two saturated axes with different x always gain.
    """
    pad = p.k - len(s)
    s = np.concatenate([s, np.zeros(pad)])
    x = np.concatenate([p.x, np.full(pad, np.inf)])
    saving = np.minimum(2.0 * x, -p.alpha * penalty_slope(s, p.kind, p.eps))
    saving = np.where(s >= p.ceiling, 2.0 * x, saving)
    gain = saving[None, :] - 2.0 * x[:, None]
    apart = s[:, None] - s[None, :]
    pays = (x[None, :] > x[:, None]) & (gain > 1e-15)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(pays & (s[:, None] > 0), gain / (2.0 * np.maximum(apart, 1e-300)), 0.0)
    return float(ratio.max(initial=0.0))


def _equal_variance(p: _VicregProblem) -> Filter:
    """All variances equal, columns correlated: a water level in the modes (regime B, V3B)."""
    a, b, kind, eps, k = p.alpha, p.beta, p.kind, p.eps, p.k

    def multiplier(level: float) -> float:
        return -a * float(penalty_slope(np.array(level), kind, eps))

    def spectrum(level: float, w: float) -> Array:
        return np.maximum(0.0, level + w / (2.0 * b) - p.x / b)

    top = p.ceiling
    if np.isfinite(top) and spectrum(top, multiplier(top)).sum() / k >= top:
        low, high = 0.0, multiplier(top)  # saturated: the kink's multiplier lies between 0 and this
        for _ in range(200):
            mid = (low + high) / 2.0
            low, high = (mid, high) if spectrum(top, mid).sum() / k < top else (low, mid)
        level, w = top, high
        s = spectrum(top, high)
    else:
        low, high = 0.0, top if np.isfinite(top) else max(1.0, a / b)
        while np.isinf(top) and spectrum(high, multiplier(high)).sum() / k > high:
            high *= 2.0
        for _ in range(300):
            mid = (low + high) / 2.0
            low, high = (
                (mid, high) if spectrum(mid, multiplier(mid)).sum() / k > mid else (low, mid)
            )
        level, w = (low + high) / 2.0, multiplier((low + high) / 2.0)
        s = spectrum(level, w)
        level = s.sum() / k
    rotation = schur_horn(np.concatenate([s, np.zeros(k - len(s))]))
    mix = (np.sqrt(s)[:, None] * rotation.T[: len(s)]) if len(s) else np.zeros((0, k))
    result = _finish(p, mix, "equal variance", False)
    if (kind == "ls_var" and b <= a) or _supports(p, level, w):
        result.certified, result.lower_bound = True, result.value
    return result


def _supports(p: _VicregProblem, level: float, w: float) -> bool:
    """Is phi(v) = alpha pen(v) - beta v^2 above its line of slope -(w + 2 beta level) at `level`?

    Then sum phi(C_kk) is bounded by that line, what remains is convex and separable in the
    spectrum, and the equal-variance point solves it: a proof of global optimality. Checked on a
    fine grid, which is exact enough since phi is smooth between 0 and the hinge's kink.
    """
    top = p.useful
    if not 0 < level <= top + 1e-12 or p.kind == "ls_var":
        return False
    v = np.concatenate([np.linspace(0.0, top, 2001), level * (1 + np.linspace(-0.05, 0.05, 201))])
    v = v[(v >= 0) & (v <= top)]

    def phi(t: Array) -> Array:
        return p.alpha * penalty(t, p.kind, p.eps) - p.beta * t**2

    line = phi(np.array(level)) - (w + 2.0 * p.beta * level) * (v - level)
    return bool((phi(v) >= line - 1e-12 * max(1.0, p.alpha)).all())


def _single_mode(p: _VicregProblem) -> Filter:
    """beta = 0: nothing keeps the columns apart, all of them use the cheapest mode."""
    s = np.zeros(len(p.x))
    mix = np.zeros((len(p.x), p.k))
    if len(p.x):
        s[0] = float(np.maximum(_decorrelated_s(p, p.x[:1]), 0.0)[0])
        mix[0] = np.sqrt(s[0])
    return _finish(p, mix, "single mode", True)


# ---------------------------------------------------------------------- the part without a formula
def _multistart(
    p: _VicregProblem, candidates: list[Filter], seed: int, starts: int | None
) -> Filter:
    """Best of the candidates and of L-BFGS from random points, sorted onto the cheapest modes."""
    if len(p.x) == 0:
        return candidates[0]
    rng = np.random.default_rng(seed)
    count = starts if starts is not None else max(4, min(12, 200 // max(p.k, 1)))
    best = min(candidates, key=lambda c: c.value)
    points = [c.mix + 1e-3 * rng.standard_normal(c.mix.shape) for c in candidates]
    points += [0.6 * rng.standard_normal((len(p.x), p.k)) for _ in range(count)]
    for point in points:
        found = _descend(p, point)
        mix = _sorted_onto_modes(found)
        if p.value(mix) < p.value(found) - 1e-12 * max(1.0, p.alpha):
            mix = _sorted_onto_modes(_descend(p, mix))
        if p.value(mix) < best.value - 1e-13 * max(1.0, abs(best.value)):
            best = _finish(p, mix, "multistart", False)
    best.lower_bound = max(best.lower_bound, *(c.lower_bound for c in candidates))
    return best


def _sorted_onto_modes(mix: Array) -> Array:
    """Same C, least energy: B = U S V^T becomes S V^T with S descending (rearrangement, V3R)."""
    _, sigma, vt = np.linalg.svd(mix, full_matrices=False)
    return sigma[:, None] * vt


def _descend(p: _VicregProblem, start: Array) -> Array:
    """L-BFGS; under a hinge column norms are sin(theta), which makes its kink a smooth maximum.

    (Variances above the kink never pay: shrinking such a column lowers every other term.)
    """
    shape = start.shape
    hinge = np.isfinite(p.ceiling)
    scale = np.sqrt(p.ceiling) if hinge else 1.0

    def columns(flat: Array) -> tuple[Array, Array, Array, Array]:
        u, theta = flat[: start.size].reshape(shape), flat[start.size :]
        norm = np.maximum(np.linalg.norm(u, axis=0), 1e-150)
        return u / norm, norm, theta, scale * np.sin(theta)

    def cost(mix: Array) -> tuple[float, Array]:
        c = mix.T @ mix
        v = np.maximum(np.diag(c), 1e-300)
        off = c - np.diag(np.diag(c))
        slope = np.where(v < p.ceiling, penalty_slope(v, p.kind, p.eps), 0.0)
        grad = 4.0 * p.beta * mix @ off + 4.0 * p.x[:, None] * mix + 2.0 * p.alpha * mix * slope
        return p.value(mix), grad.ravel()

    def hinge_cost(flat: Array) -> tuple[float, Array]:
        unit, norm, theta, radius = columns(flat)
        c = (unit * radius).T @ (unit * radius)
        off = c - np.diag(np.diag(c))
        s2 = p.ceiling * np.sin(theta) ** 2
        value = p.alpha * float(penalty(s2, p.kind, p.eps).sum()) + p.beta * float((off**2).sum())
        value += 2.0 * float(p.x @ ((unit * radius) ** 2).sum(axis=1))
        mix_grad = 4.0 * p.beta * (unit * radius) @ off + 4.0 * p.x[:, None] * unit * radius
        inner = (unit * mix_grad).sum(axis=0)
        d_unit = (mix_grad - unit * inner) * radius / norm
        # d pen / d theta = pen'(s2) * 2 ceiling sin cos, with pen' from below the kink
        slope = penalty_slope(np.clip(s2, 1e-300, p.ceiling), p.kind, p.eps)
        d_theta = inner * scale * np.cos(theta) + p.alpha * slope * p.ceiling * 2.0 * np.sin(
            theta
        ) * np.cos(theta)
        return value, np.concatenate([d_unit.ravel(), d_theta])

    options = {"maxiter": 2000, "maxfun": 4000, "ftol": 1e-16, "gtol": 1e-11, "maxcor": 30}
    if not hinge:
        run = minimize(
            lambda flat: cost(flat.reshape(shape)),
            start.ravel(),
            jac=True,
            method="L-BFGS-B",
            options=options,
        )
        return run.x.reshape(shape)
    norm = np.maximum(np.linalg.norm(start, axis=0), 1e-150)
    theta = np.arcsin(np.clip(norm / scale, 1e-3, 1.0 - 1e-3))
    run = minimize(
        hinge_cost,
        np.concatenate([(start / norm).ravel(), theta]),
        jac=True,
        method="L-BFGS-B",
        options=options,
    )
    unit, _, _, radius = columns(run.x)
    return unit * radius

"""Barlow Twins' K x K problem: which mixture of the top modes minimises the exact loss.

With Y = D^1/2 Z in the span of the top eigenvectors U_K of the centred A, Y = U_K B (unit columns):
    C = B^T Lambda B,   value = sum_k (1 - C_kk)^2 + alpha sum_{k != l} C_kl^2.
alpha = 1: only the spectrum b of C matters; b is realisable iff sum b_k / lambda_k <= K, and the
point of that half-space nearest to 1 is b_k = (1 - kappa / lambda_k)_+, a water-filling. A
Schur-Horn rotation makes the columns unit. Other alpha: docs/closed_forms.md, B2 and B6 to B8.
Source: Zbontar et al. 2021 (arXiv 2103.03230) for the loss; the minimum is derived, not cited.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize

from .rotation import schur_horn, spreading_rotation
from .vicreg import Filter

__all__ = ["barlow_filter", "water_filling", "whitened_filter"]

Array = np.ndarray


def water_filling(lam: Array, k: int, alpha: float) -> tuple[float, Array]:
    """min of K (1-mean b)^2 + alpha (sum b^2 - K mean(b)^2) s.t. b >= 0, sum b / lam <= K.

    lam: top eigenvalues, descending; alpha in (0, 1]. Returns the value and b (k,). Exact for alpha
    = 1; for alpha < 1 a lower bound of Barlow Twins, attained when all diagonals can be equalised
    at once.
    """
    usable = lam[lam > 1e-12]
    if len(usable) == k and bool((usable >= 1 - 1e-12).all()):
        return float(((1.0 - usable) ** 2).sum()), usable.copy()
    best_value, best_b = float(k), np.zeros(k)
    for r in range(1, len(usable) + 1):
        inverse = 1.0 / usable[:r]
        i1, i2 = inverse.sum(), (inverse**2).sum()
        # stationarity b_k = m + ((1 - m) - q / lam_k) / alpha with m = sum b / K: two linear
        # equations
        system = np.array([[k - r + r / alpha, i1 / alpha], [i1 - i1 / alpha, -i2 / alpha]])
        right = np.array([r / alpha, k - i1 / alpha])
        try:
            mean, q = np.linalg.solve(system, right)
        except np.linalg.LinAlgError:
            continue
        b = mean + ((1.0 - mean) - q * inverse) / alpha
        if (b < -1e-12).any() or q < -1e-9:
            continue
        b = np.concatenate([np.maximum(b, 0.0), np.zeros(k - r)])
        level = b.mean()
        value = float(k * (1 - level) ** 2 + alpha * ((b**2).sum() - k * level**2))
        if value < best_value:
            best_value, best_b = value, b
    return best_value, best_b


def whitened_filter(lam: Array, k: int, alpha: float) -> Filter:
    """Under Z^T D Z = I (CCA): eigenvectors for alpha >= 1, rotated to equal C_kk below 1.

    Columns beyond the number of modes cannot be whitened; they stay zero and cost 1 each.
    """
    r = len(lam)
    rotation = np.eye(r) if alpha >= 1 else schur_horn(lam).T
    mix = np.zeros((r, k))
    mix[:, :r] = rotation
    value = _value(mix[:, :r], lam, alpha) + (k - r)
    regime = "whitened" if alpha >= 1 else "whitened, equal correlations"
    return Filter(np.ones(r), mix, value, regime, True, value)


def barlow_filter(lam: Array, k: int, alpha: float, seed: int, starts: int | None) -> Filter:
    """Minimise the exact loss over B (r, k); Filter.s = diag(B B^T) by mode.

    Columns have unit norm, since the loss has only directions, or are zero (C_kk = 0, cost 1): with
    more columns than sum 1/lambda over the positive modes, energy has nowhere useful to go.
    """
    positive = lam[lam > 1e-12]
    p = len(positive)
    if p == 0:  # C_kk <= 0 whatever we do
        return Filter(np.zeros(len(lam)), np.zeros((len(lam), k)), float(k), "collapsed", True, k)
    if alpha == 0:  # nothing keeps the columns apart: every one is the top mode
        top = np.zeros((len(lam), k))
        top[0] = 1.0
        return _finish(top, lam, alpha, "single mode", True, -np.inf)
    budget = float((1.0 / positive).sum())
    if k <= budget * (1 + 1e-12):
        return _unit_columns(lam, k, alpha, seed, starts)
    # C has at most p positive eigenvalues; the best of p equal ones bounds the loss (b = 1 from
    # alpha = 1 on, where the spectrum decides).
    low = min(alpha, 1.0)
    b = 1.0 / (p / k + low * (1 - p / k))
    bound = k * (1 - p * b / k) ** 2 + low * p * b**2 * (1 - p / k)
    best = None
    filled = int(budget + 1e-9)
    # filled + 1: what is too much for one column goes into few other modes, not into all of them.
    for width in sorted({p, filled, filled + 1, k} & set(range(1, k + 1))):
        part = _unit_columns(lam[:width], width, alpha, seed, starts)
        if best is None or part.value + (k - width) < best.value - 1e-13 * k:
            mix = np.zeros((len(lam), k))
            mix[: part.mix.shape[0], :width] = part.mix
            best = _finish(mix, lam, alpha, part.regime, False, bound)
        if best.value <= bound + 1e-10 * max(1.0, bound):
            best.certified = True
            break
    assert best is not None
    return best


def _unit_columns(lam: Array, k: int, alpha: float, seed: int, starts: int | None) -> Filter:
    """The same with k unit columns in the span of the r <= k modes of lam."""
    bound, energy = -np.inf, None
    positive = lam[lam > 1e-12]
    if k <= float((1.0 / positive).sum()) * (1 + 1e-12):
        value, b = water_filling(lam, k, min(alpha, 1.0))
        padded = np.concatenate([lam, np.zeros(k - len(lam))])
        energy = np.divide(b, padded, out=np.zeros(k), where=padded > 1e-12)
        bound = value  # above 1 as well: the loss grows with alpha
    if energy is not None and alpha <= 1:
        rotation = schur_horn(energy) if alpha == 1 else spreading_rotation(k)
        if rotation is not None:
            mix = np.sqrt(energy[: len(lam)])[:, None] * rotation.T[: len(lam)]
            return _finish(mix, lam, alpha, "water-filling", True, bound)
    cca = np.zeros((len(lam), k))
    np.fill_diagonal(cca, 1.0)
    cca[0, len(lam) :] = 1.0  # surplus columns repeat the best mode rather than stay empty
    candidates = [_finish(cca, lam, alpha, "eigenvectors", False, bound)]
    if energy is not None:
        equal = np.sqrt(energy[: len(lam)])[:, None] * schur_horn(energy).T[: len(lam)]
        candidates.append(_finish(equal, lam, alpha, "equal norms", False, bound))
    return _multistart(candidates, lam, k, alpha, bound, seed, starts)


def _value(mix: Array, lam: Array, alpha: float) -> float:
    norm = np.linalg.norm(mix, axis=0)
    unit = mix / np.where(norm > 0, norm, 1.0)
    c = unit.T @ (lam[:, None] * unit)
    diagonal = np.diag(c)
    off = float((c**2).sum() - (diagonal**2).sum())
    return float(((1.0 - diagonal) ** 2).sum()) + alpha * off


def _finish(
    mix: Array, lam: Array, alpha: float, regime: str, certified: bool, bound: float
) -> Filter:
    value = _value(mix, lam, alpha)
    s = (mix**2).sum(axis=1)
    return Filter(s, mix, value, regime, certified, value if certified else bound)


def _multistart(
    candidates: list[Filter],
    lam: Array,
    k: int,
    alpha: float,
    bound: float,
    seed: int,
    starts: int | None,
) -> Filter:
    rng = np.random.default_rng(seed)
    count = starts if starts is not None else max(4, min(12, 200 // k))
    shape = (len(lam), k)
    best = min(candidates, key=lambda c: c.value)
    points = [c.mix + 1e-3 * rng.standard_normal(shape) for c in candidates]
    points += [rng.standard_normal(shape) for _ in range(count)]
    proven = bound + 1e-10 * max(1.0, bound)
    for point in points:
        if best.value <= proven:
            break
        mix = _descend(point, lam, k, alpha)
        if _value(mix, lam, alpha) < best.value - 1e-13 * max(1.0, best.value):
            best = _finish(mix, lam, alpha, "multistart", False, bound)
    mix = _descend(best.mix, lam, k, alpha)  # a flat valley may have stopped the first run early
    if _value(mix, lam, alpha) < best.value:
        best = _finish(mix, lam, alpha, best.regime, False, bound)
    best.lower_bound = max(best.lower_bound, bound)
    best.certified = best.certified or best.value <= proven
    return best


def _descend(start: Array, lam: Array, k: int, alpha: float) -> Array:
    """L-BFGS on the columns' directions; unit columns out."""
    run = minimize(
        _value_and_gradient,
        start.ravel(),
        args=(lam, k, alpha),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 4000, "maxfun": 8000, "ftol": 1e-16, "gtol": 1e-11, "maxcor": 30},
    )
    mix = run.x.reshape(start.shape)
    return mix / np.linalg.norm(mix, axis=0)


def _value_and_gradient(flat: Array, lam: Array, k: int, alpha: float) -> tuple[float, Array]:
    mix = flat.reshape(len(lam), k)
    norm = np.maximum(np.linalg.norm(mix, axis=0), 1e-150)
    unit = mix / norm
    weighted = lam[:, None] * unit
    c = unit.T @ weighted
    diagonal = np.diag(c)
    off = c - np.diag(diagonal)
    value = float(((1.0 - diagonal) ** 2).sum()) + alpha * float((off**2).sum())
    grad = 4.0 * weighted @ (alpha * off + np.diag(diagonal - 1.0))
    grad = (grad - unit * (unit * grad).sum(axis=0)) / norm
    return value, grad.ravel()

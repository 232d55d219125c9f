"""X-CLR's optimum, where multidimensional scaling of the targets' similarities is exact.

With S the cosines of the targets and r = temperature / target_temperature, unit rows with

    Z Z^T = r S + (1 - r) 1 1^T

have, off the diagonal, logits that differ from those of the targets by a constant: every softmax
equals its target, and the loss is the mean entropy of the targets, below which no z is. For r <= 1
the right-hand side is positive semi-definite; for r > 1 only where some combination of the columns
of the unit targets is constant and large enough, 1^T S^+ 1 <= r / (r - 1).

Source: Sobal et al. 2024 (arXiv 2407.18134) for the loss, Balestriero & LeCun 2022
(arXiv 2205.11508) for SimCLR as multidimensional scaling; derived in docs/closed_forms.md.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy.special import entr

from .._checks import count
from ..graph import PairGraph
from ._checks import check_positive
from ._eigen import known_info
from ._target import Target, checked_array
from .closed_form import ClosedForm, package, pad

__all__ = ["x_clr"]

Array = np.ndarray
_ROWS = 512  # of similarities at a time
_ROUNDING = 1e-10  # eigenvalues below this share of the largest are 0


def x_clr(
    targets: Any,
    k: int,
    *,
    temperature: float = 0.1,
    target_temperature: float = 0.1,
) -> ClosedForm:
    """Optimum of ``F.x_clr(z, targets, ...)`` over z (n, k).

    Args:
        targets: (n, e) rows of positive length, n >= 2.
        k: embedding dimensions, at least the rank of r S + (1 - r) 1 1^T: with equal temperatures
            that of the targets, else at most one more.
        temperature, target_temperature: > 0; r is their quotient.

    Returns:
        `ClosedForm`. ``eigenvalues`` and ``filter`` are those of Z Z^T.

    Raises:
        ValueError: targets, k or temperatures for which no closed form is known (the entropy that
            ``F.x_clr(..., return_terms=True)`` returns is still a bound), or a row of length 0.
        TypeError: wrong types.
    """
    given = checked_array(targets, "targets", 2)
    n = len(given)
    if n < 2:
        raise ValueError(f"targets must have at least 2 rows, got {n}")
    k = count("x_clr", "k", k, 1)
    tau = check_positive(temperature, "temperature", strict=True)
    other = check_positive(target_temperature, "target_temperature", strict=True)
    length = np.linalg.norm(given, axis=1, keepdims=True)
    if not length.all():
        raise ValueError(
            f"targets must have rows of positive length, got {int((length == 0).sum())} of length 0"
        )
    unit, r = given / length, tau / other
    target = Target(PairGraph.from_labels(torch.zeros(n, dtype=torch.int64)))
    target.device = targets.device if isinstance(targets, torch.Tensor) else None

    q, upper = np.linalg.qr(np.column_stack([unit, np.ones(n)]))
    gains = np.append(np.full(unit.shape[1], r), 1 - r)
    values, vectors = np.linalg.eigh(upper @ (gains[:, None] * upper.T))
    values, vectors = values[::-1], q @ vectors[:, ::-1]
    floor = _ROUNDING * values[0]
    if values[-1] < -floor:
        raise ValueError(
            f"temperature must be at most target_temperature = {other:g} for a closed form of "
            f"x_clr on these targets, got {tau:g}: r S + (1 - r) 11^T has the eigenvalue "
            f"{values[-1]:.3g} < 0"
        )
    rank = int((values > floor).sum())
    if rank > k:
        raise ValueError(f"k must be at least {rank}, the rank of r S + (1 - r) 11^T, got {k}")
    values = values[:rank]
    embedding = np.zeros((n, k))
    embedding[:, :rank] = vectors[:, :rank] * np.sqrt(values)
    loss = _mean_entropy(unit, other)
    info = known_info(target, values, rank)
    info.regime, info.lower_bound = "similarities of the targets", loss
    return package(
        target,
        embedding=embedding,
        eigenvalues=pad(values, k, 0.0),
        filter_=pad(values, k, 0.0),
        loss=loss,
        info=info,
    )


def _mean_entropy(unit: Array, temperature: float) -> float:
    """Mean entropy of softmax_{j != i}(t_i . t_j / temperature)."""
    total = 0.0
    for start in range(0, len(unit), _ROWS):
        rows = np.arange(start, min(start + _ROWS, len(unit)))
        logits = unit[rows] @ unit.T / temperature
        logits[rows - start, rows] = -math.inf
        share = np.exp(logits - logits.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        total += float(entr(share).sum())
    return total / len(unit)

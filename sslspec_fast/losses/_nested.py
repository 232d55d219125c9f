r"""Sums of a quadratic loss over all prefixes of the columns, at the cost of one.

With weights c_m of the prefixes and :math:`t_k = \sum_{m \ge k} c_m`,

.. math::
    \sum_m c_m \|X_m^\top X_m\|_F^2 = \sum_{kl} \min(t_k, t_l)\, (X^\top X)_{kl}^2, \qquad
    \sum_m c_m \langle X_m, G X_m \rangle = \sum_k t_k\, x_k^\top G x_k .

All prefixes of such a loss are optimal together at the eigenvectors in order: its minimum is there
and, for distinct eigenvalues and weights > 0, nowhere else up to signs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .. import _prefixes
from .._prefixes import Nested

__all__ = ["Nested", "over_prefixes", "prefix_weights", "tails"]


def prefix_weights(op: str, nested: Nested, x: Tensor) -> list[float] | None:
    """(d,) weights of the prefixes 1 ... d of the columns of x; None without them."""
    return _prefixes.prefix_weights(op, nested, x.shape[1])


def tails(weights: list[float], x: Tensor) -> Tensor:
    """(d,) t_k in the dtype of x."""
    c = torch.tensor(weights, dtype=torch.float64, device=x.device)
    return c.flip(0).cumsum(0).flip(0).to(x.dtype)


def over_prefixes(
    loss: Callable[[Tensor], Tensor], x: Tensor, weights: list[float] | None
) -> Tensor:
    """sum over m of c_m loss(X_m), one by one; loss(X) without weights."""
    if weights is None:
        return loss(x)
    parts = [c * loss(x[:, : m + 1]) for m, c in enumerate(weights) if c > 0]
    return torch.stack(parts).sum()

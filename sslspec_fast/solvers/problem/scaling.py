"""Problems far from norm 1: solved at norm 1, by powers of two, which round nothing.

Squares of float32 numbers below 1e-19 are not normal numbers, and the filters take another e^-60
out in advance: Gram matrices and residuals of a tiny matrix would say nothing. What has no entries
to multiply is multiplied in float64, where its products are what it makes of them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...operators.base import ShiftOperator, SymmetricOperator, combine
from ...operators.composite import DenseOperator, ScaledOperator
from ...operators.convert import trial
from ...operators.csr import CsrOperator
from ...operators.known import KnownPairs
from ...operators.partitioned import PartitionedOperator

__all__ = ["divided", "norm_scale", "power_near", "refuse_scale", "usual_row"]

_NEAR = 40  # norms from 2^-40 to 2^40 are left alone
_WIDE = 40  # likewise scales of rows that are so far from each other


def power_near(size: float, exponent: int = 0) -> float:
    """A power of two, 4^m, next to size 2^exponent; 1 where that is near 1, 0 or not finite."""
    if not 0.0 < size < math.inf:
        return 1.0
    exponent += math.frexp(size)[1]
    if abs(exponent) <= _NEAR:
        return 1.0
    return 4.0 ** (min(max(exponent, -1000), 1000) // 2)


def usual_row(matrix: Any) -> float:
    """Median of sum_j |a_ij| over the rows that are not empty; 0 without any.

    matrix: dense or sparse (n, n), or these sums (n,).
    """
    size = np.asarray(abs(matrix).sum(axis=1) if matrix.ndim == 2 else matrix).ravel()
    return float(np.median(size[size > 0])) if (size > 0).any() else 0.0


def norm_scale(op: SymmetricOperator) -> float | None:
    """A power of two next to the norm, measured by a product where no bound is known; None where
    the norm is near 1 and products of any precision will do.
    """
    norm = max(abs(bound) for bound in op.bounds())
    if norm < math.inf:
        scale = power_near(norm)
    else:
        x, y, exponent = trial(op)
        scale = power_near(float(y.norm() / x.norm()), exponent) if op.n else 1.0
    return scale if scale != 1.0 or not _fits_float32(op) else None


def _fits_float32(op: SymmetricOperator) -> bool:
    """Whether parts far from norm 1 make up an operator that is near it."""
    if not isinstance(op, ScaledOperator):
        return True
    scale = op.scale.abs()
    low, high = (float(x) for x in (scale.min(), scale.max())) if op.n else (1.0, 1.0)
    inner = max(abs(bound) for bound in op.op.bounds())
    return (inner == math.inf or power_near(inner) == 1.0) and high <= 2.0**_WIDE * low


class _Float64Products(ShiftOperator):
    """a A, with products in float64: those of A may be no numbers of float32."""

    def matmat(
        self,
        x: Tensor,
        out: Tensor | None = None,
        *,
        alpha: float = 1.0,
        beta: float = 0.0,
        gamma: float = 0.0,
        w: Tensor | None = None,
    ) -> Tensor:
        # half of the factor on either side: neither product leaves float64
        before = 2.0 ** (math.frexp(self.a)[1] // 2)
        y = self.op.matmat(x.double() * before).mul_(self.a / before)
        return combine(y.to(x.dtype), out, alpha, beta, gamma, w)

    def similar(self) -> tuple[SymmetricOperator, Tensor | None]:
        return self, None


def divided(op: SymmetricOperator, scale: float) -> SymmetricOperator:
    """A / scale, rounded once, or multiplied in float64 where it has no entries."""
    factor = 1.0 / scale
    if isinstance(op, PartitionedOperator):
        return op.scaled(factor)
    if isinstance(op, DenseOperator):
        return DenseOperator((op.matrix.double() * factor).to(op.dtype))
    if isinstance(op, CsrOperator) and op.values is not None:
        # scaled before they are rounded to float32
        diagonal = None if op.diagonal is None else op.diagonal * factor
        known = tuple(KnownPairs(pair.value * factor, pair.vectors) for pair in op.known())
        low, high = op.bounds()
        return CsrOperator(
            op.indptr,
            op.indices,
            (op.values.double() * factor).to(op.dtype),
            n=op.n,
            scale=op.scale,
            diagonal=diagonal,
            sign=op.sign,
            known=known,
            trusted=True,
            bounds=(low * factor, high * factor) if math.isfinite(high - low) else None,
        )
    return _Float64Products(op, factor, 0.0)


def refuse_scale(scale: float, precision: str) -> None:
    """Raise where eigenvalues of this size do not fit in the numbers of the result."""
    if not 0.0 < scale < math.inf:
        raise ValueError(
            "eigsh: eigenvalues must fit in float64, got A and B whose sizes are too far apart"
        )
    limits = torch.finfo(torch.float32)
    if precision == "float32" and not 8 * limits.tiny < scale < limits.max / 8:
        raise ValueError(
            f"eigsh: precision='float32' must hold the eigenvalues, got a norm near {scale:.3g}; "
            "use 'mixed' or 'float64'"
        )

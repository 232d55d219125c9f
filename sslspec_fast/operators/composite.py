"""Operators made of other things: centring, scaling, low rank, dense matrices, callables."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from ..ranks.lockstep import ordered_sum
from .base import SymmetricOperator, combine
from .known import KnownPairs

__all__ = [
    "CallableOperator",
    "CenteredOperator",
    "DenseOperator",
    "LowRankOperator",
    "ScaledOperator",
]


class CenteredOperator(SymmetricOperator):
    """H A H with H = I - 1 1^T / n: two column means around one product."""

    def __init__(self, op: SymmetricOperator) -> None:
        super().__init__(op.n, op.dtype, op.device, op.ranks)
        self.op = op

    def _apply(self, x: Tensor) -> Tensor:
        y = self.op.matmat(x - self._mean(x))
        return y.sub_(self._mean(y))

    def _mean(self, x: Tensor) -> Tensor:
        if self.ranks is None:
            return x.mean(0, keepdim=True)
        return ordered_sum(x.sum(0, keepdim=True), self.ranks.group) / self.n

    def bounds(self) -> tuple[float, float]:
        # Cauchy interlacing on the complement of 1, plus the eigenvalue 0 of 1 itself
        lo, hi = self.op.bounds()
        return min(lo, 0.0), max(hi, 0.0)

    def nnz(self) -> int | None:
        return self.op.nnz()


class LowRankOperator(SymmetricOperator):
    """U diag(c) U^T.

    Args:
        factor: U (n, r), float32 or float64.
        coefficients: c (r,), or None for ones.

    Raises:
        ValueError: shapes that do not fit.
    """

    def __init__(self, factor: Tensor, coefficients: Tensor | None = None) -> None:
        if factor.dim() != 2:
            raise ValueError(f"low_rank: factor must be (n, r), got {tuple(factor.shape)}")
        r = factor.shape[1]
        if coefficients is not None and coefficients.shape != (r,):
            got = tuple(coefficients.shape)
            raise ValueError(f"low_rank: coefficients must be (r = {r},), got {got}")
        super().__init__(factor.shape[0], factor.dtype, factor.device)
        self.factor, self.coefficients = factor, coefficients

    def _apply(self, x: Tensor) -> Tensor:
        factor = self.factor.to(x.dtype)
        inner = factor.T @ x
        if self.coefficients is not None:
            inner = inner * self.coefficients.to(x.dtype)[:, None]
        return factor @ inner

    def bounds(self) -> tuple[float, float]:
        r = self.factor.shape[1]
        if r == 0:
            return 0.0, 0.0
        # ||U C U^T|| <= max|c| * sigma_max(U)^2; the sign of c tells which ends can be non-zero
        top = float(torch.linalg.eigvalsh(self.factor.double().T @ self.factor.double())[-1])
        top *= 1 + 1e-12 * r
        c = torch.ones(1) if self.coefficients is None else self.coefficients
        return top * min(float(c.min()), 0.0), top * max(float(c.max()), 0.0)

    def nnz(self) -> int:
        return 2 * self.factor.numel()


class ScaledOperator(SymmetricOperator):
    """diag(s) A diag(s).

    Args:
        op: A.
        scale: s (n,).

    Raises:
        NotImplementedError: the rows of A are spread over ranks.
    """

    def __init__(self, op: SymmetricOperator, scale: Tensor) -> None:
        if op.ranks is not None:
            raise NotImplementedError("ScaledOperator: op must have all its rows in one process")
        super().__init__(op.n, op.dtype, op.device)
        self.op, self.scale = op, scale

    def _apply(self, x: Tensor) -> Tensor:
        s = self.scale.to(x.dtype)[:, None]
        return self.op.matmat(x * s) * s

    def bounds(self) -> tuple[float, float]:
        lo, hi = self.op.bounds()
        square = self.scale.double() ** 2
        low, high = float(square.min()), float(square.max())
        return lo * (high if lo < 0 else low), hi * (high if hi > 0 else low)

    def nnz(self) -> int | None:
        return self.op.nnz()

    def assemble(self) -> Any | None:
        matrix = self.op.assemble()
        if matrix is None:
            return None
        d = scipy.sparse.diags_array(self.scale.double().cpu().numpy())
        return scipy.sparse.csr_array(d @ matrix @ d)


class DenseOperator(SymmetricOperator):
    """A dense symmetric matrix.

    Args:
        matrix: (n, n) float32 or float64; its symmetry is not checked (`as_operator` does).
    """

    def __init__(self, matrix: Tensor) -> None:
        super().__init__(matrix.shape[0], matrix.dtype, matrix.device)
        self.matrix = matrix
        self._single: Tensor | None = None

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
        matrix = self.matrix
        if x.dtype != matrix.dtype:
            if self._single is None or self._single.dtype != x.dtype:
                self._single = matrix.to(x.dtype)
            matrix = self._single
        return combine(matrix @ x, out, alpha, beta, gamma, w)

    def bounds(self) -> tuple[float, float]:
        if self.n == 0:
            return 0.0, 0.0
        center = self.matrix.diagonal().double()
        radius = self.matrix.abs().sum(1, dtype=torch.float64) - center.abs()
        return float((center - radius).min()), float((center + radius).max())

    def nnz(self) -> int:
        return self.n * self.n

    def to_dense(self) -> Tensor:
        return self.matrix.double()


class CallableOperator(SymmetricOperator):
    """X -> A X of a LinearOperator-like object or of a PairGraph.

    Args:
        apply: the product with a block (n, b).
        n, dtype, device: as in `SymmetricOperator`.
        array: what `apply` takes and returns: "numpy" (blocks are converted, host only) or "torch".
        bounds: of the spectrum, where they are known.
        known: exact eigenpairs.
        nnz: stored entries that a product touches, where that is known.
        assemble: returns A as a scipy CSR array, where it has entries.
    """

    def __init__(
        self,
        apply: Callable[[Any], Any],
        n: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        array: str = "torch",
        bounds: tuple[float, float] = (-math.inf, math.inf),
        known: tuple[KnownPairs, ...] = (),
        nnz: int | None = None,
        assemble: Callable[[], Any] | None = None,
    ) -> None:
        super().__init__(n, dtype, device)
        self._function, self._array, self._bounds = apply, array, bounds
        self._known, self._nnz, self._assemble = known, nnz, assemble

    def _apply(self, x: Tensor) -> Tensor:
        if self._array == "torch":
            # not x itself, nor a buffer that is used again, nor columns side by side
            return self._function(x).clone(memory_format=torch.contiguous_format)
        y = np.array(self._function(x.numpy()), dtype=x.numpy().dtype, order="C")
        return torch.from_numpy(y).reshape(x.shape)

    def bounds(self) -> tuple[float, float]:
        return self._bounds

    def known(self) -> tuple[KnownPairs, ...]:
        return self._known

    def nnz(self) -> int | None:
        return self._nnz

    def assemble(self) -> Any | None:
        return None if self._assemble is None else self._assemble()

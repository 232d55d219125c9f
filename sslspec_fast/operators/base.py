"""The operator protocol of the eigensolvers: a symmetric A that multiplies row-major blocks.

    Y = alpha * A X + beta * Y + gamma * W          X, Y, W: (n, b)

Everything a solver may want to know about A beyond products (bounds of the spectrum, eigenpairs
that are known exactly, an assembled matrix for a factorisation) is optional and has a safe answer.
"""

from __future__ import annotations

import math
import numbers
from typing import Any

import scipy.sparse
import torch
from torch import Tensor

from .. import _checks as check
from ..primitives import basis
from ..ranks import Ranks
from .known import KnownPairs

__all__ = ["ShiftOperator", "SumOperator", "SymmetricOperator", "combine", "refuse_grad"]


class SymmetricOperator:
    """A symmetric (n, n) operator. Subclasses define `_apply` (or override `matmat`).

    op @ X multiplies; A + B, A - B, 2 * A, A / 2 and -A are operators too.

    Args:
        n: rows and columns.
        dtype: of the data behind it; products run in the dtype of X (float32 or float64).
        device: of the blocks that it multiplies.
        ranks: who holds which of the n rows, of A and of the blocks that it multiplies; None where
            this process has all of them, so that `rows` is n.
    """

    def __init__(
        self, n: int, dtype: torch.dtype, device: torch.device, ranks: Ranks | None = None
    ) -> None:
        self.shape = (n, n)
        self.ranks = ranks
        self.dtype = dtype
        self.device = device

    @property
    def n(self) -> int:
        """Rows and columns."""
        return self.shape[0]

    @property
    def rows(self) -> int:
        """Rows of A, and of blocks, that this process holds."""
        return self.n if self.ranks is None else self.ranks.counts[self.ranks.rank]

    @property
    def most_rows(self) -> int:
        """Rows that any process holds."""
        return self.n if self.ranks is None else max(self.ranks.counts)

    def random_block(self, b: int, seed: int, dtype: torch.dtype) -> Tensor:
        """(rows, b): this process's rows of a random (n, b)."""
        first = 0 if self.ranks is None else self.ranks.here.start
        return basis.random_block(self.rows, b, seed, dtype, self.device, first)

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
        """alpha * A X + beta * out + gamma * W, written into `out` when it is given.

        x, out, w: (rows, b); `out` must not be `x`, and `w` may be `x`.
        """
        return combine(self._apply(x), out, alpha, beta, gamma, w)

    def __matmul__(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor) or x.dtype not in (torch.float32, torch.float64):
            got = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"operator @ x: x must be a float32 or float64 tensor, got {got}")
        if x.dim() not in (1, 2) or x.shape[0] != self.rows:
            rule = f"x must be (n = {self.rows},) or ({self.rows}, b)"
            raise ValueError(f"operator @ x: {rule}, got {tuple(x.shape)}")
        y = self.matmat(x[:, None])[:, 0] if x.dim() == 1 else self.matmat(x)
        if x.requires_grad and torch.is_grad_enabled() and not y.requires_grad:
            raise NotImplementedError(
                f"operator @ x: {type(self).__name__} has no gradient in x; use graph @ x, or "
                "x.detach()"
            )
        return y

    def __add__(self, other: SymmetricOperator) -> SymmetricOperator:
        known = isinstance(other, SymmetricOperator)
        return SumOperator([self, other]) if known else NotImplemented

    def __sub__(self, other: SymmetricOperator) -> SymmetricOperator:
        return self + -other if isinstance(other, SymmetricOperator) else NotImplemented

    def __mul__(self, factor: float) -> SymmetricOperator:
        real = isinstance(factor, numbers.Real) and not isinstance(factor, bool)
        return ShiftOperator(self, float(factor), 0.0) if real else NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> SymmetricOperator:
        return self * (1.0 / divisor) if isinstance(divisor, numbers.Real) else NotImplemented

    def __neg__(self) -> SymmetricOperator:
        return self * -1.0

    def _apply(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def similar(self) -> tuple[SymmetricOperator, Tensor | None]:
        """(B, t) with B = diag(t)^-1 A diag(t), whose products cost less; (A, None) if none do.

        p(A) X = t * (p(B) (X / t)) for a polynomial p. B has products only: it is not symmetric.
        """
        return self, None

    def bounds(self) -> tuple[float, float]:
        """An interval that is sure to contain the spectrum; infinite where nothing is known."""
        return -math.inf, math.inf

    def top_attained(self) -> bool:
        """The upper bound is an eigenvalue: a shift can be put right above it."""
        top = self.bounds()[1]
        return any(pair.value >= top for pair in self.known())

    def known(self) -> tuple[KnownPairs, ...]:
        """Eigenpairs known exactly, e.g. the null vectors of a Laplacian."""
        return ()

    def assemble(self) -> Any | None:
        """A as scipy CSR float64 when entries exist, for factorisations; None when they do not."""
        return None

    def nnz(self) -> int | None:
        """Stored entries that a product touches; None when unknown."""
        return None

    def to_dense(self) -> Tensor:
        """(n, n) float64, by products with unit blocks."""
        n = self.n
        out = torch.empty(n, n, dtype=torch.float64, device=self.device)
        for start in range(0, n, 256):
            stop = min(start + 256, n)
            unit = torch.zeros(n, stop - start, dtype=torch.float64, device=self.device)
            unit[start:stop] = torch.eye(stop - start, dtype=torch.float64, device=self.device)
            out[:, start:stop] = self.matmat(unit)
        return (out + out.T) / 2


def combine(
    y: Tensor, out: Tensor | None, alpha: float, beta: float, gamma: float, w: Tensor | None
) -> Tensor:
    """alpha * y + beta * out + gamma * w; `y` is scratch when `out` is None."""
    if out is None:
        if alpha != 1.0:
            y = y * alpha
        return y.add(w, alpha=gamma) if gamma != 0.0 and w is not None else y
    if beta == 0.0:
        torch.mul(y, alpha, out=out)
    else:
        out.mul_(beta).add_(y, alpha=alpha)
    if gamma != 0.0 and w is not None:
        out.add_(w, alpha=gamma)
    return out


class ShiftOperator(SymmetricOperator):
    """a * A + b * I."""

    def __init__(self, op: SymmetricOperator, a: float, b: float) -> None:
        super().__init__(op.n, op.dtype, op.device, op.ranks)
        self.op, self.a, self.b = op, float(a), float(b)

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
        if self.b == 0.0 or (gamma != 0.0 and w is not None):
            y = self.op.matmat(x, out, alpha=alpha * self.a, beta=beta, gamma=gamma, w=w)
            return y if self.b == 0.0 else y.add_(x, alpha=alpha * self.b)
        return self.op.matmat(x, out, alpha=alpha * self.a, beta=beta, gamma=alpha * self.b, w=x)

    def similar(self) -> tuple[SymmetricOperator, Tensor | None]:
        op, t = self.op.similar()
        return (self, None) if t is None else (ShiftOperator(op, self.a, self.b), t)

    def bounds(self) -> tuple[float, float]:
        lo, hi = (self.a * t + self.b if self.a else self.b for t in self.op.bounds())
        return min(lo, hi), max(lo, hi)

    def top_attained(self) -> bool:
        return super().top_attained() or (self.a > 0 and self.op.top_attained())

    def known(self) -> tuple[KnownPairs, ...]:
        return tuple(KnownPairs(self.a * p.value + self.b, p.vectors) for p in self.op.known())

    def nnz(self) -> int | None:
        return self.op.nnz()

    def assemble(self) -> Any | None:
        matrix = self.op.assemble()
        if matrix is None:
            return None
        eye = scipy.sparse.eye_array(self.n, format="csr")
        return scipy.sparse.csr_array(self.a * matrix + self.b * eye)

    def to_dense(self) -> Tensor:
        out = self.a * self.op.to_dense()
        out.diagonal().add_(self.b)
        return out


class SumOperator(SymmetricOperator):
    """Sum of operators of one size.

    Args:
        parts: the operators, at least one.

    Raises:
        ValueError: shapes, devices or ranks that differ.
    """

    def __init__(self, parts: list[SymmetricOperator]) -> None:
        first = parts[0]
        for part in parts[1:]:
            if part.shape != first.shape or part.device != first.device:
                raise ValueError(
                    f"sum: operators must share shape and device, got {first.shape} on "
                    f"{first.device} and {part.shape} on {part.device}"
                )
            if part.ranks != first.ranks:
                raise ValueError("sum: operators must have the same rows on the same ranks")
        super().__init__(first.n, first.dtype, first.device, first.ranks)
        self.parts = parts

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
        y = self.parts[0].matmat(x, out, alpha=alpha, beta=beta, gamma=gamma, w=w)
        for part in self.parts[1:]:
            y = part.matmat(x, y, alpha=alpha, beta=1.0)
        return y

    def bounds(self) -> tuple[float, float]:
        each = [part.bounds() for part in self.parts]
        return sum(lo for lo, _ in each), sum(hi for _, hi in each)

    def nnz(self) -> int | None:
        counts = [part.nnz() for part in self.parts]
        return None if any(c is None for c in counts) else sum(c for c in counts if c is not None)

    def assemble(self) -> Any | None:
        matrices = [part.assemble() for part in self.parts]
        total = matrices[0]
        for matrix in matrices[1:]:
            total = None if total is None or matrix is None else total + matrix
        return None if total is None else scipy.sparse.csr_array(total)


def refuse_grad(op: str, name: str, x: Any) -> None:
    """Raise if the gradient would be dropped: operators hold detached tensors."""
    check.refuse_grad(
        op,
        name,
        _needs_grad(x),
        "only eigsh(A) with that tensor itself as A is differentiable: "
        "pass it as it is, or detached",
    )


def _needs_grad(x: Any) -> bool:
    if isinstance(x, Tensor):
        return x.requires_grad
    if isinstance(x, SymmetricOperator):
        x = list(vars(x).values())
    return isinstance(x, list) and any(map(_needs_grad, x))

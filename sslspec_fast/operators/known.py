"""Orthonormal vectors that are known without computing, and how they are taken out of a block.

X <- X - V V^T X        V: (n, count) orthonormal, X: (n, b)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..primitives import basis
from ..primitives.spread import total
from ..ranks import several
from ..ranks.lockstep import ordered_sum

__all__ = ["Deflated", "DenseVectors", "GroupVectors", "KnownPairs", "Removable"]

# A dense product with few columns streams; a scatter over rows does not.
_FEW = 12


class Removable(Protocol):
    """An orthonormal block V that can be taken out of others."""

    def remove_(self, x: Tensor) -> Tensor:
        """X <- X - V V^T X, in place."""

    def block(self, dtype: torch.dtype) -> Tensor | None:
        """V itself where it has so few columns that they ride along with other products."""


class Deflated(Removable, Protocol):
    """A block V (n, count) that is taken out of a problem."""

    count: int

    def dense(self) -> Tensor:
        """V, (n, count) float64."""

    def reordered(self, p: Tensor) -> Deflated:
        """The rows of V in the order p."""


class DenseVectors:
    """Any orthonormal block, (n, count) float64."""

    def __init__(self, vectors: Tensor) -> None:
        self.count = vectors.shape[1]
        self._cast = {vectors.dtype: vectors}

    def _of(self, dtype: torch.dtype) -> Tensor:
        if dtype not in self._cast:
            self._cast[dtype] = self._cast[torch.float64].to(dtype)
        return self._cast[dtype]

    def block(self, dtype: torch.dtype) -> Tensor | None:
        return self._of(dtype) if self.count <= _FEW else None

    def dense(self) -> Tensor:
        return self._cast[torch.float64]

    def remove_(self, x: Tensor) -> Tensor:
        return _remove(self._of(x.dtype), x)

    def reordered(self, p: Tensor) -> DenseVectors:
        return DenseVectors(self.dense()[p])


def _remove(v: Tensor, x: Tensor) -> Tensor:
    return x if v.shape[1] == 0 else basis.project_out(v, x)


class GroupVectors:
    """Orthonormal block with one vector per group: v_c = weight on the rows of group c, normalised.

    Null vectors of graphs have this form (one per connected component); thousands of them cost O(n)
    instead of O(n * count).

    Args:
        labels: (n,) int64 in [0, count), or -1 for rows outside every group.
        weights: (n,), or None for ones.
        count: of groups; None: the largest label + 1.
        group: of ranks that hold the rows together; labels and weights are then those of this
            rank's rows, and count, of all, is needed.

    Raises:
        ValueError: labels that are not (n,), a group without a row of non-zero weight, or no count
            beside a process group.
    """

    def __init__(
        self,
        labels: Tensor,
        weights: Tensor | None = None,
        count: int | None = None,
        *,
        group: Any = None,
    ) -> None:
        if labels.dim() != 1:
            raise ValueError(f"GroupVectors: labels must be (n,), got {tuple(labels.shape)}")
        self.n = labels.shape[0]
        group = several("GroupVectors", group)
        if group is not None and count is None:
            raise ValueError("GroupVectors: count must be given with a group, got None")
        self.count = int(count if count is not None else (int(labels.max()) + 1 if self.n else 0))
        member = labels >= 0
        self.labels = torch.where(member, labels, 0).long()
        w = torch.ones(self.n, dtype=torch.float64, device=labels.device)
        w = (w if weights is None else weights.to(w)) * member
        square = torch.zeros(self.count, dtype=torch.float64, device=labels.device)
        square.index_add_(0, self.labels, w * w)
        if group is not None:
            square = ordered_sum(square, group)
        if self.count and float(square.min()) == 0.0:
            raise ValueError("GroupVectors: every group needs a row of non-zero weight")
        self.norms = square.sqrt()
        self.weights = w / self.norms[self.labels] if self.count else w
        self._dense: dict[torch.dtype, Tensor] = {}

    def coefficients(self, x: Tensor) -> Tensor:
        """V^T X, (count, b)."""
        out = torch.zeros(self.count, x.shape[1], dtype=x.dtype, device=x.device)
        return total(out.index_add_(0, self.labels, x * self.weights.to(x.dtype)[:, None]))

    def remove_(self, x: Tensor) -> Tensor:
        """X <- X - V V^T X, in place."""
        v = self.block(x.dtype)
        if v is not None:
            return _remove(v, x)
        c = self.coefficients(x)
        return x.sub_(c[self.labels] * self.weights.to(x.dtype)[:, None])

    def block(self, dtype: torch.dtype) -> Tensor | None:
        """(n, count) dense where there are few groups, else None."""
        if self.count > _FEW:
            return None
        if dtype not in self._dense:
            self._dense[dtype] = self.dense().to(dtype)
        return self._dense[dtype]

    def reordered(self, p: Tensor) -> GroupVectors:
        """The rows of V in the order p."""
        labels = torch.where(self.weights[p] != 0, self.labels[p], -1)
        return GroupVectors(labels, self.weights[p], self.count)

    def dense(self, first: int | None = None) -> Tensor:
        """(n, first) the first vectors as a dense block."""
        width = self.count if first is None else min(first, self.count)
        groups = torch.arange(width, device=self.labels.device)
        return (self.labels[:, None] == groups) * self.weights[:, None]


@dataclass(frozen=True)
class KnownPairs:
    """Eigenpairs known without computing.

    Attributes:
        value: the eigenvalue of all of them.
        vectors: their vectors.
    """

    value: float
    vectors: GroupVectors

"""Coordinates of a similar operator: X outside, X / t inside, with B = diag(t)^-1 A diag(t).

Where B has cheaper products (D^-1 G instead of D^-1/2 G D^-1/2), polynomials of A run inside. B is
symmetric in the inner product weighted by t^2, so orthogonality and Gram matrices carry over.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...operators.base import SymmetricOperator
from ...operators.known import Removable
from ...primitives.basis import gram, project_out

__all__ = ["Coordinates"]


class Coordinates:
    """op: B; t: (n, 1), or None where both are the same. All changes are in place.

    block: (n, c) the deflated vectors inside, where they are few enough to ride along with other
    products; orthonormal in the weighted inner product.
    """

    def __init__(
        self,
        op: SymmetricOperator,
        deflated: Removable | None,
        dtype: torch.dtype,
        change: bool = True,
    ) -> None:
        self.op, t = op.similar() if change else (op, None)
        self.deflated = deflated
        self.block = None if deflated is None else deflated.block(dtype)
        self.t: Tensor | None = None
        self._weights: Tensor | None = None
        if t is not None:
            self.t, self._weights = t.to(dtype)[:, None], (t * t).to(dtype)
            self.block = None if self.block is None else self.block / self.t

    def enter(self, x: Tensor) -> Tensor:
        return x if self.t is None else x.div_(self.t)

    def leave(self, x: Tensor) -> Tensor:
        return x if self.t is None else x.mul_(self.t)

    def gram(self, a: Tensor | Sequence[Tensor], b: Tensor) -> Tensor:
        """A^T diag(t^2) B, the Gram matrix of what they are outside."""
        return gram(a, b, weights=self._weights)

    def remove_(self, x: Tensor) -> Tensor:
        """Take the deflated vectors out of X, which is inside."""
        if self.deflated is None:
            return x
        if self.t is None:
            return self.deflated.remove_(x)
        if self.block is None:
            return self.enter(self.deflated.remove_(self.leave(x)))
        return project_out(self.block, x, self._weights)

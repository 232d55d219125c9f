"""A block Krylov space of a Chebyshev filter: p(A) = C_degree of A, with [lo, cut] damped.

    p(A) V = V H + W R e_s^T,      V = [V_1 .. V_s] orthonormal,  H = V^T p(A) V

Fang and Saad 2012 (filtered Lanczos). Its Ritz vectors are those of A, since p grows above the cut.
The degrees that a dense spectrum asks for are the same with any block, so a narrow one takes few
columns; and a basis of C_degree has a fraction of the columns that one of A would need. Each block
is made orthogonal to all others, in two passes. A restart keeps Ritz vectors and the last block
(thick restart, Wu and Simon 2000): what follows couples to them by products that are measured
anyway.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...operators.base import SymmetricOperator
from ...operators.known import Deflated
from ...primitives.basis import gram, multiply, multiply_into, new_block
from ...primitives.spread import decided
from .basis import directions, factor_rest, orthonormalize, stacked
from .chebyshev_filter import cleaner, filter_block

__all__ = ["FilteredKrylov"]


class FilteredKrylov:
    """From a random block (n, b); `columns` counts those multiplied with A."""

    def __init__(
        self,
        op: SymmetricOperator,
        start: Tensor,
        ends: tuple[float, float, float],
        degree: int,
        deflated: Deflated | None = None,
        room: list[Tensor] | None = None,
    ) -> None:
        """ends: (lo, cut, the lowest value that the filter is to lift). room: blocks like the
        start, whose memory is taken.
        """
        self.op, self.deflated, self.degree = op, deflated, degree
        self.lo, self.cut, wanted = ends
        self.clean = cleaner(op, deflated, self.lo, self.cut, wanted)
        self.columns = 0
        self.v: list[Tensor] = []  # of which p(A) is known, but for the last block
        self.projected = np.zeros((0, 0))  # V^T p(A) V
        self._next = orthonormalize(start, deflated=deflated)
        self._rest = np.zeros((0, 0))  # R
        fits = room and room[0].shape == start.shape and room[0].dtype == start.dtype
        self._room = list(room) if room and fits else []

    @property
    def size(self) -> int:
        """Columns of V."""
        return len(self.projected)

    @property
    def ended(self) -> bool:
        """V spans an invariant space."""
        return self._next.shape[1] == 0

    def extend(self) -> None:
        """One more block of V."""
        v, b, size = self._next, self._next.shape[1], self.size
        self.v.append(v)
        self.columns += self.degree * b
        w = self._filtered(v)
        block = None if self.deflated is None else self.deflated.block(w.dtype)
        if self.deflated is not None and block is None:
            self.deflated.remove_(w)
        known = self.v if block is None else [*self.v, block]
        products = gram([w, *known], w).numpy()
        square, parts = products[:b], products[b:]
        h = np.zeros((size + b, size + b))
        h[:size, :size] = self.projected
        h[:, size:] = parts[: size + b]
        h[size:, :size] = parts[:size].T
        h[size:, size:] = (h[size:, size:] + h[size:, size:].T) / 2
        self.projected = h
        before = square.diagonal()
        found = factor_rest(square, parts, before, w.dtype)
        if found is None:  # cancellation: take out what was measured, and measure what is left
            multiply_into(w, known, torch.from_numpy(-parts), beta=1.0)
            products = gram([w, *known], w).numpy()
            square, parts = products[:b], products[b:]
            found = factor_rest(square, parts, before, w.dtype)
        if found is not None:
            self._rest, inverse = found
            coefficients = stacked(w.dtype, inverse, -parts @ inverse)
            self._next = multiply_into(w, [w, *known], coefficients)
            return
        rest = directions(w, square, before)
        self._next = orthonormalize(rest.clone(), self.v, self.deflated)
        self._rest = np.zeros((0, b)) if self.ended else gram(self._next, w).numpy()

    def _filtered(self, v: Tensor) -> Tensor:
        """p(A) V_s, in memory of its own."""
        x, y = self._block(v).copy_(v), self._block(v)
        w = filter_block(self.op, x, self.lo, self.cut, self.degree, self.cut, self.clean, y)
        self._room.append(x if w is y else y)
        return w.contiguous()

    def _block(self, like: Tensor) -> Tensor:
        fits = self._room and self._room[-1].shape == like.shape
        return self._room.pop() if fits else _like(like)

    def ritz(self) -> tuple[Tensor, Tensor, Tensor]:
        """Ritz values of p(A), largest first, their coefficients, and norms of their residuals."""
        values, vectors = torch.linalg.eigh(torch.from_numpy(self.projected))
        values, vectors = decided(values, vectors)
        last = vectors[self.size - self._rest.shape[1] :]
        slack = (torch.from_numpy(self._rest) @ last).norm(dim=0)
        return values.flip(0), vectors.flip(1), slack.flip(0)

    def vectors(self, coefficients: Tensor) -> Tensor:
        """V C, (n, m)."""
        return multiply(self.v, coefficients)

    def restart(self, values: Tensor, coefficients: Tensor) -> None:
        """Keep these Ritz pairs and the block that comes next."""
        self.v = [self.vectors(coefficients)]
        self.projected = np.diag(values.numpy())
        self._rest = np.zeros((0, 0))


def _like(block: Tensor) -> Tensor:
    n, b = block.shape
    return new_block(n, b, block.dtype, block.device)

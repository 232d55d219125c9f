"""Block Lanczos by its short recurrence: each block is made orthogonal to the last two alone.

    A [V_0 .. V_s-1] = [V_0 .. V_s-1] T + V_s beta_s e_s^T,      T block tridiagonal

or the same of p(A), a polynomial that lifts the wanted end: fewer blocks hold a Krylov space of the
same degree, and the passes over them, their memory and the projected problem shrink.
Golub and Underwood 1977. A product and two passes over the rows per step, in the coordinates where
products are cheapest. Orthogonality is lost once Ritz pairs converge to rounding level, so this is
for the way there. Rounding also brings deflated vectors back, and each step multiplies what there
is of them: few of them are one more block to be orthogonal to, many are projected out.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...primitives.basis import multiply_into, new_block, new_blocks
from ...primitives.spread import decided, meet
from ..linalg.basis import directions, factor_rest, orthonormalize, stacked
from ..linalg.chebyshev_filter import ChebyshevPolynomial, filter_block
from ..linalg.coordinates import Coordinates
from .task import Task

__all__ = ["Recurrence"]

_CLEAN = 2  # steps between projections of many deflated vectors


class Recurrence:
    """From b random vectors; `run` goes on from where it stopped. keep: store all blocks.
    polynomial: p, or None for A itself. room: blocks (n, b), whose memory is taken.
    """

    def __init__(
        self,
        task: Task,
        b: int,
        dtype: torch.dtype,
        keep: bool,
        polynomial: ChebyshevPolynomial | None = None,
        room: list[Tensor] | None = None,
    ) -> None:
        self.task, self.keep, self.polynomial = task, keep, polynomial
        self.inner = Coordinates(task.op, task.deflated, dtype)
        self.basis: list[Tensor] = []  # V_0 .. V_s-1, when they are kept
        self._room = room or []  # for the products of the next steps
        self._spare: Tensor | None = None  # for those inside a polynomial
        self._old: Tensor | None = None  # V_j-1
        self._v: Tensor | None = None  # V_j
        self._rest: Tensor  # V_j+1, or the room for it while it is this combination:
        self._pending: tuple[list[Tensor], Tensor] | None  # blocks, coefficients below each other
        self._alphas: list[np.ndarray] = []  # diagonal blocks of T, symmetric up to rounding
        x = task.op.random_block(b, task.seed + 1, dtype)
        self._next(self.inner.enter(x))
        # those below it; the first has no columns
        self._betas = [np.zeros((self._rest.shape[1], 0))]

    @property
    def steps(self) -> int:
        return len(self._alphas)

    @property
    def degree(self) -> int:
        """Products with A of a step."""
        return 1 if self.polynomial is None else self.polynomial.degree

    @property
    def sizes(self) -> list[int]:
        """Columns of the blocks: all alike until the Krylov space stops growing."""
        return [a.shape[0] for a in self._alphas]

    def reserve(self, steps: int) -> None:
        """Memory for that many steps in one piece: blocks of their own would share few huge
        pages.
        """
        (n, b), like = self._rest.shape, self._rest
        more = max(steps - self.steps - len(self._room), 0)
        self._room += new_blocks(more, n, b, like.dtype, like.device)

    def run(self, steps: int) -> None:
        """Go on until there have been that many steps, or nothing new comes."""
        meet(self.steps, steps)
        if self.keep:
            self.reserve(steps)
        while self.steps < steps and self._rest.shape[1] > 0:
            self._step()

    def _step(self) -> None:
        """A V_j - V_j alpha - V_j-1 beta^T = V_j+1 beta_next."""
        v = self._rest
        if self._pending is not None:  # one pass over the rows, once the block is needed
            multiply_into(v, *self._pending)
        self._old, self._v = self._v, v
        fits = self._room and self._room[-1].shape == v.shape
        w = self._room.pop() if fits else new_block(v.shape[0], v.shape[1], v.dtype, v.device)
        self.task.columns += self.degree * v.shape[1]
        w = self._product(v, w)
        if self.keep:
            self.basis.append(v)
        self._next(w)

    def _product(self, v: Tensor, w: Tensor) -> Tensor:
        """A V or p(A) V, in the memory of w if that can be."""
        op, p = self.inner.op, self.polynomial
        if p is None:
            return op.matmat(v, w).contiguous()
        x = self._spare
        if x is None or x.shape != v.shape:
            x = new_block(v.shape[0], v.shape[1], v.dtype, v.device)
        y = filter_block(op, x.copy_(v), p.lo, p.cut, p.degree, p.cut, None, w)
        self._spare = x if y is w else w
        return y.contiguous()

    def _next(self, w: Tensor) -> None:
        """Make w orthogonal to V_j, V_j-1 and the few deflated vectors N, and orthonormal.

        They are orthonormal themselves: the Gram matrix of what is left comes from that of w.
        """
        v, old, inner, b = self._v, self._old, self.inner, w.shape[1]
        if inner.block is None and self.steps % _CLEAN == 0:
            inner.remove_(w)
        known = [block for block in (v, inner.block) if block is not None]
        products = inner.gram([w, *known], w).numpy()
        square, parts = products[:b], products[b:]
        if v is not None:
            self._alphas.append(parts[: v.shape[1]])
        if old is not None:
            known, parts = [*known, old], np.concatenate([parts, self._betas[-1].T])
        most = square.diagonal()
        found = factor_rest(square, parts, most, w.dtype)
        if found is None:  # cancellation: take out what was measured, and measure what is left
            self._remove(w, known, parts)
            products = inner.gram([w, *known], w).numpy()
            square, parts = products[:b], products[b:]
            found = factor_rest(square, parts, most, w.dtype)
        if found is not None:
            following, inverse = found
            self._pending = [w, *known], stacked(w.dtype, inverse, -parts @ inverse)
        else:
            self._remove(w, known, parts)  # of what cancelled, the rounding is left
            before = w.clone()
            w = directions(w, inner.gram(w, w).numpy(), most).contiguous()
            for _ in range(2):
                self._remove(w, known)
                w = inner.enter(orthonormalize(inner.leave(w), deflated=self.task.deflated))
            self._pending, following = None, inner.gram(w, before).numpy()
        self._rest = w
        if v is not None:
            self._betas.append(following)

    def _remove(self, w: Tensor, known: list[Tensor], parts: np.ndarray | None = None) -> None:
        """Take the known blocks out of w; parts: their components in it, measured unless given."""
        if known and w.shape[1] > 0:
            parts = self.inner.gram(known, w).numpy() if parts is None else parts
            multiply_into(w, known, torch.from_numpy(-parts), beta=1.0)

    def ritz(self) -> tuple[Tensor, Tensor, Tensor]:
        """Ritz values of A, largest first, their coefficients (m, m), and norms of their residuals,
        which are estimates behind a polynomial.
        """
        sizes = self.sizes
        total, at = sum(sizes), 0
        t = np.zeros((total, total))
        for i, m in enumerate(sizes):
            t[at : at + m, at : at + m] = self._alphas[i]
            if i + 1 < len(sizes):
                below = slice(at + m, at + m + sizes[i + 1])
                t[below, at : at + m] = self._betas[i + 1]
                t[at : at + m, below] = self._betas[i + 1].T
            at += m
        if not np.isfinite(t).all():
            single = self._rest.dtype == torch.float32
            hint = " in float32; try precision='float64'" if single else ""
            raise ValueError(f"eigsh: A must have finite products, got NaN or infinity{hint}")
        values, vectors = torch.linalg.eigh(torch.from_numpy((t + t.T) / 2))
        slack = (torch.from_numpy(self._betas[-1]) @ vectors[total - sizes[-1] :]).norm(dim=0)
        if self.polynomial is not None:
            slack = self.polynomial.residuals(values, slack)
            values = self.polynomial.eigenvalues(values)
        values, vectors, slack = decided(values, vectors, slack)
        return values.flip(0), vectors.flip(1), slack.flip(0)

"""Block Lanczos without looking back: each block is made orthogonal to the last two alone.

    A [V_0 .. V_s-1] = [V_0 .. V_s-1] T + V_s beta_s e_s^T,      T block tridiagonal

Golub and Underwood 1977. A product and one pass over the rows per step. Orthogonality is lost once
Ritz pairs converge to rounding level, so this is for the way there.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sslspec_fast.primitives.basis import combine_into, gram, new_block, new_blocks
from sslspec_fast.solvers._basis import inverse_norm, orthonormalize, random_block
from sslspec_fast.solvers.davidson import Task

__all__ = ["Recurrence"]

_CLEAN = 2  # steps between projections
_CONDITION = 30.0  # of the new block, up to which its Gram matrix is all it takes


class Recurrence:
    """From b random vectors; `run` goes on from where it stopped. keep: store all blocks."""

    def __init__(self, task: Task, b: int, dtype: torch.dtype, keep: bool) -> None:
        x = random_block(task.op.n, b, task.seed + 1, dtype, task.op.device)
        self.task, self.keep = task, keep
        self.basis: list[Tensor] = []  # V_0 .. V_s-1, when they are kept
        self._room: list[Tensor] = []  # for the products of the next steps
        self._v = orthonormalize(x, project=task.project)
        self._old: Tensor | None = None
        self._rest: Tensor | None = None  # A V_j, on its way to V_j+1
        self._factors: list[Tensor] = []  # of A V_j, V_j and V_j-1 in V_j+1; none when it is made
        self._alphas: list[Tensor] = []  # diagonal blocks of T
        # those below it; the first has no columns
        self._betas = [torch.zeros(self._v.shape[1], 0, dtype=torch.float64)]

    @property
    def steps(self) -> int:
        return len(self._alphas)

    @property
    def sizes(self) -> list[int]:
        """Columns of the blocks: all alike until the Krylov space stops growing."""
        return [a.shape[0] for a in self._alphas]

    def run(self, steps: int) -> None:
        """Go on until there have been that many steps, or nothing new comes."""
        if self.keep:  # one piece of memory: blocks of their own would share few huge pages
            n, b = self._v.shape
            more = new_blocks(steps - self.steps, n, b, self._v.dtype, self._v.device)
            self._room = list(more)
        while self.steps < steps:
            self._enter()
            if self._v.shape[1] == 0:
                break
            self._step()

    def _enter(self) -> None:
        """Make the next block: one pass over the rows, once somebody needs it."""
        if self._rest is None:
            return
        if self._factors:
            blocks = [self._rest, self._v] + ([] if self._old is None else [self._old])
            combine_into(self._rest, *zip(blocks, self._factors, strict=False))
        self._old, self._v, self._rest = self._v, self._rest, None

    def _step(self) -> None:
        """A V_j - V_j alpha - V_j-1 beta^T = V_j+1 beta_next.

        V_j and V_j-1 are orthonormal, so the Gram matrix of the left side comes from that of A V_j.
        """
        v, beta, project = self._v, self._betas[-1], self.task.project
        fits = self._room and self._room[-1].shape == v.shape
        w = self._room.pop() if fits else new_block(v.shape[0], v.shape[1], v.dtype, v.device)
        w = self.task.apply(v, w)
        if self.keep:
            self.basis.append(v)
        # rounding brings deflated vectors back, and each step multiplies what there is of them
        if project is not None and self.steps % _CLEAN == 0:
            project(w)
        both = gram((v, w), w)
        alpha, square = both[: v.shape[1]], both[v.shape[1] :]
        g = square - alpha.T @ alpha - beta @ beta.T
        factor, failed = torch.linalg.cholesky_ex((g + g.T) / 2)
        inverse = torch.linalg.inv(factor) if int(failed) == 0 else torch.full_like(g, math.inf)
        if inverse_norm(inverse) * float(g.diagonal().max().sqrt()) < _CONDITION:
            inverse = inverse.T
            self._factors = [inverse, -alpha @ inverse, -beta.T @ inverse]
            following = factor.T
        else:
            terms = [(v, -alpha)] if self._old is None else [(v, -alpha), (self._old, -beta.T)]
            combine_into(w, *terms, beta=1.0)
            before = w.clone()
            w = orthonormalize(w, project=project)
            self._factors, following = [], gram(w, before)
        self._rest = w
        self._alphas.append((alpha + alpha.T) / 2)
        self._betas.append(following)

    def ritz(self) -> tuple[Tensor, Tensor, Tensor]:
        """Ritz values, largest first, their coefficients (m, m), and norms of their residuals."""
        sizes = self.sizes
        total, at = sum(sizes), 0
        t = torch.zeros(total, total, dtype=torch.float64)
        for i, m in enumerate(sizes):
            t[at : at + m, at : at + m] = self._alphas[i]
            if i + 1 < len(sizes):
                below = slice(at + m, at + m + sizes[i + 1])
                t[below, at : at + m] = self._betas[i + 1]
                t[at : at + m, below] = self._betas[i + 1].T
            at += m
        if not bool(torch.isfinite(t).all()):
            single = self._v.dtype == torch.float32
            hint = " in float32; try precision='float64'" if single else ""
            raise ValueError(f"eigsh: A must have finite products, got NaN or infinity{hint}")
        values, vectors = torch.linalg.eigh(t)
        slack = (self._betas[-1] @ vectors[total - sizes[-1] :]).norm(dim=0)
        return values.flip(0), vectors.flip(1), slack.flip(0)

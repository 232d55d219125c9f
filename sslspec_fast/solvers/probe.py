"""A short block Lanczos run that says where the spectrum ends and how dense it is near the top.

The Ritz values of s steps from b random vectors, weighted by their share of the start block, are a
Gauss quadrature of the density of states (Lin, Saad and Yang 2016): n * (sum of weights above t)
estimates how many eigenvalues lie above t. ChASE and EVSL start in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sslspec_fast.primitives.basis import combine, combine_into, gram
from sslspec_fast.solvers._basis import Project, orthonormalize, random_block
from sslspec_fast.solvers.davidson import Task

__all__ = ["FILLED_ROWS", "Probe", "probe"]

_STEPS, _BLOCK = 8, 4
_CLEAN = 2  # steps between projections
# Rows of 16 float32 fill a cache line: a gather of them costs no more than one of 4 columns. Such a
# block sees as many directions as are wanted, and its Ritz vectors are worth keeping.
_LINE = 16
_KEPT_BYTES = 1 << 30
# Entries per row from which a factorisation fills in; grids and trees have fewer.
FILLED_ROWS = 8


@dataclass
class Probe:
    """values (m,) Ritz values, largest first; counts (m,) eigenvalues estimated at or above each;
    lo, hi: bounds of the spectrum (safe bounds of the operator tightened by Ritz + residual).
    residuals (m,) of the Ritz pairs. basis: the Krylov blocks, one after the other, when the block
    was wide enough to start from; coefficients (m, m) are those of the Ritz vectors in it."""

    values: Tensor
    counts: Tensor
    lo: float
    hi: float
    residuals: Tensor
    basis: list[Tensor] = field(default_factory=list)
    coefficients: Tensor | None = None

    def vectors(self, width: int) -> Tensor | None:
        """(n, width) the first Ritz vectors, or None when the basis was not kept."""
        if not self.basis or self.coefficients is None or width > len(self.values):
            return None
        parts = self.coefficients[:, :width].split([block.shape[1] for block in self.basis])
        return combine(*zip(self.basis, parts, strict=True))

    def split(self, wanted: int) -> tuple[float, float | None]:
        """(cut, last): damp below `cut`; `last` estimates eigenvalue number `wanted` above it.

        The counts are noisy, so a wide hole in the spectrum near the wanted count beats them.
        `last` is None where the wanted end is not resolved.
        """
        values, counts, spread = self.values, self.counts, self.hi - self.lo
        near = torch.nonzero((counts[:-1] > wanted / 2) & (counts[:-1] < 2.0 * wanted))[:, 0]
        if len(near):
            holes = values[near] - values[near + 1]
            widest = int(near[holes.argmax()])
            if float(holes.max()) > 0.08 * spread:
                return float(values[widest + 1]), float(values[widest])
        above = torch.nonzero(counts > wanted)[:, 0]
        first = int(above[0]) if len(above) else len(values) - 1
        if first == 0:  # the top itself holds more than that: cut below it
            lower = torch.nonzero(values < values[0] - 1e-3 * spread)[:, 0]
            first = int(lower[0]) if len(lower) else 0
            return float(values[first]), None
        return float(values[first]), float(values[first - 1])


def _advance(
    w: Tensor, square: Tensor, alpha: Tensor, v: Tensor, beta: Tensor, old: Tensor | None,
    last: bool, project: Project | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """One step of the recurrence: w - v alpha - old beta^T = q beta_next with orthonormal q.

    w becomes q. v and old are orthonormal, so the Gram matrix of the left side comes from that of
    w, `square`, and one pass over the rows does the rest. The last step needs beta_next alone.
    """
    g = square - alpha.T @ alpha - beta @ beta.T
    factor, failed = torch.linalg.cholesky_ex((g + g.T) / 2)
    pivots = factor.diagonal()
    terms = [(v, alpha)] if old is None else [(v, alpha), (old, beta.T)]
    if int(failed) == 0 and float(pivots.min()) > 0.03 * float(g.diagonal().max().sqrt()):
        if last:
            return w, factor.T
        inverse = torch.linalg.inv(factor).T
        combine_into(w, (w, inverse), *((x, -c @ inverse) for x, c in terms))
        return w, factor.T
    combine_into(w, *((x, -c) for x, c in terms), beta=1.0)
    before = w.clone()
    q = orthonormalize(w, None, project)
    return q, gram(q, before)


def probe(task: Task, dtype: torch.dtype, keep: bool = False) -> Probe:
    """keep: the solver can start from Ritz vectors, so use a block as wide as what is wanted."""
    op, n = task.op, task.op.n
    keep = keep and task.k < 2 * _LINE and n >= 16 * _LINE * (_STEPS + 1)
    wide = _LINE * -(-(task.k + 1) // _LINE)
    nnz = op.nnz()
    # grids and trees (few entries a row) end in a factorisation or a long filter: look briefly
    keep = keep and (nnz is None or nnz >= FILLED_ROWS * n)
    keep = keep and n * wide * (_STEPS + 1) * dtype.itemsize <= _KEPT_BYTES
    b = wide if keep else min(_BLOCK, max(task.free // 2, 1))
    x = random_block(n, b, task.seed + 1, dtype, op.device)
    v = orthonormalize(x, None, task.project)
    size = v.shape[1]
    blocks, offs = [], []
    basis: list[Tensor] = []
    old: Tensor | None = None
    beta = torch.zeros(size, 0, dtype=torch.float64)
    steps = min(_STEPS, max(task.free // b, 1))
    for step in range(steps):
        w = task.apply(v)
        if keep:
            basis.append(v)
        # rounding brings deflated vectors back, and each step multiplies what there is of them
        if task.project is not None and step % _CLEAN == 0:
            task.project(w)
        both = gram((v, w), w)
        alpha, square = both[: v.shape[1]], both[v.shape[1] :]
        end = step + 1 == steps
        nxt, beta_next = _advance(w, square, alpha, v, beta, old, end, task.project)
        blocks.append((alpha + alpha.T) / 2)
        offs.append(beta_next)
        old, v, beta = v, nxt, beta_next
        if v.shape[1] == 0:
            break
    total = sum(a.shape[0] for a in blocks)
    t = torch.zeros(total, total, dtype=torch.float64)
    at = 0
    for i, a in enumerate(blocks):
        m = a.shape[0]
        t[at : at + m, at : at + m] = a
        if i + 1 < len(blocks):
            width = offs[i].shape[0]
            t[at + m : at + m + width, at : at + m] = offs[i]
            t[at : at + m, at + m : at + m + width] = offs[i].T
        at += m
    if not bool(torch.isfinite(t).all()):
        raise ValueError(
            "eigsh: A must have finite products, got NaN or infinity"
            + (" in float32; try precision='float64'" if dtype == torch.float32 else "")
        )
    values, vectors = torch.linalg.eigh(t)
    weights = (vectors[:size] ** 2).sum(0) / max(size, 1)
    tail = offs[-1] if offs else torch.zeros(0, 0, dtype=torch.float64)
    last = blocks[-1].shape[0]
    slack = (tail @ vectors[total - last :]).norm(dim=0) if tail.numel() else torch.zeros(total)
    bounds = op.bounds()
    lo = max(bounds[0], float(values[0] - slack[0]) - 1e-6 * abs(float(values[0])))
    hi = min(bounds[1], float(values[-1] + slack[-1]) + 1e-6 * abs(float(values[-1])))
    values, weights, residuals = values.flip(0), weights.flip(0), slack.flip(0)
    counts = task.free * weights.cumsum(0)
    if not keep:
        return Probe(values, counts, lo, hi, residuals)
    return Probe(values, counts, lo, hi, residuals, basis, vectors.flip(1))

"""A short block Lanczos run that says where the spectrum ends and how dense it is near the top.

The Ritz values of s steps from b random vectors, weighted by their share of the start block, are a
Gauss quadrature of the density of states (Lin, Saad and Yang 2016): n * (sum of weights above t)
estimates how many eigenvalues lie above t. ChASE and EVSL start in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sslspec_fast.solvers._basis import Project, orthonormalize, random_block
from sslspec_fast.solvers.davidson import Task

__all__ = ["Probe", "probe"]

_STEPS, _BLOCK = 8, 4
# Rows of 16 float32 fill a cache line: a gather of them costs no more than one of 4 columns. Such a
# block sees as many directions as are wanted, and its Ritz vectors are worth keeping.
_LINE = 16
_KEPT_BYTES = 1 << 30


@dataclass
class Probe:
    """values (m,) Ritz values, largest first; counts (m,) eigenvalues estimated at or above each;
    lo, hi: bounds of the spectrum (safe bounds of the operator tightened by Ritz + residual).
    basis: the Krylov blocks, one after the other, when the block was wide enough to start from;
    coefficients (m, m) and residuals (m,) are those of the Ritz vectors in it."""

    values: Tensor
    counts: Tensor
    lo: float
    hi: float
    basis: list[Tensor] = field(default_factory=list)
    coefficients: Tensor | None = None
    residuals: Tensor | None = None

    def vectors(self, width: int) -> Tensor | None:
        """(n, width) the first Ritz vectors, or None when the basis was not kept."""
        if not self.basis or self.coefficients is None or width > len(self.values):
            return None
        out, at = None, 0
        for block in self.basis:
            rows = self.coefficients[at : at + block.shape[1], :width].to(block)
            out = block @ rows if out is None else out.addmm_(block, rows)
            at += block.shape[1]
        return out

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


def _next_block(w: Tensor, v: Tensor | None, project: Project | None) -> tuple[Tensor, Tensor]:
    """w = q beta with orthonormal q; v None: the last step, where only beta is of use."""
    g = (w.T @ w).double().cpu()
    factor, failed = torch.linalg.cholesky_ex(g)
    pivots = factor.diagonal()
    if int(failed) == 0 and float(pivots.min()) > 1e-2 * float(g.diagonal().max().sqrt()):
        if v is None:
            return w, factor.T.clone()
        return w @ torch.linalg.inv(factor).T.to(w), factor.T.clone()
    before = w.clone()
    q = orthonormalize(w, None, project)
    return q, (q.T @ before).double().cpu()


def probe(task: Task, dtype: torch.dtype, keep: bool = False) -> Probe:
    """keep: the solver can start from Ritz vectors, so use a block as wide as what is wanted."""
    op, n = task.op, task.op.n
    keep = keep and task.k < 2 * _LINE and n >= 16 * _LINE * (_STEPS + 1)
    wide = _LINE * -(-(task.k + 1) // _LINE)
    nnz = op.nnz()
    # grids and trees (few entries a row) end in a factorisation or a long filter: look briefly
    keep = keep and (nnz is None or nnz >= 8 * n)
    keep = keep and n * wide * (_STEPS + 1) * dtype.itemsize <= _KEPT_BYTES
    b = wide if keep else min(_BLOCK, max(task.free // 2, 1))
    x = random_block(n, b, task.seed + 1, dtype, op.device)
    v = orthonormalize(x, None, task.project)
    size = v.shape[1]
    blocks, offs = [], []
    basis: list[Tensor] = []
    old: Tensor | None = None
    beta = torch.zeros(0, 0, dtype=torch.float64)
    for step in range(min(_STEPS, max(task.free // b, 1))):
        w = task.apply(v)
        if keep:
            basis.append(v)
        if old is not None:
            w.addmm_(old, beta.T.to(w), alpha=-1)
        alpha = (v.T @ w).double().cpu()
        w.addmm_(v, alpha.to(w), alpha=-1)
        if task.project is not None:
            task.project(w)
        blocks.append((alpha + alpha.T) / 2)
        last_step = step + 1 == _STEPS
        nxt, beta = _next_block(w, None if last_step else v, task.project)
        offs.append(beta)
        old, v = v, nxt
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
    values, vectors = torch.linalg.eigh(t)
    weights = (vectors[:size] ** 2).sum(0) / max(size, 1)
    tail = offs[-1] if offs else torch.zeros(0, 0, dtype=torch.float64)
    last = blocks[-1].shape[0]
    slack = (tail @ vectors[total - last :]).norm(dim=0) if tail.numel() else torch.zeros(total)
    bounds = op.bounds()
    lo = max(bounds[0], float(values[0] - slack[0]) - 1e-6 * abs(float(values[0])))
    hi = min(bounds[1], float(values[-1] + slack[-1]) + 1e-6 * abs(float(values[-1])))
    values, weights = values.flip(0), weights.flip(0)
    counts = task.free * weights.cumsum(0)
    if not keep:
        return Probe(values, counts, lo, hi)
    return Probe(values, counts, lo, hi, basis, vectors.flip(1), slack.flip(0))

"""A short block Lanczos run that says where the spectrum ends and how dense it is near the top.

The Ritz values of s steps from b random vectors, weighted by their share of the start block, are a
Gauss quadrature of the density of states (Lin, Saad and Yang 2016): n * (sum of weights above t)
estimates how many eigenvalues lie above t. ChASE and EVSL start in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sslspec_fast.solvers._basis import orthonormalize, random_block
from sslspec_fast.solvers.davidson import Task

__all__ = ["Probe", "probe"]

_STEPS, _BLOCK = 8, 4


@dataclass
class Probe:
    """values (m,) Ritz values, largest first; counts (m,) eigenvalues estimated at or above each;
    lo, hi: bounds of the spectrum (safe bounds of the operator tightened by Ritz + residual)."""

    values: Tensor
    counts: Tensor
    lo: float
    hi: float

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


def probe(task: Task, dtype: torch.dtype) -> Probe:
    op, n = task.op, task.op.n
    b = min(_BLOCK, max(task.free // 2, 1))
    x = random_block(n, b, task.seed + 1, dtype, op.device)
    v = orthonormalize(x, None, task.project)
    size = v.shape[1]
    blocks, offs = [], []
    old: Tensor | None = None
    beta = torch.zeros(0, 0, dtype=torch.float64)
    for _ in range(min(_STEPS, max(task.free // b, 1))):
        w = task.apply(v)
        if task.project is not None:
            task.project(w)
        if old is not None:
            w.addmm_(old, beta.T.to(w), alpha=-1)
        alpha = (v.T @ w).double().cpu()
        w.addmm_(v, alpha.to(w), alpha=-1)
        blocks.append((alpha + alpha.T) / 2)
        before = w.clone()
        nxt = orthonormalize(w, None, task.project)
        beta = (nxt.T @ before).double().cpu()
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
    return Probe(values, task.free * weights.cumsum(0), lo, hi)

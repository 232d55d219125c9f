"""Graphs with spectra known in closed form: (adjacency CSR, all eigenvalues of A, descending)."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import scipy.sparse as sp


def _csr(rows: list[int], cols: list[int], n: int) -> sp.csr_array:
    a = sp.coo_array((np.ones(len(rows)), (rows, cols)), shape=(n, n))
    a = (a + a.T).tocsr()
    a.data[:] = 1.0
    return a


def path(n: int) -> tuple[sp.csr_array, np.ndarray]:
    a = _csr(list(range(n - 1)), list(range(1, n)), n)
    return a, np.sort(2 * np.cos(np.pi * np.arange(1, n + 1) / (n + 1)))[::-1]


def cycle(n: int) -> tuple[sp.csr_array, np.ndarray]:
    a = _csr(list(range(n)), [(i + 1) % n for i in range(n)], n)
    return a, np.sort(2 * np.cos(2 * np.pi * np.arange(n) / n))[::-1]


def torus(m: int, n: int) -> tuple[sp.csr_array, np.ndarray]:
    a, x = cycle(m)
    b, y = cycle(n)
    grid = sp.kron(a, sp.eye_array(n)) + sp.kron(sp.eye_array(m), b)
    return sp.csr_array(grid), np.sort((x[:, None] + y[None, :]).ravel())[::-1]


def complete(n: int) -> tuple[sp.csr_array, np.ndarray]:
    a = sp.csr_array(np.ones((n, n)) - np.eye(n))
    return a, np.r_[n - 1.0, -np.ones(n - 1)]


def star(n: int) -> tuple[sp.csr_array, np.ndarray]:
    a = _csr([0] * (n - 1), list(range(1, n)), n)
    return a, np.r_[np.sqrt(n - 1.0), np.zeros(n - 2), -np.sqrt(n - 1.0)]


def hypercube(d: int) -> tuple[sp.csr_array, np.ndarray]:
    n = 1 << d
    rows = [i for i in range(n) for b in range(d) if i < i ^ (1 << b)]
    cols = [i ^ (1 << b) for i in range(n) for b in range(d) if i < i ^ (1 << b)]
    return _csr(rows, cols, n), np.sort([d - 2.0 * bin(i).count("1") for i in range(n)])[::-1]


def cliques(sizes: list[int], isolated: int = 0) -> tuple[sp.csr_array, np.ndarray]:
    """Disjoint complete graphs and isolated nodes: -1 and 0 have large multiplicities."""
    blocks = [np.ones((s, s)) - np.eye(s) for s in sizes] + [np.zeros((1, 1))] * isolated
    values = [np.r_[s - 1.0, -np.ones(s - 1)] for s in sizes] + [np.zeros(isolated)]
    return sp.csr_array(sp.block_diag(blocks)), np.sort(np.concatenate(values))[::-1]


def bipartite(a: int, b: int) -> tuple[sp.csr_array, np.ndarray]:
    m = np.zeros((a + b, a + b))
    m[:a, a:] = 1.0
    root = np.sqrt(a * b)
    return sp.csr_array(m + m.T), np.r_[root, np.zeros(a + b - 2), -root]


def blocks_graph(n: int, communities: int, degree: int = 16, seed: int = 0) -> sp.csr_array:
    """Planted partition, four fifths of the edges inside."""
    rng = np.random.default_rng(seed)
    size = n // communities
    half = n * degree // 2
    inside = int(0.8 * half)
    c = rng.integers(0, communities, inside)
    rows = np.r_[c * size + rng.integers(0, size, inside), rng.integers(0, n, half - inside)]
    cols = np.r_[c * size + rng.integers(0, size, inside), rng.integers(0, n, half - inside)]
    keep = rows != cols
    return _csr(rows[keep].tolist(), cols[keep].tolist(), n)


def edges(a: sp.csr_array) -> list[tuple[int, int]]:
    coo = sp.coo_array(a)
    return [(int(i), int(j)) for i, j in zip(coo.row, coo.col, strict=True)]


def chain(parts: list[sp.csr_array]) -> sp.csr_array:
    """Disjoint union joined by single edges: nearly decoupled, tiny gaps."""
    a = sp.lil_array(sp.block_diag(parts))
    ends = np.cumsum([p.shape[0] for p in parts])
    for left, _ in pairwise(ends):
        a[left - 1, left] = a[left, left - 1] = 1.0
    return sp.csr_array(a)

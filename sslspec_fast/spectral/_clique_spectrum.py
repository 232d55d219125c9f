"""Graphs of disjoint cliques (views, labels): every eigenpair is known, with its multiplicity.

A clique of m rows and weight w, with w or 0 on its diagonal, has its indicator as one eigenvector
and m - 1 contrasts inside it that share one eigenvalue:

               indicator     contrasts
    L          0             m w
    G          degree        G_ii - w
    A          1             (G_ii - w) / degree

Thousands of equal eigenvalues are what an iterative solver is worst at and what this writes down.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ._target import Target

__all__ = ["CliqueSpectrum", "clique_spectrum"]

Array = np.ndarray


@dataclass
class CliqueSpectrum:
    """rows of each clique; weight w and diagonal G_ii per clique (cliques of two or more rows)."""

    rows: list[Array]
    weight: Array
    loop: Array

    @property
    def sizes(self) -> Array:
        return np.array([len(rows) for rows in self.rows], dtype=np.int64)

    def contrasts(
        self, values: Array, n: int, k: int, *, largest: bool
    ) -> tuple[Array, Array, float | None]:
        """The first k contrasts by `values` (one per clique): values, (n, r) vectors, the next."""
        order = np.argsort(-values if largest else values, kind="stable")
        found: list[float] = []
        vectors = np.zeros((n, min(k, int((self.sizes - 1).sum()))))
        for c in order:
            rows = self.rows[c]
            for j in range(1, len(rows)):
                if len(found) == vectors.shape[1]:
                    return np.array(found), vectors, float(values[c])
                scale = 1.0 / np.sqrt(j * (j + 1.0))
                vectors[rows[:j], len(found)] = scale
                vectors[rows[j], len(found)] = -j * scale
                found.append(float(values[c]))
        return np.array(found), vectors, None


def clique_spectrum(target: Target) -> CliqueSpectrum | None:
    """The cliques of an implicit graph with non-negative weights; None for any other graph."""
    if target.graph is None or target.graph.clique_ids is None or target.is_signed:
        return None
    ids = target.graph.clique_ids.cpu().numpy()
    order = np.argsort(ids, kind="stable")
    order = order[ids[order] >= 0]
    if order.size == 0:
        return None
    groups = np.split(order, np.flatnonzero(np.diff(ids[order])) + 1)
    rows = [group for group in groups if len(group) > 1]
    first = np.array([group[0] for group in rows], dtype=np.int64)
    size = np.array([len(group) for group in rows], dtype=np.float64)
    loop = target.diagonal[first]
    return CliqueSpectrum(rows, (target.degree[first] - loop) / np.maximum(size - 1, 1), loop)

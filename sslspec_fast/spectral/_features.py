"""Linear and kernel regimes: the pencil of a loss in the span of given features.

Z = X W turns every closed form into M w = mu S w with M = X^T (graph) X, S = X^T (metric) X, both
(d, d). S may be singular (d > n, collinear columns): the problem is then restricted to range(S).
A kernel is the same problem in its feature map: K = Phi Phi^T, Z = Phi V = K A, tr A^T K A = |V|^2.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg as sla
import torch

from .._arrays import known_array
from ..solvers.linalg.signs import canonical_signs
from ._eigen import SpectrumInfo, dense_info
from ._target import Target, checked_array

__all__ = ["Design", "Pencil", "design_of"]

Array = np.ndarray
Form = Callable[[Array], Array]
# Eigenvalues of S below this fraction of the largest are rounding of a float64 Gram matrix.
_RANGE = 1e-10
_FEW = 4  # LAPACK computes a quarter of the eigenvectors, or fewer, faster one by one


@dataclass
class Pencil:
    """values (r,) wanted first; weights (d, r), S-orthonormal; info."""

    values: Array
    weights: Array
    info: SpectrumInfo


@dataclass
class Design:
    """Features (n, d) of the embedding Z = features @ V, and how V becomes the caller's weights."""

    features: Array
    to_weights: Array | None  # None: weights are V itself
    given: Any  # what the caller passed; embedding == given @ weights

    def weights(self, v: Array) -> Array:
        return v if self.to_weights is None else self.to_weights @ v

    def pencil(
        self,
        target: Target,
        k: int,
        graph_form: Form,
        metric_form: Form,
        *,
        largest: bool,
        ridge: float = 0.0,
    ) -> Pencil:
        """k extreme pairs of (graph_form(X) + ridge I, metric_form(X)) on the range of the metric.

        The metric is whitened twice: the second pass removes the error that squaring the condition
        number of X leaves in the first.
        """
        start = time.perf_counter()
        # The range does not depend on the scale of a column: each is brought to entries of at most
        # 1 by a power of two, so that only a column without variance falls below the floor. A ridge
        # has a scale of its own.
        unit = _alike(self.features) if ridge == 0 else np.ones(self.features.shape[1])
        x = self.features * unit
        column = np.sqrt(np.maximum(np.diag(metric_form(x)), 0.0))
        floor = 1e-14 * column.max(initial=0.0)
        scale = np.where(column > floor, 1.0 / np.maximum(column, 1e-300), 0.0)
        scale = scale if ridge == 0 else np.ones_like(column)
        sigma, basis = sla.eigh(metric_form(x * scale))
        keep = sigma > _RANGE * max(float(sigma.max(initial=0.0)), 1e-300)
        p = scale[:, None] * basis[:, keep] / np.sqrt(sigma[keep])
        if p.shape[1] == 0:
            raise ValueError(
                f"features must vary between the rows, got {x.shape[1]} constant column(s)"
            )
        root = sla.cholesky(metric_form(x @ p), lower=True)
        p = sla.solve_triangular(root, p.T, lower=True).T
        form = graph_form(x @ p)
        form = (form + form.T) / 2 + ridge * (p.T @ p)
        values, vectors = _extreme(form, k, largest=largest)
        residual = np.linalg.norm(form @ vectors[:, :k] - vectors[:, :k] * values[:k], axis=0)
        info = dense_info(target, values, k, time.perf_counter() - start, residual)
        info.extra["range"] = int(keep.sum())
        weights = torch.from_numpy(unit[:, None] * p @ vectors[:, :k])
        return Pencil(values[:k], canonical_signs(weights).numpy(), info)


def _extreme(form: Array, k: int, *, largest: bool) -> tuple[Array, Array]:
    """Every eigenvalue, wanted first, and at least k eigenvectors."""
    r = len(form)
    if k > r // _FEW:
        values, vectors = sla.eigh(form)
    else:
        values = sla.eigvalsh(form)
        wanted = [r - k, r - 1] if largest else [0, k - 1]
        vectors = sla.eigh(form, subset_by_index=wanted)[1]
    return (values[::-1], vectors[:, ::-1]) if largest else (values, vectors)


def _alike(x: Array) -> Array:
    """(d,) powers of two that bring the entries of each column to at most 1."""
    return np.ldexp(1.0, -np.frexp(np.abs(x).max(axis=0, initial=0.0))[1])


def design_of(target: Target, features: Any, kernel: Any, ridge: float = 0.0) -> Design | None:
    """The design matrix of the linear or kernel regime; None in the nonparametric one."""
    if features is not None and kernel is not None:
        raise ValueError("give features= or kernel=, not both")
    if features is not None:
        features = known_array(features)
        x = checked_array(features, "features", 2)
        if x.shape[0] != target.n:
            raise ValueError(
                f"features must have one row per node: graph has {target.n}, got shape {x.shape}"
            )
        if x.shape[1] == 0:
            raise ValueError(f"features must have at least one column, got shape {x.shape}")
        if x.shape[1] <= x.shape[0]:
            return Design(x, None, features)
        # d > n: Z = X W needs a subspace of at most n dimensions for W. Without a ridge any that
        # gives the span of the columns will do; columns of like size lose nothing of it, and what
        # is left out is rounding, as in `pencil`. A ridge penalises |W|^2: its optimum lies in the
        # row space of X as it is, and rounding is too small to matter beside it.
        unit = _alike(x) if ridge == 0 else np.ones(x.shape[1])
        alike = x * unit
        _, sigma, vt = sla.svd(alike, full_matrices=False)
        if ridge == 0:
            vt = vt[sigma >= np.sqrt(_RANGE) * sigma[0]]
        return Design(alike @ vt.T, unit[:, None] * vt.T, features)
    if kernel is None:
        return None
    gram = checked_array(kernel, "kernel", 2)
    if gram.shape != (target.n, target.n):
        raise ValueError(f"kernel must be ({target.n}, {target.n}) like G, got shape {gram.shape}")
    top = float(np.abs(gram).max(initial=0.0))
    gap = float(np.abs(gram - gram.T).max(initial=0.0))
    if gap > 1e-9 * top:
        raise ValueError(f"kernel must be symmetric, got max |K - K^T| = {gap:.3g}, max {top:.3g}")
    sigma, basis = sla.eigh((gram + gram.T) / 2)
    if sigma[0] < -1e-8 * max(sigma[-1], 1e-300):
        raise ValueError(
            f"kernel must be positive semi-definite, got eigenvalues from {sigma[0]:.3g} "
            f"to {sigma[-1]:.3g}"
        )
    keep = sigma > 1e-12 * max(sigma[-1], 1e-300)
    if not keep.any():
        raise ValueError("kernel must not be zero")
    root = np.sqrt(sigma[keep])
    return Design(basis[:, keep] * root, basis[:, keep] / root, kernel)

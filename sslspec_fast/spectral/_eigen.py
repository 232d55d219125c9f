"""The one place where spectral/ asks for eigenpairs.

Three questions cover every closed form: the smallest modes of L, the largest of G (or H G H), the
largest of A = D^-1/2 G D^-1/2. Known null vectors (one per connected component) are never computed:
`eigsh` works in their complement, and they come first in the result as exact modes.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from .._arrays import host_array
from ..operators import GroupVectors, SymmetricOperator, centered
from ..solvers import EigInfo
from ..solvers.linalg.signs import canonical_signs
from ._clique_spectrum import CliqueSpectrum, clique_spectrum
from ._resolve import DEFAULT_TOL, resolved, solve
from ._target import Target

__all__ = [
    "Modes",
    "SpectrumInfo",
    "adjacency_modes",
    "dense_info",
    "known_info",
    "laplacian_modes",
    "normalized_modes",
]

Array = np.ndarray

# Components of different degree that H G H is diagonalised over by LAPACK.
_DENSE_GROUPS = 2000


@dataclass(repr=False)
class SpectrumInfo(EigInfo):
    """`EigInfo` plus what a closed form must tell about its graph and its K x K problem.

    Attributes:
        components: number of connected components of the graph (isolated nodes count).
        isolated: number of nodes without an edge; they own modes of eigenvalue 0.
        regime: formula that gave the minimum, e.g. "decorrelated", "equal variance", "multistart".
        certified: the minimum is proven global; False: the best of a multistart, or a
            local-optimality criterion that is only numerically known to be global.
        lower_bound: a proven lower bound of the loss (equals ``loss`` when certified).
    """

    components: int = 1
    isolated: int = 0
    regime: str = ""
    certified: bool = True
    lower_bound: float = -math.inf


@dataclass
class Modes:
    """values (r,) wanted first; vectors (n, r) orthonormal; info of the solve."""

    values: Array
    vectors: Array
    info: SpectrumInfo


def dense_info(
    target: Target, values: Array, k: int, seconds: float, residuals: Array
) -> SpectrumInfo:
    """Info of a dense solve whose full spectrum `values` (wanted first) is known."""
    k = min(k, len(values))
    norm = float(np.abs(values).max(initial=0.0))
    gap = float(abs(values[k] - values[k - 1])) if 0 < k < len(values) else math.inf
    # a full spectrum is never better than rounding of its largest value
    known = np.maximum(residuals, 4.0 * np.finfo(np.float64).eps * norm)
    usual = float(np.median(np.abs(values))) if len(values) else 0.0
    whole = usual == 0.0 or resolved(values[:k], known[:k], gap, usual)
    components, isolated = target.counts
    return SpectrumInfo(
        converged=whole,
        residuals=residuals,
        norm=norm,
        gap=gap,
        angle_bound=float(np.linalg.norm(residuals) / gap) if gap > 0 else math.inf,
        cluster_cut=bool(gap <= 1e-12 * norm),
        method="dense",
        reason="pencil of the features"
        + (
            ""
            if whole
            else "; stopped: rounding next to its norm does not resolve the wanted values"
        ),
        n_iter=1,
        n_matvec=0,
        seconds=seconds,
        precision="float64",
        components=components,
        isolated=isolated,
    )


def known_info(target: Target, values: Array, k: int) -> SpectrumInfo:
    """Info of a spectrum that a formula gives."""
    info = dense_info(target, values, k, 0.0, np.zeros(k))
    info.method, info.reason = "exact", "the spectrum is known"
    return info


def laplacian_modes(target: Target, k: int, solver: dict[str, Any]) -> Modes:
    """min(k, n-1) smallest eigenpairs of L = D - G orthogonal to the constant vector."""
    k = min(k, target.n - 1)
    count, labels = target.components
    if target.is_signed:  # negative eigenvalues may come before the components' zeros
        count, labels = 1, np.zeros_like(labels)
    groups = target.groups(labels, None, count)
    front = _inside(groups, np.ones(count, dtype=bool), k)
    known = clique_spectrum(target)
    if known is not None:
        values = known.sizes * known.weight
        return _exact_modes(target, known, front, np.zeros(front.shape[1]), values, k, count - 1)
    modes = _behind(
        target, target.laplacian(), k, "SA", groups, front, 0.0, count - 1, solver, target.usual_row
    )
    if not target.is_signed:
        modes.values = np.maximum(modes.values, 0.0)
    return modes


def normalized_modes(target: Target, k: int, solver: dict[str, Any], *, trivial: bool) -> Modes:
    """min(k, modes) largest eigenpairs of A = D^-1/2 G D^-1/2 on the nodes with d_i > 0.

    trivial=False leaves out the pair (1, sqrt(d)). Rows of nodes without degree are zero.
    """
    degree = target.degree
    if target.is_signed or (degree < 0).any():
        raise ValueError("graph must have non-negative weights for a degree-normalised closed form")
    alive = degree > 0
    nodes = int(target.total(alive.sum()))
    if not nodes:
        raise ValueError(f"graph must have at least one edge, got none among {target.n} nodes")
    count, labels = target.components
    # Nodes without degree are groups of their own: removed from the problem with the components.
    weights = np.sqrt(np.where(alive, degree, 1.0))
    groups = target.groups(labels, weights, count)
    connected = target.total(np.bincount(labels[alive], minlength=count)) > 0
    k = min(k, nodes - (0 if trivial else 1))
    front = _own(groups, connected, k) if trivial else _inside(groups, connected, k)
    exact = int(connected.sum()) - (0 if trivial else 1)
    known = clique_spectrum(target)
    if known is not None:
        inner = (known.loop - known.weight) / (known.loop + known.weight * (known.sizes - 1))
        ones = np.ones(front.shape[1])
        return _exact_modes(target, known, front, ones, inner, k, exact, largest=True)
    return _behind(target, target.normalized(), k, "LA", groups, front, 1.0, exact, solver, 1.0)


def adjacency_modes(target: Target, k: int, solver: dict[str, Any], *, center: bool) -> Modes:
    """min(k, n or n-1) largest (algebraic) eigenpairs of G, or of H G H without the constant."""
    known = clique_spectrum(target)
    if known is not None:
        indicators = _indicator_modes(target, min(k, target.n - center), center)
        if indicators is not None:
            front, values, every = indicators
            inner = known.loop - known.weight
            k = min(k, target.n - center)
            return _exact_modes(target, known, front, values, inner, k, every, largest=True)
    op = target.adjacency()
    if not center:
        return _solve(target, op, k, "LA", None, solver, target.usual_row)
    constant = target.groups(np.zeros(target.rows, dtype=np.int64), None, 1)
    return _solve(
        target, centered(op), min(k, target.n - 1), "LA", constant, solver, target.usual_row
    )


# ------------------------------------------------------------------ exact modes
def _inside(groups: GroupVectors, use: Array, k: int) -> Array:
    """(n, min(k, c-1)) orthonormal in the span of the c groups in `use`, orthogonal to their sum.

    Columns of the Householder reflection that maps e_1 to the coordinates of that sum.
    """
    norms = host_array(groups.norms)[use]
    u = norms / np.linalg.norm(norms)
    u[0] += 1.0
    width = min(k, len(u) - 1)
    columns = np.zeros((len(u), width))
    columns[np.arange(1, width + 1), np.arange(width)] = 1.0
    columns -= np.outer(u, u[1 : width + 1]) * (2.0 / (u @ u))
    every = np.zeros((groups.count, width))
    every[use] = columns
    return host_array(groups.weights)[:, None] * every[host_array(groups.labels)]


def _own(groups: GroupVectors, use: Array, k: int) -> Array:
    """(n, min(k, c)) the first groups in `use` themselves."""
    chosen = np.flatnonzero(use)[:k]
    return host_array(groups.weights)[:, None] * (host_array(groups.labels)[:, None] == chosen)


def _indicator_modes(target: Target, k: int, center: bool) -> tuple[Array, Array, int] | None:
    """Modes of a clique graph's G (or H G H) inside the span of the indicators, descending.

    Returns (n, r) vectors, (r,) values and how many exist; one value more than vectors when there
    is one, so that a gap can be told. None when H G H mixes too many different cliques.
    """
    count, labels = target.components
    groups = target.groups(labels, None, count)
    first = np.unique(labels, return_index=True)[1]
    degree = target.degree[first]
    if not center:
        order = np.argsort(-degree, kind="stable")
        chosen = order[:k]
        vectors = host_array(groups.weights)[:, None] * (labels[:, None] == chosen)
        return vectors, degree[order[: k + 1]], count
    if np.ptp(degree) <= 1e-12 * degree.max(initial=0.0):  # G is a multiple of I on this span
        vectors = _inside(groups, np.ones(count, dtype=bool), k)
        more = min(k + 1, count - 1)
        return vectors, np.full(more, degree.max(initial=0.0)), count - 1
    if count > _DENSE_GROUPS:
        return None
    t = host_array(groups.norms) / np.sqrt(target.n)
    basis = np.linalg.svd(t[None, :])[2][1:].T  # the complement of the constant
    values, inner = np.linalg.eigh(basis.T @ (degree[:, None] * basis))
    values, inner = values[::-1], (basis @ inner)[:, ::-1]
    vectors = host_array(groups.weights)[:, None] * inner[:, :k][labels]
    return vectors, values[: k + 1].copy(), count - 1


def _exact_modes(
    target: Target,
    known: CliqueSpectrum,
    front: Array,
    front_values: Array,
    inner: Array,
    k: int,
    exact: int,
    *,
    largest: bool = False,
) -> Modes:
    """`front` and then the contrasts inside the cliques, whose values are `inner`: no solve."""
    have = front.shape[1]
    values, vectors, following = known.contrasts(inner, target.n, k - have, largest=largest)
    if have == k and have < exact:  # the cut lies between the front's own modes
        following = float(front_values[min(have, len(front_values) - 1)])
    values = np.concatenate([front_values[:have], values])
    info = _exact_info(target, False)
    info.reason = "disjoint cliques: every eigenpair is known"
    info.norm = float(np.abs(values).max(initial=0.0))
    info.residuals = np.zeros(len(values))
    if following is not None and len(values):
        info.gap = abs(float(values[-1]) - following)
        info.cluster_cut = info.gap <= 1e-12 * max(info.norm, 1e-300)
        info.angle_bound = float("inf") if info.cluster_cut else 0.0
    vectors = np.concatenate([front, vectors], axis=1)
    return Modes(values, canonical_signs(torch.from_numpy(vectors)).numpy(), info)


def _behind(
    target: Target,
    op: SymmetricOperator,
    k: int,
    which: Literal["LA", "SA"],
    groups: GroupVectors,
    front: Array,
    value: float,
    exact: int,
    solver: dict[str, Any],
    usual: float,
) -> Modes:
    """The exact modes `front` (eigenvalue `value`, `exact` of them exist), then solved ones."""
    have = front.shape[1]
    if have < k:
        rest = _solve(target, op, k - have, which, groups, solver, usual)
    elif have < exact or groups.count == target.n:  # the cut is between exact modes, or behind all
        rest = Modes(np.zeros(0), np.zeros((target.rows, 0)), _exact_info(target, have < exact))
    else:  # one loose pair measures the gap behind the exact modes
        for tol in (1e-4, DEFAULT_TOL):  # loose where that tells it from them
            loose = {**solver, "tol": tol, "angle_tol": None}
            rest = _solve(target, op, 1, which, groups, loose, usual)
            rest.info.gap = abs(float(rest.values[0]) - value)
            rest.info.cluster_cut = rest.info.gap <= 10.0 * float(rest.info.residuals.max())
            if not rest.info.cluster_cut:
                break
        rest.info.residuals, rest.info.angle_bound = np.zeros(0), 0.0
        rest.values, rest.vectors = np.zeros(0), np.zeros((target.rows, 0))
    rest.info.residuals = np.concatenate([np.zeros(have), rest.info.residuals])
    values = np.concatenate([np.full(have, value), rest.values])
    return Modes(values, np.concatenate([front, rest.vectors], axis=1), rest.info)


def _exact_info(target: Target, cut: bool) -> SpectrumInfo:
    gap = 0.0 if cut else math.inf
    components, isolated = target.counts
    return SpectrumInfo(
        converged=True,
        residuals=np.zeros(0),
        norm=0.0,
        gap=gap,
        angle_bound=math.inf if cut else 0.0,
        cluster_cut=cut,
        method="exact",
        reason="all wanted modes are known: one per connected component",
        n_iter=0,
        n_matvec=0,
        seconds=0.0,
        components=components,
        isolated=isolated,
    )


def _solve(
    target: Target,
    op: SymmetricOperator,
    k: int,
    which: Literal["LA", "SA"],
    groups: GroupVectors | None,
    solver: dict[str, Any],
    usual: float,
) -> Modes:
    found = solve(op, k, which, groups, solver, usual)
    facts = {f.name: getattr(found.info, f.name) for f in dataclasses.fields(found.info)}
    components, isolated = target.counts
    info = SpectrumInfo(**facts, components=components, isolated=isolated)
    return Modes(host_array(found.values), host_array(found.vectors), info)

"""The one place where spectral/ asks for eigenpairs.

Three questions cover every closed form: the smallest modes of L, the largest of G (or H G H), the
largest of A = D^-1/2 G D^-1/2. Known null vectors (one per connected component) are never
computed: they are projected out of the operator and put in front of the result as exact modes.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg as sla
import scipy.sparse.linalg as spla

from sslspec_fast.solvers.result import ConvergenceWarning, EigInfo
from sslspec_fast.spectral._relation import Relation

__all__ = [
    "Modes", "SpectrumInfo", "adjacency_modes", "canonical_signs", "dense_info",
    "laplacian_modes", "normalized_modes",
]  # fmt: skip

Array = np.ndarray
Apply = Callable[[Array], Array]

# LAPACK's subset driver beats an iteration below this size, and has no multiplicity problem.
_DENSE_ROWS = 3000
# Values closer than this, relative to ||A||, count as one cluster.
_CLUSTER = 1e-8


@dataclass
class SpectrumInfo(EigInfo):
    """`EigInfo` plus what a closed form must tell about its graph and its K x K problem.

    components    number of connected components of the graph (isolated nodes count)
    isolated      number of nodes without an edge; they own modes of eigenvalue 0
    regime        formula that gave the minimum, e.g. "decorrelated", "equal variance", "multistart"
    certified     the minimum is proven global; False: the best of a multistart, or a
                  local-optimality criterion that is only numerically known to be global
    lower_bound   a proven lower bound of the loss (equals ``loss`` when certified)
    """

    components: int = 1
    isolated: int = 0
    regime: str = ""
    certified: bool = True
    lower_bound: float = -np.inf


@dataclass
class Modes:
    """values (r,) wanted first; vectors (n, r) orthonormal; info; the first value not returned."""

    values: Array
    vectors: Array
    info: SpectrumInfo
    following: float | None = None


class _Blocks:
    """Orthonormal block with one vector per group: v_c = weight restricted to group c, normalised.

    Stored as labels and one weight per row, so that thousands of components cost O(n).
    """

    def __init__(self, labels: Array, weights: Array, count: int) -> None:
        norms = np.sqrt(np.bincount(labels, weights**2, minlength=count))
        self.labels, self.count, self.norms = labels, count, norms
        self.weights = weights / norms[labels]

    def remove(self, x: Array) -> Array:
        """x - V V^T x."""
        wx = self.weights[:, None] * x
        sums = np.stack([np.bincount(self.labels, c, minlength=self.count) for c in wx.T], axis=1)
        return x - self.weights[:, None] * sums[self.labels]

    def outer(self) -> Array:
        """V V^T, dense."""
        same = self.labels[:, None] == self.labels[None, :]
        return np.where(same, np.outer(self.weights, self.weights), 0.0)

    def complement_of_total(self, k: int) -> Array:
        """(n, min(k, count-1)) orthonormal in span(V), orthogonal to the sum of all groups.

        Columns of the Householder reflection that maps e_1 to the coordinates of the full vector.
        """
        total = self.norms / np.linalg.norm(self.norms)
        u = total.copy()
        u[0] += 1.0 if u[0] >= 0 else -1.0
        width = min(k, self.count - 1)
        columns = np.zeros((self.count, width))
        columns[np.arange(1, width + 1), np.arange(width)] = 1.0
        columns -= np.outer(u, u[1 : width + 1]) * (2.0 / (u @ u))
        return self.weights[:, None] * columns[self.labels]

    def first(self, k: int) -> Array:
        """(n, min(k, count)) the block's own vectors."""
        width = min(k, self.count)
        return self.weights[:, None] * (self.labels[:, None] == np.arange(width))


def canonical_signs(vectors: Array) -> Array:
    """Make the entry of largest magnitude of each column positive (lowest index within a tie)."""
    if vectors.size == 0:
        return vectors
    magnitude = np.abs(vectors)
    pivot = np.argmax(magnitude >= magnitude.max(axis=0) * (1 - 1e-6), axis=0)
    sign = np.sign(vectors[pivot, np.arange(vectors.shape[1])])
    return vectors * np.where(sign == 0, 1.0, sign)


def dense_info(values: Array, k: int, seconds: float, residuals: Array) -> SpectrumInfo:
    """Info of a dense solve whose full spectrum `values` (wanted first) is known."""
    norm = float(np.abs(values).max()) if values.size else 0.0
    gap = float(abs(values[k] - values[k - 1])) if 0 < k < len(values) else np.inf
    return SpectrumInfo(
        converged=True, residuals=residuals, norm=norm, gap=gap,
        angle_bound=float(np.linalg.norm(residuals) / gap) if gap > 0 else np.inf,
        cluster_cut=bool(gap <= _CLUSTER * norm), method="dense", reason="features or small graph",
        n_iter=1, n_matvec=0, seconds=seconds,
    )  # fmt: skip


def _solve(
    apply: Apply, dense: Callable[[], Array], n: int, k: int, norm: float, sign: float,
    blocks: _Blocks | None, solver: dict,
) -> Modes:  # fmt: skip
    """k eigenpairs, largest of sign * A, in the complement of `blocks`."""
    start = time.perf_counter()
    free = n - (blocks.count if blocks is not None else 0)
    k = min(k, free)
    ask = min(k + 1, free)  # one more than wanted: the gap decides whether the span is defined
    method = solver.get("method", "auto")
    use_dense = method == "dense" or (method == "auto" and (n <= _DENSE_ROWS or ask >= n // 5))
    if ask == 0:
        values, vectors, count, iterations = np.zeros(0), np.zeros((n, 0)), 0, 0
    elif use_dense:
        matrix = sign * dense()
        if blocks is not None:
            outer = blocks.outer()
            matrix = matrix - outer @ matrix
            matrix = matrix - matrix @ outer - (4.0 * norm + 1.0) * outer
        matrix = (matrix + matrix.T) / 2
        values, vectors = sla.eigh(matrix, subset_by_index=(n - ask, n - 1), driver="evr")
        count, iterations = n, 1
    else:
        values, vectors, count, iterations = _iterate(apply, n, ask, norm, sign, blocks, solver)
    order = np.argsort(-values, kind="stable")
    values, vectors = sign * values[order], vectors[:, order]
    following = float(values[k]) if k < len(values) else None
    gap = float(abs(values[k] - values[k - 1])) if 0 < k < len(values) else np.inf
    values, vectors = values[:k], canonical_signs(vectors[:, :k])
    residual = apply(vectors) - vectors * values if k else vectors
    if blocks is not None and k:
        residual = blocks.remove(residual)
    residuals = np.linalg.norm(residual, axis=0)
    tol = float(solver.get("tol", 1e-9))
    converged = bool((residuals <= max(tol, 1e-13) * max(norm, 1e-300) * 10).all())
    if not converged:
        warnings.warn(
            f"closed form: {int((residuals > tol * norm).sum())} of {k} eigenpairs did not reach "
            f"tol={tol:g} relative to ||A|| <= {norm:.3g} (worst residual {residuals.max():.2e})",
            ConvergenceWarning, stacklevel=4,
        )  # fmt: skip
    info = SpectrumInfo(
        converged=converged, residuals=residuals, norm=norm, gap=gap,
        angle_bound=float(np.linalg.norm(residuals) / gap) if gap > 0 else np.inf,
        cluster_cut=bool(gap <= _CLUSTER * max(norm, 1e-300)),
        method="dense" if use_dense else "lanczos",
        reason=f"n = {n}, k = {ask}", n_iter=iterations, n_matvec=count,
        seconds=time.perf_counter() - start, tol=tol, precision="float64",
    )  # fmt: skip
    return Modes(values, vectors, info, following)


def _iterate(
    apply: Apply, n: int, k: int, norm: float, sign: float, blocks: _Blocks | None, solver: dict
) -> tuple[Array, Array, int, int]:
    """ARPACK on sign * P A P + norm * P: wanted values are largest, null vectors at zero."""
    calls = 0

    def matmat(x: Array) -> Array:
        nonlocal calls
        x = x.reshape(n, -1)
        calls += x.shape[1]
        x = x if blocks is None else blocks.remove(x)
        y = sign * apply(x) + norm * x
        return y if blocks is None else blocks.remove(y)

    operator = spla.LinearOperator((n, n), matvec=matmat, matmat=matmat, dtype=np.float64)
    rng = np.random.default_rng(solver.get("seed", 0))
    ncv = min(n, max(2 * k + 20, 40))
    try:
        values, vectors = spla.eigsh(
            operator, k=k, which="LA", v0=rng.standard_normal(n), ncv=ncv,
            tol=float(solver.get("tol", 1e-9)) / 10, maxiter=solver.get("max_iter"),
        )  # fmt: skip
    except spla.ArpackNoConvergence as failure:
        values, vectors = failure.eigenvalues, failure.eigenvectors
        if len(values) < k:
            raise RuntimeError(
                f"closed form: {len(values)} of {k} eigenpairs converged; raise max_iter or tol"
            ) from failure
    return values - norm, vectors, calls, 1


def _with_front(
    front: Array, value: float, rest: Modes | None, k: int, total: int, norm: float
) -> Modes:
    """Exact modes first, then the solved ones; a cut between exact modes has a known gap."""
    have = front.shape[1]
    if rest is None:
        gap = 0.0 if have < total else np.inf
        info = SpectrumInfo(
            converged=True, residuals=np.zeros(have), norm=norm, gap=gap,
            angle_bound=0.0 if gap else np.inf, cluster_cut=gap == 0.0, method="exact",
            reason="all wanted modes are null vectors of the components", n_iter=0, n_matvec=0,
            seconds=0.0,
        )  # fmt: skip
        return Modes(np.full(have, value), front, info)
    rest.info.residuals = np.concatenate([np.zeros(have), rest.info.residuals])
    if have == k and rest.following is not None:  # the cut lies right behind the exact modes
        rest.info.gap = abs(rest.following - value)
        rest.info.cluster_cut = rest.info.gap <= _CLUSTER * max(norm, 1e-300)
    values = np.concatenate([np.full(have, value), rest.values])[:k]
    return Modes(values, np.concatenate([front, rest.vectors], axis=1)[:, :k], rest.info)


def laplacian_modes(rel: Relation, k: int, solver: dict) -> Modes:
    """min(k, n-1) smallest eigenpairs of L = D - G orthogonal to the constant vector."""
    n, degree = rel.n, rel.degree
    count, labels = rel.components
    k = min(k, n - 1)
    blocks = _Blocks(labels, np.ones(n), count)
    norm = 2.0 * float(np.abs(degree).max())
    if rel.is_signed:  # Gershgorin: |d_i| + sum_j |G_ij|
        norm = float((np.abs(degree) + rel.absolute_degree).max())
        blocks = _Blocks(np.zeros(n, dtype=np.int64), np.ones(n), 1)
    front = blocks.complement_of_total(k)
    if front.shape[1] == k and blocks.count - 1 > k:
        return _annotate(_with_front(front, 0.0, None, k, blocks.count - 1, norm), rel)

    def apply(x: Array) -> Array:
        return degree[:, None] * x - rel.matmul(x)

    def dense() -> Array:
        return np.diag(degree) - rel.dense()

    rest = _solve(apply, dense, n, k - front.shape[1], norm, -1.0, blocks, solver)
    if not rel.is_signed:
        rest.values = np.maximum(rest.values, 0.0)
    return _annotate(_with_front(front, 0.0, rest, k, blocks.count - 1, norm), rel)


def normalized_modes(rel: Relation, k: int, solver: dict, *, trivial: bool) -> Modes:
    """min(k, modes) largest eigenpairs of A = D^-1/2 G D^-1/2 on the nodes with d_i > 0.

    trivial=False leaves out the pair (1, sqrt(d)). Rows of nodes without degree are zero.
    """
    degree = rel.degree
    if rel.is_signed or (degree < 0).any():
        raise ValueError("graph must have non-negative weights for a degree-normalised closed form")
    live = np.flatnonzero(degree > 0)
    if live.size == 0:
        raise ValueError(f"graph must have at least one edge, got none among {rel.n} nodes")
    _, labels = np.unique(rel.components[1][live], return_inverse=True)
    count = int(labels.max()) + 1
    root = np.sqrt(degree[live])
    blocks = _Blocks(labels, root, count)
    k = min(k, live.size - (0 if trivial else 1))
    front = blocks.first(k) if trivial else blocks.complement_of_total(k)
    exact = count if trivial else count - 1

    def apply(x: Array) -> Array:
        full = np.zeros((rel.n, x.shape[1]))
        full[live] = x / root[:, None]
        return rel.matmul(full)[live] / root[:, None]

    def dense() -> Array:
        return rel.dense()[np.ix_(live, live)] / np.outer(root, root)

    if front.shape[1] == k and exact > k:
        modes = _with_front(front, 1.0, None, k, exact, 1.0)
    else:
        rest = _solve(apply, dense, live.size, k - front.shape[1], 1.0, 1.0, blocks, solver)
        modes = _with_front(front, 1.0, rest, k, exact, 1.0)
    vectors = np.zeros((rel.n, modes.vectors.shape[1]))
    vectors[live] = modes.vectors
    return _annotate(Modes(modes.values, vectors, modes.info), rel)


def adjacency_modes(rel: Relation, k: int, solver: dict, *, center: bool) -> Modes:
    """min(k, n or n-1) largest (algebraic) eigenpairs of G, or of H G H without the constant."""
    n = rel.n
    norm = float(rel.absolute_degree.max())  # ||G|| <= max row sum; H does not increase it
    blocks = _Blocks(np.zeros(n, dtype=np.int64), np.ones(n), 1) if center else None
    modes = _solve(rel.matmul, rel.dense, n, k, norm, 1.0, blocks, solver)
    return _annotate(modes, rel)


def _annotate(modes: Modes, rel: Relation) -> Modes:
    modes.info.components = rel.components[0]
    modes.info.isolated = int(rel.isolated.size)
    return modes

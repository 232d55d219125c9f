"""Operators of a PairGraph: G, D^-1/2 G D^-1/2, L = D - G and L_sym = I - D^-1/2 G D^-1/2.

Stored graphs keep their arrays (scalings are vectors); cliques, views and sums stay implicit and
cost O(n b) a product. Bounds and exactly known eigenpairs (docs/closed_forms.md):
lambda(D^-1/2 G D^-1/2) in [-1, 1] with D^1/2 1_c at 1 for every component c, and lambda(L) in
[0, max over edges of d_i + d_j] with 1_c at 0 (Anderson and Morley 1985).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..graph import PairGraph
from .base import SymmetricOperator
from .composite import CallableOperator
from .csr import CsrOperator
from .known import GroupVectors, KnownPairs

__all__ = ["adjacency", "laplacian"]


def adjacency(g: PairGraph, normalized: bool = False) -> SymmetricOperator:
    """G, or D^-1/2 G D^-1/2 with zero rows for nodes without degree.

    The normalised form knows its eigenvectors of eigenvalue 1 exactly (one per connected component
    that has an edge).

    Args:
        g: symmetric.
        normalized: take the second form, which needs weights >= 0.

    Returns:
        A `SymmetricOperator`, without a copy of G.

    Raises:
        TypeError: g is no `PairGraph`.
        ValueError: g is directed, or has negative weights under normalized.
    """
    _require_symmetric("adjacency", g)
    if not normalized:
        if g.has_negative_weights:
            return _graph_operator(g, None, None, 1.0, None, ())
        top = float(g.degree.max()) if g.n else 0.0
        return _graph_operator(g, None, None, 1.0, (-top, top), ())
    scale = _inverse_root(g, "adjacency")
    return _graph_operator(g, scale, None, 1.0, (-1.0, 1.0), _stationary(g))


def laplacian(g: PairGraph, normalized: bool = False) -> SymmetricOperator:
    """L = D - G, or I - D^-1/2 G D^-1/2 (a row without degree: eigenvalue 1 when normalised).

    With non-negative weights the null vectors, one per connected component, are known exactly.

    Args:
        g: symmetric.
        normalized: take the second form, which needs weights >= 0.

    Returns:
        A `SymmetricOperator`, without a copy of G.

    Raises:
        TypeError: g is no `PairGraph`.
        ValueError: g is directed, or has negative weights under normalized.
    """
    _require_symmetric("laplacian", g)
    if normalized:
        scale = _inverse_root(g, "laplacian")
        ones = torch.ones(g.n, dtype=torch.float64, device=g.device)
        known = tuple(KnownPairs(0.0, pair.vectors) for pair in _stationary(g))
        return _graph_operator(g, scale, ones, -1.0, (0.0, 2.0), known)
    if g.has_negative_weights:
        return _graph_operator(g, None, g.degree, -1.0, None, ())
    if g.n == 0:
        return _graph_operator(g, None, g.degree, -1.0, (0.0, 0.0), ())
    _, labels = g.connected_components()
    known = (KnownPairs(0.0, GroupVectors(labels)),)
    return _graph_operator(g, None, g.degree, -1.0, (0.0, _anderson_morley(g)), known)


def _graph_operator(
    g: PairGraph,
    scale: Tensor | None,
    diagonal: Tensor | None,
    sign: float,
    bounds: tuple[float, float] | None,
    known: tuple[KnownPairs, ...],
) -> SymmetricOperator:
    if g.kind == "csr":
        indptr, indices, values = g.csr()
        return CsrOperator(
            indptr,
            indices,
            values,
            n=g.n,
            scale=scale,
            diagonal=diagonal,
            sign=sign,
            bounds=bounds,
            known=known,
            trusted=True,
        )

    def apply(x: Tensor) -> Tensor:
        y = g.matmul(x if scale is None else x * scale.to(x.dtype)[:, None])
        if scale is not None:
            y = y * scale.to(x.dtype)[:, None]
        y = y * sign
        return y if diagonal is None else y.addcmul_(x, diagonal.to(x.dtype)[:, None])

    if bounds is None:  # signed weights: |d_i| + sum of |G_ij| over the materialised rows
        top = float(abs(g.to_scipy()).sum(axis=1).max() if g.n else 0.0)
        top += 0.0 if diagonal is None else float(diagonal.abs().max())
        bounds = (-top, top)

    def assemble() -> CsrOperator:
        indptr, indices, values = g.csr()
        stored = CsrOperator(
            indptr,
            indices,
            values,
            n=g.n,
            scale=scale,
            diagonal=diagonal,
            sign=sign,
            bounds=bounds,
            trusted=True,
        )
        return stored.assemble()

    return CallableOperator(
        apply,
        g.n,
        torch.float64,
        g.device,
        bounds=bounds,
        known=known,
        # an implicit clique product reads each row twice, whatever the clique's size
        nnz=2 * g.n,
        assemble=assemble if g.nnz <= 20 * max(g.n, 1) else None,
    )


def _require_symmetric(name: str, g: PairGraph) -> None:
    if not isinstance(g, PairGraph):
        raise TypeError(
            f"{name}: g must be a PairGraph, got {type(g).__name__}; PairGraph.from_sparse makes "
            "one of a sparse matrix"
        )
    if g.group is not None:
        raise ValueError(
            f"{name}: g needs all rows in one process; operators.partitioned(g, g.group) is the "
            "operator of a graph over ranks"
        )
    if g.is_directed:
        raise ValueError(
            f"{name}: graph must be symmetric, got a directed graph (n={g.n}, nnz={g.nnz}); "
            "use symmetrize=True or (G + G^T) / 2"
        )


def _inverse_root(g: PairGraph, name: str) -> Tensor:
    if g.has_negative_weights:
        raise ValueError(
            f"{name}: normalized=True needs non-negative weights, got some below zero "
            f"(smallest degree {float(g.degree.min()):.3g})"
        )
    degree = g.degree
    return torch.where(degree > 0, degree.clamp_min(1e-300).rsqrt(), torch.zeros_like(degree))


def _stationary(g: PairGraph) -> tuple[KnownPairs, ...]:
    """D^1/2 1_c for every component with an edge: eigenvalue 1 of the normalised adjacency."""
    degree = g.degree
    if g.n == 0 or float(degree.max()) == 0.0:
        return ()
    count, labels = g.connected_components()
    live = degree > 0
    used = torch.zeros(count, dtype=torch.bool, device=g.device)
    used[labels[live]] = True
    packed = torch.where(live, (used.cumsum(0) - 1)[labels], -1)
    return (KnownPairs(1.0, GroupVectors(packed, degree.sqrt())),)


def _anderson_morley(g: PairGraph) -> float:
    """max of d_i + d_j over edges for a stored graph, 2 max d_i for an implicit one."""
    degree = g.degree
    top = 2.0 * float(degree.max())
    if g.kind != "csr" or g.nnz == 0 or g.nnz > 50_000_000:
        return top  # the pass over the edges needs nnz temporary values
    indptr, indices, _ = g.csr()
    rows = degree.repeat_interleave(indptr.diff(), output_size=indices.shape[0])
    return min(top, float((rows + degree[indices.long()]).max()) * (1 + 1e-14))

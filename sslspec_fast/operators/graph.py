"""Operators of a PairGraph: G, D^-1/2 G D^-1/2, L = D - G and L_sym = I - D^-1/2 G D^-1/2.

Stored graphs keep their arrays (scalings are vectors); cliques, views and sums stay implicit and
cost O(n b) a product. Bounds and exactly known eigenpairs (docs/closed_forms.md):
lambda(D^-1/2 G D^-1/2) in [-1, 1] with D^1/2 1_c at 1 for every component c, and lambda(L) in
[0, max over edges of d_i + d_j] with 1_c at 0 (Anderson and Morley 1985).
"""

from __future__ import annotations

import math

import scipy.sparse
import torch
from torch import Tensor

from ..graph import PairGraph
from ..graph.build import csr_from_scipy
from ..ranks import gather_rows
from ..ranks.lockstep import ends
from .base import SymmetricOperator
from .composite import CallableOperator
from .csr import CsrOperator
from .known import GroupVectors, KnownPairs
from .partitioned import partitioned

__all__ = ["adjacency", "laplacian"]


def adjacency(g: PairGraph, normalized: bool = False) -> SymmetricOperator:
    """G, or D^-1/2 G D^-1/2 with zero rows for nodes without degree.

    The normalised form knows its eigenvectors of eigenvalue 1 exactly (one per connected component
    that has an edge).

    Args:
        g: symmetric.
        normalized: take the second form, which needs weights >= 0.

    Returns:
        A `SymmetricOperator`, without a copy of G; of a graph over ranks that of `partitioned`,
        which stores the entries of this rank's rows.

    Raises:
        TypeError: g is no `PairGraph`.
        ValueError: g is directed, or has negative weights under normalized.
    """
    _require_symmetric("adjacency", g)
    if not normalized:
        if g.has_negative_weights:
            return _graph_operator(g, None, None, 1.0, None, ())
        top = max(_largest(g, g.degree), 0.0)
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
        A `SymmetricOperator`, without a copy of G; of a graph over ranks that of `partitioned`,
        which stores the entries of this rank's rows.

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
    if g.n == 0 and g.group is None:
        return _graph_operator(g, None, g.degree, -1.0, (0.0, 0.0), ())
    count, labels = g.connected_components()
    known = (KnownPairs(0.0, GroupVectors(labels, None, count, group=g.group)),)
    return _graph_operator(g, None, g.degree, -1.0, (0.0, _anderson_morley(g)), known)


def _graph_operator(
    g: PairGraph,
    scale: Tensor | None,
    diagonal: Tensor | None,
    sign: float,
    bounds: tuple[float, float] | None,
    known: tuple[KnownPairs, ...],
) -> SymmetricOperator:
    if g.group is not None:
        return _over_ranks(g, scale, diagonal, sign, bounds, known)
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
    return _implicit(g, scale, diagonal, sign, bounds, known)


def _implicit(
    g: PairGraph,
    scale: Tensor | None,
    diagonal: Tensor | None,
    sign: float,
    bounds: tuple[float, float] | None,
    known: tuple[KnownPairs, ...],
) -> SymmetricOperator:
    """Of a graph whose entries are not stored."""

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
    if g.is_directed:
        raise ValueError(
            f"{name}: graph must be symmetric, got a directed graph (n={g.n}, nnz={g.nnz}); "
            "use symmetrize=True or (G + G^T) / 2"
        )


def _inverse_root(g: PairGraph, name: str) -> Tensor:
    if g.has_negative_weights:
        raise ValueError(
            f"{name}: normalized=True needs non-negative weights, got some below zero "
            f"(smallest degree {-_largest(g, -g.degree):.3g})"
        )
    degree = g.degree
    return torch.where(degree > 0, degree.clamp_min(1e-300).rsqrt(), torch.zeros_like(degree))


def _largest(g: PairGraph, x: Tensor) -> float:
    """The largest value of the rows of all ranks; -inf without any."""
    top = float(x.max()) if x.numel() else -math.inf
    return top if g.group is None else ends(0.0, top, g.group)[1]


def _of_columns(g: PairGraph, x: Tensor) -> Tensor:
    """(columns,) what the rows have, of all ranks."""
    ranks = g._relation.ranks
    return x if ranks is None else gather_rows(x, ranks)


def _stationary(g: PairGraph) -> tuple[KnownPairs, ...]:
    """D^1/2 1_c for every component with an edge: eigenvalue 1 of the normalised adjacency."""
    degree = g.degree
    if not _largest(g, degree) > 0.0:
        return ()
    count, labels = g.connected_components()
    live = degree > 0
    used = torch.zeros(count, dtype=torch.int64, device=g.device)
    used[labels[live]] = 1
    used = g._relation.over_all(used) > 0
    packed = torch.where(live, (used.cumsum(0) - 1)[labels], -1)
    vectors = GroupVectors(packed, degree.sqrt(), int(used.sum()), group=g.group)
    return (KnownPairs(1.0, vectors),)


def _anderson_morley(g: PairGraph) -> float:
    """max of d_i + d_j over edges for a stored graph, 2 max d_i for an implicit one."""
    top = 2.0 * _largest(g, g.degree)
    if g.kind != "csr" or g.nnz == 0 or g.nnz > 50_000_000:
        return top  # the pass over the edges needs nnz temporary values
    indptr, indices, _ = g.csr()
    rows = g.degree.repeat_interleave(indptr.diff(), output_size=indices.shape[0])
    both = rows + _of_columns(g, g.degree)[indices.long()]
    return min(top, _largest(g, both) * (1 + 1e-14))


def _over_ranks(
    g: PairGraph,
    scale: Tensor | None,
    diagonal: Tensor | None,
    sign: float,
    bounds: tuple[float, float] | None,
    known: tuple[KnownPairs, ...],
) -> SymmetricOperator:
    """Of this rank's rows, whose entries are stored."""
    ranks = g._relation.ranks
    assert ranks is not None
    rows, first = g.to_scipy() * sign, ranks.here.start
    if scale is not None:
        left, right = (
            scipy.sparse.diags_array(x.cpu().numpy()) for x in (scale, _of_columns(g, scale))
        )
        rows = left @ rows @ right
    if diagonal is not None:
        at = torch.arange(g.n)
        entries = diagonal.cpu().numpy(), (at.numpy(), (at + first).numpy())
        rows = rows + scipy.sparse.coo_array(entries, shape=rows.shape)
    stored = csr_from_scipy(scipy.sparse.csr_array(rows), symmetric=False).to(g.device)
    matrix = stored.to_torch(torch.float64)
    return partitioned(matrix, ranks.group, bounds=bounds, known=known)

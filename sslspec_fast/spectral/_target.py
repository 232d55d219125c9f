"""The pairwise relation G as the closed forms use it: symmetric, float64, blocks of NumPy columns.

One class for G from a `PairGraph`, a scipy matrix or a dense array, which also keeps in which
array type the caller wants the results back.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from .. import operators
from .._arrays import known_array
from ..graph import PairGraph
from ..operators import GroupVectors, SymmetricOperator
from ..solvers.problem.scaling import usual_row

__all__ = ["Target", "checked_array"]

Array = np.ndarray


def checked_array(x: Any, name: str, ndim: int) -> Array:
    """A float64 NumPy copy (or view) of a tensor or array; checked for shape and finiteness."""
    x = known_array(x)
    if isinstance(x, torch.Tensor):
        if x.is_complex():
            raise TypeError(f"{name} must be real, got dtype {x.dtype}")
        x = x.detach().to("cpu", torch.float64).numpy()
    elif sp.issparse(x):
        raise TypeError(f"{name} must be a dense array or tensor, got {type(x).__name__}")
    out = np.asarray(x)
    if out.dtype == object or not (
        np.issubdtype(out.dtype, np.number) or np.issubdtype(out.dtype, np.bool_)
    ):
        raise TypeError(f"{name} must hold real numbers, got dtype {out.dtype}")
    if np.iscomplexobj(out):
        raise TypeError(f"{name} must be real, got dtype {out.dtype}")
    if out.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimension(s), got shape {tuple(out.shape)}")
    out = out.astype(np.float64, copy=False)
    if not np.isfinite(out).all():
        bad = int(out.size - np.isfinite(out).sum())
        raise ValueError(f"{name} must be finite, got {bad} NaN or infinite value(s)")
    return out


class Target:
    """Symmetric G (n, n) with the products, degrees and operators that the closed forms need.

    graph: `PairGraph`, scipy sparse, or a dense symmetric array / tensor (n, n), which may be
    signed (MDS and Isomap targets). ``wrap`` returns results as the caller's array type and device.
    """

    def __init__(self, graph: Any) -> None:
        # Exactly one of the two holds G: sparse input becomes a PairGraph.
        self.graph: PairGraph | None = None
        self.dense_matrix: Array | None = None
        self.device: torch.device | None = None  # of the results; None: NumPy
        if isinstance(graph, PairGraph):
            self.graph, self.device = graph, graph.device
        elif sp.issparse(graph):
            if len(graph.shape) != 2 or graph.shape[0] != graph.shape[1]:
                raise ValueError(f"graph must be square, got shape {tuple(graph.shape)}")
            graph = PairGraph.from_sparse(graph)
            self.graph = graph
        elif isinstance(graph, (np.ndarray, torch.Tensor)):
            if isinstance(graph, torch.Tensor):
                self.device = graph.device
                graph = graph.to_dense()
            self.dense_matrix = _symmetric(checked_array(graph, "graph", 2))
        else:
            raise TypeError(
                "graph must be a PairGraph, a scipy sparse matrix or a dense symmetric array, "
                f"got {type(graph).__name__}"
            )
        self.n = self.rows = int(self.graph.n if self.graph is not None else len(graph))
        if self.n == 0:
            raise ValueError("graph must have at least one node, got n = 0")
        if self.graph is not None and not self.graph.is_symmetric:
            raise ValueError(
                "graph must be symmetric for a closed form, got a directed graph of "
                f"{self.n} nodes; build it with symmetrize=True"
            )

    # ------------------------------------------------------------------ sums over the nodes
    group: Any = None  # of the ranks that hold the nodes together, `rows` of them here

    def total(self, x: Any) -> Array:
        """A sum over the nodes at hand, as that over all nodes."""
        return np.asarray(x)

    def least(self, x: Array) -> float:
        """The smallest of one value per node."""
        return float(x.min())

    def alike(self, fit: Any) -> Any:
        """A `Filter`, the same on all ranks."""
        return fit

    def groups(self, labels: Array, weights: Array | None, count: int) -> GroupVectors:
        """One null vector per label, on the device of the graph."""
        device = self.graph.device if self.graph is not None else torch.device("cpu")
        scale = None if weights is None else torch.from_numpy(weights).to(device)
        return GroupVectors(torch.from_numpy(labels).to(device), scale, count)

    # ------------------------------------------------------------------ products and sums
    def matmul(self, x: Array) -> Array:
        """G @ x for x (n, b)."""
        if self.dense_matrix is not None:
            return self.dense_matrix @ x
        assert self.graph is not None
        block = torch.from_numpy(np.ascontiguousarray(x)).to(self.graph.device)
        return self.graph.matmul(block).cpu().numpy()

    def quadratic(self, x: Array) -> Array:
        """X^T G X for x (n, b); G X is never stored for a PairGraph."""
        if self.graph is None:
            return x.T @ self.matmul(x)
        block = torch.from_numpy(np.ascontiguousarray(x)).to(self.graph.device)
        return self.graph.covariance(block).cpu().numpy()

    def _fact(self, name: str, dense: Any) -> Array:
        if self.graph is None:
            return np.asarray(dense(self.dense_matrix))
        value = getattr(self.graph, name)
        return (value() if callable(value) else value).cpu().numpy()

    @cached_property
    def degree(self) -> Array:
        return self._fact("degree", lambda m: m.sum(axis=1))

    @cached_property
    def diagonal(self) -> Array:
        return self._fact("diagonal", lambda m: m.diagonal())

    @property
    def volume(self) -> float:
        return float(self.total(self.degree.sum()))

    @cached_property
    def frobenius_sq(self) -> float:
        if self.graph is not None:
            return float(self.graph.frobenius_sq())
        return float((np.asarray(self.dense_matrix) ** 2).sum())

    @cached_property
    def is_signed(self) -> bool:
        """True when some weight is negative."""
        if self.graph is not None:
            return bool(self.graph.has_negative_weights)
        return float(np.asarray(self.dense_matrix).min()) < 0

    @cached_property
    def usual_row(self) -> float:
        """Median of sum_j |G_ij| over the rows that are not empty; 0 without any."""
        if not self.is_signed:
            return usual_row(self.degree)
        return usual_row(self.sparse() if self.dense_matrix is None else self.dense_matrix)

    def sparse(self) -> sp.csr_array:
        """A CSR copy of G (materialises implicit cliques)."""
        if self.graph is not None:
            return self.graph.to_scipy()
        return sp.csr_array(self.dense_matrix)

    @cached_property
    def components(self) -> tuple[int, Array]:
        """(count, labels (n,)) of the connected components; an isolated node is one of them."""
        if self.graph is not None:
            count, tensor = self.graph.connected_components()
            return int(count), tensor.cpu().numpy()
        count, labels = sp.csgraph.connected_components(self.sparse(), directed=False)
        return int(count), np.asarray(labels, dtype=np.int64)

    @cached_property
    def isolated(self) -> Array:
        """Indices of the nodes without any edge to another node."""
        count, labels = self.components
        return np.flatnonzero(np.bincount(labels, minlength=count)[labels] == 1)

    @property
    def counts(self) -> tuple[int, int]:
        """How many connected components and isolated nodes there are."""
        return self.components[0], int(self.total(self.isolated.size))

    # ------------------------------------------------------------------ operators
    def adjacency(self) -> SymmetricOperator:
        """G."""
        if self.graph is not None:
            return operators.adjacency(self.graph)
        return operators.as_operator(np.asarray(self.dense_matrix))

    def laplacian(self) -> SymmetricOperator:
        """L = D - G."""
        if self.graph is not None:
            return operators.laplacian(self.graph)
        return operators.as_operator(np.diag(self.degree) - np.asarray(self.dense_matrix))

    def normalized(self) -> SymmetricOperator:
        """D^-1/2 G D^-1/2, zero rows where there is no degree."""
        if self.graph is not None:
            return operators.adjacency(self.graph, normalized=True)
        scale = np.zeros(self.n)
        np.divide(1.0, np.sqrt(self.degree), out=scale, where=self.degree > 0)
        return operators.as_operator(scale[:, None] * np.asarray(self.dense_matrix) * scale)

    # ------------------------------------------------------------------ results
    def wrap(self, x: Array) -> Any:
        """x as the caller's array type: a torch tensor on the graph's device, else NumPy."""
        if self.device is None:
            return x
        return torch.from_numpy(np.ascontiguousarray(x)).to(self.device)


def _symmetric(matrix: Array) -> Array:
    """(M + M^T)/2, when M is symmetric up to the rounding of a product such as -H D^2 H / 2."""
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"graph must be square, got shape {tuple(matrix.shape)}")
    gap = float(np.abs(matrix - matrix.T).max(initial=0.0))
    scale = float(np.abs(matrix).max(initial=0.0))
    if gap > 1e-9 * scale:
        raise ValueError(
            f"graph must be symmetric, got max |G - G^T| = {gap:.3g} at max |G| = {scale:.3g}"
        )
    return (matrix + matrix.T) / 2 if gap else matrix

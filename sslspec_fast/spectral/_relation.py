"""The pairwise relation G as the closed forms see it: symmetric, float64, blocks of NumPy columns.

One class hides where G came from (a `PairGraph`, a scipy matrix, a dense array) and knows in which
array type the caller wants the results back.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

__all__ = ["Relation", "to_numpy"]

Array = np.ndarray


def to_numpy(x: Any, name: str, ndim: int) -> Array:
    """A float64 NumPy copy (or view) of a tensor or array; checked for shape and finiteness."""
    if isinstance(x, torch.Tensor):
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


class Relation:
    """Symmetric G (n, n) with the products, degrees and norms that the closed forms need.

    graph: `PairGraph`, scipy sparse, or a dense symmetric array / tensor (n, n), which may be
    signed (MDS and ISOMAP targets). ``wrap`` returns results as the caller's array type and device.
    """

    def __init__(self, graph: Any, name: str = "graph") -> None:
        self.graph = graph
        self.device: torch.device | None = None
        self._matrix: Any = None
        if hasattr(graph, "matmul") and hasattr(graph, "degree") and hasattr(graph, "nnz"):
            self.device = torch.device(graph.device)
            self.n = int(graph.n)
            if not graph.is_symmetric:
                raise ValueError(
                    f"{name} must be symmetric for a closed form, got a directed graph of "
                    f"{self.n} nodes; build it with symmetrize=True"
                )
        else:
            self._from_matrix(graph, name)
        if self.n == 0:
            raise ValueError(f"{name} must have at least one node, got n = 0")

    def _from_matrix(self, graph: Any, name: str) -> None:
        if isinstance(graph, torch.Tensor):
            self.device = graph.device
            graph = to_numpy(graph.to_dense(), name, 2)
        if sp.issparse(graph):
            matrix = sp.csr_array(graph).astype(np.float64)
            finite = bool(np.isfinite(matrix.data).all())
        elif isinstance(graph, np.ndarray):
            matrix = to_numpy(graph, name, 2)
            finite = True
        else:
            raise TypeError(
                f"{name} must be a PairGraph, a scipy sparse matrix or a dense symmetric array, "
                f"got {type(graph).__name__}"
            )
        if matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"{name} must be square, got shape {tuple(matrix.shape)}")
        if not finite:
            raise ValueError(f"{name} must be finite, got NaN or infinite weights")
        scale = float(abs(matrix).max()) if matrix.shape[0] and abs(matrix).sum() else 0.0
        gap = float(abs(matrix - matrix.T).max()) if matrix.shape[0] else 0.0
        # Symmetric up to the rounding of a product such as -H D^2 H / 2.
        if gap > 1e-9 * scale:
            raise ValueError(
                f"{name} must be symmetric, got max |G - G^T| = {gap:.3g} at max |G| = {scale:.3g}"
            )
        self.n = matrix.shape[0]
        self._matrix = (matrix + matrix.T) / 2 if gap else matrix

    # ------------------------------------------------------------------ products and sums
    def matmul(self, x: Array) -> Array:
        """G @ x for x (n, b)."""
        if self._matrix is not None:
            return np.asarray(self._matrix @ x)
        out = self.graph.matmul(torch.from_numpy(np.ascontiguousarray(x)).to(self.device))
        return out.detach().cpu().numpy()

    @cached_property
    def degree(self) -> Array:
        if self._matrix is not None:
            return np.asarray(self._matrix.sum(axis=1)).ravel()
        return self.graph.degree.detach().cpu().numpy().astype(np.float64)

    @property
    def volume(self) -> float:
        return float(self.degree.sum())

    @cached_property
    def frobenius_sq(self) -> float:
        if self._matrix is not None:
            values = self._matrix.data if sp.issparse(self._matrix) else self._matrix
            return float((np.asarray(values) ** 2).sum())
        return float(self.graph.frobenius_sq())

    @cached_property
    def diagonal(self) -> Array:
        if self._matrix is not None:
            return np.asarray(self._matrix.diagonal())
        return self.graph.diagonal().detach().cpu().numpy()

    def sparse(self) -> sp.csr_array:
        """A CSR copy of G (materialises implicit cliques)."""
        if self._matrix is not None:
            return sp.csr_array(self._matrix).copy()
        return self.graph.to_scipy()

    def dense(self) -> Array:
        if self._matrix is not None:
            return self._matrix.toarray() if sp.issparse(self._matrix) else self._matrix
        return self.graph.to_scipy().toarray()

    @cached_property
    def is_signed(self) -> bool:
        """True when some weight is negative."""
        if self._matrix is None:
            return bool(self.graph.has_negative_weights)
        return float(self._matrix.min()) < 0

    @cached_property
    def absolute_degree(self) -> Array:
        """(n,) sum_j |G_ij|."""
        if not self.is_signed:
            return self.degree
        matrix = self.graph.to_scipy() if self._matrix is None else self._matrix
        return np.asarray(abs(matrix).sum(axis=1)).ravel()

    @cached_property
    def components(self) -> tuple[int, Array]:
        """(count, labels (n,)) of the connected components; an isolated node is one of them."""
        if self._matrix is not None:
            count, labels = sp.csgraph.connected_components(
                sp.csr_array(self._matrix), directed=False
            )
            return int(count), np.asarray(labels, dtype=np.int64)
        count, labels = self.graph.connected_components()
        labels = labels.detach().cpu().numpy() if isinstance(labels, torch.Tensor) else labels
        return int(count), np.asarray(labels, dtype=np.int64)

    @cached_property
    def isolated(self) -> Array:
        """Indices of the nodes without any edge to another node."""
        count, labels = self.components
        return np.flatnonzero(np.bincount(labels, minlength=count)[labels] == 1)

    # ------------------------------------------------------------------ results
    def wrap(self, x: Array) -> Any:
        """x as the caller's array type: a torch tensor on the graph's device, else NumPy."""
        if self.device is None:
            return x
        return torch.from_numpy(np.ascontiguousarray(x)).to(self.device)

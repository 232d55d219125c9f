"""PairGraph: the pairwise relation G that every loss and every solver takes."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .._checks import count
from .._torch_private import constant_when_traced
from ..primitives.sparse.csr import Csr
from ..ranks import several
from . import over_ranks
from .build import csr_from_edges, csr_from_sparse, label_tensor, weighs_by_class_size
from .cliques import LabelWeight, labels_relation, views_relation
from .components import components
from .neighbours.over_ranks import knn
from .products import Entries, GraphProducts
from .relation import Relation, cuthill_mckee, rescaled
from .stored import CsrRelation
from .total import add, nothing


class PairGraph(GraphProducts, Entries):
    """A relation G (n, n) between n samples: who is a positive of whom, and how much.

    Balestriero and LeCun, "Contrastive and Non-Contrastive Self-Supervised Learning Recover Global
    and Local Spectral Embedding Methods" (NeurIPS 2022, arXiv 2205.11508), section 2: every
    joint-embedding loss sees its positives only through G. G_ij is the weight of the ordered pair
    (i, j); degrees are d = G 1 and the volume is 1ᵀ d.

    Make one with `from_views`, `from_labels`, `from_edges`, `from_sparse` or `from_knn`. Graphs add
    (`g1 + g2`) and scale (`0.5 * g`). A graph never changes: input arrays are copied and checked
    once, here.

    >>> g = PairGraph.from_views(3, n_views=2)      # rows 0..2 are view one, rows 3..5 view two
    >>> g.n, g.nnz, g.is_symmetric
    (6, 6, True)
    """

    def __init__(self, relation: Relation) -> None:
        if not isinstance(relation, Relation):
            raise TypeError(
                "PairGraph: use from_views, from_labels, from_edges, from_sparse or from_knn"
            )
        self._relation = relation
        # Facts that losses read on every call are Python values from the start: computing them
        # late would break the graph of torch.compile.
        self._nnz = relation.nnz
        self._volume = relation.volume
        self._symmetric = relation.symmetric
        self._self_loops = relation.has_self_loops
        self._negative = relation.has_negative
        self._csr: Csr | None = None
        self._off_diagonal: PairGraph | None = None
        self.name, self.number = "", 0  # over ranks: for operators, and for the ranks to compare
        if relation.ranks is not None:
            self.name, self.number = over_ranks.register(self, relation)

    # ------------------------------------------------------------------ constructors

    @classmethod
    def from_views(
        cls,
        n_samples: int,
        n_views: int = 2,
        *,
        device: torch.device | str = "cpu",
        group: Any = None,
    ) -> PairGraph:
        """All views of one sample are positives of each other: G = (11ᵀ − I)_V ⊗ I.

        Rows are stacked view-major: row v * n_samples + s is view v of sample s. Weight 1, no
        diagonal, never stored.

        Args:
            n_samples: >= 1; over ranks, >= 0 on a rank.
            n_views: >= 1.
            device: of the rows that the graph is used with.
            group: a process group or 1-D DeviceMesh; this rank has n_samples of the samples, in all
                their views.

        Returns:
            A graph of n_samples * n_views rows.

        Raises:
            ValueError or TypeError: a number that is no integer >= 1.
        """
        over = several("from_views", group)
        if over is not None:
            return cls(over_ranks.views(n_samples, n_views, torch.device(device), over))
        n_samples = count("from_views", "n_samples", n_samples, 1)
        n_views = count("from_views", "n_views", n_views, 1)
        return cls(views_relation(n_samples, n_views, torch.device(device)))

    @classmethod
    def from_labels(
        cls,
        labels: Any,
        *,
        weight: LabelWeight = "uniform",
        self_loops: bool = False,
        group: Any = None,
    ) -> PairGraph:
        """Rows with equal labels are positives of each other; never stored, products cost O(n b).

        Args:
            labels: (n,) integers (list, array or tensor); a negative label means unlabelled and
                joins nothing.
            weight: "uniform" gives every pair 1, "class_size" gives 1/n_c with n_c the number of
                rows in the class (with self_loops this is the projector Y (YᵀY)⁻¹ Yᵀ of linear
                discriminant analysis).
            self_loops: whether rows are positives of themselves.
            group: labels are those of this rank's rows; equal labels of any ranks are joined.

        Returns:
            A graph of n rows, on the device of labels.

        Raises:
            ValueError or TypeError: labels that are no integers (n,), or another weight.
        """
        over = several("from_labels", group)
        if over is not None:
            return cls(over_ranks.labels(labels, weight, self_loops, over))
        ids, class_size = label_tensor(labels), weighs_by_class_size(weight)
        return cls(labels_relation(ids, class_size_weight=class_size, self_loops=self_loops))

    @classmethod
    def from_edges(
        cls,
        rows: Any,
        cols: Any,
        weights: Any = None,
        *,
        n: int,
        symmetrize: bool = False,
        group: Any = None,
    ) -> PairGraph:
        """G[rows[e], cols[e]] += weights[e] (1 without weights).

        Args:
            rows, cols: (E,) integers in [0, n); lists, arrays or tensors. Edges are ordered pairs:
                give both directions, or symmetrize.
            weights: (E,) finite numbers, or None.
            n: number of rows of G.
            symmetrize: take (G + Gᵀ)/2 afterwards.
            group: the edges of this rank's n rows, with rows in [0, n) and cols among the rows of
                all ranks, in rank order.

        Returns:
            A graph on the device of `rows`.

        Raises:
            ValueError or TypeError: shapes that differ, indices outside [0, n), weights that are
                not finite and real.
        """
        over = several("from_edges", group)
        if over is not None:
            return cls(over_ranks.edges(rows, cols, weights, n, symmetrize, over))
        n = count("from_edges", "n", n, 0)
        device = rows.device if isinstance(rows, Tensor) else torch.device("cpu")
        return cls(CsrRelation(csr_from_edges(rows, cols, weights, n, symmetrize).to(device)))

    @classmethod
    def from_sparse(cls, A: Any, *, group: Any = None) -> PairGraph:
        """G = A.

        Args:
            A: (n, n) scipy, torch (COO, CSR, CSC) or cupyx sparse matrix of finite real weights.
            group: A holds the rows of this rank, and has a column for each row of all ranks.

        Returns:
            A graph on the device of A.

        Raises:
            ValueError or TypeError: A is dense, not square, complex or not finite.
        """
        over = several("from_sparse", group)
        if over is not None:
            return cls(over_ranks.sparse(A, over))
        return cls(CsrRelation(csr_from_sparse(A)))

    @classmethod
    def from_knn(
        cls,
        X: Any,
        n_neighbors: int = 15,
        *,
        metric: Literal["euclidean", "cosine"] = "euclidean",
        weight: Literal["connectivity", "heat"] = "connectivity",
        mutual: bool = False,
        backend: Literal["auto", "exact", "faiss"] = "auto",
        group: Any = None,
    ) -> PairGraph:
        """(W + Wᵀ)/2 of the k-nearest-neighbour graph.

        W_ij is 1, or exp(−‖x_i − x_j‖²/(σ_i σ_j)) with σ_i the distance to the k-th neighbour
        (Zelnik-Manor and Perona 2004). A row is not its own neighbour; its copies are, and k of
        them leave no room for others. Exact for float64 numbers at any scale and offset; ties, to
        some 28 digits, go to the lowest index.

        Args:
            X: (n, d) array or tensor.
            n_neighbors: k, in [1, n - 1].
            metric: "euclidean", or "cosine", which searches the rows scaled to length 1 in float64.
            weight: "connectivity" (1) or "heat" (the exponential).
            mutual: only pairs that chose each other.
            backend: "exact" (blocked products), "faiss" (approximate beyond 200,000 rows), or
                "auto": faiss where it is installed.
            group: of ranks that hold the rows together: X are this rank's. Each gathers all rows,
                and looks exactly for the neighbours of its own.

        Returns:
            A graph of n rows, on the device of X.

        Raises:
            ValueError or TypeError: X is not dense, real, finite and (n, d), or another setting is
                out of range.
            ImportError: backend="faiss" without it.
        """
        options = {"metric": metric, "weight": weight, "mutual": mutual, "backend": backend}
        return cls(knn(X, n_neighbors, group=group, **options))

    # ------------------------------------------------------------------ algebra

    def __add__(self, other: PairGraph) -> PairGraph:
        """Weights add. Implicit parts stay implicit."""
        if not isinstance(other, PairGraph):
            return NotImplemented
        if other.n != self.n:
            raise ValueError(f"PairGraph: g1 + g2 needs equal n, got {self.n} and {other.n}")
        if other._relation.ranks != self._relation.ranks:
            raise ValueError("PairGraph: g1 + g2 needs rows over the same ranks, got others")
        if other.device != self.device:
            raise ValueError(
                f"PairGraph: g1 + g2 needs one device, got {self.device} and {other.device}"
            )
        return PairGraph(add(self._relation, other._relation))

    def __mul__(self, weight: float) -> PairGraph:
        """Every weight times a finite number."""
        if isinstance(weight, (Tensor, np.ndarray)) and weight.ndim == 0:
            weight = weight.item()
        if isinstance(weight, bool) or not isinstance(weight, (int, float, np.number)):
            return NotImplemented
        weight = float(weight)
        if not math.isfinite(weight):
            raise ValueError(f"PairGraph: w * g needs a finite w, got {weight}")
        if weight == 0.0:
            return PairGraph(nothing(self._relation))
        return PairGraph(rescaled(self._relation, weight))

    __rmul__ = __mul__
    # numpy scalars must leave `w * g` to __rmul__ instead of looping over g
    __array_ufunc__ = None

    # ------------------------------------------------------------------ facts

    @property
    def group(self) -> Any:
        """The process group over whose ranks the rows are spread, or None."""
        return None if self._relation.ranks is None else self._relation.ranks.group

    @property
    def kind(self) -> str:
        """ "views", "labels", "csr" or "sum"."""
        return self._relation.kind

    @property
    def n(self) -> int:
        """Number of rows; over ranks, of this rank's."""
        return self._relation.n

    @property
    def nnz(self) -> int:
        """Number of non-zero entries; in a sum, a pair that two parts share counts twice."""
        return self._nnz

    @property
    def device(self) -> torch.device:
        """Where its arrays are, and the rows that it multiplies must be."""
        return self._relation.device

    @property
    def degree(self) -> Tensor:
        """(n,) float64: d = G 1."""
        return self._relation.degree

    @property
    def column_degree(self) -> Tensor:
        """(n,) float64: Gᵀ 1, the degree itself when G is symmetric; of a directed graph over ranks
        the ranks ask for it together.
        """
        return self._relation.column_degree

    @property
    def volume(self) -> float:
        """1ᵀ G 1."""
        return self._volume

    @property
    def is_symmetric(self) -> bool:
        """Whether G = Gᵀ, up to the rounding of weights."""
        return self._symmetric

    @property
    def is_directed(self) -> bool:
        """Whether G ≠ Gᵀ."""
        return not self._symmetric

    @property
    def has_self_loops(self) -> bool:
        """Whether some G_ii is not 0."""
        return self._self_loops

    @property
    def has_negative_weights(self) -> bool:
        """Whether some weight (of some part of a sum) is below zero."""
        return self._negative

    @property
    def clique_ids(self) -> Tensor | None:
        """(n,) int64 for an implicit graph: rows with equal ids >= 0 are joined; otherwise None."""
        return self._relation.clique_ids

    def diagonal(self) -> Tensor:
        """(n,) float64: G_ii."""
        return self._relation.diagonal()

    def degree_without_diagonal(self) -> Tensor:
        """(n,) float64: Σ_{j != i} G_ij."""
        return self.degree - self.diagonal() if self.has_self_loops else self.degree

    def frobenius_sq(self) -> float:
        """‖G‖²_F, without materialising anything implicit."""
        return self._relation.frobenius_sq()

    def connected_components(self) -> tuple[int, Tensor]:
        """(count, labels (n,) int64) of the undirected graph, numbered by their first row; over
        ranks, the count is that of all rows.
        """
        count, labels = self._components
        return count, labels.clone()

    @cached_property
    def _components(self) -> tuple[int, Tensor]:
        return components(self._relation)

    @cached_property
    def isolated(self) -> Tensor:
        """(count,) int64: rows without an edge to or from another row (self loops do not count)."""
        count, labels = self._components
        sizes = self._relation.over_all(torch.bincount(labels, minlength=count))
        return (sizes[labels] == 1).nonzero()[:, 0]

    # ------------------------------------------------------------------ exports

    def to(self, device: torch.device | str) -> PairGraph:
        """The same graph on another device (itself when it is there already)."""
        device = torch.device(device)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        return self if device == self.device else PairGraph(self._relation.to(device))

    def without_diagonal(self) -> PairGraph:
        """G with G_ii = 0; class-size weights keep their 1/n_c."""
        if self.has_self_loops:
            self._drop_diagonal()
        return self._off_diagonal or self

    @constant_when_traced
    def _drop_diagonal(self) -> None:
        if self._off_diagonal is None:
            self._off_diagonal = PairGraph(self._relation.without_diagonal())

    def reorder(self) -> tuple[PairGraph, Tensor]:
        """(graph, order): the same graph with neighbours close in memory (reverse Cuthill–McKee).

        Row i of the new graph is row order[i] of this one (materialises G). Products over a graph
        whose rows come in no particular order are bound by cache misses, which this removes where
        the graph has a geometry; compute with Z[order] and undo with out[order] = Z'.
        """
        self._one_process("reorder")
        a = self.to_scipy()
        perm = cuthill_mckee(a, self.is_symmetric)
        order = torch.from_numpy(perm).to(self.device)
        return PairGraph.from_sparse(a[perm][:, perm]).to(self.device), order

    def __repr__(self) -> str:
        direction = "symmetric" if self.is_symmetric else "directed"
        ranks = self._relation.ranks
        place = "" if ranks is None else f", rank {ranks.rank} of {ranks.size}"
        return (
            f"PairGraph({self.kind}, n={self.n}, nnz={self.nnz}, {direction}, {self.device}{place})"
        )

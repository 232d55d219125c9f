"""Products of a graph with rows of samples, and its entries: parts of `PairGraph`."""

from __future__ import annotations

from typing import Any

import scipy  # its submodules load on first use
import torch
from torch import Tensor

from ..primitives.sparse.csr import Csr
from ..ranks import sum_to_value
from .relation import Relation


class GraphProducts:
    """The part of `PairGraph` that multiplies by G."""

    _relation: Relation
    _symmetric: bool

    def matmul(self, X: Tensor) -> Tensor:
        """G @ X, differentiable in X.

        Args:
            X: (n, b) or (n,), any float dtype, on the graph's device.

        Returns:
            The product, of X's shape and dtype.

        Raises:
            ValueError or TypeError: X is no float tensor, has other rows or lies on another device.
        """
        x = self._rows("matmul", "X", X)
        if X.dim() == 1:
            return self.matmul(X[:, None])[:, 0]
        return self._relation.matmul(x).to(X.dtype)

    __matmul__ = matmul

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any, kwargs: Any = None) -> Any:
        """`G @ X` under torch.compile, whose tracer asks for Tensor.matmul(X, G) whichever of the
        two came first: taken for G @ X unless X @ G would be of the same shape.
        """
        if function is not torch.Tensor.matmul or not torch.compiler.is_compiling():
            return NotImplemented
        x, g = args
        if (x.shape[0] == x.shape[-1]) if x.dim() == 2 else not g._symmetric:
            raise TypeError("PairGraph: torch.compile hides the order of @, call G.matmul(X)")
        return g.matmul(x)

    def edge_dot(self, x: Tensor, y: Tensor) -> Tensor:
        """(n,): r_i = Σ_j G_ij <x_i, y_j>, differentiable.

        Args:
            x, y: (n, d) of one float dtype, on the graph's device.

        Returns:
            (n,) in the dtype of x.

        Raises:
            ValueError or TypeError: x and y do not fit each other or the graph.
        """
        left, right = self._rows("edge_dot", "x", x), self._rows("edge_dot", "y", y)
        if x.shape != y.shape or x.dtype != y.dtype or x.dim() != 2:
            raise ValueError(
                f"edge_dot: y must match x {tuple(x.shape)} {x.dtype}, "
                f"got {tuple(y.shape)} {y.dtype}"
            )
        return self._relation.edge_dot(left, right).to(x.dtype)

    def edge_sqdist(self, x: Tensor) -> Tensor:
        """(n,): r_i = Σ_j G_ij ‖x_i − x_j‖², differentiable.

        Args:
            x: (n, d), any float dtype, on the graph's device.

        Returns:
            (n,) in the dtype of x.

        Raises:
            ValueError or TypeError: x does not fit the graph.
        """
        rows = self._rows("edge_sqdist", "x", x)
        if x.dim() != 2:
            raise ValueError(f"edge_sqdist: x must have shape (n, d), got {tuple(x.shape)}")
        return self._relation.edge_sqdist(rows).to(x.dtype)

    def covariance(self, x: Tensor, y: Tensor | None = None, *, center: bool = False) -> Tensor:
        """(d, e): Xᵀ G Y = Σ_ij G_ij x_i y_jᵀ, differentiable.

        Args:
            x: (n, d), any float dtype, on the graph's device.
            y: (n, e) of the dtype of x; x itself when left out.
            center: G − d dᵀ/vol in place of a symmetric G, with y left out.

        Returns:
            (d, e) in the dtype of x.

        Raises:
            ValueError or TypeError: x and y do not fit each other or the graph; center with y or
                with a directed graph.
        """
        left = self._rows("covariance", "x", x)
        if center:
            if y is not None or not self._symmetric:
                got = "a directed one" if y is None else f"y {tuple(y.shape)}"
                raise ValueError(
                    f"covariance: center=True needs a symmetric graph and y=None, got {got}"
                )
            return self._centred(left).to(x.dtype)
        right = left if y is None else self._rows("covariance", "y", y)
        if left.dim() != 2 or right.dim() != 2 or left.dtype != right.dtype:
            raise ValueError(
                f"covariance: x and y must be (n, d) and (n, e) of one dtype, got "
                f"{tuple(left.shape)} {left.dtype} and {tuple(right.shape)} {right.dtype}"
            )
        return self._summed(self._relation.covariance(left, right)).to(x.dtype)

    def _summed(self, part: Tensor) -> Tensor:
        """Over ranks, as what all of them use in the same way."""
        ranks = self._relation.ranks
        return part if ranks is None else sum_to_value(part, ranks)

    def _centred(self, x: Tensor) -> Tensor:
        relation = self._relation
        if relation.ranks is None:
            return relation.centred_covariance(x)
        weighted = self._summed((x * relation.degree.to(x.dtype)[:, None]).sum(0))
        part = self._summed(relation.covariance(x, x))
        return part - weighted[:, None] * weighted / relation.volume

    def _rows(self, op: str, name: str, x: Tensor) -> Tensor:
        n, device = self._relation.n, self._relation.device
        if not isinstance(x, Tensor):
            raise TypeError(f"{op}: {name} must be a torch tensor, got {type(x).__name__}")
        if not x.is_floating_point():
            raise TypeError(f"{op}: {name} must be a float tensor, got {x.dtype}")
        if x.dim() not in (1, 2) or x.shape[0] != n:
            raise ValueError(f"{op}: {name} must have n = {n} rows, got shape {tuple(x.shape)}")
        if x.device != device:
            raise ValueError(f"{op}: {name} must be on the graph's device {device}, got {x.device}")
        # half precision has no sums worth keeping: compute in float32, round once at the end
        return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class Entries:
    """The part of `PairGraph` that gives its entries; over ranks, the rows of this one, with the
    columns of all.
    """

    _relation: Relation
    _csr: Csr | None

    def stored(self) -> Csr:
        """G as stored entries, the form that the sparse primitives take: materialises G, once."""
        if self._csr is None:
            csr = self._relation.csr()
            if torch.compiler.is_compiling():  # a traced tensor is no one's to keep
                return csr
            self._csr = csr
        return self._csr

    def csr(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """(indptr (n + 1,) int64, indices (nnz,) int32 or int64, values or None when all are 1):
        materialises G; over ranks, the rows of this one with the columns of all. The arrays belong
        to the graph: copy before writing.
        """
        a = self.stored()
        return a.indptr, a.indices, a.values

    def to_scipy(self) -> scipy.sparse.csr_array:
        """A new scipy CSR array, float64 (materialises G)."""
        return self.stored().to_scipy()

    def to_torch(self, dtype: torch.dtype | None = None) -> Tensor:
        """A new torch sparse CSR tensor on the graph's device (materialises G).

        dtype: that of the weights by default, torch's default dtype when all weights are 1.
        """
        return self.stored().to_torch(dtype)

    def _one_process(self, op: str) -> None:
        ranks = self._relation.ranks
        if ranks is not None:
            raise ValueError(
                f"PairGraph: {op} needs all rows in one process, got rows over {ranks.size} ranks"
            )

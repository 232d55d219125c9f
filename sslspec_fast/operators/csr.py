"""Sparse symmetric operator in compressed-row form with diagonal scalings kept as vectors.

    A = diag(d) + sign * diag(s) M diag(s)

M is stored once; the normalised adjacency (s = degree^-1/2), the Laplacian (d = degree, sign -1)
and both together differ in vectors only. Bounds: Gershgorin's discs unless the caller knows better.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from sslspec_fast.operators.base import KnownPairs, SymmetricOperator

__all__ = ["CsrOperator", "csr_matmat"]


def csr_matmat(
    matrix: Tensor, x: Tensor, out: Tensor | None, scale: Tensor | None, alpha: float
) -> Tensor:
    """alpha * scale ⊙ (M (scale ⊙ X)); the single place that knows which product kernel runs."""
    if scale is not None:
        x = x * scale[:, None]
    y = torch.mm(matrix, x)
    if scale is not None:
        y.mul_(scale[:, None])
    return y if alpha == 1.0 else y.mul_(alpha)


class CsrOperator(SymmetricOperator):
    """diag(diagonal) + sign * diag(scale) M diag(scale) on compressed rows.

    indptr (n+1,), indices (nnz,) int32 or int64, values (nnz,) or None for ones; scale, diagonal:
    (n,) float64 or None. `bounds` overrides Gershgorin's; `known` lists exact eigenpairs.
    """

    def __init__(
        self, indptr: Tensor, indices: Tensor, values: Tensor | None, *, n: int,
        scale: Tensor | None = None, diagonal: Tensor | None = None, sign: float = 1.0,
        bounds: tuple[float, float] | None = None, known: tuple[KnownPairs, ...] = (),
    ) -> None:  # fmt: skip
        dtype = torch.float64 if values is None else values.dtype
        super().__init__(n, dtype, indices.device)
        self.indptr, self.indices, self.values = indptr, indices, values
        self.scale, self.diagonal, self.sign = scale, diagonal, sign
        self._bounds, self._known = bounds, known
        self._cast: dict[torch.dtype, tuple[Tensor, Tensor | None, Tensor | None]] = {}

    def _in(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Matrix, scale and diagonal in the dtype of a product, made on first use."""
        if dtype not in self._cast:
            values = self.values
            if values is None:
                values = torch.ones(self.indices.shape[0], dtype=dtype, device=self.device)
            with warnings.catch_warnings():  # torch calls its sparse CSR support beta
                warnings.simplefilter("ignore", UserWarning)
                matrix = torch.sparse_csr_tensor(
                    self.indptr.to(self.indices.dtype), self.indices, values.to(dtype),
                    self.shape, check_invariants=False,
                )  # fmt: skip
            scale = None if self.scale is None else self.scale.to(dtype)
            diagonal = None if self.diagonal is None else self.diagonal.to(dtype)
            self._cast[dtype] = matrix, scale, diagonal
        return self._cast[dtype]

    def matmat(
        self, x: Tensor, out: Tensor | None = None, *, alpha: float = 1.0, beta: float = 0.0,
        gamma: float = 0.0, w: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        matrix, scale, diagonal = self._in(x.dtype)
        y = csr_matmat(matrix, x, None, scale, alpha * self.sign)
        if diagonal is not None:
            y.addcmul_(x, diagonal[:, None], value=alpha)
        if gamma != 0.0 and w is not None:
            y.add_(w, alpha=gamma)
        if out is None:
            return y
        return out.copy_(y) if beta == 0.0 else out.mul_(beta).add_(y)

    def nnz(self) -> int:
        return int(self.indices.shape[0])

    def bounds(self) -> tuple[float, float]:
        if self._bounds is None:
            self._bounds = self._gershgorin()
        return self._bounds

    def known(self) -> tuple[KnownPairs, ...]:
        return self._known

    def assemble(self) -> scipy.sparse.csr_array:
        if self.values is None:
            values = np.ones(self.indices.shape[0])
        else:
            values = self.values.detach().cpu().numpy().astype(np.float64)
        arrays = (values, self.indices.cpu().numpy(), self.indptr.cpu().numpy())
        matrix = scipy.sparse.csr_array(arrays, shape=self.shape)
        if self.scale is not None:
            d = scipy.sparse.diags_array(self.scale.cpu().numpy())
            matrix = d @ matrix @ d
        matrix = self.sign * matrix
        if self.diagonal is not None:
            matrix = matrix + scipy.sparse.diags_array(self.diagonal.cpu().numpy())
        return scipy.sparse.csr_array(matrix)

    def _gershgorin(self) -> tuple[float, float]:
        """Disc centres a_ii and radii sum |a_ij|, by one product with |M|."""
        if self.n == 0:
            return 0.0, 0.0
        f64: dict[str, Any] = {"dtype": torch.float64, "device": self.device}
        counts = self.indptr.diff()
        rows = torch.arange(self.n, device=self.device).repeat_interleave(
            counts, output_size=self.indices.shape[0]
        )
        loop = rows == self.indices
        values = torch.ones(len(rows), **f64) if self.values is None else self.values.double()
        if self.scale is not None:
            values = values * self.scale[rows] * self.scale[self.indices.long()]
        center = torch.zeros(self.n, **f64).index_add_(0, rows[loop], values[loop] * self.sign)
        radius = torch.segment_reduce(
            values.abs().masked_fill_(loop, 0.0), "sum", lengths=counts, initial=0.0
        )
        if self.diagonal is not None:
            center += self.diagonal
        return float((center - radius).min()), float((center + radius).max())

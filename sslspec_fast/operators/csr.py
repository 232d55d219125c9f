"""Sparse symmetric operator in compressed-row form with diagonal scalings kept as vectors.

    A = diag(d) + sign * diag(s) M diag(s)

M is stored once; the normalised adjacency (s = degree^-1/2), the Laplacian (d = degree, sign -1)
and both together differ in vectors only. Bounds: Gershgorin's discs unless the caller knows better.
"""

from __future__ import annotations

import warnings

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from sslspec_fast.operators.base import KnownPairs, SymmetricOperator, combine
from sslspec_fast.primitives.csr import Csr
from sslspec_fast.primitives.spmm import spmm_into

__all__ = ["CsrOperator"]

_SCALE_AHEAD = 8  # entries per row from which X is scaled before the product
_CAST_LIMIT = 200_000_000  # entries; a second copy of the values of a larger matrix is too dear


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
        self._attained = False
        self._csr = Csr(indptr.long(), indices, values, n, symmetric=True)
        self._cast: dict[torch.dtype, tuple[Tensor | None, Tensor | None]] = {}
        self._matrix: dict[torch.dtype, Tensor] = {}
        self._typed_csr: dict[torch.dtype, Csr] = {}

    def _vectors(self, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
        """Scale and diagonal in the dtype of a product."""
        if dtype not in self._cast:
            scale = None if self.scale is None else self.scale.to(dtype)
            diagonal = None if self.diagonal is None else self.diagonal.to(dtype)
            self._cast[dtype] = scale, diagonal
        return self._cast[dtype]

    def _typed(self, dtype: torch.dtype) -> Csr:
        """The matrix with values in the dtype of a product, which saves a conversion per entry."""
        values = self.values
        if values is None or values.dtype == dtype or values.numel() > _CAST_LIMIT:
            return self._csr
        if dtype not in self._typed_csr:
            self._typed_csr[dtype] = Csr(
                self._csr.indptr, self.indices, values.to(dtype), self.n, symmetric=True
            )
        return self._typed_csr[dtype]

    def matmat(
        self, x: Tensor, out: Tensor | None = None, *, alpha: float = 1.0, beta: float = 0.0,
        gamma: float = 0.0, w: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        scale, diagonal = self._vectors(x.dtype)
        w = None if gamma == 0.0 else w
        if self.device.type != "cpu":
            return combine(self._torch_product(x, scale, diagonal), out, alpha, beta, gamma, w)
        if out is None:
            out, beta = torch.empty(x.shape, dtype=x.dtype), 0.0
        right, scaled = scale, x
        if scale is not None and self.nnz() >= _SCALE_AHEAD * self.n:
            # one pass over X is less than a look at the scale for every entry
            right, scaled = None, torch.mul(x, scale[:, None])
        # the diagonal multiplies W, so it rides along when W is X (a recurrence) or absent
        fused = diagonal is not None and (w is None or w is x)
        spmm_into(
            self._typed(x.dtype), scaled, out, alpha=alpha * self.sign, beta=beta, gamma=gamma,
            delta=alpha if fused else 0.0, w=x if fused else w,
            diagonal=diagonal if fused else None, row_scale=scale, col_scale=right,
        )  # fmt: skip
        if diagonal is not None and not fused:
            out.addcmul_(x, diagonal[:, None], value=alpha)
        return out

    def _torch_product(self, x: Tensor, scale: Tensor | None, diagonal: Tensor | None) -> Tensor:
        """A X by torch's sparse product (cuSPARSE), scalings on the vectors."""
        if x.dtype not in self._matrix:
            values = self.values
            if values is None:
                values = torch.ones(self.indices.shape[0], dtype=x.dtype, device=self.device)
            with warnings.catch_warnings():  # torch calls its sparse CSR support beta
                warnings.simplefilter("ignore", UserWarning)
                self._matrix[x.dtype] = torch.sparse_csr_tensor(
                    self.indptr.to(self.indices.dtype), self.indices, values.to(x.dtype),
                    self.shape, check_invariants=False,
                )  # fmt: skip
        y = self._matrix[x.dtype] @ (x if scale is None else x * scale[:, None])
        if scale is not None:
            y.mul_(scale[:, None])
        if self.sign != 1.0:
            y.mul_(self.sign)
        return y if diagonal is None else y.addcmul_(x, diagonal[:, None])

    def nnz(self) -> int:
        return int(self.indices.shape[0])

    def bounds(self) -> tuple[float, float]:
        if self._bounds is None:
            self._bounds = self._gershgorin()
            self._perron()
        return self._bounds

    def top_attained(self) -> bool:
        self.bounds()
        return self._attained or super().top_attained()

    def _perron(self) -> None:
        """Entries >= 0: min (Ax)_i / x_i <= top <= max (Ax)_i / x_i for every x > 0 (Collatz 1942).

        x = sqrt(entries in the row) makes both ends equal for a normalised 0/1 adjacency that
        comes as a plain matrix, and then the top is known.
        """
        assert self._bounds is not None
        negative = self.values is not None and bool((self.values < 0).any())
        if self.n == 0 or self.sign < 0 or self.diagonal is not None or negative:
            return
        counts = self.indptr.diff().double()
        live = counts > 0
        if not bool(live.any()):
            return
        x = counts.sqrt()
        ratio = (self @ x)[live] / x[live]
        low, high = float(ratio.min()), float(ratio.max())
        if high < self._bounds[1]:
            self._bounds = (max(self._bounds[0], -high), high)
        if high - low <= 1e-13 * high and high >= self._bounds[1]:
            # the row sums round: leave room for the eigenvalue itself
            self._bounds = (self._bounds[0], high * (1 + 1e-14))
            self._attained = True

    def known(self) -> tuple[KnownPairs, ...]:
        return self._known

    def assemble(self) -> scipy.sparse.csr_array:
        if self.values is None:
            values = np.ones(self.indices.shape[0])
        else:
            values = self.values.detach().cpu().numpy().astype(np.float64)
        indices, indptr = self.indices.cpu().numpy(), self.indptr.cpu().numpy()
        if self.scale is not None:
            d = self.scale.cpu().numpy()
            values = values * d[indices]
            values *= np.repeat(self.sign * d, np.diff(indptr))
        elif self.sign != 1.0:
            values = self.sign * values
        matrix = scipy.sparse.csr_array((values, indices, indptr), shape=self.shape)
        if self.diagonal is not None:
            matrix = matrix + scipy.sparse.diags_array(self.diagonal.cpu().numpy())
        return scipy.sparse.csr_array(matrix)

    def _gershgorin(self) -> tuple[float, float]:
        """Disc centres a_ii and radii sum |a_ij|, by one product with |M|."""
        if self.n == 0:
            return 0.0, 0.0
        counts = self.indptr.diff()
        rows = torch.arange(self.n, device=self.device).repeat_interleave(
            counts, output_size=self.indices.shape[0]
        )
        loop = rows == self.indices
        values = (
            torch.ones_like(rows, dtype=torch.float64)
            if self.values is None
            else self.values.double()
        )
        if self.scale is not None:
            values = values * self.scale[rows] * self.scale[self.indices.long()]
        center = torch.zeros_like(counts, dtype=torch.float64).index_add_(
            0, rows[loop], values[loop] * self.sign
        )
        radius = torch.segment_reduce(
            values.abs().masked_fill_(loop, 0.0), "sum", lengths=counts, initial=0.0
        )
        if self.diagonal is not None:
            center += self.diagonal
        return float((center - radius).min()), float((center + radius).max())

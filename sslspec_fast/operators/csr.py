"""Sparse symmetric operator in compressed-row form with diagonal scalings kept as vectors.

    A = diag(d) + sign * diag(s) M diag(s)

M is stored once; the normalised adjacency (s = degree^-1/2), the Laplacian (d = degree, sign -1)
and both together differ in vectors only. Where M has values, products run on a copy s_i m_ij s_j in
their dtype instead (a copy in float32 is needed anyway); where all its entries are 1, the scales
stay vectors: a copy would cost more memory than the matrix. Bounds: Gershgorin's discs unless the
caller knows better.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from .._checks import compressed
from ..primitives.basis import new_block
from ..primitives.sparse.csr import Csr
from ..primitives.sparse.spmm import Combination, spmm_into
from ._discs import EntryBounds
from .base import SymmetricOperator
from .known import KnownPairs

__all__ = ["CsrOperator"]

_SCALE_AHEAD = 8  # entries per row from which X is scaled before the product
_COPY_LIMIT = 200_000_000  # entries; a second copy of the values of a larger matrix is too dear
_CHUNK = 1 << 22  # entries scaled at once


class CsrOperator(EntryBounds):
    """diag(diagonal) + sign * diag(scale) M diag(scale) on compressed rows.

    Args:
        indptr: (n + 1,) int32 or int64.
        indices: (nnz,) int32 or int64.
        values: (nnz,) float32 or float64, or None for ones.
        n: rows and columns.
        scale, diagonal: (n,) float64 or None.
        sign: 1 or -1.
        bounds: of the spectrum, in place of Gershgorin's.
        known: exact eigenpairs.
        trusted: the arrays have been checked.

    Raises:
        ValueError or TypeError: compressed rows that leave the matrix.
    """

    def __init__(
        self,
        indptr: Tensor,
        indices: Tensor,
        values: Tensor | None,
        *,
        n: int,
        scale: Tensor | None = None,
        diagonal: Tensor | None = None,
        sign: float = 1.0,
        bounds: tuple[float, float] | None = None,
        known: tuple[KnownPairs, ...] = (),
        trusted: bool = False,
    ) -> None:
        if not trusted:
            compressed("CsrOperator", "A", indptr, indices, n, n)
        dtype = torch.float64 if values is None else values.dtype
        super().__init__(n, dtype, indices.device)
        self.indptr, self.indices, self.values = indptr, indices, values
        self.scale, self.diagonal, self.sign = scale, diagonal, sign
        self._bounds, self._known = bounds, known
        self._csr = Csr(indptr.long(), indices, values, n, symmetric=True)
        self._cast: dict[torch.dtype, tuple[Tensor | None, Tensor | None]] = {}
        self._scaled: dict[torch.dtype, Csr] = {}
        self._walk: tuple[_Walk, Tensor] | None = None

    def _vectors(self, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
        """Scale and diagonal in the dtype of a product."""
        if dtype not in self._cast:
            scale = None if self.scale is None else self.scale.to(dtype)
            diagonal = None if self.diagonal is None else self.diagonal.to(dtype)
            self._cast[dtype] = scale, diagonal
        return self._cast[dtype]

    @property
    def _copies(self) -> bool:
        return self.values is not None and self.nnz() <= _COPY_LIMIT

    def _product(self, dtype: torch.dtype) -> tuple[Csr, Tensor | None]:
        """A matrix for products in `dtype`, and the scale that is still to be applied to it."""
        if not self._copies:
            return self._csr, self._vectors(dtype)[0]
        if self.scale is None and self.values is not None and self.values.dtype == dtype:
            return self._csr, None
        if dtype not in self._scaled:
            scaled = self._scaled_values(dtype)
            self._scaled[dtype] = Csr(self._csr.indptr, self.indices, scaled, self.n, True)
        return self._scaled[dtype], None

    def _scaled_values(self, dtype: torch.dtype) -> Tensor:
        """(nnz,) s_i m_ij s_j, rounded once; exactly symmetric like M."""
        if self.scale is None:
            if self.values is None:
                return torch.ones(self.nnz(), dtype=dtype, device=self.device)
            return self.values.to(dtype)
        out = torch.empty(self.nnz(), dtype=dtype, device=self.device)
        indptr, scale = self._csr.indptr, self.scale
        first = 0
        while first < self.n:  # chunks of rows: no float64 temporaries as long as the matrix
            begin = int(indptr[first])
            last = int(torch.searchsorted(indptr, begin + _CHUNK, right=True)) - 1
            last = min(max(last, first + 1), self.n)
            part = slice(begin, int(indptr[last]))
            factor = scale[first:last].repeat_interleave(indptr[first : last + 1].diff())
            factor *= scale[self.indices[part].long()]
            out[part] = factor if self.values is None else factor.mul_(self.values[part])
            first = last
        return out

    def matmat(
        self,
        x: Tensor,
        out: Tensor | None = None,
        *,
        alpha: float = 1.0,
        beta: float = 0.0,
        gamma: float = 0.0,
        w: Tensor | None = None,
    ) -> Tensor:
        w = None if gamma == 0.0 else w
        matrix, scale = self._product(x.dtype)
        right, scaled = scale, x
        if scale is not None and self.nnz() >= _SCALE_AHEAD * self.n:
            # one pass over X costs less than reading the scale for every entry
            right, scaled = None, new_block(x.shape[0], x.shape[1], x.dtype, x.device)
            torch.mul(x, scale[:, None], out=scaled)
        terms = Combination(alpha=alpha, beta=beta, gamma=gamma, w=w)
        return self._multiply(matrix, scaled, (scale, right), x, out, terms)

    def _multiply(
        self,
        matrix: Csr,
        x: Tensor,
        scales: tuple[Tensor | None, Tensor | None],
        plain: Tensor,
        out: Tensor | None,
        terms: Combination,
    ) -> Tensor:
        """matmat by `spmm_into`; scales of rows and columns; `plain` is what the diagonal
        multiplies, and what `terms` adds has no diagonal yet.
        """
        if out is None:
            out = new_block(x.shape[0], x.shape[1], x.dtype, x.device)
            terms = terms._replace(beta=0.0)
        diagonal = self._vectors(x.dtype)[1]
        # the diagonal multiplies W, so it rides along when W is X (a recurrence) or absent
        fused = diagonal is not None and (terms.w is None or terms.w is plain)
        spmm_into(
            matrix,
            x,
            out,
            terms._replace(
                alpha=terms.alpha * self.sign,
                delta=terms.alpha if fused else 0.0,
                w=plain if fused else terms.w,
                diagonal=diagonal if fused else None,
            ),
            row_scale=scales[0],
            col_scale=scales[1],
        )
        if diagonal is not None and not fused:
            out.addcmul_(plain, diagonal[:, None], value=terms.alpha)
        return out

    def similar(self) -> tuple[SymmetricOperator, Tensor | None]:
        if self.scale is None or self._copies:
            return self, None
        if self._walk is None:
            # nodes without entries have scale 0 and keep their coordinate
            factor = torch.where(self.scale == 0, 1.0, self.scale)
            empty = self.indptr.diff()[self.scale == 0]
            size = factor.abs()
            within = self.n > 0 and float(size.min()) > 1e-15 and float(size.max()) < 1e15
            if not within or bool(empty.any()):  # squares must fit float32
                return self, None
            self._walk = _Walk(self, self.scale * factor), 1.0 / factor
        return self._walk

    def nnz(self) -> int:
        return int(self.indices.shape[0])

    def _perron(self) -> None:
        """Entries >= 0: min (Ax)_i / x_i <= top <= max (Ax)_i / x_i for every x > 0 (Collatz 1942).

        x = sqrt(entries in the row) makes both ends equal for a normalised 0/1 adjacency that
        comes as a plain matrix, and then the top is known.
        """
        negative = self.values is not None and bool((self.values < 0).any())
        if self.n == 0 or self.sign < 0 or self.diagonal is not None or negative:
            return
        counts = self.indptr.diff().double()
        live = counts > 0
        if not bool(live.any()):
            return
        x = counts.sqrt()
        ratio = (self @ x)[live] / x[live]
        self._narrow(float(ratio.min()), float(ratio.max()))

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


class _Walk(SymmetricOperator):
    """diag(s) A diag(s)^-1 = diag(d) + sign * diag(s^2) M, not symmetric: for polynomials only."""

    def __init__(self, op: CsrOperator, squares: Tensor) -> None:
        super().__init__(op.n, op.dtype, op.device)
        self.op, self.squares = op, squares
        self._cast: dict[torch.dtype, Tensor] = {}

    def matmat(
        self,
        x: Tensor,
        out: Tensor | None = None,
        *,
        alpha: float = 1.0,
        beta: float = 0.0,
        gamma: float = 0.0,
        w: Tensor | None = None,
    ) -> Tensor:
        if x.dtype not in self._cast:
            self._cast[x.dtype] = self.squares.to(x.dtype)
        w = None if gamma == 0.0 else w
        terms = Combination(alpha=alpha, beta=beta, gamma=gamma, w=w)
        return self.op._multiply(self.op._csr, x, (self._cast[x.dtype], None), x, out, terms)

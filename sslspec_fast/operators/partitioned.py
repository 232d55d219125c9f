"""A sparse symmetric operator whose rows are spread over the ranks of a process group.

    Y_r = A_rr X_r + sum over s != r of A_rs X_s

Rank r holds its rows of A, with global column numbers, and its rows of every block. A product sends
the rows that others point to and multiplies A_rr meanwhile; A_rs is stored with the columns that
are not empty.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from sslspec_fast import _checks as check
from sslspec_fast.graph.build import scipy_from_torch, summed
from sslspec_fast.operators.base import KnownPairs, SymmetricOperator
from sslspec_fast.operators.convert import real_array, refuse_grad
from sslspec_fast.primitives.basis import gram, new_block
from sslspec_fast.primitives.sparse.csr import Csr
from sslspec_fast.primitives.sparse.spmm import spmm_into
from sslspec_fast.primitives.spread import over_ranks
from sslspec_fast.ranks import Ranks, agree, process_group, told_to_all
from sslspec_fast.ranks.halo import Halo
from sslspec_fast.ranks.lockstep import Lockstep, ends, ordered_sum

__all__ = ["PartitionedOperator", "partitioned"]


class PartitionedOperator(SymmetricOperator):
    """This rank's rows of A; see `partitioned`.

    indptr (n_r + 1,), indices (nnz_r,) global, sorted; values (nnz_r,) or None for ones.
    """

    def __init__(
        self, indptr: Tensor, indices: Tensor, values: Tensor | None, ranks: Ranks, *,
        dtype: torch.dtype, bounds: tuple[float, float] | None = None,
        known: tuple[KnownPairs, ...] = (),
    ) -> None:  # fmt: skip
        super().__init__(ranks.n, dtype, indices.device, ranks)
        self.indptr, self.indices, self.values = indptr.long(), indices.long(), values
        self._known, self._bounds, self._attained = known, bounds, False
        stored = torch.tensor(float(len(indices)), dtype=torch.float64)
        self._nnz = int(ordered_sum(stored, ranks.group))
        here = ranks.here
        near = (self.indices >= here.start) & (self.indices < here.stop)
        columns, place = torch.unique(self.indices[~near], return_inverse=True)
        self._halo = Halo(columns, ranks)
        self._near = self._part(near, self.indices[near] - here.start, self.rows)
        self._far = self._part(~near, place, len(columns))
        self._cast: dict[torch.dtype, tuple[Csr, Csr]] = {}

    def _part(self, which: Tensor, columns: Tensor, n: int) -> Csr:
        """The entries that `which` says, with other columns."""
        before = torch.cat([which.new_zeros(1, dtype=torch.int64), which.cumsum(0)])
        values = None if self.values is None else self.values[which]
        return Csr(before[self.indptr], columns.to(torch.int32), values, n)

    @property
    def halo(self) -> int:
        """Rows that a product receives from other ranks."""
        return self._halo.size

    def _parts(self, dtype: torch.dtype) -> tuple[Csr, Csr]:
        """A_rr and the rest, for products in `dtype`."""
        if self.values is None or self.values.dtype == dtype:
            return self._near, self._far
        if dtype not in self._cast:
            near, far = (
                Csr(a.indptr, a.indices, a.values.to(dtype), a.n_cols)
                for a in (self._near, self._far)
                if a.values is not None
            )
            self._cast[dtype] = near, far
        return self._cast[dtype]

    def matmat(
        self, x: Tensor, out: Tensor | None = None, *, alpha: float = 1.0, beta: float = 0.0,
        gamma: float = 0.0, w: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        pending = self._halo.start(x)
        near, far = self._parts(x.dtype)
        if out is None:
            out, beta = new_block(x.shape[0], x.shape[1], x.dtype, x.device), 0.0
        w = None if gamma == 0.0 else w
        spmm_into(near, x, out, alpha=alpha, beta=beta, gamma=gamma, w=w)
        others = pending.wait()
        if far.nnz:
            spmm_into(far, others, out, alpha=alpha, beta=1.0)
        return out

    def scaled(self, factor: float) -> PartitionedOperator:
        """factor * A, rounded once."""
        values = torch.ones_like(self.indices, dtype=torch.float64)
        values = values if self.values is None else self.values.double()
        low, high = (bound * factor for bound in self.bounds())
        known = tuple(KnownPairs(pair.value * factor, pair.vectors) for pair in self._known)
        assert self.ranks is not None
        return PartitionedOperator(
            self.indptr, self.indices, (values * factor).to(self.dtype), self.ranks,
            dtype=self.dtype, bounds=(low, high) if math.isfinite(high - low) else None,
            known=known,
        )  # fmt: skip

    def nnz(self) -> int:
        return self._nnz

    def known(self) -> tuple[KnownPairs, ...]:
        return self._known

    def bounds(self) -> tuple[float, float]:
        if self._bounds is None:
            self._bounds = self._gershgorin()
            self._perron()
        return self._bounds

    def top_attained(self) -> bool:
        self.bounds()
        return self._attained or super().top_attained()

    def _within(self, low: float, high: float) -> tuple[float, float]:
        """The least and the largest of all ranks."""
        assert self.ranks is not None
        return ends(low, high, self.ranks.group)

    def _gershgorin(self) -> tuple[float, float]:
        """Disc centres a_ii and radii sum |a_ij|."""
        assert self.ranks is not None
        counts = self.indptr.diff()
        rows = torch.arange(self.rows, device=self.device).repeat_interleave(counts)
        loop = rows + self.ranks.here.start == self.indices
        values = torch.ones_like(rows, dtype=torch.float64)
        values = values if self.values is None else self.values.double()
        if not self.rows:
            return self._within(math.inf, -math.inf)
        center = torch.zeros_like(counts, dtype=torch.float64)
        center.index_add_(0, rows[loop], values[loop])
        radius = torch.segment_reduce(
            values.abs().masked_fill_(loop, 0.0), "sum", lengths=counts, initial=0.0
        )
        return self._within(float((center - radius).min()), float((center + radius).max()))

    def _perron(self) -> None:
        """As in `CsrOperator`: entries >= 0 bound the top by ratios of a product (Collatz 1942)."""
        assert self._bounds is not None
        least = 0.0
        if self.values is not None and len(self.values):
            least = float(self.values.min())
        if self._within(least, 0.0)[0] < 0.0 or self._nnz == 0:
            return
        counts = self.indptr.diff().double()
        live, x = counts > 0, counts.sqrt()
        ratio = (self @ x)[live] / x[live]
        ends = (float(ratio.min()), float(ratio.max())) if len(ratio) else (math.inf, -math.inf)
        low, high = self._within(*ends)
        if high < self._bounds[1]:
            self._bounds = (max(self._bounds[0], -high), high)
        if high - low <= 1e-13 * high and high >= self._bounds[1]:
            self._bounds = (self._bounds[0], high * (1 + 1e-14))
            self._attained = True

    def check_symmetric(self, name: str) -> None:
        """x^T A y = y^T A x on random x, y; raises on all ranks."""
        x = self.random_block(2, 0, torch.float64)
        assert self.ranks is not None
        with over_ranks(Lockstep(name, self.ranks)):
            y = self.matmat(x)
            products = gram([x, y], torch.cat([x, y], 1)).numpy()
        a, b = products[0, 3], products[1, 2]
        scale = math.sqrt(products.diagonal()[:2].sum() * products.diagonal()[2:].sum())
        if not abs(a - b) <= 64 * torch.finfo(self.dtype).eps * scale:
            rule = "symmetric" if math.isfinite(a - b) else "finite"
            raise ValueError(
                f"{name}: A must be {rule}, got x'Ay = {a:.10g} and y'Ax = {b:.10g} for random x, y"
            )


def partitioned(
    A: Any, group: Any, *, bounds: tuple[float, float] | None = None,
    known: tuple[KnownPairs, ...] = (), name: str = "partitioned",
) -> PartitionedOperator:  # fmt: skip
    """The symmetric operator of which every rank of a process group holds some rows.

    A: (n_r, n) scipy or torch sparse, real: this rank's rows, in rank order those of the whole, and
        global columns; n_r may be 0. Entries are taken in float32 or float64.
    group: a ProcessGroup or a 1-D DeviceMesh. To be called on all of its ranks.
    bounds: of the spectrum, if they are known; Gershgorin's discs otherwise.
    known: eigenpairs that are known exactly, with ``GroupVectors(..., group=group)``.

    Errors, on all ranks: TypeError for what is not sparse or not real; ValueError for columns that
    are not as many as rows in all, for A not symmetric or not finite.
    """
    group = process_group(name, group)
    with told_to_all(name, group):
        matrix, dtype, device = _rows(A, name)
        facts = {"columns of A": matrix.shape[1], "dtype of A": dtype, "device of A": device.type}
    ranks, _ = agree(name, group, facts, matrix.shape[0])
    if ranks.n != matrix.shape[1]:
        raise ValueError(
            f"{name}: A must have as many columns as the ranks have rows, {ranks.n} = "
            f"{' + '.join(map(str, ranks.counts))}, got {matrix.shape[1]}"
        )
    values = torch.from_numpy(matrix.data).to(device)
    indptr, indices = (torch.from_numpy(t).to(device) for t in (matrix.indptr, matrix.indices))
    # values that are all one need not be read by a product, and have no dtype
    other = float(bool((values != 1).any()))
    ones = ranks.n > 0 and ends(0.0, other, group)[1] == 0.0
    op = PartitionedOperator(
        indptr, indices, None if ones else values, ranks, dtype=dtype, bounds=bounds, known=known
    )
    if op.n:
        op.check_symmetric(name)
    return op


def _rows(A: Any, name: str) -> tuple[Any, torch.dtype, torch.device]:
    """A as scipy CSR in float32 or float64, and the dtype and device that products have."""
    refuse_grad(name, "A", A)
    device = torch.device("cpu")
    if isinstance(A, Tensor) and A.layout != torch.strided:
        device, matrix = A.device, scipy_from_torch(A, name)
    elif scipy.sparse.issparse(A):
        matrix = A
    else:
        raise TypeError(
            f"{name}: A must be the rows of this rank, (n_r, n) scipy or torch sparse, with a "
            f"group; got {type(A).__name__}"
        )
    if len(matrix.shape) != 2:
        raise ValueError(f"{name}: A must be (n_r, n), got shape {tuple(matrix.shape)}")
    if np.dtype(matrix.dtype).kind not in "fiub":
        raise TypeError(f"{name}: A must be real, got dtype {matrix.dtype}")
    check.compressed_scipy(name, "A", matrix)
    if matrix.format != "csr" or not matrix.has_canonical_format:
        matrix = summed(matrix)
    values = real_array(name, "A", matrix.data).numpy()
    dtype = torch.float32 if values.dtype == np.float32 else torch.float64
    arrays = values, matrix.indices, matrix.indptr
    return scipy.sparse.csr_array(arrays, shape=matrix.shape), dtype, device

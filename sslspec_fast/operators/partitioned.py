"""A sparse symmetric operator whose rows are spread over the ranks of a process group.

    Y_r = A_rr X_r + sum over s != r of A_rs X_s

Rank r holds its rows of A, with global column numbers, and its rows of every block. A product sends
the rows that others point to and multiplies A_rr meanwhile; A_rs is stored with the columns that
are not empty.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph
import torch
from torch import Tensor

from .. import _checks as check
from .._arrays import real_array
from ..graph.build import scipy_from_torch, summed
from ..graph.components import joined_over_ranks
from ..graph.pair_graph import PairGraph
from ..primitives.basis import gram, new_block
from ..primitives.sparse.csr import Csr
from ..primitives.sparse.spmm import Combination, spmm_into
from ..primitives.spread import over_ranks
from ..ranks import Ranks, agree, process_group, told_to_all
from ..ranks.halo import Halo
from ..ranks.lockstep import Lockstep, ends, ordered_sum
from ._discs import EntryBounds
from .base import refuse_grad
from .known import KnownPairs

__all__ = ["PartitionedOperator", "partitioned"]


class PartitionedOperator(EntryBounds):
    """This rank's rows of A; made by `partitioned`.

    Args:
        near: (n_r, n_r), the columns of this rank.
        far: (n_r, h), those that `halo` fetches.
        halo: the exchange of rows between ranks.
        dtype: of the entries.
        nnz: stored entries of all ranks.
        bounds, known: as in `CsrOperator`.
    """

    def __init__(
        self,
        near: Csr,
        far: Csr,
        halo: Halo,
        dtype: torch.dtype,
        nnz: int,
        *,
        bounds: tuple[float, float] | None = None,
        known: tuple[KnownPairs, ...] = (),
    ) -> None:
        super().__init__(halo.ranks.n, dtype, near.device, halo.ranks)
        self._near, self._far, self._halo, self._nnz = near, far, halo, nnz
        self._known, self._bounds = known, bounds
        self._cast: dict[torch.dtype, tuple[Csr, Csr]] = {}

    @property
    def group(self) -> Any:
        """The process group."""
        return self._halo.ranks.group

    @property
    def halo(self) -> int:
        """Rows that a product receives from other ranks."""
        return self._halo.size

    def _parts(self, dtype: torch.dtype) -> tuple[Csr, Csr]:
        """A_rr and the rest, for products in `dtype`."""
        if self._near.values is None or self._near.values.dtype == dtype:
            return self._near, self._far
        if dtype not in self._cast:
            self._cast[dtype] = self._map(lambda values, *_: values.to(dtype))
        return self._cast[dtype]

    def _map(self, function: Callable[..., Tensor]) -> tuple[Csr, Csr]:
        """Both parts with values = function(values, rows, columns, whether they are far)."""
        out = []
        for a, far in ((self._near, False), (self._far, True)):
            values = torch.ones_like(a.indices, dtype=torch.float64)
            values = values if a.values is None else a.values
            new = function(values, a.rows(), a.indices.long(), far)
            out.append(Csr(a.indptr, a.indices, new, a.n_cols))
        return out[0], out[1]

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
        pending = self._halo.start(x)
        near, far = self._parts(x.dtype)
        if out is None:
            out, beta = new_block(x.shape[0], x.shape[1], x.dtype, x.device), 0.0
        w = None if gamma == 0.0 else w
        spmm_into(near, x, out, Combination(alpha, beta, gamma, w=w))
        others = pending.wait()
        if far.nnz:
            spmm_into(far, others, out, Combination(alpha, beta=1.0))
        return out

    def scaled(self, factor: float) -> PartitionedOperator:
        """factor * A, rounded once."""
        low, high = (bound * factor for bound in self.bounds())
        known = tuple(KnownPairs(pair.value * factor, pair.vectors) for pair in self._known)
        return PartitionedOperator(
            *self._map(lambda values, *_: (values.double() * factor).to(self.dtype)),
            self._halo,
            self.dtype,
            self._nnz,
            known=known,
            bounds=(low, high) if math.isfinite(high - low) else None,
        )

    def derived(
        self,
        *,
        scale: Tensor | None = None,
        diagonal: Tensor | None = None,
        sign: float = 1.0,
        bounds: tuple[float, float] | None = None,
    ) -> PartitionedOperator:
        """diag(d) + sign * diag(s) A diag(s) in float64; s, d: (n_r,) float64 or None."""
        near, far = self._near, self._far
        if scale is not None or sign != 1.0:
            s = torch.ones(self.rows, dtype=torch.float64) if scale is None else scale
            s = s.to(self.device)
            others = self._halo.start(s[:, None]).wait()[:, 0]

            def entries(values: Tensor, rows: Tensor, columns: Tensor, far: bool) -> Tensor:
                return values.double() * s[rows] * (others if far else s)[columns] * sign

            near, far = self._map(entries)
        if diagonal is not None:
            matrix = near.to_scipy() + scipy.sparse.diags_array(diagonal.cpu().numpy())
            matrix = scipy.sparse.csr_array(matrix)
            indptr, indices = torch.from_numpy(matrix.indptr), torch.from_numpy(matrix.indices)
            entries_of = torch.from_numpy(matrix.data)
            near = Csr(indptr.long(), indices, entries_of, self.rows).to(self.device)
        return PartitionedOperator(near, far, self._halo, torch.float64, self._nnz, bounds=bounds)

    def entries(self) -> tuple[Tensor, Tensor, Tensor]:
        """Global rows and columns, and values in float64, of what this rank stores."""
        first = self._halo.ranks.here.start
        rows = torch.cat([self._near.rows(), self._far.rows()]) + first
        columns = torch.cat(
            [self._near.indices.long() + first, self._halo.columns[self._far.indices.long()]]
        )
        parts = self._map(lambda values, *_: values.double())
        values = [part.values for part in parts if part.values is not None]
        return rows, columns, torch.cat(values)

    def row_sums(self) -> Tensor:
        """(n_r,) float64: A 1."""
        return _row_sums(self._near) + _row_sums(self._far)

    def top_of_pairs(self, v: Tensor) -> float:
        """The largest v_i + v_j over the stored entries of all ranks; v: (n_r,)."""
        others = self._halo.start(v[:, None]).wait()[:, 0]
        pairs = self._map(lambda _, i, j, far: v[i] + (others if far else v)[j])
        tops = [float(a.values.max()) for a in pairs if a.values is not None and len(a.values)]
        return ends(0.0, max(tops, default=-math.inf), self.group)[1]

    def components(self) -> tuple[int, Tensor]:
        """(count, labels (n_r,) int64) of the connected components, numbered by their first row.

        Components of A_rr first; what joins them is gathered, a spanning forest from every rank.
        """
        count, label = scipy.sparse.csgraph.connected_components(
            self._near.to_scipy(), directed=False
        )
        ranks, _ = agree("components", self.group, {}, int(count))
        own = torch.from_numpy(label.astype(np.int64)).to(self.device) + ranks.here.start
        others = self._halo.start(own[:, None]).wait()[:, 0]
        ends_of = torch.stack([own[self._far.rows()], others[self._far.indices.long()]])
        labels = joined_over_ranks(ends_of.cpu().numpy(), ranks.n, ranks)
        found = torch.from_numpy(labels.astype(np.int64)).to(self.device)[own]
        return int(labels.max(initial=-1)) + 1, found

    def nnz(self) -> int:
        return self._nnz

    def known(self) -> tuple[KnownPairs, ...]:
        return self._known

    def _gershgorin(self) -> tuple[float, float]:
        """Disc centres a_ii and radii sum |a_ij|."""
        if not self.rows:
            return ends(math.inf, -math.inf, self.group)
        center = self._near.diagonal()
        sums = [_row_sums(part) for part in self._map(lambda values, *_: values.double().abs())]
        radius = sums[0] + sums[1] - center.abs()
        return ends(float((center - radius).min()), float((center + radius).max()), self.group)

    def _perron(self) -> None:
        """As in `CsrOperator`: entries >= 0 bound the top by ratios of a product (Collatz 1942)."""
        values = [a.values for a in (self._near, self._far) if a.values is not None]
        least = min((float(v.min()) for v in values if len(v)), default=0.0)
        if ends(least, 0.0, self.group)[0] < 0.0 or self._nnz == 0:
            return
        counts = (self._near.indptr.diff() + self._far.indptr.diff()).double()
        live, x = counts > 0, counts.sqrt()
        ratio = (self @ x)[live] / x[live]
        own = (float(ratio.min()), float(ratio.max())) if len(ratio) else (math.inf, -math.inf)
        self._narrow(*ends(*own, self.group))

    def check_symmetric(self, name: str) -> None:
        """x^T A y = y^T A x on random x, y; raises on all ranks."""
        x = self.random_block(2, 0, torch.float64)
        with over_ranks(Lockstep(name, self._halo.ranks)):
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
    A: Any,
    group: Any,
    *,
    bounds: tuple[float, float] | None = None,
    known: tuple[KnownPairs, ...] = (),
    name: str = "partitioned",
) -> PartitionedOperator:
    """The symmetric operator of which every rank of a process group holds some rows.

    Args:
        A: (n_r, n) scipy or torch sparse, real: this rank's rows, in rank order those of the whole,
            and global columns; n_r may be 0. Entries are taken in float32 or float64. Or a
            PairGraph over the ranks of the group.
        group: a ProcessGroup or a 1-D DeviceMesh. To be called on all of its ranks.
        bounds: of the spectrum, if they are known; Gershgorin's discs otherwise.
        known: eigenpairs that are known exactly, with ``GroupVectors(..., group=group)``.
        name: what errors begin with.

    Returns:
        `PartitionedOperator`.

    Raises:
        TypeError: what is not sparse or not real, on all ranks.
        ValueError: columns that are not as many as rows in all, A not symmetric or not finite; on
            all ranks.
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
    arrays = indptr.long(), indices.long(), None if ones else values
    op = _split(*arrays, ranks, dtype=dtype, bounds=bounds, known=known)
    if op.n:
        op.check_symmetric(name)
    return op


def _split(
    indptr: Tensor,
    indices: Tensor,
    values: Tensor | None,
    ranks: Ranks,
    *,
    dtype: torch.dtype,
    bounds: tuple[float, float] | None,
    known: tuple[KnownPairs, ...],
) -> PartitionedOperator:
    """Of compressed rows with global columns: the columns of this rank, and the others."""
    here = ranks.here
    near = (indices >= here.start) & (indices < here.stop)
    columns, place = torch.unique(indices[~near], return_inverse=True)

    def part(which: Tensor, numbers: Tensor, n: int) -> Csr:
        before = torch.cat([indptr.new_zeros(1), which.cumsum(0)])
        entries = None if values is None else values[which]
        return Csr(before[indptr], numbers.to(torch.int32), entries, n)

    own = part(near, indices[near] - here.start, here.stop - here.start)
    stored = torch.tensor(float(len(indices)), dtype=torch.float64)
    return PartitionedOperator(
        own,
        part(~near, place, len(columns)),
        Halo(columns, ranks),
        dtype,
        int(ordered_sum(stored, ranks.group)),
        bounds=bounds,
        known=known,
    )


def _row_sums(a: Csr) -> Tensor:
    return a.row_sums() if a.n_rows else torch.zeros(0, dtype=torch.float64, device=a.device)


def _rows(A: Any, name: str) -> tuple[Any, torch.dtype, torch.device]:
    """A as scipy CSR in float32 or float64, and the dtype and device that products have."""
    refuse_grad(name, "A", A)
    device = torch.device("cpu")
    if isinstance(A, PairGraph):
        device, matrix = A.device, A.to_scipy()
    elif isinstance(A, Tensor) and A.layout != torch.strided:
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

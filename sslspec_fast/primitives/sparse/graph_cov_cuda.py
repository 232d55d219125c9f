"""csrc/sparse/graph_cov.h on a GPU: strips of A Y by the gather kernel, products by GEMM.

A strip of at most 32 MiB stays in the L2 cache of a data-centre GPU between the kernel that makes
it and the product that reads it; A Y as a whole is not stored. A symmetric A with Y = X gathers
only the entries j >= i, the diagonal half: S = X^T U X, C = S + S^T. When a gradient will be asked
for, A X is kept instead, since it is what the gradient multiplies: gathering is what costs, and one
whole gather is less than a half and a whole.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..._seam import _C, stream, view
from .csr import Sparse
from .spmm import Combination

__all__ = ["apply", "compute", "compute_and_keep", "multiplied"]

_STRIP_BYTES = 32 << 20
_GEMM_ROWS = 1 << 16


def compute(a: Sparse, x: Tensor, y: Tensor | None) -> Tensor:
    """X^T A Y, (d, e)."""
    right = x if y is None else y
    out = x.new_zeros(x.shape[1], right.shape[1])
    with torch.autocast(x.device.type, enabled=False):
        for rows, strip in _products(a, right, upper=y is None):
            out.addmm_(x[rows].mT, strip)
    return out + out.mT if y is None else out


def compute_and_keep(a: Sparse, x: Tensor) -> tuple[Tensor, Tensor]:
    """X^T A X, (d, d), and A X, (n, d)."""
    product = x.new_empty(x.shape)
    _gather(a, x, product)
    with torch.autocast(x.device.type, enabled=False):
        return x.mT @ product, product


def multiplied(product: Tensor, mat: Tensor) -> Tensor:
    """(A X) M by blocks of rows: libraries choose poor tiles for a million rows of a hundred."""
    if torch._C._functorch.is_legacy_batchedtensor(mat):
        return product @ mat  # is_grads_batched, of which out= has no form
    out = product.new_empty(product.shape[0], mat.shape[1])
    with torch.autocast(product.device.type, enabled=False):
        for rows, into in zip(product.split(_GEMM_ROWS), out.split(_GEMM_ROWS), strict=True):
            torch.mm(rows, mat, out=into)
    return out


def apply(a: Sparse, y: Tensor, mat: Tensor, u: Tensor | None, v: Tensor | None) -> Tensor:
    """(A Y) M + u v^T, (n, d)."""
    out = y.new_empty(a.indptr.shape[0] - 1, mat.shape[1])
    with torch.autocast(y.device.type, enabled=False):
        for rows, strip in _products(a, y, upper=False):
            torch.mm(strip, mat, out=out[rows])
        if u is not None and v is not None:
            out.addr_(u, v)
    return out


def _products(a: Sparse, y: Tensor, upper: bool) -> Iterator[tuple[slice, Tensor]]:
    """Rows of A Y in a buffer that the next strip takes again."""
    n, e = a.indptr.shape[0] - 1, y.shape[1]
    height = min(n, max(1024, _STRIP_BYTES // (max(e, 1) * y.element_size())))
    buffer = y.new_empty(height, e)
    for start in range(0, n, max(height, 1)):
        stop = min(start + height, n)
        strip = buffer[: stop - start]
        rows = a._replace(indptr=a.indptr[start : stop + 1])
        _gather(rows, y, strip, start if upper else -1)
        yield slice(start, stop), strip


def _gather(a: Sparse, y: Tensor, out: Tensor, upper_from: int = -1) -> None:
    """out = A Y; upper_from: number of the first row of a, to read only j >= i."""
    scales, combination = (None, None, False), Combination().view()
    _C.cuda_spmm(a.view(), view(y), None, scales, combination, view(out), upper_from, stream(y))

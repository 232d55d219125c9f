"""Products by a library GEMM whose sums, and not only the terms, are kept in float32.

Split products. On GPUs whose tensor cores multiply bfloat16 at more than ten times the rate of
float32, a float32 product is made of bfloat16 ones: x = x1 + x2 + x3 takes the 24 bits of float32
apart, and six of the nine products matter, w1 b1 + (w1 b2 + w2 b1) + (w1 b3 + w2 b2 + w3 b1); the
others are 2^-27 relative.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .._dtypes import computed_dtype, widen

__all__ = [
    "Plain",
    "Split",
    "add_mm_float32",
    "mm_float32",
    "mm_float32_into",
    "mm_wide",
    "products_with",
]

# torch >= 2.8, on a GPU
_HAS_OUT_DTYPE = all(hasattr(op, "dtype") for op in (torch.ops.aten.mm, torch.ops.aten.addmm))
# bfloat16 over float32 rate: 16, 15 and more; it is 2 to 4 on the others, which gain nothing
_SPLITTING = {(8, 0), (9, 0), (10, 0), (10, 3)}
_BLOCK = 256  # a simulated truncation made the sums of 2048 terms 13 times less exact than float32


def _wide(a: Tensor, b: Tensor) -> Tensor:
    """a b of bfloat16 matrices, or of batches of them, in float32.

    The library adds up in the type of its result, float32, so that torch's setting
    allow_bf16_reduced_precision_reduction, which concerns bfloat16 results, changes nothing.
    """
    multiply: Callable[..., Tensor] = torch.mm if a.ndim == 2 else torch.bmm
    return multiply(a, b, out_dtype=torch.float32)


def mm_wide(a: Tensor, b: Tensor) -> Tensor:
    """a b of matrices of any dtype in float32 (float64), inside autocast too.

    torch's products of bfloat16 factors on a CPU round their results, and on processors with AMX
    multiply what lies behind a row by 0 where its length is no multiple of 32: a NaN in the next
    row, or between two rows, reaches the result (uxlfoundation/oneDNN issue 5717; in torch 2.13).
    """
    with torch.autocast(a.device.type, enabled=False):
        return torch.mm(widen(a), widen(b))


def mm_float32(a: Tensor, b: Tensor) -> Tensor:
    """a b, also of batches, in float32 (float64). Where torch has only bfloat16 results of bfloat16
    factors, the float32 sums were rounded once.
    """
    if _HAS_OUT_DTYPE and a.is_cuda and a.dtype == torch.bfloat16:
        return _wide(a, b)
    return (torch.mm(a, b) if a.ndim == 2 else torch.bmm(a, b)).to(computed_dtype(a))


def mm_float32_into(a: Tensor, b: Tensor, out: Tensor) -> None:
    """The same for matrices into `out`, of the dtype of the factors or float32."""
    if a.dtype == out.dtype:
        torch.mm(a, b, out=out)
    elif _HAS_OUT_DTYPE and a.is_cuda:
        torch.ops.aten.mm.dtype_out(a, b, torch.float32, out=out)
    else:
        out.copy_(torch.mm(a, b))


def add_mm_float32(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """total += a b for matrices, with `total` in float32 (float64)."""
    if a.dtype == total.dtype:
        return total.addmm_(a, b)
    if _HAS_OUT_DTYPE and a.is_cuda and a.dtype == torch.bfloat16:
        torch.ops.aten.addmm.dtype_out(total, a, b, torch.float32, out=total)
        return total
    return total.add_(mm_float32(a, b))


class Plain:
    """Products with a matrix W whose rows come in chunks, in the type of the other factor."""

    most_rows = 1 << 30  # of a chunk
    pieces = 1  # a chunk is so many matrices of kind `dtype`, one below the other, with sum W

    def __init__(self, right: Tensor) -> None:
        self.right, self.dtype = right, right.dtype
        self.row_bytes = right.element_size() * right.shape[0]  # of workspace per row of W

    def times(self, w: Tensor, out: Tensor) -> None:
        """out = W right, in float32 or float64."""
        mm_float32_into(w, self.right, out)

    def transposed_times(self, w: Tensor, left: Tensor, total: Tensor | None) -> Tensor:
        """W^T left, added to `total` in place where there is one."""
        return mm_float32(w.T, left) if total is None else add_mm_float32(total, w.T, left)

    def row_sums(self, w: Tensor, dtype: torch.dtype) -> Tensor:
        return torch.sum(w, 1, dtype=dtype)


class Split(Plain):
    """The same for float32 factors, by split products."""

    pieces, dtype = 3, torch.bfloat16
    most_rows = 512  # sums over the rows of a chunk are in one product, which truncates

    def __init__(self, right: Tensor) -> None:
        self.width = right.shape[1]
        self.right = torch.cat(_split(right), 1)  # b1 | b2 | b3
        self.padded = self.right.shape[1] // 3
        m = right.shape[0]  # three pieces, five products, and the sums of the blocks
        self.row_bytes = 6 * m + 4 * self.padded * (5 + -(-m // _BLOCK))

    def times(self, w: Tensor, out: Tensor) -> None:
        first, second, third = w.unflatten(0, (3, -1))
        d = self.padded
        one = self.right[:, :d]
        beside = _wide(first, self.right[:, d:])  # w1 b2 | w1 b3
        below = _wide(second, self.right[:, : 2 * d])  # w2 b1 | w2 b2
        total = _wide(third, one).add_(beside[:, d:]).add_(below[:, d:])  # small terms first
        total.add_(beside[:, :d]).add_(below[:, :d]).add_(_in_blocks(first, one))
        out.copy_(total[:, : self.width])

    def transposed_times(self, w: Tensor, left: Tensor, total: Tensor | None) -> Tensor:
        # sums over the rows of a chunk are short, and one product adds up those of several pieces:
        # (w1, w2, w3)^T (a3, a2, a1), each below the other, and the same without the last rows
        n = left.shape[0]
        stack = torch.cat(_split(left)[::-1])
        part = _wide(w.T, stack)
        for terms in (2, 1):
            part.add_(_wide(w[: terms * n].T, stack[(3 - terms) * n :]))
        part = part[:, : left.shape[1]]
        return part if total is None else total.add_(part)

    def row_sums(self, w: Tensor, dtype: torch.dtype) -> Tensor:
        return w.unflatten(0, (3, -1)).sum(2, dtype=dtype).sum(0)


def products_with(right: Tensor) -> Plain:
    """Split products where they are worth it, as ``torch.get_float32_matmul_precision()`` asks."""
    exact = right.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    able = _HAS_OUT_DTYPE and right.is_cuda
    if exact and able and torch.cuda.get_device_capability(right.device) in _SPLITTING:
        return Split(right)
    return Plain(right)


def _split(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x1 + x2 + x3 = x; zero columns make the rows multiples of 16 bytes, which is what GEMMs want.

    bfloat16 has the exponents of float32: only numbers below 2^-110 lose bits (to subnormals).
    """
    pad = -x.shape[1] % 8
    x = F.pad(x, (0, pad)) if pad else x
    first = x.bfloat16()
    rest = x - first
    second = rest.bfloat16()
    return first, second, (rest - second).bfloat16()


def _in_blocks(a: Tensor, b: Tensor) -> Tensor:
    """a b for the leading pieces, sums of at most 256 terms at a time.

    Tensor cores truncate where float32 arithmetic rounds to nearest (Ootomo and Yokota,
    arXiv 2203.03341), so that the error of a sum grows with its length; the sums of the blocks are
    added outside of them.
    """
    count = a.shape[1] // _BLOCK
    if count < 2:
        return _wide(a, b)
    full = count * _BLOCK
    left = a[:, :full].unflatten(1, (count, _BLOCK)).transpose(0, 1)
    total = _wide(left, b[:full].unflatten(0, (count, _BLOCK))).sum(0)
    return total if full == a.shape[1] else total.add_(_wide(a[:, full:], b[full:]))

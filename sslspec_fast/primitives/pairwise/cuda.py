"""CUDA bodies of the ``pairwise`` operators: padding, precision, workspaces, wide rows.

Rows reach the kernels at multiples of 16 bytes, zero padded. bfloat16 rows are multiplied as they
are. float16 rows are widened and multiplied in TF32, which holds every float16 exactly and has the
exponents that the weights need. float32 rows follow ``torch.get_float32_matmul_precision()``:
"highest" is fp32 accuracy by split products, "high" and "medium" are TF32. float64 rows run on a
plain kernel that exists for checking. Statistics are float32 (float64).

Backward. Up to 256 columns one kernel chains both products. Beyond, a chunk of the weight matrix is
written once to a workspace of at most 256 MiB, in the type of the rows or split into bfloat16
pieces, and the library's GEMM does the products (_matmul.py).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..._dtypes import computed_dtype
from ..._seam import _C, CODE, Descriptor, stream, unit_stride, view
from .._matmul import products_with
from .common import Logits

__all__ = ["WeightChunks", "aligned_rows", "backward", "forward", "gradients"]

_Maybe = Descriptor | None
_WEIGHT_BYTES = 256 << 20
_WEIGHT_ROWS = 65535 * 128  # blocks in the second dimension of a grid
_FORWARD, _CHAINED, _MATRIX = 0, 1, 2  # passes of cuda_pairwise_workspace_size


def aligned_rows(x: Tensor) -> Tensor:
    """The rows as the kernels take them; a copy only where x does not fit."""
    if x.dtype == torch.float16:
        x = x.float()
    if x.dtype == torch.float64:
        return unit_stride(x)
    step = 16 // x.element_size()
    pad = -x.shape[1] % step
    if pad:
        return F.pad(x, (0, pad))
    pitch = x.stride(0) if x.shape[0] > 1 else x.shape[1]
    # rows that repeat (stride 0) would need another descriptor of the asynchronous copies
    fits = x.stride(1) == 1 and pitch % step == 0 and pitch >= x.shape[1]
    if fits and x.data_ptr() % 16 == 0:
        return x
    return x.clone(memory_format=torch.contiguous_format)


class _Problem:
    """The logits as the kernels take them, converted once."""

    def __init__(self, logits: Logits) -> None:
        a, b, scale, left_out, bias, _ = logits
        self.kind = computed_dtype(a)
        self.fast = a.dtype == torch.float16 or torch.get_float32_matmul_precision() != "highest"
        self.a = aligned_rows(a)
        self.b = None if b is None else aligned_rows(b)
        self.scale = scale.to(self.kind).contiguous()
        bias = None if bias is None else bias.to(self.kind)
        self.logits = Logits(self.a, self.b, self.scale, left_out, bias)
        self.n, self.d = self.a.shape
        self.m = self.n if self.b is None else self.b.shape[0]

    def run(self, work: Tensor) -> tuple[Descriptor, int]:
        return view(work), stream(self.a)

    def workspace(self, cols: bool, part: int) -> Tensor:
        size = _C.cuda_pairwise_workspace_size(
            self.n, self.m, self.d, CODE[self.a.dtype], self.b is None, cols, part
        )
        return self.statistics(size)

    def statistics(self, *size: int) -> Tensor:
        return self.a.new_empty(size, dtype=self.kind)


class _Above(NamedTuple):
    """Statistics and their gradients, as the kernels take them, and which gradients are wanted."""

    row: Tensor | None
    col: Tensor | None
    grad_row: Tensor
    grad_col: Tensor | None
    b: bool
    bias: bool
    dot: bool
    dtype: torch.dtype  # of the gradients of a and b

    def views(self) -> tuple[tuple[_Maybe, _Maybe], tuple[_Maybe, _Maybe]]:
        return (view(self.row), view(self.col)), (view(self.grad_row), view(self.grad_col))


_Pair = tuple[Tensor | None, Tensor | None]


def forward(logits: Logits, *, cols: bool = False) -> tuple[Tensor, Tensor]:
    """Row and column statistics (softmax), or row sums of softplus when there is a bias."""
    p = _Problem(logits)
    row, col = p.statistics(p.n), p.statistics(p.m if cols else 0)
    work = p.workspace(cols, _FORWARD)
    out = view(row), view(col) if cols else None
    _C.cuda_pairwise_forward(p.logits.view(), out, p.run(work), p.fast)
    return row, col


def backward(
    logits: Logits,
    lse: _Pair,
    grad_lse: _Pair,
    *,
    grad_dtype: torch.dtype | None = None,
    want_b: bool = True,
    want_bias: bool = True,
    want_scale: bool = True,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Gradients of a and b (None when b is, or it is not wanted), and per row of a those of scale_i
    and of the bias (any numbers where they are not wanted).

    lse, grad_lse: the statistics of rows and columns, and their gradients; without columns the
        second is None. The sigmoid part has no statistics, and its gradients are those of the row
        sums.
    grad_dtype: type of the gradients of a and b, by default that of a. float32 for bfloat16 rows
        keeps what the projection off the rows of a normalisation would lose to rounding.
    """
    a, b, _, _, bias, _ = logits
    p, (row, col), (grad_row, grad_col) = _Problem(logits), lse, grad_lse
    assert grad_row is not None
    grad_row = grad_row.to(p.kind).contiguous()
    grad_col = None if col is None or grad_col is None else grad_col.to(p.kind).contiguous()
    col = None if grad_col is None else col
    chained = _C.cuda_pairwise_is_chained(p.d, CODE[p.a.dtype], p.a.get_device())
    wide = torch.float32 if grad_dtype == torch.float32 else p.a.dtype
    make = _chained if chained else _chunked
    wants = b is not None and want_b, bias is not None and want_bias, want_scale
    above = _Above(row, col, grad_row, grad_col, *wants, wide)
    grad_a, grad_b, row_dot, row_total = make(p, above)
    dtype = grad_dtype or a.dtype
    grad_a = _trimmed(grad_a, a.shape[1], dtype)
    grad_b = None if grad_b is None else _trimmed(grad_b, a.shape[1], dtype)
    return grad_a, grad_b, row_dot, row_total


def gradients(
    logits: Logits,
    lse: _Pair,
    grad_lse: _Pair,
    want_b: bool = True,
    want_bias: bool = True,
    want_scale: bool = True,
) -> tuple[Tensor, ...]:
    """Gradients of a, b (empty unless wanted), scale and, where there is one, bias (0 unless
    wanted), each in the type of its input.
    """
    _, b, scale, _, bias, _ = logits
    assert b is not None
    grad_a, of_b, row_dot, row_total = backward(
        logits, lse, grad_lse, want_b=want_b, want_bias=want_bias, want_scale=want_scale
    )
    grad_b = b.new_empty(0) if of_b is None else of_b
    if want_scale:
        grad_scale = (row_dot if scale.ndim else row_dot.sum()).to(scale.dtype)
    else:
        grad_scale = torch.zeros_like(scale)
    if bias is None:
        return grad_a, grad_b, grad_scale
    grad_bias = row_total.sum().to(bias.dtype) if want_bias else bias.new_zeros(())
    return grad_a, grad_b, grad_scale, grad_bias


def _trimmed(grad: Tensor, d: int, dtype: torch.dtype) -> Tensor:
    """Without padding, contiguous."""
    grad = grad if grad.shape[1] == d else grad[:, :d]
    return grad.to(dtype).contiguous()


def _chained(p: _Problem, above: _Above) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    grad_a = p.a.new_empty(p.a.shape, dtype=above.dtype)
    wanted = p.b if above.b else None
    grad_b = None if wanted is None else wanted.new_empty(wanted.shape, dtype=above.dtype)
    row_dot, row_total = p.statistics(p.n), p.statistics(p.n)
    work = p.workspace(above.col is not None, _CHAINED)
    _C.cuda_pairwise_backward(
        p.logits.view(),
        *above.views(),
        (view(grad_a), view(grad_b)),
        view(row_dot),
        view(row_total),
        p.run(work),
        p.fast,
    )
    return grad_a, grad_b, row_dot, row_total


class WeightChunks:
    """Room for some rows of the weights W of a and b, and the products with those.

    rows: a slice for each chunk, which begins at a multiple of 128 rows.
    """

    def __init__(self, a: Tensor, b: Tensor) -> None:
        n, m = len(a), len(b)
        self.products = products_with(b)
        fitting = _WEIGHT_BYTES // max(1, self.products.row_bytes) // 128 * 128
        most = min(n, self.products.most_rows, _WEIGHT_ROWS, max(128, fitting))
        pitch = -(-m // 8) * 8  # rows at multiples of 16 bytes
        size = self.products.pieces * most, pitch
        self.memory = a.new_empty(size, dtype=self.products.dtype)[:, :m]
        step = max(most, 1)
        self.rows = [slice(start, min(start + step, n)) for start in range(0, n, step)]

    def weights(self, chunk: slice) -> Tensor:
        """The matrix of a chunk, or its pieces one below the other."""
        return self.memory[: self.products.pieces * (chunk.stop - chunk.start)]


def _chunked(p: _Problem, above: _Above) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    a = p.a
    right = a if p.b is None else p.b
    chunks = WeightChunks(a, right)
    products = chunks.products
    work = p.workspace(above.col is not None, _MATRIX)
    # With the scale in W, nothing has to be multiplied by it afterwards. Rows that were float16 may
    # come with a loss scale, and the factors of W have no room for both.
    folded = p.scale.ndim == 0 and a.dtype == torch.bfloat16 and not (above.dot or above.bias)
    if folded:
        col = None if above.grad_col is None else above.grad_col * p.scale
        above = above._replace(grad_row=above.grad_row * p.scale, grad_col=col)
    wide = p.statistics(*a.shape)  # W right
    row_total = p.statistics(p.n if above.bias else 0)
    grad_b = None
    with torch.autocast(a.device.type, enabled=False):
        for chunk in chunks.rows:
            w = chunks.weights(chunk)
            _C.cuda_pairwise_weight_rows(
                p.logits.view(), *above.views(), chunk.start, view(w), p.run(work), p.fast
            )
            products.times(w, out=wide[chunk])
            if above.bias:
                row_total[chunk] = products.row_sums(w, p.kind)
            if above.b:
                left = a[chunk]
                if p.scale.ndim == 1:
                    left = (left.to(p.kind) * p.scale[chunk, None]).to(a.dtype)
                # chunks add up in float32, in the order of the rows
                grad_b = products.transposed_times(w, left, grad_b)
        row_dot = (a * wide).sum(1) if above.dot else p.statistics(0)
        if not folded:
            wide.mul_(p.scale[:, None] if p.scale.ndim == 1 else p.scale)
    if above.b:
        grad_b = p.statistics(*right.shape).zero_() if grad_b is None else grad_b
        grad_b = grad_b.mul_(p.scale) if p.scale.ndim == 0 and not folded else grad_b
    return wide, grad_b, row_dot, row_total

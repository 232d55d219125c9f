"""Products by a library GEMM whose sums, and not only the terms, are kept in float32."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["mm_float32"]

_HAS_OUT_DTYPE = hasattr(torch.ops.aten.mm, "dtype")  # torch >= 2.8, on a GPU


def mm_float32(a: Tensor, b: Tensor) -> Tensor:
    """a b. bfloat16 factors give float32 where torch can, otherwise float32 sums rounded once."""
    if _HAS_OUT_DTYPE and a.is_cuda and a.dtype == torch.bfloat16:
        return torch.mm(a, b, out_dtype=torch.float32)
    return torch.mm(a, b)

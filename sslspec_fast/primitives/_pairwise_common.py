"""What both parts of ``pairwise`` do before a call of the core."""

from __future__ import annotations

from torch import Tensor

from .._seam import _C, CODE

__all__ = ["workspace"]


def workspace(a: Tensor, b: Tensor | None, backward: bool) -> Tensor:
    """Scratch memory of one call, O((n + m) d): packed operands and statistics."""
    n, d = a.shape
    m = n if b is None else b.shape[0]
    return a.new_empty(_C.pairwise_workspace_size(n, m, d, CODE[a.dtype], b is None, backward))

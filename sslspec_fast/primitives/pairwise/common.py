"""What all parts of ``pairwise`` share: the logits as one argument, and what precedes a call."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._dtypes import computed_dtype
from ..._register import grouping
from ..._seam import _C, CODE, unit_stride, view

__all__ = [
    "LOGITS",
    "LeftOut",
    "Logits",
    "multiplied",
    "of_logits",
    "pair_ids",
    "through_scale",
    "workspace",
]


class LeftOut(NamedTuple):
    """The pairs (i, j) that are left out of a sum over pairs.

    ids_a, ids_b: (n,) and (m,) int32; pairs with equal ids.
    indptr, indices: (n + 1,) and (nnz,) int64; pairs of a pattern in compressed rows, columns
        ascending in a row.
    self_pairs: those with i == j.
    """

    ids_a: Tensor | None = None
    ids_b: Tensor | None = None
    indptr: Tensor | None = None
    indices: Tensor | None = None
    self_pairs: bool = False

    def view(self) -> tuple[Any, ...]:
        """As the core takes it, csrc/pairwise/logits.h."""
        ids_a, ids_b, indptr, indices, self_pairs = self
        return view(ids_a), view(ids_b), view(indptr), view(indices), self_pairs

    def mask(self, rows: slice, m: int, device: torch.device) -> Tensor:
        """(rows, m): True for the pairs that are left out."""
        index = torch.arange(rows.start, rows.stop, device=device)
        out = torch.zeros(len(index), m, dtype=torch.bool, device=device)
        if self.self_pairs:
            out |= index[:, None] == torch.arange(m, device=device)
        if self.ids_a is not None and self.ids_b is not None:
            out |= self.ids_a[rows, None] == self.ids_b
        if self.indptr is not None and self.indices is not None:
            begin, end = self.indptr[rows], self.indptr[rows.start + 1 : rows.stop + 1]
            local = torch.repeat_interleave(torch.arange(len(index), device=device), end - begin)
            out[local, self.indices[self.indptr[rows.start] : self.indptr[rows.stop]]] = True
        return out


ALL_PAIRS = LeftOut()


class Logits(NamedTuple):
    """``s_ij = scale_i a_i . b_j (+ bias)`` over the pairs that are not left out.

    a: (n, d).  b: (m, d); None: a itself.  scale: 0-dim or (n,).  bias: 0-dim, of the sigmoid part.
    """

    a: Tensor
    b: Tensor | None
    scale: Tensor
    left_out: LeftOut = ALL_PAIRS
    bias: Tensor | None = None

    def view(self) -> tuple[Any, ...]:
        """As the core takes it, csrc/pairwise/logits.h."""
        return self.view_with(self.a, self.b)

    def view_with(self, a: Tensor, b: Tensor | None) -> tuple[Any, ...]:
        """The same with other rows: a and b as the kernels take them."""
        _, _, scale, left_out, bias = self
        return view(a), view(b), view(scale), view(bias), left_out.view()


# Logits without a bias in the schema of an operator, and in the body of one.
LOGITS = (
    "Tensor a, Tensor b, Tensor scale, Tensor? ids_a, Tensor? ids_b, "
    "Tensor? skip_indptr, Tensor? skip_indices, bool skip_self"
)
of_logits = grouping(8, lambda x: Logits(x[0], x[1], x[2], LeftOut._make(x[3:])))


def pair_ids(n: int, device: torch.device) -> Tensor:
    """(2n,) int32: both views of a sample share its number."""
    return torch.arange(n, dtype=torch.int32, device=device).repeat(2)


def workspace(a: Tensor, b: Tensor | None, backward: bool) -> Tensor:
    """Scratch memory of one call, O((n + m) d): packed operands and statistics."""
    n, d = a.shape
    m = n if b is None else b.shape[0]
    size = _C.pairwise_workspace_size(n, m, d, CODE[a.dtype], b is None, backward)
    return a.new_empty(size, dtype=computed_dtype(a))


def multiplied(x: Tensor, scale: Tensor, half: bool) -> Tensor:
    """Rows as the softmax kernels of the CPU take them: those that are exact in bfloat16 (`half`)
    as that, where the processor multiplies it and one scale serves all.
    """
    half = half and x.dtype == torch.float32 and scale.ndim == 0 and _C.bf16_products()
    return unit_stride(x.bfloat16() if half else x)


def through_scale(a: Tensor, product: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of a and scale from sum_j W_ij b_j, which is overwritten."""
    if scale.ndim == 0:
        grad_scale = torch.dot(a.reshape(-1), product.reshape(-1))
        return product.mul_(scale), grad_scale
    grad_scale = (a * product).sum(1)
    return product.mul_(scale[:, None]), grad_scale

"""What all parts of ``pairwise`` share: the logits as one argument, and what precedes a call."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._dtypes import as_multiplied, computed_dtype
from ..._register import grouping
from ..._seam import _C, CODE, rounds, threads, unit_stride, view, workspace

__all__ = [
    "LOGITS",
    "LeftOut",
    "Logits",
    "constant",
    "inner",
    "keeping",
    "largest_one",
    "logaddexp",
    "multiplied",
    "number_of_kept",
    "of_logits",
    "pair_ids",
    "pair_threads",
    "pair_workspace",
    "through_scale",
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
    limit: 0-dim or (n,), for statistics of a softmax on a CPU, with one scale: pairs with
        a_i . b_j > limit_i are left out as well.
    """

    a: Tensor
    b: Tensor | None
    scale: Tensor
    left_out: LeftOut = ALL_PAIRS
    bias: Tensor | None = None
    limit: Tensor | None = None

    def view(self) -> tuple[Any, ...]:
        """As the core takes it, csrc/pairwise/logits.h."""
        a, b, scale, left_out, bias, limit = self
        return view(a), view(b), view(scale), view(bias), left_out.view(), view(limit)


# Logits without a bias in the schema of an operator, and in the body of one.
LOGITS = (
    "Tensor a, Tensor b, Tensor scale, Tensor? ids_a, Tensor? ids_b, "
    "Tensor? skip_indptr, Tensor? skip_indices, bool skip_self"
)
of_logits = grouping(8, lambda x: Logits(x[0], x[1], x[2], LeftOut._make(x[3:])))


def pair_ids(n: int, device: torch.device) -> Tensor:
    """(2n,) int32: both views of a sample share its number."""
    return torch.arange(n, dtype=torch.int32, device=device).repeat(2)


def pair_threads(a: Tensor, b: Tensor) -> int:
    """CPU threads for the pairs of rows of a and b, both passes together."""
    return threads(4.0 * a.shape[0] * b.shape[0] * a.shape[1])


def pair_workspace(a: Tensor, b: Tensor | None, backward: bool) -> Tensor:
    """The workspace of one call, O((n + m) d): packed operands and statistics."""
    n, d = a.shape
    m = n if b is None else b.shape[0]
    size = _C.pairwise_workspace_size(n, m, d, CODE[a.dtype], b is None, backward)
    return workspace(a, size, computed_dtype(a))


def keeping(*tensors: Tensor) -> bool:
    """Whether the forward pass keeps its products for the backward pass: on a CPU, where there will
    be one.
    """
    on_cpu = tensors[0].device.type == "cpu"
    return on_cpu and torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


def number_of_kept(a: Tensor, keep: bool) -> Tensor:
    """What names those products (`csrc/simd/kept.h`): (1,) int64, or (0,) where none are kept."""
    return a.new_empty(int(keep), dtype=torch.int64)


def multiplied(x: Tensor, half: bool) -> Tensor:
    """Rows as the kernels of the CPU take them: in bfloat16 where it rounds them."""
    return unit_stride(x.bfloat16() if rounds(half, x.dtype) else x)


def constant(x: Tensor, half: bool) -> Tensor:
    """Rows without a gradient as primitives take them. Those in bfloat16 stay so where rows that
    came as bfloat16 (half) are multiplied as such.
    """
    if x.dtype == torch.bfloat16 and half and (x.is_cuda or rounds(half, torch.float32)):
        return x
    return as_multiplied(x.to(computed_dtype(x)), half)


def both_multiplied(x: Logits, half: bool) -> Logits:
    """The logits with rows, and a scale, as the kernels of the CPU take them. The scale multiplies
    the products of rows in bfloat16; those of each row are in the rows themselves then, of a
    softmax. A sigmoid, whose bias keeps nearly all weights small, would lose more than autocast
    does by that (twice the error of the value): its kernels take them, unless one is 0 (see
    `sigmoid.weigh_rows`).
    """
    a, b, scale = x.a, x.b, x.scale
    assert b is not None
    if scale.ndim and rounds(half, a.dtype):
        if x.bias is None:
            a, scale = a * scale[:, None], scale.new_ones(())
        else:
            half = bool(scale.all())
    return x._replace(a=multiplied(a, half), b=multiplied(b, half), scale=scale)


def largest_one(rows: Tensor, *grads: Tensor) -> tuple[Tensor | None, tuple[Tensor, ...]]:
    """Gradients of statistics as the kernels take them. The weights W of rows in bfloat16 are
    rounded, and most of a peaked softmax are the same multiple of one gradient: of 1, which is
    exact, after a division by the largest. That factor, which is left for the result, or None.
    """
    present = [g for g in grads if g.numel()]
    if rows.dtype != torch.bfloat16 or not present:
        return None, tuple(g.contiguous() for g in grads)
    factor = torch.stack([g.abs().max() for g in present]).max()
    factor = torch.where(factor.isfinite() & (factor > 0), factor, 1.0)
    return factor, tuple(g / factor for g in grads)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """The sum of a * b, () in their dtype; row by row, as a dot product in parts of the threads
    would have other bits for another number of them.
    """
    return (a * b).sum(-1).double().sum().to(a.dtype)


def through_scale(a: Tensor, product: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of a and scale from sum_j W_ij b_j, which is overwritten."""
    if scale.ndim == 0:
        grad_scale = inner(a, product)
        return product.mul_(scale), grad_scale
    grad_scale = (a * product).sum(1)
    return product.mul_(scale[:, None]), grad_scale


def logaddexp(a: Tensor, b: Tensor) -> Tensor:
    """logaddexp whose first and second derivatives are 0, not NaN, at -inf."""
    no_a, no_b = torch.isneginf(a), torch.isneginf(b)
    both = torch.logaddexp(torch.where(no_a, 0.0, a), torch.where(no_b, 0.0, b))
    return torch.where(no_b, a, torch.where(no_a, b, both))

"""`basis` on a GPU: narrow blocks by our own kernels, one pass over the rows; wide ones by GEMMs.

A product with a transposed tall matrix has few outputs and many terms: the rows are cut into parts,
multiplied as a batch, and the parts added in float64. Small matrices travel once in each call.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from ..._seam import _C, stream, unit_stride, view

__all__ = ["gram", "multiply_into", "random_into"]

# csrc/basis/cuda/basis.h: blocks of one call, their columns in all (counted in fours), of the other
# side
_TERMS, _TALL, _NARROW = 4, 128, 32
_PARTS = 512  # of the rows in a wide product


def random_into(out: Tensor, first: int, seed: int) -> Tensor:
    _C.cuda_basis_random(view(out), first, seed, stream(out))
    return out


def _fours(columns: int) -> int:
    return 4 * -(-columns // 4)


def gram(blocks: Sequence[Tensor], b: Tensor, exact: bool, weights: Tensor | None) -> Tensor:
    """`basis.gram`, left on the device."""
    (n, q), sizes = b.shape, [block.shape[1] for block in blocks]
    if q > _NARROW >= sum(sizes) and len(blocks) == 1 and _fours(q) <= _TALL:
        return gram([b], blocks[0], exact, weights).T
    groups = _groups(tuple(sizes)) if 0 < q <= _NARROW and n > 0 else None
    if not groups or 0 in sizes:
        return _wide_gram(blocks, b, exact, weights)
    out = b.new_empty(sum(sizes), q, dtype=torch.float64)
    at = 0
    for some in groups:
        rows, p = sum(sizes[some]), sum(map(_fours, sizes[some]))
        work = b.new_empty(_C.cuda_basis_gram_workspace_size(n, p, q), dtype=torch.float64)
        _C.cuda_basis_gram(
            [view(unit_stride(block)) for block in blocks[some]],
            view(unit_stride(b)),
            view(weights),
            view(out if len(groups) == 1 else out[at : at + rows]),
            exact,
            (view(work), stream(b)),
        )
        at += rows
    return out


def _wide_gram(blocks: Sequence[Tensor], b: Tensor, exact: bool, weights: Tensor | None) -> Tensor:
    right = b.double() if exact else b
    left = [right if block is b else block.to(right.dtype) for block in blocks]
    if weights is not None:
        right = right * weights.to(right)[:, None]
    size = max(b.shape[0] // _PARTS, 1)
    whole = b.shape[0] // size * size
    batch, rest = right[:whole].unflatten(0, (-1, size)), right[whole:]
    parts = []
    for block in left:
        part = torch.bmm(block[:whole].unflatten(0, (-1, size)).mT, batch)
        part = part.sum(0, dtype=torch.float64)
        parts.append(part.add_(block[whole:].T @ rest) if len(rest) else part)
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def multiply_into(out: Tensor, blocks: Sequence[Tensor], c: Tensor, beta: float) -> Tensor:
    """`basis.multiply_into`; `out` may be any V of four blocks, or the only one that is wide."""
    sizes = [v.shape[1] for v in blocks]
    if 0 in sizes:
        blocks, sizes = [v for v in blocks if v.shape[1]], [m for m in sizes if m]
    if not blocks:
        return out.mul_(beta) if beta else out.zero_()
    small = c.to(out.device, out.dtype, non_blocking=True).contiguous()  # one transfer
    groups = _groups(tuple(sizes)) if 0 < out.shape[1] <= _NARROW and out.stride(1) == 1 else None
    if groups and not _overlap(out, blocks[groups[0].stop :]):
        at = 0
        for some in groups:
            rows = sum(sizes[some])
            factors = small if len(groups) == 1 else small[at : at + rows]
            _C.cuda_basis_combine(
                view(out),
                [view(unit_stride(v)) for v in blocks[some]],
                view(factors),
                beta,
                stream(out),
            )
            at, beta = at + rows, 1.0
        return out
    factors = small.split(sizes)
    total = torch.empty_like(out) if _overlap(out, blocks) else out
    if beta:
        torch.addmm(out, blocks[0], factors[0], beta=beta, out=total)
    else:
        torch.mm(blocks[0], factors[0], out=total)
    for v, factor in zip(blocks[1:], factors[1:], strict=True):
        total.addmm_(v, factor)
    return out if total is out else out.copy_(total)


def _overlap(out: Tensor, blocks: Sequence[Tensor]) -> bool:
    """Whether one of the blocks may lie in the memory of `out`."""
    store = out.untyped_storage().data_ptr()
    return any(v.untyped_storage().data_ptr() == store for v in blocks)


@lru_cache  # a run asks for few combinations, again and again
def _groups(sizes: tuple[int, ...]) -> list[slice] | None:
    """Blocks of so many columns in order, as many in a call as it takes; None: one is too wide."""
    starts: list[int] = []
    room = 0
    for i, size in enumerate(map(_fours, sizes)):
        if size > _TALL:
            return None
        if not starts or i - starts[-1] == _TERMS or size > room:
            starts.append(i)
            room = _TALL
        room -= size
    return [slice(*ends) for ends in pairwise([*starts, len(sizes)])]

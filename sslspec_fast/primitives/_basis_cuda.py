"""`basis` on a GPU: narrow blocks by our own kernels, one pass over the rows; wide ones by GEMMs.

A product with a transposed tall matrix has few outputs and many terms: the rows are cut into parts,
multiplied as a batch, and the parts added in float64. Small matrices travel once in each call.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._seam import _C, stream, unit_stride, view

__all__ = ["combine_into", "gram", "random_into"]

# csrc/cuda/basis.h: blocks of one call, their columns in all (counted in fours), of the other side
_TERMS, _TALL, _NARROW = 4, 128, 32
_PARTS = 512  # of the rows in a wide product


def random_into(out: Tensor, seed: int) -> Tensor:
    _C.cuda_basis_random(view(out), seed, stream(out))
    return out


def _fours(block: Tensor) -> int:
    return 4 * -(-block.shape[1] // 4)


def gram(blocks: Sequence[Tensor], b: Tensor, exact: bool, weights: Tensor | None) -> Tensor:
    """`basis.gram`, left on the device."""
    (n, q), rows = b.shape, sum(block.shape[1] for block in blocks)
    p = sum(map(_fours, blocks))
    if q > _NARROW >= rows and len(blocks) == 1 and _fours(b) <= _TALL:
        return gram([b], blocks[0], exact, weights).T
    if not (len(blocks) <= _TERMS and 0 < p <= _TALL and 0 < q <= _NARROW and n > 0):
        return _wide_gram(blocks, b, exact, weights)
    out = b.new_empty(rows, q, dtype=torch.float64)
    work = b.new_empty(_C.cuda_basis_gram_workspace_size(n, p, q), dtype=torch.float64)
    _C.cuda_basis_gram(
        [view(unit_stride(block)) for block in blocks], view(unit_stride(b)), view(weights),
        view(out), view(work), exact, stream(b),
    )  # fmt: skip
    return out


def _wide_gram(
    blocks: Sequence[Tensor], b: Tensor, exact: bool, weights: Tensor | None
) -> Tensor:  # fmt: skip
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


def combine_into(out: Tensor, terms: Sequence[tuple[Tensor, Tensor]], beta: float) -> Tensor:
    """`basis.combine_into`; `out` may be any V of four terms, or the only one that is wide."""
    terms = [(v, c) for v, c in terms if v.shape[1]]
    if not terms:
        return out.mul_(beta) if beta else out.zero_()
    small = torch.cat([c for _, c in terms]).to(out.dtype)
    small = small.to(out.device, non_blocking=True)  # one transfer
    blocks = [unit_stride(v) for v, _ in terms]
    groups = _groups(blocks) if 0 < out.shape[1] <= _NARROW and out.stride(1) == 1 else None
    store = out.untyped_storage().data_ptr()
    shared = [v.untyped_storage().data_ptr() == store for v in blocks]
    if groups and not any(shared[len(groups[0]) :]):
        at = 0
        for some in groups:
            rows = sum(v.shape[1] for v in some)
            factors = small[at : at + rows]
            _C.cuda_basis_combine(
                view(out), [view(v) for v in some], view(factors), beta, stream(out)
            )
            at, beta = at + rows, 1.0
        return out
    factors = small.split([v.shape[1] for v in blocks])
    total = torch.empty_like(out) if any(shared) else out
    if beta:
        torch.addmm(out, blocks[0], factors[0], beta=beta, out=total)
    else:
        torch.mm(blocks[0], factors[0], out=total)
    for v, c in zip(blocks[1:], factors[1:], strict=True):
        total.addmm_(v, c)
    return out if total is out else out.copy_(total)


def _groups(blocks: list[Tensor]) -> list[list[Tensor]] | None:
    """The blocks in order, as many in a call as it takes; None where one is too wide."""
    groups: list[list[Tensor]] = []
    room = 0
    for block in blocks:
        if _fours(block) > _TALL:
            return None
        if not groups or len(groups[-1]) == _TERMS or _fours(block) > room:
            groups.append([])
            room = _TALL
        groups[-1].append(block)
        room -= _fours(block)
    return groups

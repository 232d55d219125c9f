"""One sign for each eigenvector: its entry of largest magnitude is positive."""

from __future__ import annotations

import torch
from torch import Tensor

from ...primitives.spread import current, first_found, highest

__all__ = ["canonical_signs"]

_SIGN_ROWS = 64
_PIECE = 1 << 17  # entries whose magnitudes are held at once, in the cache


def canonical_signs(vectors: Tensor) -> Tensor:
    """Entry of largest magnitude positive; the lowest row within a tie of 1e-6. In place.

    vectors: (n, k), or this rank's rows of them.
    """
    n, k = vectors.shape
    if k == 0 or (n == 0 and current() is None):
        return vectors
    # largest entries of blocks of rows first: one pass over the vectors, then one block a column
    whole = n // _SIGN_ROWS * _SIGN_ROWS
    some = max(_PIECE // (_SIGN_ROWS * k), 1) * _SIGN_ROWS
    blocks = torch.cat([_largest(piece, k) for piece in vectors[:whole].split(some)])
    if whole < n:
        blocks = torch.cat([blocks, vectors[whole:].abs().amax(0, keepdim=True)])
    if n == 0:
        blocks = vectors.new_zeros(1, k)
    tie = highest(blocks.amax(0)) * (1 - 1e-6)
    large = blocks >= tie
    if n == 0:
        entry = vectors.new_zeros(k)
    else:
        first = large.to(torch.int8).argmax(0)
        rows = first * _SIGN_ROWS + torch.arange(_SIGN_ROWS, device=vectors.device)[:, None]
        entries = vectors.gather(0, rows.clamp_max(n - 1))
        pivot = (entries.abs() >= tie).to(torch.int8).argmax(0, keepdim=True)
        entry = entries.gather(0, pivot)[0]
    sign = torch.sign(first_found(large.any(0), entry))
    return vectors.mul_(torch.where(sign == 0, torch.ones_like(sign), sign))


def _largest(rows: Tensor, k: int) -> Tensor:
    """Largest magnitudes of each block of _SIGN_ROWS rows, by halves: torch is slow at short
    reductions.
    """
    blocks = rows.reshape(-1, _SIGN_ROWS * k).abs()
    while blocks.shape[1] > k:
        blocks = torch.maximum(*blocks.chunk(2, 1))
    return blocks

"""Library GEMMs of ``gram`` and ``spectral_contrastive`` on a GPU, on the cheaper side.

Neither the (d, d) nor the (n, n) matrices are kept: a strip of at most 64 MiB is made, reduced, and
multiplied at once for the gradient. A strip of a few hundred columns keeps a tuned GEMM busy. On
compute capability 9.0 symmetric matrices of bfloat16 factors that fit one strip come from half of
their tiles (csrc/gram/cuda/hopper), in place of that GEMM and the pass over it. The matrices of two
operands are one batch. Values are added up in float64, products follow
``torch.get_float32_matmul_precision()``, or are those of bfloat16 factors with float32 sums.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._dtypes import computed_dtype
from ..._seam import _C, stream, view
from .._matmul import add_mm_float32, mm_float32, mm_float32_into

__all__ = ["BLOCK", "ROWS", "GramLoss", "StripProducts", "blocks"]

BLOCK, ROWS = 32, 8  # kGramBlock, kGramRows of csrc/gram/cuda/gram.h
_STRIP_BYTES = 64 << 20
_TILES = 256  # what keeps a GPU busy


def blocks(size: int, block: int) -> int:
    return -(-size // block)


class GramLoss(NamedTuple):
    """What the last block of the last strip adds up, GramLoss of csrc/gram/cuda/gram.h."""

    pairs: int  # of terms
    subtracted: int
    normalizers: tuple[float, float, float]
    weights: tuple[float, float, float]
    total: Tensor  # (), out
    terms: Tensor  # (3,), out

    def view(self) -> tuple[Any, ...]:
        return *self[:4], view(self.total), view(self.terms)


_NO_LOSS = (0, 0, (), (), None, None)
_NO_DIAGONAL = (None, None, 0)


class StripProducts:
    """The two GEMMs around a strip of the matrices of F (and G), (n, d) each.

    Args:
        columns: the matrices are (d, d), of the columns: F^T F and G^T G; otherwise (n, n), of the
            rows: F F^T and G G^T.
        mixed: one matrix instead, F^T G or F G^T.
        cross: value = the product of both matrices; each gradient is that of the other operand's
            matrix. Otherwise, and if mixed: the squared norm of every matrix.
        masked: without the diagonal.
        triangle: of ``cuda_gram_triangle_slots``: where it is not 0, that kernel makes the whole
            matrices, which are neither crossed nor mixed.
    """

    def __init__(
        self,
        n: int,
        d: int,
        operands: int,
        *,
        columns: bool,
        mixed: bool,
        cross: bool,
        masked: bool,
        triangle: int = 0,
    ) -> None:
        self.n, self.operands, self.triangle = n, operands, triangle
        self.columns, self.mixed, self.cross, self.masked = columns, mixed, cross, masked
        self.rows, self.chunks = n, 1  # rows of the factors, those from n on are zero
        if triangle:
            self.strips: list[slice] = []
            self.slots = [triangle]
            return
        batch = 1 if mixed else operands
        tiles = batch * blocks(d, 128) ** 2
        if columns and tiles < _TILES and n >= 2048:
            # a few tiles of long sums would leave the GPU idle: the sums are cut and added later
            self.chunks = min(_TILES // tiles, n // 1024, 16)
            self.rows = self.chunks * blocks(n, 64 * self.chunks) * 64
        side = d if columns else n
        width = max(128, _STRIP_BYTES // (4 * side) // 128 * 128)
        self.strips = [slice(i, min(i + width, side)) for i in range(0, side, width)]
        upright = columns or mixed  # strips of columns of the matrix, otherwise of its rows
        sizes = [side if upright else strip.stop - strip.start for strip in self.strips]
        self.slots = [blocks(size, ROWS) * (1 if cross else batch) for size in sizes]

    @property
    def whole(self) -> bool:
        """Whether the matrices are made at once, of factors that are not cut."""
        return self._single and self.rows == self.n

    @property
    def _single(self) -> bool:
        return (bool(self.triangle) or len(self.strips) == 1) and not self.mixed

    def sums(self, like: Tensor, before: int) -> Tensor:
        """A counter, `before` numbers that other kernels write, and slots of squared products."""
        return like.new_empty(1 + before + sum(self.slots), dtype=torch.float64)

    def run(
        self,
        factors: Tensor,
        sums: Tensor,
        wants: tuple[bool, bool],
        loss: GramLoss,
        diagonal: tuple[Any, Any, int] = _NO_DIAGONAL,
    ) -> Tensor:
        """(wanted, n, d): what the gradients need, F F^T F of either operand, or if it is crossed
        or mixed G G^T F and F F^T G; without what is masked. The loss is made on the way.

        Args:
            diagonal: GramDiagonal of csrc/gram/cuda/gram.h, where one is subtracted.
        """
        wanted = [o for o in range(self.operands) if wants[o]]
        slot, total = self._first_slot(sums), loss.view()
        if self.triangle or (wanted and self._single):
            matrix = self.matrices(factors, sums, loss, diagonal)
            if wanted:  # as the GEMM returns it
                return self._gradients(factors, matrix, wanted)
        shape, kind = (len(wanted), self.n, factors.shape[2]), computed_dtype(factors)
        gradients = factors.new_empty(shape, dtype=kind)
        for strip, slots in zip(self.strips, self.slots, strict=True):
            first, last = strip is self.strips[0], strip is self.strips[-1]
            subtracted, added = diagonal if first else _NO_DIAGONAL, total if last else _NO_LOSS
            matrix = self._matrix(factors, strip, sums, slot, subtracted, added)
            slot += slots
            if wanted and self.mixed:
                self._mixed_gradients(factors, matrix[0], strip, gradients, wanted)
            elif wanted:
                part = (..., strip) if self.columns else (slice(None), strip)
                gradients[part] = self._gradients(factors, matrix, wanted)
        return gradients

    def _first_slot(self, sums: Tensor) -> int:
        return sums.shape[0] - sum(self.slots)

    def matrices(
        self,
        factors: Tensor,
        sums: Tensor,
        loss: GramLoss,
        diagonal: tuple[Any, Any, int],
        room: Tensor | None = None,
    ) -> Tensor:
        """The whole matrices for the next GEMM, where they are made at once; values go to `sums`.

        Args:
            room: memory in the dtype of the factors, at least as large.
        """
        slot, side, out = self._first_slot(sums), factors.shape[2 if self.columns else 1], None
        if room is not None:
            out = room.flatten()[: self.operands * side * side].view(self.operands, side, side)
        if self.triangle:
            return self._triangle(factors, sums, slot, diagonal, loss.view(), out)
        return self._matrix(factors, self.strips[0], sums, slot, diagonal, loss.view(), out)

    def _matrix(
        self,
        factors: Tensor,
        strip: slice,
        sums: Tensor,
        slot: int,
        diagonal: tuple[Any, Any, int],
        loss: tuple[Any, ...],
        out: Tensor | None = None,
    ) -> Tensor:
        """A strip of the matrices for the next GEMM, in place if it can be; its values go to
        `sums`.
        """
        product = self._product(factors, strip)
        m, chunks, r, c = product.shape
        if out is None and factors.dtype == product.dtype and chunks == 1:
            out = product[:, 0]
        elif out is None:
            out = product.new_empty((m, r, c), dtype=factors.dtype)
        how = self.cross and not self.mixed, self.masked, -strip.start, slot
        _C.cuda_gram_square(
            view(product), how, view(out), view(sums), diagonal, loss, stream(product)
        )
        return out

    def _triangle(
        self,
        factors: Tensor,
        sums: Tensor,
        slot: int,
        diagonal: tuple[Any, Any, int],
        loss: tuple[Any, ...],
        out: Tensor | None,
    ) -> Tensor:
        """The same from half the products."""
        if out is None:
            side = factors.shape[2 if self.columns else 1]
            out = factors.new_empty((self.operands, side, side))
        _C.cuda_gram_triangle(
            view(factors),
            (self.columns, self.masked, slot),
            view(out),
            view(sums),
            diagonal,
            loss,
            stream(factors),
        )
        return out

    def _gradients(self, factors: Tensor, matrix: Tensor, wanted: list[int]) -> Tensor:
        if len(wanted) < self.operands:
            only = slice(wanted[0], wanted[0] + 1)
            matrix, factors = matrix[only], factors[only]
        if not self.columns:
            return mm_float32(matrix, factors)
        return mm_float32(factors if self.rows == self.n else factors[:, : self.n], matrix)

    def _product(self, factors: Tensor, strip: slice) -> Tensor:
        """(matrices, chunks, r, c): columns of the matrices, or rows of F F^T."""
        whole = len(self.strips) == 1
        left, right = (factors[:1], factors[1:]) if self.mixed else (factors, factors)
        if self.columns:
            if self.chunks > 1:
                left, right = (
                    t.unflatten(1, (self.chunks, -1)).flatten(0, 1) for t in (left, right)
                )
            out = mm_float32(left.mT, right if whole else right[:, :, strip])
            return out.unflatten(0, (-1, self.chunks))
        if self.mixed:
            return mm_float32(left, (right if whole else right[:, strip]).mT)[:, None]
        return mm_float32(left if whole else left[:, strip], right.mT)[:, None]

    def _mixed_gradients(
        self, factors: Tensor, c: Tensor, strip: slice, gradients: Tensor, wanted: list[int]
    ) -> None:
        f, g = factors[:, : self.n]
        part = g[:, strip] if self.columns else g[strip]
        if 0 in wanted:
            a, b = (part, c.mT) if self.columns else (c, part)
            if strip.start == 0:
                mm_float32_into(a, b, gradients[0])
            else:
                add_mm_float32(gradients[0], a, b)
        if 1 not in wanted:
            return
        if not self.columns:
            mm_float32_into(c.mT, f, gradients[-1, strip])
        elif len(self.strips) == 1:
            mm_float32_into(f, c, gradients[-1])
        else:
            gradients[-1][:, strip] = mm_float32(f, c)

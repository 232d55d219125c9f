r"""Log-sum-exps of the logits between the rows of this rank and those of all ranks.

.. math::
    r_i = \log \sum_{k:\, id_k \ne id_i} e^{c_i\, a_i \cdot b_k}, \qquad
    q_k = \log \sum_{i:\, id_i \ne id_k} e^{c\, a_i \cdot b_k}.

Rows b are gathered; r is complete on the rank of i, and what a rank finds about columns is sent to
their owner: a number per column forward, the gradient of b backward. Where b is a
(`self_log_sum_exp`), every rank makes the whole gradient of its own rows instead,
:math:`\bar u_i = c \sum_k (\bar r_i e^{s_{ik} - r_i} + \bar r_k e^{s_{ik} - r_k}) u_k`, and only
rows and two numbers per row travel. Operations on rank r: 2 n_r N d forward, 4 n_r N d backward, or
6 in the general case.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...._dtypes import as_multiplied, multiplies_half
from ....primitives.pairwise import LeftOut, Logits
from ....primitives.pairwise.blocks import lse_block, lse_block_gradients
from ....ranks import Ranks
from ....ranks.agreement import sample_ids
from ....ranks.differentiable import scatter_logsumexp, scatter_sum, start_gather
from ....ranks.pieces import Piece, gathered_pieces, pieces_of
from ....ranks.value_and_grad import refuse_second_derivative

Pattern = tuple[Tensor, Tensor]  # of pairs in compressed rows, int64
Skip = Callable[[Tensor, Tensor, Piece], Pattern]


class Columns:
    """The rows of all ranks as columns of the logits.

    Args:
        ranks: counts of the rows.
        samples, views: the ids where none are given, see `sample_ids`.
        half: the rows are multiplied in bfloat16 where the device does, and sent so by a GPU.
        as_given: they are the caller's own rows, which a CPU sends in bfloat16 too.
        ids: (rows of this rank,) and (columns of all ranks,) int32; pairs with equal ids are left
            out.
        skip: of rows, of the columns of a piece and of that piece, further pairs to leave out.
    """

    def __init__(
        self,
        ranks: Ranks,
        samples: Ranks,
        views: int,
        half: bool,
        *,
        ids: tuple[Tensor, Tensor] | None = None,
        skip: Skip | None = None,
        as_given: bool = False,
    ) -> None:
        self.ranks, self.samples, self.views, self.half = ranks, samples, views, half
        self.as_given = as_given
        self.given_ids, self.skip = ids, skip

    def pieces(self, b: Tensor) -> list[Piece]:
        gradient = b.element_size()
        return pieces_of(self.ranks, b.shape[1] * ((2 if self._narrow(b) else gradient) + gradient))

    def _narrow(self, b: Tensor) -> bool:
        return multiplies_half(b, self.half) or (self.half and self.as_given)

    def ids(self, piece: Piece, device: torch.device) -> Tensor:
        if self.given_ids is not None:
            first = zip(self.ranks.offsets, piece.parts, strict=True)
            every = self.given_ids[1]
            return torch.cat([every[at + p.start : at + p.stop] for at, p in first])
        parts = tuple((part.start, part.stop) for part in piece.parts)
        return sample_ids(self.samples.counts, parts, self.views, device)

    def own_ids(self, a: Tensor) -> Tensor:
        """Of the rows a of this rank, blocks of one row for each of its samples."""
        if self.given_ids is not None:
            return self.given_ids[0]
        here = self.samples.here
        ids = torch.arange(here.start, here.stop, dtype=torch.int32, device=a.device)
        return ids.repeat(a.shape[0] // ids.shape[0]) if ids.shape[0] else ids

    def logits(
        self, left: Tensor, right: Tensor, scale: Tensor, ids: Tensor, piece: Piece
    ) -> Logits:
        """Of rows with these ids against the columns of a piece."""
        return Logits(left, right, scale, self.left_out(left, right, ids, piece))

    def left_out(self, left: Tensor, right: Tensor, ids: Tensor, piece: Piece) -> LeftOut:
        """Of the pairs of rows with these ids and the columns of a piece."""
        pattern = () if self.skip is None else self.skip(left, right, piece)
        return LeftOut(ids, self.ids(piece, left.device), *pattern)

    def sent(self, b: Tensor) -> Tensor:
        return b.bfloat16() if self._narrow(b) else b

    def multiplied(self, x: Tensor) -> Tensor:
        return as_multiplied(x, self.half)


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, scale: Tensor, ids: Tensor, columns: Columns, cols: bool
    ) -> tuple[Tensor, Tensor]:
        pieces = columns.pieces(b)
        left, half = columns.multiplied(a), columns.half
        row = a.new_full(a.shape[:1], -torch.inf)
        col = b.new_empty(b.shape[0] if cols else 0)
        kept = None
        for piece, every in gathered_pieces(columns.sent(b), pieces):
            right = columns.multiplied(every)
            logits = columns.logits(left, right, scale, ids, piece)
            found, by_col = lse_block(logits, cols=cols, half=half)
            row = found if len(pieces) == 1 else torch.logaddexp(row, found)
            if cols:
                col[piece.own] = scatter_logsumexp(by_col, piece.ranks)
            kept = right if len(pieces) == 1 else None
        ctx.columns, ctx.cols, ctx.parts = columns, cols, pieces
        ctx.mark_non_differentiable(*(() if cols else (col,)))
        ctx.save_for_backward(a, b, scale, ids, row, col, kept)
        return row, col

    @staticmethod
    @refuse_second_derivative
    def backward(ctx: Any, grad_row: Tensor, grad_col: Tensor) -> tuple[Tensor | None, ...]:
        a, b, scale, ids, row, col, kept = ctx.saved_tensors
        columns, cols = ctx.columns, ctx.cols
        want_b = ctx.needs_input_grad[1]
        left, half = columns.multiplied(a), columns.half
        grad_a, grad_b, grad_scale = (
            torch.zeros_like(a),
            torch.empty_like(b),
            torch.zeros_like(scale),
        )
        stats = torch.stack([col, grad_col], 1) if cols else None
        found = [(ctx.parts[0], kept)] if kept is not None else None
        for piece, every in found or gathered_pieces(columns.sent(b), ctx.parts):
            of_columns = None
            if stats is not None:
                q, g = _gathered(stats, piece)
                of_columns = (q, g)
            part = lse_block_gradients(
                columns.logits(left, columns.multiplied(every), scale, ids, piece),
                (row, grad_row),
                of_columns,
                want_b=want_b,
                half=half,
            )
            grad_a, grad_scale = grad_a + part.a, grad_scale + part.scale
            if want_b:
                grad_b[piece.own] = scatter_sum(part.b, piece.ranks)
        return grad_a, grad_b if want_b else None, grad_scale, None, None, None


class _SelfLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, scale: Tensor, ids: Tensor, columns: Columns) -> Tensor:
        pieces = columns.pieces(u)
        left = columns.multiplied(u)
        lse = u.new_full(u.shape[:1], -torch.inf)
        kept = None
        for piece, every in gathered_pieces(columns.sent(u), pieces):
            right = columns.multiplied(every)
            logits = columns.logits(left, right, scale, ids, piece)
            found, _ = lse_block(logits, cols=False, half=columns.half)
            lse = found if len(pieces) == 1 else torch.logaddexp(lse, found)
            kept = right if len(pieces) == 1 else None
        ctx.columns, ctx.parts = columns, pieces
        ctx.save_for_backward(u, scale, ids, lse, kept)
        return lse

    @staticmethod
    @refuse_second_derivative
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        u, scale, ids, lse, kept = ctx.saved_tensors
        columns = ctx.columns
        left = columns.multiplied(u)
        grad_u, grad_scale = torch.zeros_like(u), torch.zeros_like(scale)
        stats = torch.stack([lse, grad], 1)
        found = [(ctx.parts[0], kept)] if kept is not None else None
        for piece, every in found or gathered_pieces(columns.sent(u), ctx.parts):
            q, g = _gathered(stats, piece)
            part = lse_block_gradients(
                columns.logits(left, columns.multiplied(every), scale, ids, piece),
                (lse, grad),
                (q, g),
                want_b=False,
                half=columns.half,
            )
            grad_u, grad_scale = grad_u + part.a, grad_scale + part.scale
        return grad_u, 0.5 * grad_scale, None, None  # every pair was seen from both of its ends


def _gathered(stats: Tensor, piece: Piece) -> tuple[Tensor, Tensor]:
    """The two columns of (rows, 2) statistics, of the piece's rows of all ranks."""
    every = start_gather(stats[piece.own], piece.ranks)()
    return every[:, 0].contiguous(), every[:, 1].contiguous()


def log_sum_exp(
    a: Tensor, b: Tensor, scale: Tensor, columns: Columns, *, cols: bool = False
) -> tuple[Tensor, Tensor]:
    """Row log-sum-exps of the rows a of this rank against the rows b of all ranks, and those of the
    rows b of this rank as columns; pairs of one sample are left out.

    Args:
        a: (k n_r, d), k blocks of one row for each sample; b: (m_r, d).
        scale: 0-dim or, without cols, one per row of a.
        columns: the rows b of all ranks.
        cols: also return the column statistics.
    """
    ids = columns.own_ids(a)
    row, col = _LogSumExp.apply(a, b, scale.contiguous(), ids, columns, cols)
    return row, col


def self_log_sum_exp(u: Tensor, scale: Tensor, columns: Columns) -> Tensor:
    """Log-sum-exps of the rows u of this rank against those of all ranks, of other samples only.

    scale: 0-dim, or one per row, for which a gradient per column has to travel. What `columns`
    leaves out is symmetric.
    """
    if scale.dim():
        return log_sum_exp(u, u, scale, columns)[0]
    out: Tensor = _SelfLogSumExp.apply(u, scale, columns.own_ids(u), columns)
    return out

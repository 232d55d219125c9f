"""The partners of a row in a graph over ranks: left out of all rows as columns, and by themselves
as entries of this rank's rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ....graph.over_ranks import partition
from ....graph.pair_graph import PairGraph
from ....primitives.sparse.csr import Csr
from ....ranks import gather_rows
from ....ranks.pieces import Piece
from ..._common import row_ids
from .._form import Problem
from ..sums.log_sum_exp import Columns, Pattern

__all__ = ["by_ids", "entries", "no_partners", "without_partners"]


def by_ids(p: Problem, ids: Tensor, half: bool) -> Columns:
    """All rows as columns, without those of the id of a row."""
    ids = row_ids(ids)
    return Columns(p.ranks, p.ranks, 1, half, ids=(ids, gather_rows(ids, p.ranks)))


def without_partners(
    p: Problem, graph: PairGraph, half: bool, ids: Tensor | None = None
) -> Columns:
    """All rows as columns, without those that the graph joins with a row, and the row itself."""
    indptr, indices, _ = graph.csr()
    device = indices.device
    columns, first = indices.to(torch.int64), torch.tensor(p.ranks.offsets, device=device)
    rows = torch.repeat_interleave(indptr.diff(), output_size=columns.shape[0])

    def skip(left: Tensor, right: Tensor, piece: Piece) -> Pattern:
        if piece.ranks.counts == p.ranks.counts:
            return indptr, columns
        owner = torch.searchsorted(first, columns, right=True) - 1
        inside, low, high, to = (
            torch.tensor(x, device=device)
            for x in (
                p.ranks.offsets,
                [part.start for part in piece.parts],
                [part.stop for part in piece.parts],
                piece.ranks.offsets,
            )
        )
        local = columns - inside[owner]
        kept = (local >= low[owner]) & (local < high[owner])
        counts = torch.bincount(rows[kept], minlength=left.shape[0])
        starts = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        return starts, (local - low[owner] + to[owner])[kept]

    given = None
    if ids is not None:
        ids = row_ids(ids)
        given = ids, gather_rows(ids, p.ranks)
    return Columns(p.ranks, p.ranks, 1, half, ids=given, skip=skip)


def no_partners(p: Problem, graph: PairGraph, half: bool) -> Columns:
    """`without_partners`, by ids where the graph consists of cliques: then that is symmetric."""
    cliques = graph.clique_ids
    if cliques is None:
        return without_partners(p, graph, half)
    here = p.ranks.here
    lonely = -1 - torch.arange(here.start, here.stop, device=cliques.device)
    return by_ids(p, torch.where(cliques < 0, lonely, cliques), half)


def entries(graph: PairGraph, y: Tensor) -> tuple[Csr, Tensor]:
    """The stored entries (n_r, n_r + h) of this rank's rows, and what their columns stand for: the
    rows y of this rank and those of other ranks that the entries point to.
    """
    stored = partition(graph)
    return stored.rows(), stored.extended(y)

"""Rows that are spread over the ranks of a process group, and the collectives that losses use.

Rank r holds n_r of the N rows of a batch; n_r may differ and may be 0. Every function of a loss
over ranks returns the value of the global batch. Rank r back-propagates it, and what averages
gradients over ranks (DDP, FSDP) minimises the mean over ranks, so the gradient that a rank gets is
that of the sum of the outputs of all ranks: W times the single-process gradient for rows, the
single-process gradient itself, on every rank, for what all ranks hold a copy of.

`agree` comes first in every call: a few bytes by which the ranks learn each other's counts, and by
which an error or a mismatch on any rank is raised on all of them before any data moves.
"""

from .agreement import (
    ExchangeRefused,
    Ranks,
    agree,
    fail,
    told_to_all,
    without_exchange,
)
from .differentiable import (
    gather_rows,
    reduce_scatter_rows,
    replicated,
    sum_to_rows,
    sum_to_value,
)
from .group import Held, process_group, several, size_of, world, world_of
from .pieces import buffer_bytes, gathered_pieces
from .traffic import bytes_sent
from .value_and_grad import value_and_grad

__all__ = [
    "ExchangeRefused",
    "Held",
    "Ranks",
    "agree",
    "buffer_bytes",
    "bytes_sent",
    "fail",
    "gather_rows",
    "gathered_pieces",
    "process_group",
    "reduce_scatter_rows",
    "replicated",
    "several",
    "size_of",
    "sum_to_rows",
    "sum_to_value",
    "told_to_all",
    "value_and_grad",
    "without_exchange",
    "world",
    "world_of",
]

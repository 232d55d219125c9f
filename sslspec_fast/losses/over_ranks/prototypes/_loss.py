"""What the losses over prototypes have in common over ranks.

Every rank has a copy of the prototypes and the rows of its own samples, with the teachers of its
students. A loss is then a sum over rows, so that numbers travel in place of rows, and the gradient
of the prototypes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....primitives.pairwise.soft import Sides
from ....ranks import Ranks, replicated, sum_to_value
from ....ranks.traffic import all_gather
from ..._common import Terms
from ..._heads import Total, loss_and_terms
from ..._prototypes import Targets
from ..._views import Views, view_list
from .._form import Problem, Result


def copy_of(p: Problem, name: str) -> Tensor | None:
    """A tensor that every rank has a copy of, with the whole gradient on each."""
    value = p.tensors[name]
    return None if value is None else replicated(p.ranks, value)[0]


def total(ranks: Ranks) -> Total:
    """Adds up 0-dim or equal sums over the rows of all ranks, in one exchange."""

    def over(*sums: Tensor) -> tuple[Tensor, ...]:
        return sum_to_value(torch.stack(sums), ranks).unbind()

    return over


def over_columns(ranks: Ranks) -> Any:
    """Column log-sum-exps over the rows of all ranks, with the same bits on each."""

    def over(lse: Tensor) -> Tensor:
        return all_gather(lse, ranks.group).logsumexp(0)

    return over


def loss_of(
    p: Problem,
    sides: Sides,
    graph: Targets,
    reduction: str = "mean",
    weight: Tensor | None = None,
    *,
    skip_self: bool = False,
) -> tuple[Tensor, Terms]:
    """`loss_and_terms` of the rows of all ranks."""
    how: dict[str, Any] = {"skip_self": skip_self, "over": total(p.ranks)}
    return loss_and_terms(sides, graph, reduction, weight, **how)


def with_wanted(p: Problem, loss: Tensor, terms: Terms) -> Result:
    return loss, list(terms.values()) if p.wants_terms else ()


def options_of(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments with numbers that stand for flags and counts as what they are."""
    kinds = {"normalize": bool, "iterations": int}
    return {k: kinds[k](v) if k in kinds else v for k, v in arguments.items()}


def by_sample(op: str, name: str, views: Views) -> Tensor:
    """(n, views, d)"""
    return torch.stack(view_list(op, name, views, min_rows=0), 1)


def by_view(x: Tensor | None) -> Tensor | None:
    """(views, n, d) of (n, views, d)."""
    return None if x is None else x.transpose(0, 1)


def scalar(like: Tensor, value: float) -> Tensor:
    return torch.full((), value, dtype=like.dtype, device=like.device)


def detached(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.detach()

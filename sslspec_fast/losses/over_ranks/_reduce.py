"""Means and sums of rows that are spread over ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from ...ranks import replicated, sum_to_value
from ._form import Problem, Result


def reduce_rows(problem: Problem, rows: Tensor, weight: Tensor | None) -> Tensor:
    """`reduce_rows` of the rows of all ranks. rows: (..., n_r); weight: (n_r,) or None."""
    if weight is not None:
        rows = rows * weight
    if problem.reduction == "none":
        return rows.reshape(-1)
    total = sum_to_value(rows.sum(), problem.ranks)
    if problem.reduction == "sum":
        return total
    if weight is None:
        return total / (rows.shape[:-1].numel() * problem.ranks.n)
    return total / sum_to_value(weight.expand_as(rows).sum(), problem.ranks)


def check_weight(problem: Problem, weight: Tensor | None, name: str = "sample_weight") -> None:
    """A mean needs a positive sum of weights over all ranks; looked at where that waits for
    nothing, and with the same outcome on all ranks.
    """
    if weight is None or problem.reduction != "mean" or weight.device.type != "cpu":
        return
    if float(sum_to_value(weight.detach().sum(), problem.ranks)) == 0:
        raise ValueError(
            f"{problem.op}: {name} must have a positive sum over all ranks for "
            "reduction='mean', got 0"
        )


def scale_of(problem: Problem, name: str) -> Tensor:
    """A scale or temperature: 0-dim with the gradient of a replicated one, or one per row."""
    value = problem.rows(name)
    return value if value.dim() else replicated(problem.ranks, value)[0]


def result(problem: Problem, loss: Tensor, positive: Tensor, weight: Tensor | None) -> Result:
    """The loss with the terms of a softmax loss: alignment, of minus the positive logits, and
    uniformity, the rest.
    """
    if not problem.wants_terms:
        return loss, ()
    with torch.no_grad():
        alignment = reduce_rows(problem, -positive.detach(), weight)
    return loss, (alignment, loss.detach() - alignment)

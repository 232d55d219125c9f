"""The losses of rows, or their weighted mean or sum."""

from __future__ import annotations

from torch import Tensor

__all__ = ["reduce_rows"]


def reduce_rows(rows: Tensor, reduction: str, weight: Tensor | None) -> Tensor:
    """Mean is sum of w l / sum of w."""
    if weight is not None:
        rows = rows * weight
    if reduction == "none":
        return rows
    if reduction == "sum":
        return rows.sum()
    return rows.mean() if weight is None else rows.sum() / weight.expand_as(rows).sum()

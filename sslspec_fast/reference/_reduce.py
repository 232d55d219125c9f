"""Mean, weighted mean or sum of the losses of rows: the last line of most references."""

from torch import Tensor


def reduce_rows(rows: Tensor, reduction: str, weight: Tensor | None) -> Tensor:
    """The mean with weights is sum of w l / sum of w."""
    if weight is not None:
        rows = rows * weight
    if reduction == "none":
        return rows
    if reduction == "sum":
        return rows.sum()
    return rows.mean() if weight is None else rows.sum() / weight.sum()

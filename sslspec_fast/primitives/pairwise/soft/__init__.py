"""Rows of a softmax beside targets that are another softmax, without the matrices of either."""

from .cross_entropy import Pairs, Sides, as_columns, soft_rows, soft_total
from .cross_entropy_self import OwnSides
from .mean import mean_softmax

__all__ = [
    "OwnSides",
    "Pairs",
    "Sides",
    "as_columns",
    "mean_softmax",
    "soft_rows",
    "soft_total",
]

"""Sums over all pairs of rows (i, j) without the n x m matrix of logits."""

from .common import LeftOut, Logits
from .filtered import lse_below
from .prefixes import lse_prefixes
from .sigmoid import softplus
from .softmax import lse
from .softmax_self import lse_self
from .value_and_grad import one_positive_total, softplus_total

__all__ = [
    "LeftOut",
    "Logits",
    "lse",
    "lse_below",
    "lse_prefixes",
    "lse_self",
    "one_positive_total",
    "softplus",
    "softplus_total",
]

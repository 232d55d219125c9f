"""``nested=``: a weight for each prefix of the columns of z, for losses and for their optima."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

__all__ = ["Nested", "prefix_weights"]

Nested = bool | Sequence[float]


def prefix_weights(op: str, nested: Nested, width: int) -> list[float] | None:
    """(width,) weights of the prefixes 1 ... width of the columns of z; None without them."""
    if isinstance(nested, bool):
        return [1 / width] * width if nested else None
    if isinstance(nested, (str, Tensor)) or not isinstance(nested, Sequence):
        raise TypeError(
            f"{op}: nested must be True, False or a sequence of numbers, "
            f"got {type(nested).__name__}"
        )
    if len(nested) != width:
        raise ValueError(
            f"{op}: nested must have one weight for each of the {width} columns of z, "
            f"got {len(nested)}"
        )
    weights = [float(c) for c in nested]
    bad = [c for c in weights if not 0 <= c < math.inf]
    if bad or sum(weights) == 0:
        got = bad[0] if bad else "only zeros"
        raise ValueError(f"{op}: nested must be finite and >= 0, not all 0, got {got}")
    return weights

"""The options of InfoNCE on a graph."""

from __future__ import annotations

from .. import _checks as check
from ._softmax import check_softmax


def check_options(
    op: str, negatives: str, ids: object, label_smoothing: float, tau_plus: float
) -> tuple[float, float]:
    """label_smoothing and tau_plus, which only "others" without ids takes."""
    check.choice(op, "negatives", negatives, check.NEGATIVES)
    label_smoothing, tau_plus = check_softmax(op, label_smoothing, tau_plus)
    if (label_smoothing or tau_plus) and (negatives != "others" or ids is not None):
        raise ValueError(
            f"{op}: label_smoothing and tau_plus need negatives='others' and ids=None, "
            f"got negatives={negatives!r} and ids {'given' if ids is not None else 'None'}"
        )
    return label_smoothing, tau_plus

"""What one call of csrc/gram.h computes from its operands, on either device."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["Form"]


class Form(NamedTuple):
    """The arguments of csrc/gram.h under their names there; vectors are (1 or 2, d)."""

    alpha: float
    cross: bool
    off_diagonal: bool
    shift: Tensor | None = None
    scale: Tensor | None = None
    diagonal: Tensor | None = None
    own: Tensor | None = None
    other: Tensor | None = None
    near: float = 0.0
    project: bool = False
    half: bool = False  # on a GPU: products of bfloat16 factors

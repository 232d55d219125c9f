"""A benchmark case, and the inputs of a loss of two views."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as nnf
from torch import Tensor

from .measure import Variant

Inputs = Callable[[str, torch.dtype], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Case:
    """One row of the table. The variant called "fused" is ours; "compiled" ones are derived."""

    family: str
    rows: int
    width: int
    flops: float
    inputs: Inputs
    variants: dict[str, Variant] = field(default_factory=dict)
    compiled: tuple[str, ...] = ("eager",)  # variants that torch.compile gets too
    dtype: torch.dtype = torch.float32
    by_rows: bool = True  # the variants take any first rows of the inputs

    @property
    def name(self) -> str:
        suffix = "" if self.dtype == torch.float32 else f" {str(self.dtype).split('.')[-1]}"
        return f"{self.family} {self.rows}x{self.width}{suffix}"


def pair_inputs(rows: int, width: int, unit: bool = False) -> Inputs:
    """Two views: common signal plus independent noise, so that positives stand out a little."""

    def make(device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(rows * 7919 + width)
        signal, noise1, noise2 = torch.randn(3, rows, width, generator=generator)
        views = [signal + 0.5 * noise for noise in (noise1, noise2)]
        if unit:
            views = [nnf.normalize(view, dim=1) for view in views]
        return tuple(view.to(device, dtype).requires_grad_() for view in views)

    return make

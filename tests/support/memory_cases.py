"""A case of the benchmark that stores a known number of bytes."""

from __future__ import annotations

import torch
from torch import Tensor

from sslspec_fast.bench.case import Case


def known_cases() -> list[Case]:
    def inputs(device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return (torch.ones(8, 1, requires_grad=True),)

    def store(x: Tensor) -> Tensor:
        block = torch.ones(8 * 2**20 if x.shape == (8, 1) else 1)  # 32 MiB
        return x.sum() * block[0]

    return [Case("known", 8, 1, 1.0, inputs, {"fused": store, "eager": store})]

"""The batch of the losses over ranks, what a rank holds of it, and what a case is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor

N = 13
# rows of each rank: even, uneven, with an empty rank
SPLITS = {
    2: ((7, 6), (11, 2), (13, 0)),
    3: ((5, 4, 4), (1, 10, 2), (0, 6, 7)),
    4: ((4, 3, 3, 3), (2, 9, 1, 1), (6, 1, 0, 6)),
}


def batch(d: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """The global batch: the same on every rank."""
    g = torch.Generator().manual_seed(7)
    out = {
        "x1": torch.randn(N, 6, generator=g, dtype=torch.float64),
        "x2": torch.randn(N, 6, generator=g, dtype=torch.float64),
        "weight": torch.rand(N, generator=g, dtype=torch.float64) + 0.1,
        "temperature": torch.rand(N, generator=g, dtype=torch.float64) + 0.3,
        "temperatures": torch.rand(2, N, generator=g, dtype=torch.float64) + 0.3,
        "cotangent": torch.randn(2, N, generator=g, dtype=torch.float64),
        "queue": torch.randn(2 * N + 1, d, generator=g, dtype=torch.float64),
    }
    labels = torch.randint(-1, 4, (N,), generator=g)
    queue_ids = torch.randint(-1, 4, (2 * N + 1,), generator=g)
    weights = torch.rand(N, N, generator=g, dtype=torch.float64) * (
        torch.rand(N, N, generator=g) < 0.25
    )
    weights[3], weights[:, 3] = 0, 0  # a row without an edge
    whole = {"labels": labels, "queue_ids": queue_ids, "directed": weights}
    whole["weights"] = weights + weights.T
    return {**{k: v.to(dtype) for k, v in out.items()}, **whole}


@dataclass(frozen=True)
class Own:
    """What a rank holds of the batch."""

    data: dict[str, Tensor]
    rows: slice = field(default_factory=lambda: slice(None))
    rank: int = 0
    size: int = 1

    def __getitem__(self, name: str) -> Tensor:
        x = self.data[name]
        return x[:, self.rows] if x.shape[0] == 2 else x[self.rows]

    def part(self, name: str) -> Tensor:
        """Of rows that belong to no sample."""
        return self.data[name][self.rank :: self.size]


@dataclass(frozen=True)
class Case:
    """call(z1, z2, scale, bias, own, **keywords): the loss; rows: it has reduction="none"; terms:
    it has return_terms.
    """

    call: Callable[..., Any]
    rows: int = 1
    d: int = 5
    terms: bool = True


def unit(z: Tensor) -> Tensor:
    return nnf.normalize(z, dim=1)

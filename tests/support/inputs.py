"""Inputs that many tests share: golden rows, random rows, graphs."""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor

from sslspec_fast.graph import PairGraph


def golden_rows(n: int, d: int) -> tuple[Tensor, Tensor]:
    """The fp64 inputs on which the values of peer implementations were taken."""
    k = torch.arange(n * d, dtype=torch.float64).view(n, d)
    z1 = torch.sin(0.7 * k + 0.3)
    return z1, z1 + 0.3 * torch.cos(1.3 * k + 0.1)


def golden_labels(n: int) -> Tensor:
    return torch.tensor([0, 0, 1, 1, 2, 2, 3, 0])[:n]


def unit(x: Tensor) -> Tensor:
    return nnf.normalize(x, dim=1)


def unit_unless_half(x: Tensor) -> Tensor:
    """Unit rows; half-precision rows as they are, not to be rounded before the loss."""
    return x if x.dtype in (torch.bfloat16, torch.float16) else unit(x)


def pair_rows(n: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """fp64 rows and a noisy copy of them."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d, generator=g, dtype=torch.float64)
    return z, z + 0.5 * torch.randn(n, d, generator=g, dtype=torch.float64)


def weighted_graph(n: int, seed: int = 0, *, isolated: bool = True) -> PairGraph:
    """A random symmetric graph with weights; its last row has no edge if isolated and n > 2."""
    g = torch.Generator().manual_seed(seed)
    last = n - 1 if isolated and n > 2 else n
    rows = torch.arange(last).repeat_interleave(3)
    cols = (rows + torch.randint(1, max(last, 2), rows.shape, generator=g)) % last
    weights = torch.rand(rows.shape, generator=g, dtype=torch.float64) + 0.1
    keep = rows != cols
    return PairGraph.from_edges(rows[keep], cols[keep], weights[keep], n=n, symmetrize=True)


def directed_graph(n: int) -> PairGraph:
    """Row i has the positive i + 1 with weight 1, and rows below n / 2 also i + 2 with weight 2."""
    rows = torch.arange(n)
    few = rows[: n // 2]
    return PairGraph.from_edges(
        torch.cat([rows, few]),
        torch.cat([(rows + 1) % n, (few + 2) % n]),
        torch.cat([torch.ones(n), 2 * torch.ones(len(few))]).double(),
        n=n,
    )


def labels_of(n: int) -> Tensor:
    """Classes of different sizes, a singleton, and unlabelled rows."""
    y = torch.arange(n) % 5
    y[y == 4] = 1
    if n > 6:
        y[3], y[5], y[6] = 9, -1, -1
    return y


def graphs(n: int) -> dict[str, PairGraph]:
    """One graph of every kind on n rows, n a multiple of 4."""
    views, labels, edges = PairGraph.from_views(n // 2), labels_of(n), weighted_graph(n)
    return {
        "views": views,
        "four views": PairGraph.from_views(n // 4, 4),
        "scaled views": 3.0 * views,
        "labels": PairGraph.from_labels(labels),
        "loops": PairGraph.from_labels(labels, weight="class_size", self_loops=True),
        "edges": edges,
        "directed": directed_graph(n),
        "sum": views + 0.5 * PairGraph.from_labels(labels),
        "sum with edges": views + 0.5 * edges,
    }

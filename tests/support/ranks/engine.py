"""What the ranks do for test_engine.py. Every function takes the group first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import sslspec_fast as sf
import sslspec_fast.functional as F
from sslspec_fast.bench.memory import peak_mib, reset_peak
from sslspec_fast.ranks import (
    Ranks,
    agree,
    bytes_sent,
    gather_rows,
    reduce_scatter_rows,
    replicated,
    sum_to_rows,
    sum_to_value,
)

from .training import COUNTS, Batch

D = torch.float64


def agreed(group: Any, counts: tuple[int, ...]) -> tuple[Any, ...]:
    """What `agree` tells of rows that differ."""
    rank = dist.get_rank(group)
    ranks, (more,) = agree("op", group, {"x": 1}, counts[rank], 10 * rank)
    return ranks.counts, ranks.n, ranks.here, ranks.offsets, more, ranks.rank == rank


def vector_jacobian(group: Any) -> dict[str, float]:
    """Every collective against its definition: the gradient of the sum of all ranks' objectives."""
    size, rank = group.size(), dist.get_rank(group)
    counts = COUNTS[:size]
    ranks = Ranks(group, rank, tuple(counts))
    g = torch.Generator().manual_seed(1)
    own = [torch.randn(n, 3, generator=g, dtype=D) for n in counts]  # of each rank
    wide = [torch.randn(sum(counts), 3, generator=g, dtype=D) for _ in counts]
    factors = [torch.randn(sum(counts), 3, generator=g, dtype=D) for _ in counts]
    parts = [slice(sum(counts[:r]), sum(counts[: r + 1])) for r in range(size)]
    small = [torch.randn(3, generator=g, dtype=D) for _ in counts]

    def of_one(f: Callable[..., Tensor], xs: list[Tensor]) -> Tensor:
        """The gradient of this rank's input where one process plays all ranks."""
        leaves = [x.clone().requires_grad_() for x in xs]
        out: Tensor = torch.autograd.grad(f(leaves), leaves[rank])[0]
        return out

    def of_rank(x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        leaf = x.clone().requires_grad_()
        out: Tensor = torch.autograd.grad(f(leaf), leaf)[0]
        return out

    def apart(got: Tensor, want: Tensor) -> float:
        return float((got - want).abs().sum()) if got.shape == want.shape else float("inf")

    same = small[0]  # a gradient from above that all ranks have
    return {
        "gather_rows": apart(
            of_rank(own[rank], lambda x: (gather_rows(x, ranks) * factors[rank]).sum()),
            of_one(lambda xs: sum((torch.cat(xs) * f).sum() for f in factors), own),
        ),
        "reduce_scatter_rows": apart(
            of_rank(
                wide[rank],
                lambda x: (reduce_scatter_rows(x, ranks) * factors[0][parts[rank]]).sum(),
            ),
            of_one(lambda xs: (sum(xs) * factors[0]).sum(), wide),
        ),
        "sum_to_rows": apart(
            of_rank(small[rank], lambda x: (sum_to_rows(x, ranks) * factors[rank][0]).sum()),
            of_one(lambda xs: sum((sum(xs) * f[0]).sum() for f in factors), small),
        ),
        "sum_to_value": apart(
            of_rank(small[rank], lambda x: (sum_to_value(x, ranks) * same).sum()),
            of_one(lambda xs: size * (sum(xs) * same).sum(), small),
        ),
        "replicated": apart(
            of_rank(same[0], lambda x: replicated(ranks, x)[0] * small[rank][0]),
            sum(x[0] for x in small) / size,
        ),
        "a large sum": apart(
            sum_to_value(torch.full((200_000,), float(rank), dtype=D), ranks)[:1],
            torch.tensor([float(sum(range(size)))], dtype=D),
        ),
    }


def _ring(x: Tensor, group: Any, *steps: int) -> sf.PairGraph:
    """Every row with those so many steps on; for a step of 1, one of a rank's points elsewhere."""
    n, first = len(x), len(x) * dist.get_rank(group)
    at = torch.arange(n).repeat(len(steps))
    step = torch.tensor(steps).repeat_interleave(n)
    return sf.PairGraph.from_edges(at, (first + at + step) % (n * group.size()), n=n, group=group)


K = 7  # prototypes


def _prototypes(x: Tensor) -> Tensor:
    """(K, d) with a gradient."""
    return torch.eye(K, x.shape[1]).requires_grad_()


SENDS: dict[str, Any] = {
    "sup_con": lambda x, y, g: F.sup_con(x, torch.arange(len(x)) % 5, group=g),
    "moco": lambda x, y, g: F.moco(x, y, torch.eye(K, x.shape[1]), group=g),
    "koleo": lambda x, y, g: F.koleo(x, group=g),
    "x_clr": lambda x, y, g: F.x_clr(x, y.detach(), group=g),
    "falcon": lambda x, y, g: F.falcon(x, y, n_codes=32, group=g),
    "dino": lambda x, y, g: F.dino([x, y], [x, y], _prototypes(x), group=g),
    "ibot": lambda x, y, g: F.ibot(
        x, y, torch.ones(len(x), 1, dtype=torch.bool), _prototypes(x), group=g
    ),
    "swav": lambda x, y, g: F.swav([x, y], None, _prototypes(x), group=g),
    "msn": lambda x, y, g: F.msn(x, y, _prototypes(x), group=g),
    "ressl": lambda x, y, g: F.ressl(x, y, torch.eye(K, x.shape[1]), group=g),
    "proto_nce": lambda x, y, g: F.proto_nce(x, _prototypes(x), torch.arange(len(x)) % K, group=g),
    "prototype_cross_entropy": lambda x, y, g: F.prototype_cross_entropy(
        x, y, _prototypes(x), group=g
    ),
    "column_mean": lambda x, y, g: F.column_mean(x.detach(), group=g).sum() + 0 * x.sum(),
    "sigreg": lambda x, y, g: F.sigreg(torch.stack([x, y]), slices=24, seed=0, group=g),
    "sigreg, pairs": lambda x, y, g: F.sigreg(x, slices=None, group=g),
    "dirichlet_energy": lambda x, y, g: F.dirichlet_energy(x, _ring(x, g, 1, -1)),
    "matryoshka": lambda x, y, g: F.matryoshka(
        "clip", x, y, dims=[8, x.shape[1]], logit_scale=2.0, group=g
    ),
    "clip": lambda x, y, g: F.clip(x, y, 2.0, group=g),
    "siglip": lambda x, y, g: F.siglip(x, y, 2.0, -1.0, group=g),
    "info_nce, target": lambda x, y, g: F.info_nce(x, y, target=torch.arange(len(y)), group=g),
    "gram_anchor": lambda x, y, g: F.gram_anchor(x[:, None], y[:, None], group=g),
    "graph_siglip": lambda x, y, g: F.graph_siglip(x, y, _ring(x, g, 1), 2.0, -1.0),
    "graph_info_nce, per positive": lambda x, y, g: F.graph_info_nce(
        x, _ring(x, g, 1), negatives="per_positive"
    ),
}


def sent(group: Any, name: str, d: int) -> tuple[int, int]:
    """Bytes that a rank sends in the forward pass of even batches, and in the backward pass."""
    loss = SENDS.get(name) or (lambda x, y, g: getattr(F, name)(x, y, group=g))
    n = 64
    torch.manual_seed(dist.get_rank(group))
    x, y = (torch.randn(n, d, requires_grad=True) for _ in "ab")
    before = bytes_sent()
    value = loss(x, y, group)
    middle = bytes_sent()
    value.backward()
    return middle - before, bytes_sent() - middle


def peak(group: Any, name: str, rows: int, d: int) -> float:
    """MiB by which the memory of a rank grows over a step, forward and backward."""
    loss = SENDS.get(name) or (lambda x, y, g: getattr(F, name)(x, y, group=g))
    torch.manual_seed(dist.get_rank(group))
    x, y = (torch.randn(rows, d, requires_grad=True) for _ in "ab")
    loss(x[:8].contiguous(), y[:8].contiguous(), group).backward()  # what a first call imports
    before = reset_peak()
    loss(x, y, group).backward()
    return peak_mib() - before


def none_sends_in_backward(group: Any) -> bool:
    batch = Batch(group)
    rows = F.clip(*batch.own, 2.0, reduction="none", group=group)
    before = bytes_sent()
    rows.sum().backward()
    return bytes_sent() > before

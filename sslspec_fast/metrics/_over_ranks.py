"""What the metrics of one batch exchange where its rows are spread over ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..primitives import pairwise
from ..ranks import Ranks, agree, gathered_pieces, sum_to_value
from ..ranks.differentiable import start_gather, sum_over_ranks
from ..ranks.pieces import pieces_of
from ..ranks.traffic import all_gather, broadcast, host_device
from ..ranks.value_and_grad import refuse_second_derivative
from ._neighbours import Others
from ._scatter import Scatter


def _meet(
    op: str, group: Any, options: Mapping[str, object], z: Tensor, least: int, *held: int
) -> tuple[Ranks, list[tuple[int, ...]]]:
    """`agree` on rows z (n_r, d); the ranks must hold at least so many of them together."""
    facts = {"features": z.shape[1], "dtype": z.dtype, "device type": z.device.type, **options}
    ranks, others = agree(op, group, facts, z.shape[0], *held)
    if ranks.n < least:
        rows = "row" if least == 1 else "rows"
        raise ValueError(f"{op}: the ranks must hold at least {least} {rows}, got {ranks.n}")
    return ranks, others


def mean(op: str, group: Any, options: Mapping[str, object], z: Tensor, rows: Tensor) -> Tensor:
    """The mean of one value per row of z over all ranks, differentiable."""
    ranks, _ = _meet(op, group, options, z, 1)
    return sum_to_value(rows.sum(), ranks) / ranks.n


class _FromBothEnds(torch.autograd.Function):
    """Sums over all pairs, of which a rank has taken the derivative at its own end: as every pair
    is seen from both ends with the same weight, the gradient is twice that.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    @refuse_second_derivative
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * grad


def lse_of_pairs(
    op: str, group: Any, options: Mapping[str, object], z: Tensor, u: Tensor, scale: Tensor
) -> tuple[Tensor, int]:
    """Log of the sum over pairs i != k of all N rows of exp(scale u_i . u_k), and N.

    Differentiable; the backward pass sends nothing. u: those of z, unit.
    """
    ranks, _ = _meet(op, group, options, z, 2)
    every = start_gather(u, ranks)()
    ids = torch.arange(ranks.n, dtype=torch.int32, device=u.device)
    rows = u.sum(1)  # of a rank without any: none, but with a gradient
    if u.shape[0]:
        rows, _ = pairwise.lse(u, every, scale, pairwise.LeftOut(ids[ranks.here], ids))
        rows = _FromBothEnds.apply(rows)
    own = rows.detach().max() if u.shape[0] else rows.new_full((), -torch.inf)
    top = all_gather(own, group).max()
    return sum_to_value((rows - top).exp().sum(), ranks).log() + top, ranks.n


def stacked(op: str, group: Any, options: Mapping[str, object], z: Tensor, x: Tensor) -> Tensor:
    """The rows x that every rank has made of its z, below each other."""
    ranks, (counts,) = _meet(op, group, options, z, 1, x.shape[0])
    every: Tensor = start_gather(x, ranks.with_counts(counts))()
    return every


def of_first(value: Tensor, group: Any) -> Tensor:
    """The value that the first rank has found: other processors may round in other ways."""
    return broadcast(value, group)


def count(number: int, group: Any) -> int:
    """The sum over ranks."""
    return int(all_gather(torch.tensor(number, device=host_device(group)), group).sum())


def lidar(op: str, group: Any, z: Tensor, own: Scatter, delta: float, eps: float) -> Tensor:
    """LiDAR of the classes of all ranks."""
    ranks, (classes,) = _meet(op, group, {"delta": delta, "eps": eps}, z, 2, own.classes)
    if sum(classes) < 2:
        raise ValueError(f"{op}: graph must have at least 2 components, got {sum(classes)}")
    whole = summed(own, classes, ranks)
    return of_first(whole.lidar(delta, eps).to(torch.promote_types(z.dtype, torch.float32)), group)


def summed(own: Scatter, classes: tuple[int, ...], ranks: Ranks) -> Scatter:
    """The sum over ranks, the same bits on all."""
    weight = torch.tensor(classes, dtype=torch.float64, device=own.mean.device)
    mean = (all_gather(own.mean, ranks.group) * weight[:, None]).sum(0) / weight.sum()
    both = sum_over_ranks(torch.stack([own.around(mean), own.within]), ranks)
    return Scatter(sum(classes), mean, both[0], both[1])


def others(
    op: str, group: Any, options: Mapping[str, object], z: Tensor, rows: Tensor, labels: Tensor
) -> tuple[Ranks, int, Iterator[Others]]:
    """The ranks of z, the number of rows that are searched, and those of all ranks by pieces."""
    ranks, (counts,) = _meet(op, group, options, z, 1, rows.shape[0])
    searched = ranks.with_counts(counts)

    def pieces() -> Iterator[Others]:
        cut = pieces_of(searched, rows.shape[1] * rows.element_size() + 8)
        for piece, found in gathered_pieces(rows, cut):
            theirs = start_gather(labels[piece.own], piece.ranks)()
            yield Others(found, theirs, piece.own, piece.ranks.here.start)

    return ranks, searched.n, pieces()

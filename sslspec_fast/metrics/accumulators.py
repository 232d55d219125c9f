"""Metrics of an epoch: ``update`` for every batch, ``compute`` at the end, ``reset``.

With a ``group``, ``update`` sends nothing, so the ranks may see different numbers of batches, none
included, and ``compute`` must be called on all of them: it returns on every rank what one process
would that had been given the batches of all ranks.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .. import _checks as check
from .._dtypes import widen
from ..graph.pair_graph import PairGraph
from ..ranks import Ranks, agree, several
from ..ranks.differentiable import sum_over_ranks
from ..ranks.traffic import all_gather, host_device
from . import batch
from ._over_ranks import of_first, summed
from ._scatter import Scatter, perplexity

__all__ = ["Alignment", "EffectiveRank", "Lidar", "NeighborhoodAccuracy", "Uniformity"]


class _Accumulator:
    """What accumulators share; group: of the ranks whose batches count together, or None."""

    def __init__(self, group: Any = None) -> None:
        self.group = group
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        raise NotImplementedError

    def _ranks(self, updates: int, **options: object) -> tuple[Ranks | None, int]:
        """The ranks, None for one process, and the updates or rows of all."""
        name = type(self).__name__
        group = several(name, self.group)
        ranks = None if group is None else agree(f"{name}.compute", group, options, updates)[0]
        total = updates if ranks is None else ranks.n
        if total == 0:
            raise RuntimeError(f"{name}: compute() before the first update()")
        return ranks, total


def _by_rank(values: list[float], ranks: Ranks) -> list[list[float]]:
    """The numbers of every rank."""
    mine = torch.tensor(values, dtype=torch.float64, device=host_device(ranks.group))
    out: list[list[float]] = all_gather(mine, ranks.group).tolist()
    return out


class _Mean(_Accumulator):
    """A mean over batches, weighted by their size."""

    def _options(self) -> dict[str, object]:
        """What must be the same on all ranks."""
        raise NotImplementedError

    def reset(self) -> None:
        """Forget all batches."""
        self._total, self._count = 0.0, 0

    def _add(self, value: Tensor, count: int) -> None:
        self._total += float(value) * count
        self._count += count

    def compute(self) -> float:
        """The mean over all rows since the last reset, of all ranks."""
        ranks, count = self._ranks(self._count, **self._options())
        parts = [[self._total]] if ranks is None else _by_rank([self._total], ranks)
        return sum(total for (total,) in parts) / count


class Alignment(_Mean):
    """`alignment` over batches: the exact mean over all pairs.

    Args:
        alpha: > 0, as in `alignment`.
        group: of the ranks whose batches count together, or None.
    """

    def __init__(self, alpha: float = 2.0, *, group: Any = None) -> None:
        super().__init__(group)
        self.alpha = alpha

    def _options(self) -> dict[str, object]:
        return {"alpha": self.alpha}

    def update(self, z1: Tensor, z2: Tensor) -> None:
        """Add the pairs (z1, z2), (n, d) each, checked by `alignment`."""
        self._add(batch.alignment(z1.detach(), z2.detach(), self.alpha), z1.shape[0])


class NeighborhoodAccuracy(_Mean):
    """`neighborhood_accuracy` over batches of queries against a fixed bank.

    Args:
        bank, bank_labels, k: as in `neighborhood_accuracy`.
        group: of ranks that hold queries of their own and the same bank, all of it.
    """

    def __init__(self, bank: Tensor, bank_labels: Any, k: int = 20, *, group: Any = None) -> None:
        super().__init__(group)
        self.bank, self.bank_labels, self.k = bank, bank_labels, k

    def _options(self) -> dict[str, object]:
        return {"k": self.k, "rows of bank": len(self.bank)}

    def update(self, z: Tensor, labels: Any) -> None:
        """Add the queries z (n, d) with labels (n,), checked by `neighborhood_accuracy`."""
        accuracy = batch.neighborhood_accuracy(
            z, labels, self.k, bank=self.bank, bank_labels=self.bank_labels
        )
        self._add(accuracy, z.shape[0])


class Uniformity(_Accumulator):
    """`uniformity` over batches: the pairs inside each batch, averaged before the logarithm.

    Args:
        t: > 0, as in `uniformity`.
        group: of the ranks whose batches count together; a batch is what one rank was given.
    """

    def __init__(self, t: float = 2.0, *, group: Any = None) -> None:
        self.t = t
        super().__init__(group)

    def reset(self) -> None:
        """Forget all batches."""
        self._logs: list[float] = []
        self._pairs = 0

    def update(self, z: Tensor) -> None:
        """Add the pairs of the rows z (n, d), n >= 2, checked by `uniformity`."""
        mean = float(batch.uniformity(z.detach(), self.t))
        pairs = z.shape[0] * (z.shape[0] - 1)
        self._logs.append(mean + math.log(pairs))
        self._pairs += pairs

    def compute(self) -> float:
        """Log of the mean potential over all pairs that shared a batch since the last reset."""
        ranks, pairs = self._ranks(self._pairs, t=self.t)
        logs = self._logs
        if ranks is not None:
            logs = [log for (log,) in _by_rank([_log_sum(logs)], ranks)]
        return _log_sum(logs) - math.log(pairs)


def _log_sum(logs: list[float]) -> float:
    """Log of the sum of exp."""
    top = max(logs, default=-math.inf)
    return top if top == -math.inf else top + math.log(sum(math.exp(v - top) for v in logs))


class EffectiveRank(_Accumulator):
    """`effective_rank` of all rows of all batches, in (d, d) memory: Z^T Z is summed in float64.

    Singular values below 1e-8 of the largest are lost to the squaring; RankMe does not see them.

    Args:
        eps: >= 0, as in `effective_rank`.
        group: of the ranks whose batches count together, or None.

    Raises:
        ValueError or TypeError: eps is out of range.
    """

    def __init__(self, eps: float = 1e-7, *, group: Any = None) -> None:
        self.eps = check.number("EffectiveRank", "eps", eps, low=0.0)
        super().__init__(group)

    def reset(self) -> None:
        """Forget all batches."""
        self._gram: Tensor | None = None
        self._rows = 0

    @torch.no_grad()
    def update(self, z: Tensor) -> None:
        """Add the rows z (n, d), finite, of the d of earlier batches."""
        check.matrix("EffectiveRank", "z", z)
        check.finite("EffectiveRank", "z", z)
        x = z.detach().double()
        gram = x.T @ x
        if self._gram is not None:
            _same_features("EffectiveRank", self._gram.shape[0], z)
        self._gram = gram if self._gram is None else self._gram + gram
        self._rows += x.shape[0]

    def compute(self) -> float:
        """RankMe of everything since the last reset."""
        ranks, rows = self._ranks(self._rows, eps=self.eps)
        gram = self._gram
        if ranks is not None:
            d = _features("EffectiveRank", None if gram is None else gram.shape[0], ranks)
            gram = torch.zeros(d, d, dtype=torch.float64) if gram is None else gram
            gram = sum_over_ranks(gram.to(host_device(ranks.group)), ranks)
        assert gram is not None
        singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
        singular = singular[-rows:]  # ascending: as many as the rows have, min(n, d)
        rank = perplexity(singular, self.eps)
        return float(rank if ranks is None else of_first(rank, ranks.group))


class Lidar(_Accumulator):
    """`lidar` of the classes of all batches, in (d, d) memory, summed in float64.

    A class is a component of the graph of one batch: what another batch holds of it is another.

    Args:
        delta, eps: as in `lidar`.
        group: of the ranks whose batches count together, or None.

    Raises:
        ValueError or TypeError: delta or eps is out of range.
    """

    def __init__(self, delta: float = 1e-4, eps: float = 1e-8, *, group: Any = None) -> None:
        self.delta = check.number("Lidar", "delta", delta, low=0.0, strict=True)
        self.eps = check.number("Lidar", "eps", eps, low=0.0)
        super().__init__(group)

    def reset(self) -> None:
        """Forget all batches."""
        self._sums: Scatter | None = None

    @torch.no_grad()
    def update(self, z: Tensor, graph: PairGraph) -> None:
        """Add the rows z (n, d) with their graph, as in `lidar`; here one component will do."""
        label, size = batch._classes("Lidar", z, graph, self.delta, self.eps, None)
        more = Scatter.of(widen(z.detach()), label, size)
        if self._sums is not None:
            _same_features("Lidar", len(self._sums.mean), z)
        self._sums = more if self._sums is None else self._sums + more

    def compute(self) -> float:
        """LiDAR of everything since the last reset."""
        sums = self._sums
        own = 0 if sums is None else sums.classes
        ranks, classes = self._ranks(own, delta=self.delta, eps=self.eps)
        if classes < 2:
            raise ValueError("Lidar: the batches must have at least 2 components, got 1")
        if ranks is not None:
            d = _features("Lidar", None if sums is None else len(sums.mean), ranks)
            device = host_device(ranks.group)
            part = Scatter.nothing(d, device) if sums is None else sums.to(device)
            sums = summed(part, ranks.counts, ranks)
        assert sums is not None
        value = sums.lidar(self.delta, self.eps)
        return float(value if ranks is None else of_first(value, ranks.group))


def _same_features(op: str, d: int, z: Tensor) -> None:
    if z.shape[1] != d:
        raise ValueError(f"{op}: z must keep its {d} features, got {z.shape[1]}")


def _features(op: str, d: int | None, ranks: Ranks) -> int:
    """The d of all ranks that have seen a batch."""
    known: dict[int, int] = {}
    for rank, (held,) in enumerate(_by_rank([-1 if d is None else d], ranks)):
        if held >= 0:
            known.setdefault(int(held), rank)
    if len(known) > 1:
        (d1, r1), (d2, r2) = list(known.items())[:2]
        raise ValueError(
            f"{op}: z must have the same features on all ranks, rank {r1} has {d1}, rank {r2} "
            f"has {d2}"
        )
    return next(iter(known))

"""The metrics of `sslspec_fast.metrics` as torchmetrics: in a MetricCollection, in ``self.log``.

Every ``update`` takes the views of a batch, (n, d) each, so that one call serves a collection:

    metrics = MetricCollection([EffectiveRank(128), Lidar(128), Alignment(), Uniformity()])
    metrics.update(z1, z2)

The states are sums in float64 on the metric's device. ``update`` copies nothing to the host;
``compute`` gives the value of all batches of all ranks, the same bits on each.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from .. import _checks as check
from .._dtypes import widen
from ..metrics import alignment, uniformity
from ..metrics._scatter import Scatter, perplexity

__all__ = ["Alignment", "EffectiveRank", "Lidar", "Uniformity"]


class _Views(Metric):
    """A metric that is updated with the views of a batch."""

    full_state_update = False
    is_differentiable = False

    def _checked(self, views: tuple[Tensor, ...], least: int = 1, rows: int = 1) -> list[Tensor]:
        """The views as rows to compute with."""
        op = type(self).__name__
        if len(views) < least:
            raise ValueError(f"{op}: update needs at least {least} views, got {len(views)}")
        check.matrix(op, "views[0]", views[0], min_rows=rows)
        for i, z in enumerate(views[1:], 1):
            check.pair(op, ("views[0]", f"views[{i}]"), views[0], z)
        d = getattr(self, "num_features", views[0].shape[1])
        if views[0].shape[1] != d:
            raise ValueError(
                f"{op}: views must have num_features={d} columns, got {tuple(views[0].shape)}"
            )
        return [widen(z.detach()) for z in views]

    def _seen(self, count: Tensor, state: Tensor) -> Tensor:
        """The state, finite and not empty; asked in ``compute``, because a GPU has to be waited
        for.
        """
        if int(count) == 0:
            raise RuntimeError(f"{type(self).__name__}: compute() before the first update()")
        if not bool(state.isfinite().all()):
            raise ValueError(f"{type(self).__name__}: the rows must be finite, got nan or infinity")
        return state


class Alignment(_Views):
    """`sslspec_fast.metrics.alignment`: the mean over all pairs (arXiv 2005.10242).

    alpha: the power of the distance. ``update(z1, z2)``.
    """

    higher_is_better = False
    plot_lower_bound = 0.0
    total: Tensor
    pairs: Tensor

    def __init__(self, alpha: float = 2.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.alpha = check.number("Alignment", "alpha", alpha, low=0.0, strict=True)
        zero = torch.zeros((), dtype=torch.float64)
        self.add_state("total", default=zero, dist_reduce_fx="sum")
        self.add_state("pairs", default=zero.clone(), dist_reduce_fx="sum")

    def update(self, *views: Tensor) -> None:
        """views: two of (n, d)."""
        if len(views) != 2:
            raise ValueError(f"Alignment: update needs 2 views, got {len(views)}")
        z1, z2 = self._checked(views)
        self.total = self.total + alignment(z1, z2, self.alpha).double() * len(z1)
        self.pairs = self.pairs + len(z1)

    def compute(self) -> Tensor:
        return (self._seen(self.pairs, self.total) / self.pairs).float()


def _log_of_sum(logs: Tensor) -> Tensor:
    return torch.logsumexp(logs, 0)


class Uniformity(_Views):
    """`sslspec_fast.metrics.uniformity` of each view: the pairs inside it, averaged over views and
    batches before the logarithm (arXiv 2005.10242).

    t: the width of the potential. ``update(z)`` or ``update(z1, z2)``, at least 2 rows each.
    """

    higher_is_better = False
    plot_upper_bound = 0.0
    log_total: Tensor
    pairs: Tensor

    def __init__(self, t: float = 2.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.t = check.number("Uniformity", "t", t, low=0.0, strict=True)
        zero = torch.zeros((), dtype=torch.float64)
        self.add_state("log_total", default=zero - math.inf, dist_reduce_fx=_log_of_sum)
        self.add_state("pairs", default=zero, dist_reduce_fx="sum")

    def update(self, *views: Tensor) -> None:
        """views: (n, d) each, n >= 2."""
        for z in self._checked(views, rows=2):
            pairs = len(z) * (len(z) - 1)
            log = uniformity(z, self.t).double() + math.log(pairs)
            self.log_total = torch.logaddexp(self.log_total, log)
            self.pairs = self.pairs + pairs

    def compute(self) -> Tensor:
        return (self._seen(self.pairs, self.log_total) - self.pairs.log()).float()


class EffectiveRank(_Views):
    """RankMe of all rows of all views and batches (arXiv 2210.02885), from Z^T Z in float64.

    num_features: d. eps: as in `sslspec_fast.metrics.effective_rank`. Singular values below 1e-8 of
    the largest are lost to the squaring. ``update(z)`` or ``update(z1, z2)``.
    """

    higher_is_better = True
    plot_lower_bound = 0.0
    gram: Tensor
    rows: Tensor

    def __init__(self, num_features: int, eps: float = 1e-7, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_features = d = check.count("EffectiveRank", "num_features", num_features, 1)
        self.eps = check.number("EffectiveRank", "eps", eps, low=0.0)
        gram = torch.zeros(d, d, dtype=torch.float64)
        self.add_state("gram", default=gram, dist_reduce_fx="sum")
        self.add_state("rows", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, *views: Tensor) -> None:
        """views: (n, d) each."""
        for z in self._checked(views):
            x = z.double()
            self.gram = self.gram + x.T @ x
            self.rows = self.rows + len(x)

    def compute(self) -> Tensor:
        gram = self._seen(self.rows, self.gram)
        singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
        return perplexity(singular[-int(self.rows) :], self.eps).float()


def _merged(packed: Tensor) -> Tensor:
    """The sums of several batches or ranks, `Scatter.packed` each, as those of one."""
    d = packed.shape[2]
    between, within, means, classes = packed.split([d, d, 1, 1], 1)
    total = classes.sum(0)
    mean = (classes * means).sum(0) / total.clamp(min=1)
    apart = (means - mean)[:, 0]
    between = between.sum(0) + (classes[:, 0] * apart).T @ apart
    return torch.cat([between, within.sum(0), mean, total])


class Lidar(_Views):
    """LiDAR (arXiv 2312.04000): the views of a sample are its class.

    num_features: d. delta, eps: as in `sslspec_fast.metrics.lidar`. ``update(z1, z2, ...)``, row i
    of each a view of sample i; the samples of another batch are other classes.
    """

    higher_is_better = True
    plot_lower_bound = 0.0
    scatter: Tensor

    def __init__(
        self, num_features: int, delta: float = 1e-4, eps: float = 1e-8, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.num_features = d = check.count("Lidar", "num_features", num_features, 1)
        self.delta = check.number("Lidar", "delta", delta, low=0.0, strict=True)
        self.eps = check.number("Lidar", "eps", eps, low=0.0)
        nothing = torch.zeros(2 * d + 2, d, dtype=torch.float64)
        self.add_state("scatter", default=nothing, dist_reduce_fx=_merged)

    def update(self, *views: Tensor) -> None:
        """views: at least two, (n, d) each."""
        more = Scatter.of_views(torch.stack(self._checked(views, least=2))).packed()
        self.scatter = _merged(torch.stack([self.scatter, more]))

    def compute(self) -> Tensor:
        scatter = Scatter.unpacked(self._seen(self.scatter[-1, 0], self.scatter))
        if scatter.classes < 2:
            raise ValueError(f"Lidar: needs at least 2 samples, got {scatter.classes}")
        return scatter.lidar(self.delta, self.eps).float()

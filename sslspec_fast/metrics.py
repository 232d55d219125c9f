r"""What people look at while a joint-embedding model trains.

Functions of one batch, and accumulators with ``update``, ``compute`` and ``reset`` for an epoch.
Nothing here needs (n, n) memory. Inputs may be bfloat16 or float16 (computed in float32). Results
carry no gradient, except those of `alignment` and `uniformity`, which are also losses (Wang, Isola,
"Understanding Contrastive Representation Learning through Alignment and Uniformity on the
Hypersphere", ICML 2020, arXiv 2005.10242).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _checks as check
from .graph._checks import check_graph
from .graph.pair_graph import PairGraph
from .losses._common import numbered, widen
from .primitives import pairwise
from .primitives.rows.unit_rows import unit_rows

__all__ = [
    "Alignment",
    "EffectiveRank",
    "NeighborhoodAccuracy",
    "Uniformity",
    "alignment",
    "effective_rank",
    "lidar",
    "neighborhood_accuracy",
    "uniformity",
]

_BLOCK = 1 << 22  # similarities held at once by the neighbour search


def alignment(z1: Tensor, z2: Tensor, alpha: float = 2.0) -> Tensor:
    r"""Mean distance of positive pairs, :math:`\frac1n \sum_i \|u_i - v_i\|^\alpha` on unit rows.

    z1, z2: (n, d). Lower is better. Differentiable: a pair of identical rows has distance 0 and no
    gradient, for every alpha > 0.

    >>> float(alignment(torch.eye(3), torch.eye(3)))
    0.0
    """
    check.pair("alignment", ("z1", "z2"), z1, z2)
    alpha = check.number("alignment", "alpha", alpha, low=0.0, strict=True)
    squared = (unit_rows(widen(z1)) - unit_rows(widen(z2))).square().sum(1)
    if alpha == 2:
        return squared.mean()
    apart = squared > 0
    return torch.where(apart, torch.where(apart, squared, 1.0).pow(alpha / 2), 0.0).mean()


def uniformity(z: Tensor, t: float = 2.0) -> Tensor:
    r"""Log of the mean Gaussian potential, :math:`\log \mathrm{mean}_{i<j} e^{-t \|u_i - u_j\|^2}`.

    z: (n, d), n >= 2. Lower is more uniform. Differentiable. On unit rows the exponent is
    :math:`2 t (u_i \cdot u_j - 1)`: one log-sum-exp of scaled similarities, linear in memory.

    >>> round(float(uniformity(torch.eye(3))), 4)
    -4.0
    """
    check.matrix("uniformity", "z", z, min_rows=2)
    t = check.number("uniformity", "t", t, low=0.0, strict=True)
    u = unit_rows(widen(z))
    rows = pairwise.lse_self(u, torch.full((), 2.0 * t, dtype=u.dtype, device=u.device))
    n = u.shape[0]
    return torch.logsumexp(rows, 0) - 2 * t - math.log(n * (n - 1))


@torch.no_grad()
def effective_rank(z: Tensor, eps: float = 1e-7) -> Tensor:
    r"""RankMe: :math:`\exp(-\sum p_k \log p_k)`, :math:`p_k = \sigma_k / \sum \sigma + \epsilon`.

    z: (n, d); the singular values are those of z as it is, neither centred nor normalised. Garrido,
    Balestriero, Najman, LeCun, "RankMe: Assessing the downstream performance of pretrained
    self-supervised representations by their rank" (ICML 2023, arXiv 2210.02885), equation 2.

    >>> round(float(effective_rank(torch.eye(4))), 3)
    4.0
    """
    check.matrix("effective_rank", "z", z)
    check.finite("effective_rank", "z", z)
    eps = check.number("effective_rank", "eps", eps, low=0.0)
    x = widen(z)
    if x.shape[0] > x.shape[1]:  # same singular values, d x d instead of n x d
        x = torch.linalg.qr(x, mode="r").R
    return _perplexity(torch.linalg.svdvals(x), eps)


@torch.no_grad()
def lidar(z: Tensor, graph: PairGraph, delta: float = 1e-4, eps: float = 1e-8) -> Tensor:
    r"""LiDAR: effective rank of :math:`\Sigma_w^{-1/2} \Sigma_b \Sigma_w^{-1/2}`.

    z: (n, d). graph: its connected components are the surrogate classes, for example
    ``PairGraph.from_views(m, q)`` for q augmentations of m samples; every component needs at least
    two rows. With m components of means :math:`\mu_c`, :math:`\Sigma_b` is the covariance of the
    means (over m - 1) and :math:`\Sigma_w` the mean within-class covariance (over size - 1), plus
    delta times the identity. Thilak et al., "LiDAR: Sensing Linear Probing Performance in Joint
    Embedding SSL Architectures" (ICLR 2024, arXiv 2312.04000), equations 1 to 4.

    >>> z = torch.eye(4).repeat(2, 1)
    >>> round(float(lidar(z, PairGraph.from_views(4))), 3)
    3.0
    """
    op = "lidar"
    check.matrix(op, "z", z, min_rows=2)
    check_graph(op, graph, z, symmetric=False)
    check.finite(op, "z", z)
    eps = check.number(op, "eps", eps, low=0.0)
    delta = check.number(op, "delta", delta, low=0.0, strict=True)
    count, label = graph.connected_components()
    size = torch.bincount(label, minlength=count)
    if int(size.min()) < 2:
        raise ValueError(
            f"{op}: graph must join every row to another one, got {int((size < 2).sum())} isolated"
        )
    if count < 2:
        raise ValueError(f"{op}: graph must have at least 2 components, got {count}")
    x = widen(z)
    means = x.new_zeros(count, x.shape[1]).index_add(0, label, x) / size[:, None]
    within = (x - means[label]) / ((size - 1) * count).to(x.dtype).sqrt()[label, None]
    between = (means - means.mean(0)) / math.sqrt(count - 1)
    values, vectors = torch.linalg.eigh(within.T @ within)
    whitened = between @ (vectors * (values.clamp(min=0) + delta).rsqrt())
    return _perplexity(torch.linalg.svdvals(whitened).square(), eps)


@torch.no_grad()
def neighborhood_accuracy(
    z: Tensor, labels: Tensor | Sequence[int], k: int = 20, *, bank: Tensor | None = None,
    bank_labels: Tensor | Sequence[int] | None = None,
) -> Tensor:  # fmt: skip
    """Share of rows whose class is the majority among their k nearest neighbours by cosine.

    z: (n, d); labels: (n,) integers >= 0. Without a bank a row's neighbours are the other rows of z
    (leave one out); with one, those of bank (m, d) with bank_labels (m,). A tie goes to the class
    with the nearest member. Wu, Xiong, Yu, Lin, "Unsupervised Feature Learning via Non-Parametric
    Instance Discrimination" (CVPR 2018, arXiv 1805.01978), section 3.4, with equal votes.

    >>> z = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    >>> float(neighborhood_accuracy(z, [0, 0, 1, 1], k=1))
    1.0
    """
    op = "neighborhood_accuracy"
    check.matrix(op, "z", z)
    check.finite(op, "z", z)
    y = check.integers(op, "labels", labels, z, z.shape[0])
    if (bank is None) != (bank_labels is None):
        raise ValueError(f"{op}: give bank and bank_labels together")
    x = unit_rows(widen(z))
    if bank is None:
        others, other_labels = x, y
    else:
        check.columns(op, "bank", bank, "z", z)
        check.finite(op, "bank", bank)
        others = unit_rows(widen(bank))
        other_labels = check.integers(op, "bank_labels", bank_labels, bank, bank.shape[0])
    available = others.shape[0] - (1 if bank is None else 0)
    k = check.count(op, "k", k)
    if not 1 <= k <= available:
        raise ValueError(f"{op}: k must be in 1 ... {available}, the neighbours there are, got {k}")
    if min(int(y.min()), int(other_labels.min())) < 0:
        raise ValueError(
            f"{op}: labels must be >= 0, got {min(int(y.min()), int(other_labels.min()))}"
        )

    correct = 0
    step = max(1, _BLOCK // others.shape[0])
    for start in range(0, x.shape[0], step):
        rows = x[start : start + step]
        similarity = rows @ others.T
        if bank is None:
            own = torch.arange(rows.shape[0], device=x.device)
            similarity[own, start + own] = -math.inf
        nearest = similarity.topk(k, dim=1).indices  # by descending similarity
        vote = other_labels[nearest]
        same = _equal_in_row(vote)
        winner = vote.gather(1, same.argmax(1, keepdim=True))[:, 0]  # the first of the largest
        correct += int((winner == y[start : start + step]).sum())
    return torch.tensor(correct / x.shape[0], device=x.device)


def _equal_in_row(labels: Tensor) -> Tensor:
    """(n, k): how many of its row are equal to each entry, in (n, k) memory."""
    which = numbered(labels)
    count = torch.zeros_like(which).scatter_add_(1, which, torch.ones_like(which))
    return count.gather(1, which)


def _perplexity(values: Tensor, eps: float) -> Tensor:
    """exp of the entropy of values over their sum."""
    p = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny) + eps
    return torch.exp(-torch.xlogy(p, p).sum())


class _Mean:
    """A mean over batches, weighted by their size."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._total, self._count = 0.0, 0

    def _add(self, value: Tensor, count: int) -> None:
        self._total += float(value) * count
        self._count += count

    def compute(self) -> float:
        """The mean over all rows since the last reset."""
        if self._count == 0:
            raise RuntimeError(f"{type(self).__name__}: compute() before the first update()")
        return self._total / self._count


class Alignment(_Mean):
    """`alignment` over batches: the exact mean over all pairs."""

    def __init__(self, alpha: float = 2.0) -> None:
        super().__init__()
        self.alpha = alpha

    def update(self, z1: Tensor, z2: Tensor) -> None:
        self._add(alignment(z1.detach(), z2.detach(), self.alpha), z1.shape[0])


class Uniformity:
    """`uniformity` over batches: the pairs inside each batch, averaged before the logarithm."""

    def __init__(self, t: float = 2.0) -> None:
        self.t = t
        self.reset()

    def reset(self) -> None:
        self._logs: list[float] = []
        self._pairs = 0

    def update(self, z: Tensor) -> None:
        mean = float(uniformity(z.detach(), self.t))
        pairs = z.shape[0] * (z.shape[0] - 1)
        self._logs.append(mean + math.log(pairs))
        self._pairs += pairs

    def compute(self) -> float:
        """Log of the mean potential over all pairs that shared a batch since the last reset."""
        if not self._logs:
            raise RuntimeError("Uniformity: compute() before the first update()")
        top = max(self._logs)
        total = sum(math.exp(v - top) for v in self._logs)
        return top + math.log(total) - math.log(self._pairs)


class EffectiveRank:
    """`effective_rank` of all rows of all batches, in (d, d) memory: Z^T Z is summed in float64.

    Singular values below 1e-8 of the largest are lost to the squaring; RankMe does not see them.
    """

    def __init__(self, eps: float = 1e-7) -> None:
        self.eps = check.number("EffectiveRank", "eps", eps, low=0.0)
        self.reset()

    def reset(self) -> None:
        self._gram: Tensor | None = None
        self._rows = 0

    @torch.no_grad()
    def update(self, z: Tensor) -> None:
        check.matrix("EffectiveRank", "z", z)
        check.finite("EffectiveRank", "z", z)
        x = z.detach().double()
        gram = x.T @ x
        if self._gram is not None and self._gram.shape != gram.shape:
            raise ValueError(
                f"EffectiveRank: z must keep its {self._gram.shape[0]} features, got {z.shape[1]}"
            )
        self._gram = gram if self._gram is None else self._gram + gram
        self._rows += x.shape[0]

    def compute(self) -> float:
        """RankMe of everything since the last reset."""
        if self._gram is None:
            raise RuntimeError("EffectiveRank: compute() before the first update()")
        singular = torch.linalg.eigvalsh(self._gram).clamp(min=0).sqrt()
        singular = singular[-self._rows :]  # ascending: as many as the rows have, min(n, d)
        return float(_perplexity(singular, self.eps))


class NeighborhoodAccuracy(_Mean):
    """`neighborhood_accuracy` over batches of queries against a fixed bank."""

    def __init__(self, bank: Tensor, bank_labels: Any, k: int = 20) -> None:
        super().__init__()
        self.bank, self.bank_labels, self.k = bank, bank_labels, k

    def update(self, z: Tensor, labels: Any) -> None:
        accuracy = neighborhood_accuracy(
            z, labels, self.k, bank=self.bank, bank_labels=self.bank_labels
        )
        self._add(accuracy, z.shape[0])

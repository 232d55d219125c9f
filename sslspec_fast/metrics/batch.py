"""Metrics of one batch, on one process or over the ranks of a group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _checks as check
from .._dtypes import widen
from ..graph._checks import check_graph
from ..graph.pair_graph import PairGraph
from ..primitives import pairwise
from ..primitives._matmul import mm_wide
from ..primitives.rows.unit_rows import unit_rows
from ..ranks import several, told_to_all
from . import _over_ranks as over_ranks
from ._neighbours import Others, right
from ._scatter import Scatter, perplexity

__all__ = ["alignment", "effective_rank", "lidar", "neighborhood_accuracy", "uniformity"]


def alignment(z1: Tensor, z2: Tensor, alpha: float = 2.0, *, group: Any = None) -> Tensor:
    r"""Mean distance of positive pairs, :math:`\frac1n \sum_i \|u_i - v_i\|^\alpha` on unit rows.

    Lower is better. Differentiable: a pair of identical rows has distance 0 and no gradient, for
    every alpha.

    Args:
        z1, z2: (n, d) float64, float32, bfloat16 or float16 (computed in float32).
        alpha: > 0.
        group: of the ranks that hold the pairs together; the gradient of a rank's rows is then W
            times that of the value, so that the mean over ranks that DDP takes is the gradient of
            one process.

    Returns:
        The mean, 0-dim.

    Raises:
        ValueError or TypeError: shapes, dtypes, devices or ranges that do not fit.

    >>> float(alignment(torch.eye(3), torch.eye(3)))
    0.0
    """
    op, group = "alignment", several("alignment", group)
    with told_to_all(op, group):
        check.pair(op, ("z1", "z2"), z1, z2, min_rows=1 if group is None else 0)
        alpha = check.number(op, "alpha", alpha, low=0.0, strict=True)
        squared = (unit_rows(widen(z1)) - unit_rows(widen(z2))).square().sum(1)
        if alpha == 2:
            rows = squared
        else:
            apart = squared > 0
            rows = torch.where(apart, torch.where(apart, squared, 1.0).pow(alpha / 2), 0.0)
    if group is None:
        return rows.mean()
    return over_ranks.mean(op, group, {"alpha": alpha}, z1, rows)


def uniformity(z: Tensor, t: float = 2.0, *, group: Any = None) -> Tensor:
    r"""Log of the mean Gaussian potential, :math:`\log \mathrm{mean}_{i<j} e^{-t \|u_i - u_j\|^2}`.

    Lower is more uniform. Differentiable. On unit rows the exponent is :math:`2 t (u_i \cdot u_j -
    1)`: one log-sum-exp of scaled similarities, linear in memory.

    Args:
        z: (n, d), n >= 2, float64, float32, bfloat16 or float16 (computed in float32).
        t: > 0.
        group: of the ranks that hold the rows together; all pairs count, those of rows on different
            ranks too, and the gradient is as in `alignment` (first derivatives only).

    Returns:
        The logarithm, 0-dim.

    Raises:
        ValueError or TypeError: shapes, dtypes, devices or ranges that do not fit.

    >>> round(float(uniformity(torch.eye(3))), 4)
    -4.0
    """
    op, group = "uniformity", several("uniformity", group)
    with told_to_all(op, group):
        check.matrix(op, "z", z, min_rows=2 if group is None else 0)
        t = check.number(op, "t", t, low=0.0, strict=True)
        u = unit_rows(widen(z))
    scale = torch.full((), 2.0 * t, dtype=u.dtype, device=u.device)
    if group is not None:
        total, n = over_ranks.lse_of_pairs(op, group, {"t": t}, z, u, scale)
    else:
        total, n = torch.logsumexp(pairwise.lse_self(u, scale), 0), u.shape[0]
    return total - 2 * t - math.log(n * (n - 1))


@torch.no_grad()
def effective_rank(z: Tensor, eps: float = 1e-7, *, group: Any = None) -> Tensor:
    r"""RankMe: :math:`\exp(-\sum p_k \log p_k)`, :math:`p_k = \sigma_k / \sum \sigma + \epsilon`.

    The singular values are those of z as it is, neither centred nor normalised. Garrido,
    Balestriero, Najman, LeCun, "RankMe: Assessing the downstream performance of pretrained
    self-supervised representations by their rank" (ICML 2023, arXiv 2210.02885), equation 2.

    Args:
        z: (n, d), finite.
        eps: >= 0, as in the formula.
        group: of the ranks that hold the rows together; they exchange triangular factors, (d, d)
            each.

    Returns:
        The effective rank, 0-dim, without a gradient.

    Raises:
        ValueError or TypeError: shapes, dtypes, devices or ranges that do not fit, or z is not
            finite.

    >>> round(float(effective_rank(torch.eye(4))), 3)
    4.0
    """
    op, group = "effective_rank", several("effective_rank", group)
    with told_to_all(op, group):
        check.matrix(op, "z", z, min_rows=1 if group is None else 0)
        check.finite(op, "z", z)
        eps = check.number(op, "eps", eps, low=0.0)
        x = _same_singular_values(widen(z))
    if group is None:
        return perplexity(torch.linalg.svdvals(x), eps)
    every = over_ranks.stacked(op, group, {"eps": eps}, z, x)
    return over_ranks.of_first(
        perplexity(torch.linalg.svdvals(_same_singular_values(every)), eps), group
    )


def _same_singular_values(x: Tensor) -> Tensor:
    """x, or its triangular factor where that is smaller: d x d instead of n x d."""
    return torch.linalg.qr(x, mode="r").R if x.shape[0] > x.shape[1] else x


@torch.no_grad()
def lidar(
    z: Tensor, graph: PairGraph | None, delta: float = 1e-4, eps: float = 1e-8, *, group: Any = None
) -> Tensor:
    r"""LiDAR: effective rank of :math:`\Sigma_w^{-1/2} \Sigma_b \Sigma_w^{-1/2}`.

    With m classes of means :math:`\mu_c`, :math:`\Sigma_b` is the covariance of the means (over m -
    1) and :math:`\Sigma_w` the mean within-class covariance (over size - 1), plus delta times the
    identity. Thilak et al., "LiDAR: Sensing Linear Probing Performance in Joint Embedding SSL
    Architectures" (ICLR 2024, arXiv 2312.04000), equations 1 to 4.

    Args:
        z: (n, d), finite.
        graph: its connected components are the surrogate classes, for example
            ``PairGraph.from_views(m, q)`` for q augmentations of m samples; every component needs
            at least two rows.
        delta: > 0, as above.
        eps: >= 0, as in `effective_rank`.
        group: of the ranks that hold the rows together. Each passes the graph of its own rows, so
            that no class has rows on two ranks, and one without rows passes None; the covariances
            are summed in float64.

    Returns:
        The effective rank, 0-dim, without a gradient.

    Raises:
        ValueError or TypeError: shapes, dtypes, devices or ranges that do not fit, z is not finite,
            or the graph has a row by itself or one component only.

    >>> z = torch.eye(4).repeat(2, 1)
    >>> round(float(lidar(z, PairGraph.from_views(4))), 3)
    3.0
    """
    op, group = "lidar", several("lidar", group)
    with told_to_all(op, group):
        label, size = _classes(op, z, graph, delta, eps, group)
        count = len(size)
        if group is None and count < 2:
            raise ValueError(f"{op}: graph must have at least 2 components, got {count}")
        x = widen(z)
        if group is not None:
            own = Scatter.of(x, label, size)
    if group is not None:
        return over_ranks.lidar(op, group, z, own, delta, eps)
    means = x.new_zeros(count, x.shape[1]).index_add(0, label, x) / size[:, None]
    within = (x - means[label]) / ((size - 1) * count).to(x.dtype).sqrt()[label, None]
    between = (means - means.mean(0)) / math.sqrt(count - 1)
    values, vectors = torch.linalg.eigh(mm_wide(within.T, within))
    whitened = mm_wide(between, vectors * (values.clamp(min=0) + delta).rsqrt())
    return perplexity(torch.linalg.svdvals(whitened).square(), eps)


def _classes(
    op: str, z: Tensor, graph: PairGraph | None, delta: float, eps: float, group: Any
) -> tuple[Tensor, Tensor]:
    """The class of every row and the size of every class, of checked arguments."""
    check.matrix(op, "z", z, min_rows=2 if group is None else 0)
    check.number(op, "eps", eps, low=0.0)
    check.number(op, "delta", delta, low=0.0, strict=True)
    if group is not None and z.shape[0] == 0 and (graph is None or graph.n == 0):
        none = torch.zeros(0, dtype=torch.int64, device=z.device)
        return none, none
    if graph is None:
        raise TypeError(f"{op}: graph must be a PairGraph, got None beside {z.shape[0]} rows")
    check_graph(op, graph, z, symmetric=False)
    check.finite(op, "z", z)
    count, label = graph.connected_components()
    size = torch.bincount(label, minlength=count)
    if int(size.min()) < 2:
        raise ValueError(
            f"{op}: graph must join every row to another one, got {int((size < 2).sum())} isolated"
        )
    return label, size


@torch.no_grad()
def neighborhood_accuracy(
    z: Tensor,
    labels: Tensor | Sequence[int],
    k: int = 20,
    *,
    bank: Tensor | None = None,
    bank_labels: Tensor | Sequence[int] | None = None,
    group: Any = None,
) -> Tensor:
    """Share of rows whose class is the majority among their k nearest neighbours by cosine.

    A tie goes to the class with the nearest member. Wu, Xiong, Yu, Lin, "Unsupervised Feature
    Learning via Non-Parametric Instance Discrimination" (CVPR 2018, arXiv 1805.01978), section 3.4,
    with equal votes.

    Args:
        z: (n, d), finite.
        labels: (n,) integers >= 0.
        k: how many neighbours vote, >= 1.
        bank: (m, d) among which the neighbours are sought; None: the other rows of z.
        bank_labels: (m,) of the bank, given with it.
        group: of the ranks that hold the rows together; the neighbours are then sought among the
            rows of all ranks, and ``bank`` is this rank's share of the bank: what every rank holds
            a copy of is passed as ``bank[rank::W]``. Rows come from the other ranks a piece at a
            time (``ranks.buffer_bytes``).

    Returns:
        The share in [0, 1], 0-dim.

    Raises:
        ValueError or TypeError: shapes, dtypes, devices or ranges that do not fit, or fewer than k
            neighbours.

    >>> z = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    >>> float(neighborhood_accuracy(z, [0, 0, 1, 1], k=1))
    1.0
    """
    op, group = "neighborhood_accuracy", several("neighborhood_accuracy", group)
    least = 1 if group is None else 0
    with told_to_all(op, group):
        check.matrix(op, "z", z, min_rows=least)
        check.finite(op, "z", z)
        y = check.integers(op, "labels", labels, z, z.shape[0])
        if (bank is None) != (bank_labels is None):
            missing, given = ("bank", "bank_labels") if bank is None else ("bank_labels", "bank")
            raise ValueError(f"{op}: {given} needs {missing}, got None")
        x = unit_rows(widen(z))
        if bank is None:
            others, other_labels = x, y
        else:
            check.columns(op, "bank", bank, "z", z, min_rows=least)
            check.finite(op, "bank", bank)
            others = unit_rows(widen(bank))
            other_labels = check.integers(op, "bank_labels", bank_labels, bank, bank.shape[0])
        k = check.count(op, "k", k)
        for found in (y, other_labels):
            if found.numel() and int(found.min()) < 0:
                raise ValueError(f"{op}: labels must be >= 0, got {int(found.min())}")
    if group is None:
        n, available = x.shape[0], others.shape[0]
        pieces = iter([Others(others, other_labels, slice(0, n), 0)])
    else:
        facts = {"k": k, "bank": "given" if bank is not None else "None"}
        ranks, available, pieces = over_ranks.others(op, group, facts, z, others, other_labels)
        n = ranks.n
    available -= 1 if bank is None else 0
    if not 1 <= k <= available:
        raise ValueError(f"{op}: k must be in 1 ... {available}, the neighbours there are, got {k}")
    correct = right(x, y, k, pieces, leave_out=bank is None)
    correct = correct if group is None else over_ranks.count(correct, group)
    return torch.tensor(correct / n, device=x.device)

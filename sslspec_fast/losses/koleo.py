r"""KoLeo: rows spread over the sphere, each away from its nearest neighbours.

.. math::
    L = -\frac{1}{n k} \sum_i \sum_{l \le k}
        \log\bigl(\|u_i - u_{j_l(i)} + \varepsilon \mathbf 1\| + \varepsilon\bigr),

u the unit rows and :math:`j_l(i)` the l-th other row of largest cosine. The neighbours have no
gradient, both ends of a pair do: with :math:`\delta` the difference and r its length,
:math:`g = -\delta / (n k\, r (r + \varepsilon))` is added to row i and taken off row j. It replaces
the (n, n) cosines.

Sablayrolles, Douze, Schmid, Jegou, "Spreading vectors for similarity search" (arXiv 1806.03198),
section 3.2; in DINOv2 (arXiv 2304.07193), with k > 1 and groups in DINOv3 (arXiv 2508.10104).
"""

from __future__ import annotations

from typing import Any

import torch  # noqa: F401  the docstring example
from torch import Tensor

from .. import _checks as check
from .._dtypes import widen
from ..primitives.pairwise.nearest import nearest
from ..reference import koleo as reference
from ._common import Loss, run_reference
from ._koleo import check_koleo, mean_log_distances, unit_or_shorter
from .over_ranks import over_ranks
from .over_ranks.neighbours import KOLEO


@over_ranks(KOLEO)
def koleo(
    z: Tensor,
    *,
    k: int = 1,
    ids: Any = None,
    group_size: int | None = None,
    eps: float = 1e-8,
    reduction: str = "mean",
    impl: str = "fused",
    group: Any = None,
) -> Tensor:
    """KoLeo of n rows, which are normalised inside. Equal to lightly's and DINOv2's KoLeoLoss.

    Args:
        z: (n, d) float64, float32, bfloat16 or float16 (computed in float32), n >= 2.
        k: nearest neighbours of a row, >= 1 and less than the rows of a group.
        ids: (n,) integers: rows with the same id, such as crops of one image, are no neighbours.
        group_size: a divisor of n: neighbours are looked for among consecutive groups of so many
            rows. None: among all. With a group, a divisor of the rows of every rank.
        eps: > 0, as in the formula; rows shorter than eps are not brought to unit length.
        reduction: "mean" or "sum" over rows that have a neighbour, or "none": (n,), 0 for rows
            that have none. A row with fewer than k neighbours takes the mean of what it has.
        impl: "fused", or "torch" for the plain reference.
        group: a process group or 1-D DeviceMesh whose ranks hold the rows of the batch together
            (docs/distributed.md).

    Returns:
        The loss, 0-dim, in the dtype of the rows (float32 for half precision), or (n,) with
        reduction="none".

    Raises:
        ValueError or TypeError: shapes, dtypes, devices or ranges that do not fit.

    >>> round(float(koleo(torch.eye(4))), 4)  # all rows are sqrt(2) apart
    -0.3466
    """
    op = "koleo"
    check.common(op, impl, group, reduction)
    k, given, group_size, eps = check_koleo(z, k, ids, group_size, eps, min_rows=2)
    x = widen(z)
    if impl == "torch":
        return run_reference(
            reference.koleo,
            x,
            k=k,
            ids=given,
            group_size=group_size,
            eps=eps,
            reduction=reduction,
        )
    u = unit_or_shorter(x, eps)
    index = nearest(u, k, ids=given, group=group_size)
    values, found = mean_log_distances(u, u, index, eps)
    if reduction == "mean":
        return values.sum() / found.sum().clamp(min=1)
    return values.sum() if reduction == "sum" else values


class KoLeoLoss(Loss):
    """`koleo` with lightly's constructor and ``forward(x)``.

    Args:
        p: of the distance, 2.
        eps, group: as in `koleo`.
        options: further keywords of `koleo`.

    Raises:
        ValueError: p is not 2.
        TypeError: a keyword that `koleo` does not have.
    """

    functional = staticmethod(koleo)
    named = ("eps", "ids")

    def __init__(
        self, p: float = 2, eps: float = 1e-8, *, group: Any = None, **options: Any
    ) -> None:
        super().__init__(group, options)
        if p != 2:
            raise ValueError(f"KoLeoLoss: p must be 2, the Euclidean distance, got {p}")
        self.p, self.eps = p, eps

    def forward(self, x: Tensor, *, ids: Any = None) -> Tensor:
        return koleo(x, eps=self.eps, ids=ids, group=self.group, **self.options)

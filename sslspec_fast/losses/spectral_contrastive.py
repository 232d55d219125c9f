r"""Spectral contrastive loss of two views.

.. math::
    L = \frac{1}{\mu} \Bigl( -\frac{2}{n} \sum_i x_i \cdot y_i
        + \frac{1}{n (n - 1)} \sum_{i \ne j} (x_i \cdot y_j)^2 \Bigr),

x, y the rows of the two views, shortened to :math:`\sqrt\mu` where they are longer. Gradient of the
second sum: :math:`\frac{2}{n (n - 1)} (X (Y^\top Y) - s \circ Y)`, :math:`s_i = x_i \cdot y_i`. The
identity
:math:`\sum_{i \ne j} (x_i \cdot y_j)^2 = \langle X^\top X, Y^\top Y \rangle - \sum_i s_i^2` makes
it exact in O(n d^2) instead of the (n, n) products.

HaoChen, Wei, Gaidon, Ma, "Provable Guarantees for Self-Supervised Deep Learning with Spectral
Contrastive Loss" (NeurIPS 2021, arXiv 2106.04156), equation 6 and the authors' code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _checks as check
from .._dtypes import is_half, own_rows
from ..fused import spectral_contrastive as fused_loss
from ..primitives.rows.unit_rows import paired_rows
from ..reference import spectral_contrastive as reference
from ._common import Loss, LossOrTerms, reduce_rows, run_reference, with_terms
from ._inputs import prepare_pair
from .over_ranks import over_ranks
from .over_ranks.columns import SPECTRAL_CONTRASTIVE


@over_ranks(SPECTRAL_CONTRASTIVE)
def spectral_contrastive(
    z1: Tensor,
    z2: Tensor,
    *,
    mu: float = 1.0,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
    return_terms: bool = False,
    impl: str = "fused",
    group: Any = None,
) -> LossOrTerms:
    """Spectral contrastive loss of n pairs, equal to the authors' code.

    Args:
        z1, z2: (n, d), n >= 2, float64, float32, bfloat16 or float16 (computed in float32).
        mu: > 0; rows longer than sqrt(mu) are shortened to it.
        reduction: "mean", "sum" or "none" over the rows of z1. "none" and a sample_weight form the
            (d, d) matrix of z2.
        sample_weight: (n,) per row of z1; mean = sum of w l / sum of w.
        return_terms: also return {"alignment", "uniformity"}, the two sums over mu.
        impl: "fused", or "torch" for the plain reference.
        group: a process group or 1-D DeviceMesh whose ranks hold the rows of the batch together
            (docs/distributed.md).

    Returns:
        The loss, 0-dim, in the dtype of the rows (float32 for half precision), or (n,) with
        reduction="none"; (loss, terms) with return_terms.

    Raises:
        ValueError or TypeError: shapes, dtypes, devices or ranges that do not fit.

    >>> float(spectral_contrastive(torch.eye(4, 8), torch.eye(4, 8)))
    -2.0
    """
    op = "spectral_contrastive"
    pair = prepare_pair(
        op,
        ("z1", "z2"),
        z1,
        z2,
        impl=impl,
        group=group,
        reduction=reduction,
        weight=sample_weight,
        min_rows=2,
    )
    n, weight = z1.shape[0], pair.weight
    mu = check.number(op, "mu", mu, low=0.0, strict=True)
    fused = impl == "fused" and reduction != "none" and weight is None
    x1, x2 = (own_rows(z1), own_rows(z2)) if fused else pair.rows()
    longest = mu**0.5
    alignment = None

    if impl == "torch":
        loss = run_reference(
            reference.spectral_contrastive,
            x1,
            x2,
            mu=mu,
            reduction=reduction,
            sample_weight=weight,
        )
    elif not fused:
        x, y, similarity = paired_rows(x1, x2, longest)
        with torch.autocast(x.device.type, enabled=False):
            repulsion = (x * (x @ (y.T @ y))).sum(1) - similarity.square()
        rows = (-2 * similarity + repulsion / (n - 1)) / mu
        loss = reduce_rows(rows, reduction, weight)
        alignment = reduce_rows(-2 / mu * similarity, reduction, weight)
    else:
        loss, sums = fused_loss.spectral_contrastive(
            x1,
            x2,
            longest=longest,
            factor=1 / mu,
            mean=reduction == "mean",
            half=is_half(z1),
        )
    if not return_terms:
        return loss
    if fused:
        attraction, _ = fused_loss.weights(n, 1 / mu, reduction == "mean")
        alignment = attraction * sums[0]
    elif alignment is None:
        similarity = paired_rows(x1, x2, longest)[2]
        alignment = reduce_rows(-2 / mu * similarity, reduction, weight)
    return with_terms(loss, {"alignment": alignment, "uniformity": loss - alignment})


class SpectralContrastiveLoss(Loss):
    """`spectral_contrastive` as a module: ``forward(z1, z2)``.

    Args:
        mu, group: as in `spectral_contrastive`.
        options: further keywords of `spectral_contrastive`.

    Raises:
        TypeError: a keyword that `spectral_contrastive` does not have.
    """

    functional = staticmethod(spectral_contrastive)
    named = ("mu",)

    def __init__(self, mu: float = 1.0, *, group: Any = None, **options: Any) -> None:
        super().__init__(group, options)
        self.mu = mu

    def forward(
        self, z1: Tensor, z2: Tensor, *, sample_weight: Tensor | None = None
    ) -> LossOrTerms:
        return spectral_contrastive(
            z1, z2, mu=self.mu, sample_weight=sample_weight, group=self.group, **self.options
        )

r"""DCL: decoupled contrastive learning, NT-Xent without the positive in the denominator.

.. math::
    L = \frac{1}{2n} \sum_i
        \Bigl( -w_i s_{i, p(i)} + \log \sum_{k \notin \{i, p(i)\}} e^{s_{ik}} \Bigr),
    \qquad s_{ik} = \cos(z_i, z_k) / \tau,

over the 2n stacked rows; w_i = 1, or the weights of DCLW. Gradient as NT-Xent's with the masked
softmax in B and :math:`(w_i + w_{p(i)}) u_{p(i)}` in place of :math:`2 u_{p(i)}`. It replaces two
masked (n, n) logit matrices.

Yeh, Hong, Hsu, Liu, Chen, LeCun, "Decoupled Contrastive Learning" (ECCV 2022, arXiv 2110.06848),
section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _checks as check
from .._dtypes import is_half
from ..primitives.pairwise.common import pair_ids
from ..primitives.rows.unit_rows import unit_rows
from ..reference import dcl as reference
from ._common import (
    Loss,
    LossOrTerms,
    add_terms,
    reduce_rows,
    run_reference,
    self_lse,
    two_view_scale,
)
from ._inputs import prepare_pair
from .over_ranks import over_ranks
from .over_ranks.softmax import DCL

WeightFn = Callable[[Tensor, Tensor], Tensor]
TEMPERATURE = 0.1


@over_ranks(DCL)
def dcl(
    z1: Tensor,
    z2: Tensor,
    *,
    temperature: float | Tensor = TEMPERATURE,
    weight_fn: WeightFn | None = None,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
    return_terms: bool = False,
    impl: str = "fused",
    group: Any = None,
) -> LossOrTerms:
    """DCL over n pairs; rows are normalised inside. Equal to lightly's DCLLoss.

    Args:
        z1, z2: (n, d), n >= 2, float64, float32, bfloat16 or float16 (computed in float32).
        temperature: a number, a 0-dim tensor, or one per anchor: (n,) for both views of a sample
            or (2n,) view-major. A tensor may require a gradient.
        weight_fn: maps the unit rows (u1, u2) to (n,) weights of the positive term, called once
            per direction; `negative_mises_fisher_weights` gives DCLW.
        reduction: "mean" and "sum" over the 2n anchors, or "none": (2n,) view-major.
        sample_weight: (n,) per pair, applied to both views; mean = sum of w l / sum of w.
        return_terms: also return {"alignment": of -w s_pos, "uniformity": of the log-sum-exp}.
        impl: "fused", or "torch" for the plain reference.
        group: a process group or 1-D DeviceMesh whose ranks hold the rows of the batch together
            (docs/distributed.md).

    Returns:
        The loss, 0-dim, in the dtype of the rows (float32 for half precision), or (2n,) with
        reduction="none"; (loss, terms) with return_terms.

    Raises:
        ValueError or TypeError: shapes, dtypes, devices or ranges that do not fit.

    >>> z = torch.eye(4, 8)
    >>> round(float(dcl(z, z, temperature=0.5)), 4)
    -0.2082
    """
    op = "dcl"
    pair = prepare_pair(
        op,
        ("z1", "z2"),
        z1,
        z2,
        impl=impl,
        group=group,
        reduction=reduction,
        weight=sample_weight,
        scale=("temperature", temperature),
        views=2,
        min_rows=2,
    )
    n, weight = z1.shape[0], pair.weight
    (x1, x2), t = pair.rows(), pair.scale_tensor()
    scale, anchor_scale = two_view_scale(t.reciprocal(), n)
    u = (F.normalize if impl == "torch" else unit_rows)(torch.cat([x1, x2]))
    positive = ((u[:n] * u[n:]).sum(1) * scale).expand(2, n)
    if weight_fn is not None:
        if not callable(weight_fn):
            raise TypeError(f"{op}: weight_fn must be callable, got {type(weight_fn).__name__}")
        weights = torch.stack([weight_fn(u[:n], u[n:]), weight_fn(u[n:], u[:n])])
        if weights.shape != (2, n):
            raise ValueError(
                f"{op}: weight_fn must return one weight per pair ({n},), "
                f"got {tuple(weights.shape[1:])}"
            )
        positive = positive * weights.to(u.dtype)

    if impl == "torch":
        loss = run_reference(
            reference.dcl,
            x1,
            x2,
            temperature=t,
            weight_fn=weight_fn,
            reduction=reduction,
            sample_weight=weight,
        )
    else:
        negatives = self_lse(u, anchor_scale, pair_ids(n, u.device), is_half(z1)).view(2, n)
        loss = reduce_rows(negatives - positive, reduction, weight)
        loss = loss.reshape(2 * n) if reduction == "none" else loss
    return add_terms(loss, positive, reduction, weight) if return_terms else loss


def negative_mises_fisher_weights(u1: Tensor, u2: Tensor, sigma: float = 0.5) -> Tensor:
    """Detached weights 2 - n softmax_i(<u1_i, u2_i> / sigma): the ``weight_fn`` of DCLW.

    Yeh et al. (arXiv 2110.06848), section 3.2, as in lightly.

    Args:
        u1, u2: (n, d) unit rows.
        sigma: > 0; larger ones bring the weights nearer to 1.

    Returns:
        (n,) in the dtype of u1.

    Raises:
        ValueError or TypeError: sigma is no number > 0.
    """
    sigma = check.number("negative_mises_fisher_weights", "sigma", sigma, low=0.0, strict=True)
    similarity = (u1.detach() * u2.detach()).sum(1) / sigma
    return 2 - u1.shape[0] * torch.softmax(similarity, dim=0)


class DCLLoss(Loss):
    """`dcl` with lightly's constructor and ``forward(z0, z1)``.

    Args:
        temperature, weight_fn, group: as in `dcl`.
        gather_distributed: the rows of all processes are one batch.
        options: further keywords of `dcl`.

    Raises:
        TypeError: a keyword that `dcl` does not have.
    """

    functional = staticmethod(dcl)
    named = ("temperature", "weight_fn")

    def __init__(
        self,
        temperature: float = TEMPERATURE,
        weight_fn: WeightFn | None = None,
        gather_distributed: bool = False,
        *,
        group: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(group, options)
        self.temperature, self.weight_fn = temperature, weight_fn
        self.gather_distributed = gather_distributed

    def forward(
        self, z0: Tensor, z1: Tensor, *, sample_weight: Tensor | None = None
    ) -> LossOrTerms:
        return dcl(
            z0,
            z1,
            temperature=self.temperature,
            weight_fn=self.weight_fn,
            sample_weight=sample_weight,
            group=self.group,
            **self.options,
        )


class DCLWLoss(DCLLoss):
    """DCL with von Mises-Fisher weights, as lightly's DCLWLoss.

    Args:
        temperature, group: as in `dcl`.
        sigma: as in `negative_mises_fisher_weights`.
        gather_distributed: the rows of all processes are one batch.
        options: further keywords of `dcl`.

    Raises:
        TypeError: a keyword that `dcl` does not have.
    """

    def __init__(
        self,
        temperature: float = TEMPERATURE,
        sigma: float = 0.5,
        gather_distributed: bool = False,
        *,
        group: Any = None,
        **options: Any,
    ) -> None:
        weight_fn = partial(negative_mises_fisher_weights, sigma=sigma)
        super().__init__(temperature, weight_fn, gather_distributed, group=group, **options)
        self.sigma = sigma

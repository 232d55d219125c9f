r"""SigLIP: every pair of two modalities is a binary decision.

.. math::
    L = \frac{1}{n} \sum_{ij} -\log \sigma(y_{ij} \ell_{ij}),
    \qquad \ell_{ij} = c\, x_i \cdot y_j + b,

y_ij = 1 on the diagonal and -1 elsewhere, so that a row is
:math:`\sum_{j \ne i} \mathrm{softplus}(\ell_{ij}) + \mathrm{softplus}(-\ell_{ii})`. Gradient: with
:math:`\Sigma_{ij} = \sigma(\ell_{ij}) - [i = j]`,
:math:`\partial L / \partial x_i = \frac{c}{n} \sum_j \Sigma_{ij} y_j` and
:math:`\partial L / \partial b = \frac{1}{n} \sum_{ij} \Sigma_{ij}`. It replaces the (n, n) logits.

Zhai, Mustafa, Kolesnikov, Beyer, "Sigmoid Loss for Language Image Pre-Training" (ICCV 2023, arXiv
2303.15343), section 3.2.
"""

from __future__ import annotations

from typing import Any

import torch  # noqa: F401  the docstring example
import torch.nn.functional as F
from torch import Tensor

from .. import _checks as check
from .._dtypes import is_half, products
from ..fused.two_views import sigmoid_loss
from ..primitives import pairwise
from ..primitives.pairwise.value_and_grad import softplus_total
from ..ranks import world_of
from ..reference import siglip as reference
from ._common import (
    Loss,
    LossOrTerms,
    is_scalar,
    reduce_rows,
    row_weights,
    run_reference,
    with_terms,
)
from ._inputs import prepare_pair
from .clip import check_output_dict
from .over_ranks import over_ranks
from .over_ranks.sigmoid import SIGLIP

OTHERS = pairwise.LeftOut(self_pairs=True)
DIST_IMPLS = ("bidir", "shift", "reduce", "gather")  # of open_clip's constructor


@over_ranks(SIGLIP)
def siglip(
    image: Tensor,
    text: Tensor,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor,
    *,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
    return_terms: bool = False,
    impl: str = "fused",
    group: Any = None,
) -> LossOrTerms:
    """SigLIP loss of n pairs, as open_clip's SigLipLoss: normalise the rows, exp the scale before.

    Args:
        image, text: (n, d) unit rows, float64, float32, bfloat16 or float16 (computed in float32).
        logit_scale: c > 0, a number, a 0-dim tensor or (n,) per image; may require a gradient.
        logit_bias: b, a number or a 0-dim tensor; may require a gradient.
        reduction: "none": (n,) sums of the rows; "mean": their mean; "sum".
        sample_weight: (n,) per row; mean = sum of w l / sum of w.
        return_terms: also return {"positive": of the diagonal, "negative": of the rest}.
        impl: "fused", or "torch" for the plain reference.
        group: a process group or 1-D DeviceMesh whose ranks hold the rows of the batch together
            (docs/distributed.md).

    Returns:
        The loss, 0-dim, in the dtype of the rows (float32 for half precision), or (n,) with
        reduction="none"; (loss, terms) with return_terms.

    Raises:
        ValueError or TypeError: shapes, dtypes, devices or ranges that do not fit.

    >>> x = torch.eye(2, 4)
    >>> round(float(siglip(x, x, 10.0, -10.0)), 4)
    0.6932
    """
    op = "siglip"
    pair = prepare_pair(
        op,
        ("image", "text"),
        image,
        text,
        impl=impl,
        group=group,
        reduction=reduction,
        weight=sample_weight,
        scale=("logit_scale", logit_scale),
    )
    weight = pair.weight
    if impl == "fused" and is_scalar(pair.scale) and not return_terms:
        if isinstance(logit_bias, Tensor):
            offset: float | Tensor = check.real(op, "logit_bias", logit_bias, image)
        else:  # a number stays one, for which no tensor is made
            offset = check.number(op, "logit_bias", logit_bias)
        return sigmoid_loss(image, text, pair.scale, offset, reduction, weight)
    (x, y), scale = pair.rows(), pair.scale_tensor()
    bias = check.real(op, "logit_bias", logit_bias, x)
    positive = -F.logsigmoid((x * y).sum(1) * scale + bias)

    if impl == "torch":
        loss = run_reference(
            reference.siglip, x, y, scale, bias, reduction=reduction, sample_weight=weight
        )
    else:
        a, b, half = products(x, image), products(y, text), is_half(image)
        if reduction == "none":
            rows = pairwise.softplus(a, b, scale, bias, OTHERS, half=half) + positive
            loss = reduce_rows(rows, reduction, weight)
        else:
            row_weight = row_weights(positive.detach(), reduction, weight)
            loss = softplus_total(a, b, scale, bias, row_weight, OTHERS, half=half)
            loss = loss + reduce_rows(positive, reduction, weight)
    if not return_terms:
        return loss
    on = reduce_rows(positive, reduction, weight)
    return with_terms(loss, {"positive": on, "negative": loss - on})


class SigLIPLoss(Loss):
    """`siglip` with the call of open_clip's SigLipLoss.

    ``forward(image_features, text_features, logit_scale, logit_bias=None, output_dict=False)``. The
    constructor takes what open_clip's does.

    Args:
        cache_labels: changes nothing.
        rank: of this process, checked against torch.distributed.
        world_size: more than 1 stands for all processes of torch.distributed (or for `group`),
            whose global batch is exact.
        dist_impl: None, "bidir", "shift", "reduce" or "gather"; changes nothing.
        chunk_size: how many rows of logits open_clip stores at once; changes nothing where none are
            stored.
        group: as in `siglip`.
        options: further keywords of `siglip`.

    Raises:
        ValueError or TypeError: an argument is out of range, or rank and world_size are not those
            of the group.
        TypeError: a keyword that `siglip` does not have.
    """

    functional = staticmethod(siglip)
    named = ("logit_scale", "logit_bias")

    def __init__(
        self,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        dist_impl: str | None = None,
        chunk_size: int | None = None,
        *,
        group: Any = None,
        **options: Any,
    ) -> None:
        op = "SigLIPLoss"
        rank = check.count(op, "rank", rank, 0)
        world_size = check.count(op, "world_size", world_size, 1)
        super().__init__(world_of(op, rank, world_size, group), options)
        if dist_impl is not None:
            check.choice(op, "dist_impl", dist_impl, DIST_IMPLS)
        if chunk_size is not None:
            check.count(op, "chunk_size", chunk_size, 1)

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor,
        logit_bias: float | Tensor | None = None,
        output_dict: bool = False,
        *,
        sample_weight: Tensor | None = None,
    ) -> Any:
        check_output_dict(type(self).__name__, output_dict, self.options)
        bias = 0.0 if logit_bias is None else logit_bias
        loss = siglip(
            image_features,
            text_features,
            logit_scale,
            bias,
            sample_weight=sample_weight,
            group=self.group,
            **self.options,
        )
        return {"contrastive_loss": loss} if output_dict else loss

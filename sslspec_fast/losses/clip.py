r"""CLIP: InfoNCE in both directions between two modalities.

.. math::
    L = \frac{1}{2n} \sum_i \Bigl( -\log \frac{e^{s_{ii}}}{\sum_k e^{s_{ik}}}
        - \log \frac{e^{s_{ii}}}{\sum_k e^{s_{ki}}} \Bigr), \qquad s_{ik} = c\, x_i \cdot y_k .

Gradient: with :math:`M = P_{row} + P_{col}`,
:math:`\partial L / \partial x_i = \frac{c}{2n} (\sum_k M_{ik} y_k - 2 y_i)`, the same for y with
the transpose, and :math:`\partial L / \partial c =
\frac{1}{2n} (\langle M, X Y^\top \rangle - 2 \sum_i x_i \cdot y_i)`. It replaces two
``F.cross_entropy`` over (n, n) logits; one pass collects the row and the column statistics.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (ICML 2021,
arXiv 2103.00020), section 2.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch  # noqa: F401  the docstring example
from torch import Tensor

from .. import _checks as check
from .._dtypes import is_half, products
from ..fused.two_views import matched_loss
from ..primitives import pairwise
from ..ranks import world_of
from ..reference import clip as reference
from ._common import (
    Loss,
    LossOrTerms,
    add_terms,
    dot_with_sum,
    is_scalar,
    reduce_rows,
    run_reference,
)
from ._inputs import prepare_pair
from ._softmax import check_softmax, debiased, one_positive_rows, smoothing
from .over_ranks import over_ranks
from .over_ranks.softmax import CLIP


@over_ranks(CLIP)
def clip(
    image: Tensor,
    text: Tensor,
    logit_scale: float | Tensor,
    *,
    logit_bias: float | Tensor | None = None,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    tau_plus: float = 0.0,
    return_terms: bool = False,
    impl: str = "fused",
    group: Any = None,
) -> LossOrTerms:
    """CLIP loss of n pairs, as open_clip's ClipLoss: unit rows and the exponentiated scale come in.

    Args:
        image, text: (n, d) unit rows, float64, float32, bfloat16 (multiplied as it is on a GPU and
            on CPUs with AVX512-BF16, added up in float32) or float16 (computed in float32).
        logit_scale: c > 0, a number, a 0-dim tensor or (n,) per anchor (pair i in both
            directions); a tensor may require a gradient.
        logit_bias: accepted for open_clip's sake; a constant has no effect on a softmax, its
            gradient is 0.
        reduction: "mean", "sum" or "none": (n,), the mean of the two directions.
        sample_weight: (n,) per pair; mean = sum of w l / sum of w.
        label_smoothing: fraction of the target spread over the n columns.
        tau_plus: class prior of the debiased loss (arXiv 2007.00224), for unit rows.
        return_terms: also return {"alignment": of -s_ii, "uniformity": of the log-sum-exps}.
        impl: "fused", or "torch" for the plain reference.
        group: a process group or 1-D DeviceMesh whose ranks hold the rows of the batch together
            (docs/distributed.md).

    Returns:
        The loss, 0-dim, in the dtype of the rows (float32 for half precision), or (n,) with
        reduction="none"; (loss, terms) with return_terms.

    Raises:
        ValueError or TypeError: shapes, dtypes, devices or ranges that do not fit.

    >>> x = torch.eye(4, 8)
    >>> round(float(clip(x, x, 2.0)), 4)
    0.3408
    """
    op = "clip"
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
    n, weight = image.shape[0], pair.weight
    label_smoothing, tau_plus = check_softmax(op, label_smoothing, tau_plus)
    bias = None if logit_bias is None else check.real(op, "logit_bias", logit_bias, image)
    plain = impl == "fused" and not (label_smoothing or tau_plus or return_terms)
    if plain and is_scalar(pair.scale):
        loss = matched_loss(image, text, pair.scale, reduction, weight, both=True, unit=False)
        return loss if bias is None else loss + 0.0 * bias
    (x, y), scale = pair.rows(), pair.scale_tensor()
    positive = (x * y).sum(1) * scale

    if impl == "torch":
        loss = run_reference(
            reference.clip,
            x,
            y,
            scale,
            logit_bias=bias,
            reduction=reduction,
            sample_weight=weight,
            label_smoothing=label_smoothing,
            tau_plus=tau_plus,
        )
    else:
        a, b, half = products(x, image), products(y, text), is_half(image)
        others = pairwise.LeftOut(self_pairs=True)
        if scale.dim() == 0:
            by_row, by_col = pairwise.lse(a, b, scale, others, cols=True, half=half)
        else:  # a scale per anchor: the two directions have different logits
            by_row, _ = pairwise.lse(a, b, scale, others, half=half)
            by_col, _ = pairwise.lse(b, a, scale, others, half=half)
        if tau_plus:
            by_row = debiased(by_row, positive, scale, n - 1, tau_plus)
            by_col = debiased(by_col, positive, scale, n - 1, tau_plus)
        rows = 0.5 * (one_positive_rows(by_row, positive) + one_positive_rows(by_col, positive))
        if label_smoothing:
            total = 0.5 * scale * (dot_with_sum(x, y) + dot_with_sum(y, x))
            rows = rows + smoothing(positive, total, n, label_smoothing)
        if bias is not None:
            rows = rows + 0.0 * bias  # keeps the parameter in the autograd graph, as open_clip does
        loss = reduce_rows(rows, reduction, weight)
    return add_terms(loss, positive, reduction, weight) if return_terms else loss


def check_output_dict(op: str, output_dict: bool, options: Mapping[str, Any]) -> None:
    """A dict of losses is added up by those who ask for it: terms of the loss are none."""
    if output_dict and options.get("return_terms"):
        raise ValueError(f"{op}: output_dict must be False with return_terms, got True")


class CLIPLoss(Loss):
    """`clip` with the call of open_clip's ClipLoss.

    ``forward(image_features, text_features, logit_scale, logit_bias=None, output_dict=False)``. The
    constructor takes what open_clip's does.

    Args:
        local_loss, gather_with_grad, cache_labels: change nothing: the loss of several ranks is
            exact whatever they say.
        rank: of this process, checked against torch.distributed.
        world_size: more than 1 stands for all processes of torch.distributed (or for `group`).
        use_horovod: refused for several ranks.
        group: as in `clip`.
        options: further keywords of `clip`.

    Raises:
        ValueError or TypeError: rank or world_size is out of range or not that of the group, or
            use_horovod with several ranks.
        TypeError: a keyword that `clip` does not have.
    """

    functional = staticmethod(clip)
    named = ("logit_scale", "logit_bias")

    def __init__(
        self,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        use_horovod: bool = False,
        *,
        group: Any = None,
        **options: Any,
    ) -> None:
        op = "CLIPLoss"
        rank = check.count(op, "rank", rank, 0)
        world_size = check.count(op, "world_size", world_size, 1)
        if use_horovod and world_size > 1:
            raise ValueError(f"{op}: use_horovod must be False for {world_size} ranks, got True")
        super().__init__(world_of(op, rank, world_size, group), options)

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
        loss = clip(
            image_features,
            text_features,
            logit_scale,
            logit_bias=logit_bias,
            sample_weight=sample_weight,
            group=self.group,
            **self.options,
        )
        return {"contrastive_loss": loss} if output_dict else loss

r"""InfoNCE in one direction: each query against all keys, and extra negatives.

.. math::
    L = \frac{1}{n} \sum_i -\log \frac{e^{s_{ii}}}{\sum_{k=1}^{n + m} e^{s_{ik}}},
    \qquad s_{ik} = \cos(q_i, k_k) / \tau,

columns n + 1 ... n + m being the extra negatives. Gradient: with P the softmax of the rows,
:math:`\partial L / \partial u_i = (\sum_k P_{ik} v_k - v_i) / (n \tau)` on unit rows u, v and
:math:`\partial L / \partial v_k = (\sum_i P_{ik} u_i - u_k) / (n \tau)`. It replaces
``F.cross_entropy(u @ v.T / tau, arange(n))``.

van den Oord, Li, Vinyals, "Representation Learning with Contrastive Predictive Coding" (arXiv
1807.03748), section 2.3.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _checks as check
from .._dtypes import is_half, products, widen
from ..fused.two_views import has_matched_loss, matched_loss
from ..primitives.pairwise.value_and_grad import one_positive_total
from ..primitives.rows.unit_rows import paired_rows, unit_rows
from ..reference import info_nce as reference
from ._common import (
    Loss,
    LossOrTerms,
    add_terms,
    dot_with_sum,
    is_scalar,
    reduce_rows,
    reduced_inside,
    row_weights,
    run_reference,
)
from ._inputs import prepare_pair
from ._softmax import (
    check_margin,
    check_softmax,
    debiased,
    false_negatives,
    one_positive_rows,
    smoothing,
)
from .over_ranks import over_ranks
from .over_ranks.queries import INFO_NCE

TEMPERATURE = 0.1


@over_ranks(INFO_NCE)
def info_nce(
    query: Tensor,
    key: Tensor,
    *,
    temperature: float | Tensor = TEMPERATURE,
    negatives: Tensor | None = None,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    tau_plus: float = 0.0,
    margin: float = 0.0,
    ids: Any = None,
    negative_ids: Any = None,
    threshold: float | Tensor | None = None,
    return_terms: bool = False,
    impl: str = "fused",
    group: Any = None,
) -> LossOrTerms:
    """InfoNCE of n queries against n keys; rows are normalised inside.

    Args:
        query, key: (n, d) float64, float32, bfloat16 or float16 (computed in float32); key i is the
            positive of query i.
        temperature: a number, a 0-dim tensor or (n,) per query; a tensor may require a gradient.
        negatives: (m, d) more columns (a queue, mined negatives), or None.
        reduction: "mean", "sum" or "none" over the n queries.
        sample_weight: (n,); mean = sum of w l / sum of w.
        label_smoothing: fraction of the target spread over the n + m columns.
        tau_plus: class prior of the debiased loss (arXiv 2007.00224).
        margin: >= 0, taken off the cosine of the positive pair (additive margin softmax, arXiv
            1801.05599); in numerator and denominator.
        ids: (n,) integers of 32 bits; a key with the id of a query is none of its negatives.
        negative_ids: (m,) the same for `negatives`; needs ids. Without them, those have other ids.
        threshold: a number, or (n,) without a gradient: columns with a larger cosine are taken to
            be false negatives and left out. The positive stays.
            ``cos(q, k).detach() + 0.1`` leaves out what is closer than the positive by 0.1.
        return_terms: also return {"alignment": of -s_ii, "uniformity": of the log-sum-exp}.
        impl: "fused", or "torch" for the plain reference.
        group: a process group or 1-D DeviceMesh whose ranks hold the rows of the batch together
            (docs/distributed.md).

    Returns:
        The loss, 0-dim, in the dtype of the rows (float32 for half precision), or (n,) with
        reduction="none"; (loss, terms) with return_terms.

    Raises:
        ValueError or TypeError: shapes, dtypes, devices or ranges that do not fit.

    >>> z = torch.eye(4, 8)
    >>> round(float(info_nce(z, z, temperature=0.5)), 4)
    0.3408
    """
    op = "info_nce"
    pair = prepare_pair(
        op,
        ("query", "key"),
        query,
        key,
        impl=impl,
        group=group,
        reduction=reduction,
        weight=sample_weight,
        scale=("temperature", temperature),
    )
    weight = pair.weight
    label_smoothing, tau_plus = check_softmax(op, label_smoothing, tau_plus)
    if negatives is not None:
        check.columns(op, "negatives", negatives, "query", query)
    false = false_negatives(op, query, ids, negatives, negative_ids, threshold)
    margin = check_margin(op, margin, bool(false), label_smoothing, tau_plus)
    changed = margin or false
    plain = impl == "fused" and not (label_smoothing or tau_plus or return_terms or changed)
    if plain and negatives is None and has_matched_loss(query) and is_scalar(pair.scale):
        c = pair.inverse_scale()
        return reduced_inside(
            lambda how: matched_loss(query, key, c, how, both=False, unit=True), reduction, weight
        )
    (q, k), t = pair.rows(), pair.scale_tensor()
    extra = None if negatives is None else widen(negatives)

    scale = t.reciprocal()
    if impl == "torch":
        positive = ((F.normalize(q) * F.normalize(k)).sum(1) - margin) * scale
        loss = run_reference(
            reference.info_nce,
            q,
            k,
            temperature=t,
            negatives=extra,
            reduction=reduction,
            sample_weight=weight,
            label_smoothing=label_smoothing,
            tau_plus=tau_plus,
            margin=margin,
            **false._asdict(),
        )
    else:
        u, v, similarity = paired_rows(q, k)
        positive = (similarity - margin if margin else similarity) * scale
        columns = v if extra is None else torch.cat([v, unit_rows(extra)])
        a, b, half = products(u, query), products(columns, query), is_half(query)
        if reduction == "none" or tau_plus or false:
            lse = false.lse(a, b, scale, skip_self=True, half=half)
            if tau_plus:
                lse = debiased(lse, positive, scale, columns.shape[0] - 1, tau_plus)
            loss = reduce_rows(one_positive_rows(lse, positive), reduction, weight)
        else:
            row_weight = row_weights(positive.detach(), reduction, weight)
            loss = one_positive_total(a, b, scale, positive, row_weight, skip_self=True, half=half)
        if label_smoothing:
            total = dot_with_sum(u, columns) * scale
            rows = smoothing(positive, total, columns.shape[0], label_smoothing)
            loss = loss + reduce_rows(rows, reduction, weight)
    return add_terms(loss, positive, reduction, weight) if return_terms else loss


class InfoNCELoss(Loss):
    """`info_nce` as a module: ``forward(query, key, negatives=None)``.

    ``forward`` also takes the functional's ``sample_weight``, ``ids`` and ``negative_ids``.

    Args:
        temperature, group: as in `info_nce`.
        options: further keywords of `info_nce`.

    Raises:
        TypeError: a keyword that `info_nce` does not have.
    """

    functional = staticmethod(info_nce)
    named = ("temperature", "negatives", "ids", "negative_ids")

    def __init__(
        self, temperature: float | Tensor = TEMPERATURE, *, group: Any = None, **options: Any
    ) -> None:
        super().__init__(group, options)
        self.temperature = temperature

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        negatives: Tensor | None = None,
        *,
        sample_weight: Tensor | None = None,
        ids: Any = None,
        negative_ids: Any = None,
    ) -> LossOrTerms:
        return info_nce(
            query,
            key,
            temperature=self.temperature,
            negatives=negatives,
            sample_weight=sample_weight,
            ids=ids,
            negative_ids=negative_ids,
            group=self.group,
            **self.options,
        )

r"""MoCo: each query against its own key and a queue of earlier keys.

.. math::
    L = \frac{1}{n} \sum_i -\log \frac{e^{s_i}}{e^{s_i} + \sum_k e^{s_{ik}}}, \qquad
    s_i = (\cos(q_i, k_i) - m) / \tau, \quad s_{ik} = u_i \cdot b_k / \tau,

u the unit queries, b the rows of the queue; the other keys of the batch are no columns, unlike in
`info_nce`. Gradient: with :math:`P_{ik}` the softmax of a row and :math:`P_i` that of its
positive, :math:`\partial L / \partial u_i = (\sum_k P_{ik} b_k - (1 - P_i) v_i) / (n \tau)`. It
replaces ``F.cross_entropy(torch.cat([positive, u @ queue.T], 1) / tau, zeros(n))`` and its
(n, m + 1) logits.

He, Fan, Wu, Xie, Girshick, "Momentum Contrast for Unsupervised Visual Representation Learning"
(arXiv 1911.05722), section 3.1; additive margin: Wang, Cheng, Liu, Liu (arXiv 1801.05599); hard
negatives: Robinson, Chuang, Sra, Jegelka (arXiv 2010.04592), section 4.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _checks as check
from .._dtypes import is_half, products, widen
from ..primitives.pairwise.common import constant
from ..primitives.pairwise.value_and_grad import one_positive_total
from ..primitives.rows.unit_rows import paired_rows
from ..reference import moco as reference
from ._common import LossOrTerms, add_terms, reduce_rows, row_weights, run_reference
from ._inputs import prepare_pair
from ._queue import check_queue, check_queue_ids
from ._softmax import FalseNegatives, check_column_weight, one_positive_rows
from .over_ranks import over_ranks
from .over_ranks.queries.moco import MOCO


@over_ranks(MOCO)
def moco(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    *,
    temperature: float | Tensor = 0.2,
    margin: float = 0.0,
    ids: Any = None,
    queue_ids: Any = None,
    threshold: float | Tensor | None = None,
    hardness: float = 0.0,
    column_weight: Tensor | None = None,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
    return_terms: bool = False,
    impl: str = "fused",
    group: Any = None,
) -> LossOrTerms:
    """MoCo's loss of n queries; queries and keys are normalised inside, the queue is not.

    Args:
        query, key: (n, d) float64, float32, bfloat16 or float16 (computed in float32); key i is the
            positive of query i. Detach keys of a momentum encoder.
        queue: (m, d) rows of unit length, m >= 0, in the dtype of the query or the one it is
            computed in; no gradient. One in the latter is read in place, and one in bfloat16 where
            that is multiplied. Write new keys into
            it after ``backward()``, as autograd asks; ``rows`` of a `MemoryBank` are such a queue.
        temperature: a number, a 0-dim tensor or (n,) per query; a tensor may require a gradient.
        margin: >= 0, taken off the cosine of the positive pair.
        ids, queue_ids: (n,) and (m,) integers of 32 bits, both or neither: a row of the queue with
            the id of a query is none of its negatives.
        threshold: a number, or (n,) without a gradient: rows of the queue with a larger cosine are
            taken to be false negatives and left out.
        hardness: b >= 0: the rows of the queue have factors proportional to e^(b s_ik), of mean 1
            for each query (arXiv 2010.04592).
        column_weight: (m,) >= 0, the factors of the exponentials of the rows of the queue, without
            a gradient.
        reduction: "mean", "sum" or "none" over the n queries.
        sample_weight: (n,); mean = sum of w l / sum of w.
        return_terms: also return {"alignment": of -s_i, "uniformity": of the log-sum-exp}.
        impl: "fused", or "torch" for the plain reference.
        group: a process group or 1-D DeviceMesh whose ranks hold the queries of the batch together
            and each the whole queue (docs/distributed.md).

    Returns:
        The loss, 0-dim, in the dtype of the rows (float32 for half precision), or (n,) with
        reduction="none"; (loss, terms) with return_terms.

    Raises:
        ValueError or TypeError: shapes, dtypes, devices or ranges that do not fit; on a CPU also
            where one of 64 rows of the queue is not of unit length.

    >>> z = torch.eye(4, 8)
    >>> round(float(moco(z[:2], z[:2], z[2:], temperature=0.5)), 4)
    0.2395
    """
    op = "moco"
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
    (q, k), t, weight = pair.rows(), pair.scale_tensor(), pair.weight
    n, bank = query.shape[0], check_queue(op, queue, query)
    margin = check.number(op, "margin", margin, low=0.0)
    bound = None if threshold is None else check.threshold(op, threshold, query, n)
    false = FalseNegatives(*check_queue_ids(op, ids, queue_ids, query, bank), bound)

    false = check_column_weight(op, column_weight, query, bank.shape[0], false)
    hardness = check.number(op, "hardness", hardness, low=0.0)

    scale = t.reciprocal()
    if impl == "torch":
        positive = ((F.normalize(q) * F.normalize(k)).sum(1) - margin) * scale
        loss = run_reference(
            reference.moco,
            q,
            k,
            widen(bank),
            temperature=t,
            margin=margin,
            reduction=reduction,
            sample_weight=weight,
            ids=false.ids,
            column_ids=false.column_ids,
            threshold=false.threshold,
            log_weight=false.log_weight,
            hardness=hardness,
        )
    else:
        u, _, similarity = paired_rows(q, k)
        positive = (similarity - margin if margin else similarity) * scale
        half = is_half(query)
        a, b = products(u, query), constant(bank, half)
        if bank.shape[0] == 0:
            rows = one_positive_rows(torch.full_like(positive, -torch.inf), positive)
            loss = reduce_rows(rows, reduction, weight)
        elif reduction == "none" or false.some() or hardness:
            rows = one_positive_rows(false.reweighted(a, b, scale, hardness, half), positive)
            loss = reduce_rows(rows, reduction, weight)
        else:
            row_weight = row_weights(positive.detach(), reduction, weight)
            loss = one_positive_total(a, b, scale, positive, row_weight, skip_self=False, half=half)
    return add_terms(loss, positive, reduction, weight) if return_terms else loss

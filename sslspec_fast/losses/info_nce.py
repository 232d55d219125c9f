r"""InfoNCE in one direction: each query against all keys, and extra negatives.

.. math::
    L = \frac{1}{n} \sum_i -\log \frac{e^{s_{ii}}}{\sum_{k=1}^{n + m} e^{s_{ik}}},
    \qquad s_{ik} = \cos(q_i, k_k) / \tau,

columns n + 1 ... n + m being the extra negatives. Gradient: with P the softmax of the rows,
:math:`\partial L / \partial u_i = (\sum_k P_{ik} v_k - v_i) / (n \tau)` on unit rows u, v and
:math:`\partial L / \partial v_k = (\sum_i P_{ik} u_i - u_k) / (n \tau)`. It replaces
``F.cross_entropy(u @ v.T / tau, arange(n))``. Further columns, fewer, keys in another order, and
false negatives that are left out: `_candidates.py`.

van den Oord, Li, Vinyals, "Representation Learning with Contrastive Predictive Coding" (arXiv
1807.03748), section 2.3; all pairs of a batch as columns: Li et al. (arXiv 2308.03281), section
3.3; guided false negatives: Solatorio (arXiv 2402.16829); hard negatives: Robinson, Chuang, Sra,
Jegelka (arXiv 2010.04592), section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch  # noqa: F401  the docstring example
import torch.nn.functional as F
from torch import Tensor

from .. import _checks as check
from .._dtypes import is_half, products, widen
from ..fused.two_views import matched_loss
from ..primitives.pairwise.value_and_grad import one_positive_total
from ..reference import info_nce as reference
from ._candidates import (
    QUERY_TO_KEY,
    candidates,
    check_columns,
    check_default,
    false_of_each,
    of_each_query,
    select,
)
from ._common import (
    Loss,
    LossOrTerms,
    add_terms,
    dot_with_sum,
    is_scalar,
    reduce_rows,
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
from .over_ranks.queries.info_nce import INFO_NCE

TEMPERATURE = 0.1


@over_ranks(INFO_NCE)
def info_nce(
    query: Tensor,
    key: Tensor,
    *,
    temperature: float | Tensor = TEMPERATURE,
    negatives: Tensor | None = None,
    directions: Sequence[str] = (QUERY_TO_KEY,),
    target: Any = None,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    tau_plus: float = 0.0,
    margin: float = 0.0,
    ids: Any = None,
    negative_ids: Any = None,
    threshold: float | Tensor | None = None,
    guide: Sequence[Tensor] | None = None,
    guide_margin: float = 0.0,
    guide_relative: bool = False,
    hardness: float = 0.0,
    column_weight: Tensor | None = None,
    return_terms: bool = False,
    impl: str = "fused",
    group: Any = None,
) -> LossOrTerms:
    """InfoNCE of n queries against n keys; rows are normalised inside.

    Args:
        query, key: (n, d) float64, float32, bfloat16 or float16 (computed in float32); key i is the
            positive of query i. With `target`, the keys are (m, d).
        temperature: a number, a 0-dim tensor or (n,) per query; a tensor may require a gradient.
        negatives: (l, d) more columns of every query (a queue, mined negatives), (n, l, d) l of
            each query alone, or None. With directions=() they are info-nce-pytorch's
            negative_mode="unpaired" and "paired". (n, l, d) not with a guide.
            With a group, this rank's: its part of the columns of all queries, or (n, l, d) those
            of its own queries, l the same on all ranks.
        directions: the columns of query i beside its positive and the negatives, p its positive
            key: "query_to_key": q_i . k_j; "query_to_query": q_i . q_j; "key_to_key": p_i . k_j;
            "key_to_query": p_i . q_j, which holds the pair itself once more. () takes the
            negatives alone.
        target: (n,) integers in [0, m): the row of `key` that is the positive of each query, for
            keys in another number or order. Several queries may have one key. With a group, a row
            of this rank's `key`; the keys of the other ranks are negatives.
        reduction: "mean", "sum" or "none" over the n queries.
        sample_weight: (n,); mean = sum of w l / sum of w.
        label_smoothing: fraction of the target spread over the columns.
        tau_plus: class prior of the debiased loss (arXiv 2007.00224). It and label_smoothing go
            with the default `directions` only.
        margin: >= 0, taken off the cosine of the positive pair (additive margin softmax, arXiv
            1801.05599); in numerator and denominator.
        ids: (n,) integers of 32 bits; rows with the id of a query are none of its negatives. Not
            with `target`.
        negative_ids: (l,) or (n, l), the same for `negatives`; needs ids. Without them, those have
            other ids.
        threshold: a number, or (n,) without a gradient: columns with a larger cosine are taken to
            be false negatives and left out. The positive stays.
            ``cos(q, k).detach() + 0.1`` leaves out what is closer than the positive by 0.1.
        guide: embeddings of the queries, of the keys and of the negatives, if any, by a model that
            tells false negatives: (n, e), (m, e), (l, e), without a gradient. A column is left out
            where the cosine that they give it exceeds that of the query and its positive
            (GISTEmbed, arXiv 2402.16829), less `guide_margin`. On a tie, the rounding decides.
        guide_margin: taken off that bound.
        guide_relative: guide_margin is a share of the absolute value of the bound.
        hardness: b >= 0: the negatives of a query have factors proportional to e^(b s), of mean 1
            (arXiv 2010.04592). With tau_plus it is that paper's loss.
        column_weight: (m,) >= 0, the factors of the exponentials of the keys and then of the
            negatives (l, d), without a gradient; of the negatives alone with directions=(). The
            positive has the factor 1. With the default `directions` or none, with a threshold or a
            guide but not both. With a group, those of this rank's keys and negatives.
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
        paired=target is None,
    )
    weight = pair.weight
    label_smoothing, tau_plus = check_softmax(op, label_smoothing, tau_plus)
    each = negatives if isinstance(negatives, Tensor) and negatives.dim() == 3 else None
    shared = negatives if each is None else None
    by = guide, guide_margin, guide_relative
    chosen = select(op, (query, key, negatives), target, ids, directions, by, hardness)
    if each is not None:
        false, own_ids = false_of_each(op, query, each, ids, negative_ids, threshold, guide)
    else:
        if shared is not None:
            check.columns(op, "negatives", shared, "query", query)
        false, own_ids = false_negatives(op, query, ids, shared, negative_ids, threshold), None
    false = check_columns(op, false, chosen, column_weight, (query, key, negatives))
    filtered = false.some() or guide is not None
    margin = check_margin(op, margin, filtered, label_smoothing, tau_plus)
    check_default(op, chosen, label_smoothing, tau_plus)
    changed = label_smoothing or tau_plus or margin or filtered or hardness or return_terms
    plain = chosen.only_columns() and not changed and negatives is None
    if impl == "fused" and plain and is_scalar(pair.scale):
        c = pair.inverse_scale()
        return matched_loss(query, key, c, reduction, weight, both=False, unit=True)
    (q, k), t = pair.rows(), pair.scale_tensor()
    extra = None if shared is None else widen(shared)

    scale = t.reciprocal()
    if impl == "torch":
        own = F.normalize(k) if chosen.target is None else F.normalize(k)[chosen.target]
        positive = ((F.normalize(q) * own).sum(1) - margin) * scale
        loss = run_reference(
            reference.info_nce,
            q,
            k,
            temperature=t,
            negatives=extra if each is None else widen(each),
            reduction=reduction,
            sample_weight=weight,
            label_smoothing=label_smoothing,
            tau_plus=tau_plus,
            margin=margin,
            ids=false.by_part(key.shape[0], own_ids),
            threshold=false.threshold,
            log_weight=false.log_weight,
            directions=chosen.directions,
            target=chosen.target,
            guide=chosen.guide,
            guide_margin=chosen.guide_margin,
            guide_relative=chosen.guide_relative,
            hardness=chosen.hardness,
        )
    else:
        rows, similarity = candidates(q, k, extra, chosen.target)
        positive = (similarity - margin if margin else similarity) * scale
        sides = rows.sides(chosen.directions)
        more = None if each is None else of_each_query(rows.query, each, false, own_ids)
        dense = reduction != "none" and chosen.only_columns() and not (tau_plus or filtered)
        guided = None
        if reduction != "none" and guide is not None and not false.some():
            row_weight = row_weights(positive.detach(), reduction, weight)
            guided = chosen.guided_total(rows, scale, positive, row_weight, query)
        if guided is not None:
            loss = guided
        elif not dense or hardness or more is not None:
            lse = chosen.lse(sides, scale, positive, false, query, more)
            if tau_plus:
                count = sides[QUERY_TO_KEY][1].shape[0] - 1 + (0 if each is None else each.shape[1])
                lse = debiased(lse, positive, scale, count, tau_plus)
            loss = reduce_rows(one_positive_rows(lse, positive), reduction, weight)
        else:
            a, b = (products(x, query) for x in sides[QUERY_TO_KEY])
            row_weight = row_weights(positive.detach(), reduction, weight)
            skip = QUERY_TO_KEY in chosen.directions
            loss = one_positive_total(
                a, b, scale, positive, row_weight, skip_self=skip, half=is_half(query)
            )
        if label_smoothing:
            columns = sides[QUERY_TO_KEY][1]
            total, count = dot_with_sum(rows.query, columns), columns.shape[0]
            if more is not None:
                total, count = total + more.cosines.sum(1), count + more.cosines.shape[1]
            spread = smoothing(positive, total * scale, count, label_smoothing)
            loss = loss + reduce_rows(spread, reduction, weight)
    return add_terms(loss, positive, reduction, weight) if return_terms else loss


class InfoNCELoss(Loss):
    """`info_nce` as a module: ``forward(query, key, negatives=None)``.

    ``forward`` also takes the functional's ``sample_weight``, ``ids``, ``negative_ids``,
    ``target``, ``guide`` and ``column_weight``.

    Args:
        temperature, group: as in `info_nce`.
        options: further keywords of `info_nce`.

    Raises:
        TypeError: a keyword that `info_nce` does not have.
    """

    functional = staticmethod(info_nce)
    named = (
        "temperature",
        "negatives",
        "ids",
        "negative_ids",
        "target",
        "guide",
        "column_weight",
    )

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
        target: Any = None,
        guide: Sequence[Tensor] | None = None,
        column_weight: Tensor | None = None,
    ) -> LossOrTerms:
        return info_nce(
            query,
            key,
            temperature=self.temperature,
            negatives=negatives,
            sample_weight=sample_weight,
            ids=ids,
            negative_ids=negative_ids,
            target=target,
            guide=guide,
            column_weight=column_weight,
            group=self.group,
            **self.options,
        )

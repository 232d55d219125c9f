r"""ReSSL: a query has the similarities to a queue that its key has, which are sharper.

.. math::
    L = \frac1n \sum_i \sum_k -q_{ik} \log p_{ik}, \qquad
    p_i = \mathrm{softmax}_k(u_i \cdot b_k / \tau), \quad
    q_i = \mathrm{softmax}_k(v_i \cdot b_k / \tau'),

u the unit queries, v the unit keys, b the rows of the queue. It is `prototype_cross_entropy` with
the queue as prototypes. Gradient: :math:`\partial L / \partial u_i = \frac{1}{n \tau} \sum_k
(p_{ik} - q_{ik}) b_k`. It replaces both (n, m) matrices of similarities and their softmax.

Zheng, You, Wang, Qian, Zhang, Wang, Xu, "ReSSL: Relational Self-Supervised Learning with Weak
Augmentation" (arXiv 2107.09282), section 3.2.
"""

from __future__ import annotations

from typing import Any

import torch  # noqa: F401  the docstring example
from torch import Tensor

from .. import _checks as check
from ..reference import ressl as reference
from ._common import LossOrTerms, Terms, run_reference
from ._head_inputs import ressl_heads
from ._heads import answer, loss_and_terms
from .over_ranks import over_ranks
from .over_ranks.prototypes.rows import RESSL


@over_ranks(RESSL)
def ressl(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    key_temperature: float | Tensor = 0.04,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
    return_terms: bool = False,
    impl: str = "fused",
    group: Any = None,
) -> LossOrTerms:
    """ReSSL's loss of n queries; queries and keys are normalised inside, the queue is not.

    Args:
        query: (n, d) float64, float32, bfloat16 or float16 (computed in float32).
        key: (n, d) of the teacher; no gradient.
        queue: (m, d) rows of unit length, m >= 1, in the dtype of the query or the one it is
            computed in; no gradient. `MemoryBank` is such a queue.
        temperature: a number, a 0-dim tensor or (n,) per query; a tensor may require a gradient.
        key_temperature: a number, a 0-dim tensor or (n,); no gradient.
        reduction: "mean", "sum" or "none" over the n queries.
        sample_weight: (n,); mean = sum of w l / sum of w.
        return_terms: also return {"entropy": of the q_i, "divergence": loss - entropy}.
        impl: "fused", or "torch" for the plain reference.
        group: a process group or 1-D DeviceMesh whose ranks hold the queries of the batch together
            and each the whole queue (docs/distributed.md).

    Returns:
        The loss, 0-dim, in the dtype of the queries (float32 for half precision), or (n,) with
        reduction="none"; (loss, terms) with return_terms.

    Raises:
        ValueError or TypeError: shapes, dtypes, devices or ranges that do not fit; on a CPU also
            where one of 64 rows of the queue is not of unit length.
        NotImplementedError: a queue or key_temperature that requires a gradient.

    >>> z = torch.eye(4, 8)
    >>> round(float(ressl(z[:2], z[:2], z, temperature=0.5)), 4)
    0.3408
    """
    op = "ressl"
    check.common(op, impl, group, reduction)
    heads = ressl_heads(query, key, queue, temperature, key_temperature)
    weight = check.sample_weight(op, sample_weight, query, query.shape[0], reduction)

    def plain() -> Tensor:
        a, b, _, _ = heads.tensors()
        return run_reference(
            reference.ressl,
            a,
            b,
            heads.prototypes,
            temperature=heads.student_temperature,
            key_temperature=heads.teacher_temperature,
            reduction=reduction,
            sample_weight=weight,
        )

    def fused() -> tuple[Tensor, Terms]:
        return loss_and_terms(heads.sides(), heads.graph, reduction, weight)

    return answer(impl, plain, fused, return_terms)

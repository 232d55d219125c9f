r"""Cross-entropy between soft codes over prototypes, on any graph of students and teachers.

.. math::
    L = \frac{1}{\sum_{it} G_{it}} \sum_{it} G_{it} \sum_j -q_{tj} \log p_{ij}, \qquad
    p_i = \mathrm{softmax}_j(a_i \cdot w_j / \tau_s), \quad
    q_t = \mathrm{softmax}_j(b_t \cdot v_j / \tau_t + \beta_j),

a the unit students and w the unit prototypes, b and v those of the teacher, which have no gradient,
and :math:`\beta` what centering or Sinkhorn's iteration adds to the teacher's logits
(`sinkhorn_bias`). DINO, iBOT, SwAV, MSN and ReSSL are this loss with a G each. Gradients:
docs/math/prototype_cross_entropy.md. It replaces both matrices of logits, their softmax and
``-(q * log_p).sum(1)`` for every pair.

Caron, Touvron, Misra, Jegou, Mairal, Bojanowski, Joulin, "Emerging Properties in Self-Supervised
Vision Transformers" (arXiv 2104.14294), section 3.1; the mean entropy: Assran et al., "Masked
Siamese Networks" (arXiv 2204.07141), section 3.
"""

from __future__ import annotations

from typing import Any

import torch  # noqa: F401  the docstring example
from torch import Tensor

from .. import _checks as check
from ..reference import prototype_cross_entropy as reference
from ._codes import divergence
from ._common import LossOrTerms, Terms, run_reference
from ._heads import answer, loss_and_terms, mean_probability, prepare
from ._prototypes import check_heads, check_mean_entropy, check_total
from .over_ranks import over_ranks
from .over_ranks.prototypes.rows import PROTOTYPE_CROSS_ENTROPY


@over_ranks(PROTOTYPE_CROSS_ENTROPY)
def prototype_cross_entropy(
    student: Tensor,
    teacher: Tensor,
    prototypes: Tensor | None,
    teacher_prototypes: Tensor | None = None,
    *,
    pairs: Any = None,
    student_temperature: float | Tensor = 0.1,
    teacher_temperature: float | Tensor = 0.04,
    bias: Tensor | None = None,
    normalize: bool = True,
    mean_entropy: float = 0.0,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
    return_terms: bool = False,
    impl: str = "fused",
    group: Any = None,
) -> LossOrTerms:
    """Soft cross-entropy of n students with their teachers among m, over k prototypes.

    Args:
        student: (n, d) float64, float32, bfloat16 or float16 (computed in float32).
        teacher: (m, e), in any of these dtypes; no gradient.
        prototypes: (k, d) rows; None: student and teacher are logits (n, k) and (m, k).
        teacher_prototypes: (k, e), of the teacher's last layer, no gradient; None: `prototypes`.
        pairs: None: teacher i is the target of student i; a `PairGraph` with weights >= 0, where
            n = m; or (rows, columns) or (rows, columns, weights >= 0) of the pairs.
        student_temperature: a number, a 0-dim tensor or (n,); a tensor may require a gradient.
        teacher_temperature: a number, a 0-dim tensor or (m,); no gradient.
        bias: (k,) added to the logits of the teacher over their temperature, or (g, k) for g equal
            blocks of its rows.
        normalize: rows and prototypes to unit length; not with logits.
        mean_entropy: weight of log k - H(mean of the p_i), >= 0.
        reduction: "mean" over the pairs, their weights counted; "sum"; or "none": (n,) sums over
            the teachers of a student, without mean_entropy.
        sample_weight: (n,), factors of the weights of the students' pairs.
        return_terms: also return {"entropy": of the targets, "divergence": loss - entropy}, and
            "mean_entropy" where it has a weight.
        impl: "fused", or "torch" for the plain reference.
        group: a process group or 1-D DeviceMesh whose ranks hold the students of the batch
            together, and each the teachers of its own, `pairs` of its own rows, and all prototypes
            (docs/distributed.md). Blocks of the bias are those of the rank's own teachers. For
            pairs that cross ranks, `pairs` is a PairGraph made with this group, which may then be
            left out, and the bias (k,).

    Returns:
        The loss, 0-dim, in the dtype of the students (float32 for half precision), or (n,) with
        reduction="none"; (loss, terms) with return_terms.

    Raises:
        ValueError or TypeError: shapes, dtypes, devices or ranges that do not fit.
        NotImplementedError: a bias, teacher_temperature or weights of pairs that require a
            gradient.

    >>> z, w = torch.eye(4, 8), torch.eye(6, 8)
    >>> round(float(prototype_cross_entropy(z, z, w, teacher_temperature=0.1)), 4)
    0.0025
    """
    op = "prototype_cross_entropy"
    check.common(op, impl, group, reduction)
    check_heads(op, student, teacher, prototypes, teacher_prototypes)
    n, m = student.shape[0], teacher.shape[0]
    mean_entropy = check_mean_entropy(op, mean_entropy, reduction)
    weight = check.sample_weight(op, sample_weight, student, n, reduction)
    heads = prepare(
        op,
        (student, prototypes, student_temperature),
        (teacher, teacher_prototypes, teacher_temperature),
        pairs=pairs,
        bias=bias,
        normalize=normalize,
        by_row=True,
    )
    check_total(op, heads.graph, weight, reduction)

    def plain() -> Tensor:
        return run_reference(
            reference.prototype_cross_entropy,
            *heads.tensors(),
            pairs=heads.graph.dense(n, m),
            **heads.options(),
            mean_entropy=mean_entropy,
            reduction=reduction,
            sample_weight=weight,
        )

    def fused() -> tuple[Tensor, Terms]:
        sides = heads.sides()
        loss, terms = loss_and_terms(sides, heads.graph, reduction, weight)
        if mean_entropy:
            surplus = divergence(mean_probability(sides))
            loss, terms["mean_entropy"] = loss + mean_entropy * surplus, surplus
        return loss, terms

    return answer(impl, plain, fused, return_terms)

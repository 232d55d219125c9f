r"""X-CLR: the similarities within a batch are those of given targets, such as captions.

.. math::
    L = \frac1n \sum_i \sum_{j \ne i} -q_{ij} \log p_{ij}, \qquad
    p_i = \mathrm{softmax}_{j \ne i}(u_i \cdot u_j / \tau), \quad
    q_i = \mathrm{softmax}_{j \ne i}(t_i \cdot t_j / \tau'),

u the unit rows and t the unit targets. It is `prototype_cross_entropy` with the batch as
prototypes, itself left out; both sides of a product have the gradient: docs/math/x_clr.md. It
replaces both (n, n) matrices of similarities and their softmax.

Sobal, Ibrahim, Balestriero, Cabannes, Bouchacourt, Astolfi, Cho, LeCun, "X-Sample Contrastive Loss:
Improving Contrastive Learning with Sample Similarity Graphs" (arXiv 2407.18134), section 3.2.
"""

from __future__ import annotations

from typing import Any

import torch  # noqa: F401  the docstring example
from torch import Tensor

from .. import _checks as check
from ..reference import x_clr as reference
from ._common import LossOrTerms, Terms, run_reference
from ._head_inputs import x_clr_heads
from ._heads import answer, loss_and_terms
from .over_ranks import over_ranks
from .over_ranks.prototypes.rows import X_CLR


@over_ranks(X_CLR)
def x_clr(
    z: Tensor,
    targets: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    target_temperature: float | Tensor = 0.1,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
    return_terms: bool = False,
    impl: str = "fused",
    group: Any = None,
) -> LossOrTerms:
    """X-CLR's loss of n rows.

    Args:
        z: (n, d), n >= 2; float64, float32, bfloat16 or float16 (computed in float32). Views of the
            same samples are rows below each other, with their targets repeated.
        targets: (n, e), whose cosines are the similarities; no gradient.
        temperature: a number, a 0-dim tensor or (n,); a tensor may require a gradient.
        target_temperature: a number, a 0-dim tensor or (n,); no gradient.
        reduction: "mean", "sum" or "none" over the n rows.
        sample_weight: (n,); mean = sum of w l / sum of w.
        return_terms: also return {"entropy": of the q_i, "divergence": loss - entropy}.
        impl: "fused", or "torch" for the plain reference.
        group: a process group or 1-D DeviceMesh whose ranks hold the rows of the batch together,
            with their targets (docs/distributed.md).

    Returns:
        The loss, 0-dim, in the dtype of z (float32 for half precision), or (n,) with
        reduction="none"; (loss, terms) with return_terms.

    Raises:
        ValueError or TypeError: shapes, dtypes, devices or ranges that do not fit.
        NotImplementedError: a target_temperature that requires a gradient.

    >>> z = torch.eye(3)
    >>> round(float(x_clr(z, z)), 4)  # two others at the same distance: log 2
    0.6931
    """
    op = "x_clr"
    check.common(op, impl, group, reduction)
    heads = x_clr_heads(z, targets, temperature, target_temperature)
    weight = check.sample_weight(op, sample_weight, z, z.shape[0], reduction)

    def plain() -> Tensor:
        a, b, _, _ = heads.tensors()
        return run_reference(
            reference.x_clr,
            a,
            b,
            temperature=heads.student_temperature,
            target_temperature=heads.teacher_temperature,
            reduction=reduction,
            sample_weight=weight,
        )

    def fused() -> tuple[Tensor, Terms]:
        sides = heads.own_sides() or heads.sides()
        return loss_and_terms(sides, heads.graph, reduction, weight, skip_self=True)

    return answer(impl, plain, fused, return_terms)

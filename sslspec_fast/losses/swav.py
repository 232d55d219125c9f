r"""SwAV: every crop of a sample predicts the balanced codes of its other large crops.

.. math::
    L = \frac{1}{|P|\, n} \sum_{(v, i) \in P} \sum_b \sum_j -q^i_{bj} \log p^v_{bj}, \qquad
    P = \{(v, i) : v \ne i,\ i \text{ large}\},

:math:`p^v_b` the softmax over prototypes of crop v at :math:`\tau`, :math:`q^i` the codes of crop i
after Sinkhorn's iteration on its rows and those of a queue at :math:`\epsilon`, without a gradient.
It is `prototype_cross_entropy` on the graph of the crops of a sample, with `sinkhorn_bias` of each
large crop. Gradient: docs/math/swav.md. It replaces the (rows, k) matrices of scores, their
exponentials, codes and softmax.

Caron, Misra, Mairal, Goyal, Bojanowski, Joulin, "Unsupervised Learning of Visual Features by
Contrasting Cluster Assignments" (arXiv 2006.09882), section 3.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _checks as check
from ..reference import swav as reference
from ._column_bias import sinkhorn_bias
from ._common import Loss, LossOrTerms, Terms, run_reference
from ._head_inputs import swav_crops
from ._heads import answer, loss_and_terms
from ._views import Views
from .over_ranks import over_ranks
from .over_ranks.prototypes.balanced import SWAV

TEMPERATURE = 0.1


@over_ranks(SWAV)
def swav(
    high_views: Views,
    low_views: Views | None = None,
    prototypes: Tensor | None = None,
    *,
    queue: Views | None = None,
    temperature: float | Tensor = TEMPERATURE,
    sinkhorn_temperature: float = 0.05,
    iterations: int = 3,
    normalize: bool = True,
    return_terms: bool = False,
    impl: str = "fused",
    group: Any = None,
) -> LossOrTerms:
    """SwAV's loss of n samples: the mean over all pairs of a crop and another large crop.

    Args:
        high_views: large crops, (views, n, d) or a list of (n, d); float64, float32, bfloat16 or
            float16 (computed in float32). They get no gradient by their codes.
        low_views: small crops in either form, or None; at least two crops in all.
        prototypes: (k, d) rows, with a gradient; None: the views are scores (n, k).
        queue: a further (q, d) for each large crop, rows of earlier batches whose codes are
            balanced with it: (views, q, d) or a list. No gradient.
        temperature: of the softmax; a number or a 0-dim tensor, which may require a gradient.
        sinkhorn_temperature: of the codes, > 0.
        iterations: of Sinkhorn's iteration, >= 0.
        normalize: rows and prototypes to unit length; not with scores.
        return_terms: also return {"entropy": of the codes, "divergence": loss - entropy}.
        impl: "fused", or "torch" for the plain reference.
        group: a process group or 1-D DeviceMesh whose ranks hold the samples of the batch together,
            their own rows of the queue, and each all prototypes (docs/distributed.md).

    Returns:
        The loss, 0-dim, in the dtype of the large crops (float32 for half precision); (loss,
        terms) with return_terms.

    Raises:
        ValueError or TypeError: shapes, dtypes, devices or ranges that do not fit.

    >>> views, w = torch.eye(3).repeat(2, 1, 1), torch.eye(3)
    >>> round(float(swav(views, prototypes=w)), 4)
    0.0001
    """
    op = "swav"
    check.common(op, impl, group)
    heads, high, _, earlier, sinkhorn_temperature, iterations = swav_crops(
        high_views,
        low_views,
        prototypes,
        queue,
        temperature,
        sinkhorn_temperature,
        iterations,
        normalize,
    )
    balanced = [x if q is None else torch.cat([x, q]) for x, q in zip(high, earlier, strict=True)]
    n = high[0].shape[0]

    def plain() -> Tensor:
        crops, _, w, _ = heads.tensors()
        kept = [q.to(crops) for q in earlier if q is not None]
        return run_reference(
            reference.swav,
            crops.unflatten(0, (-1, n)),
            w,
            len(high),
            torch.stack(kept) if kept else None,
            temperature=heads.student_temperature,
            sinkhorn_temperature=sinkhorn_temperature,
            iterations=iterations,
            normalize=normalize,
        )

    def fused() -> tuple[Tensor, Terms]:
        biases = [
            sinkhorn_bias(
                rows,
                prototypes,
                temperature=sinkhorn_temperature,
                iterations=iterations,
                normalize=normalize,
            )
            for rows in balanced
        ]
        return loss_and_terms(heads.sides(torch.stack(biases)), heads.graph)

    return answer(impl, plain, fused, return_terms)


class SwaVLoss(Loss):
    """`swav` with lightly's constructor and ``forward(high_resolution_outputs,
    low_resolution_outputs, queue_outputs=None)`` on lists of scores; the loss has no dimension.

    With ``prototypes=`` of a call the outputs are (n, d) rows, which are scaled to unit length as
    the prototypes are, and the last layer is no part of the model.

    Args:
        temperature: as in `swav`.
        sinkhorn_iterations, sinkhorn_epsilon: its `iterations` and `sinkhorn_temperature`.
        sinkhorn_gather_distributed: the loss of the samples of all processes, with codes that are
            balanced over all of them.
        group, options: as in `swav`; its further keywords.

    Raises:
        TypeError: a keyword that `swav` does not have.
    """

    functional = staticmethod(swav)
    named = ("queue", "temperature", "sinkhorn_temperature", "iterations")

    def __init__(
        self,
        temperature: float = TEMPERATURE,
        sinkhorn_iterations: int = 3,
        sinkhorn_epsilon: float = 0.05,
        sinkhorn_gather_distributed: bool = False,
        *,
        group: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(group, options)
        self.temperature, self.sinkhorn_iterations = temperature, sinkhorn_iterations
        self.sinkhorn_epsilon = sinkhorn_epsilon
        self.sinkhorn_gather_distributed = sinkhorn_gather_distributed
        self.gather_distributed = sinkhorn_gather_distributed

    def forward(
        self,
        high_resolution_outputs: Views,
        low_resolution_outputs: Views,
        queue_outputs: Views | None = None,
        *,
        prototypes: Tensor | None = None,
    ) -> LossOrTerms:
        none = isinstance(low_resolution_outputs, (list, tuple)) and not low_resolution_outputs
        return swav(
            high_resolution_outputs,
            None if none else low_resolution_outputs,
            prototypes,
            queue=queue_outputs,
            temperature=self.temperature,
            sinkhorn_temperature=self.sinkhorn_epsilon,
            iterations=self.sinkhorn_iterations,
            group=self.group,
            **self.options,
        )

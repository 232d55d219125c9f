r"""MSN: views of a sample with few patches predict the sharp, balanced code of its target view.

.. math::
    L = \frac{1}{v n} \sum_{a} \sum_j -q_{a j} \log p_{aj} + \lambda R(\bar p), \qquad
    R = \log k - H(\bar p) \quad\text{or}\quad R = KL(\pi \| \bar p),

:math:`p_a` the softmax over prototypes of an anchor at :math:`\tau`, :math:`q_a` that of its target
at :math:`\tau T` (a power 1 / T of the softmax at :math:`\tau`, normalised) after Sinkhorn's
iteration from the rows' softmax, :math:`\bar p` the mean of the anchors' codes and
:math:`\pi_j \propto j^{-\alpha}` PMSN's prior. It is `prototype_cross_entropy` with
`sinkhorn_bias`. Gradient: docs/math/msn.md. It replaces both (rows, k) matrices of codes.

Assran, Caron, Misra, Bojanowski, Bordes, Vincent, Joulin, Rabbat, Ballas, "Masked Siamese Networks
for Label-Efficient Learning" (arXiv 2204.07141), section 3; Assran et al., "The Hidden Uniform
Cluster Prior in Self-Supervised Learning" (arXiv 2210.07277), section 4.
"""

from __future__ import annotations

from typing import Any

import torch  # noqa: F401  the docstring example
from torch import Tensor

from .. import _checks as check
from .._dtypes import computed_dtype
from ..reference import msn as reference
from ._codes import divergence, divergence_of_law
from ._column_bias import sinkhorn_bias
from ._common import Loss, LossOrTerms, Terms, run_reference
from ._head_inputs import msn_anchors
from ._heads import answer, loss_and_terms, mean_probability
from .over_ranks import over_ranks
from .over_ranks.prototypes.balanced import MSN

TEMPERATURE = 0.1


@over_ranks(MSN)
def msn(
    anchors: Tensor,
    targets: Tensor,
    prototypes: Tensor,
    *,
    temperature: float = TEMPERATURE,
    sharpening: float = 0.25,
    iterations: int = 3,
    regularization: float = 1.0,
    prior: float | Tensor | None = None,
    normalize: bool = True,
    return_terms: bool = False,
    impl: str = "fused",
    group: Any = None,
) -> LossOrTerms:
    """MSN's loss of v views of n samples, and PMSN's with a prior.

    Args:
        anchors: (v n, d), row w n + i is view w of sample i; float64, float32, bfloat16 or float16
            (computed in float32).
        targets: (n, d) of the teacher; no gradient.
        prototypes: (k, d) rows.
        temperature: > 0.
        sharpening: T in (0, 1], factor of the temperature of the targets.
        iterations: of Sinkhorn's iteration on the targets, >= 0.
        regularization: lambda >= 0.
        prior: None: the mean code is drawn to equal numbers (MSN); (k,) numbers > 0, which are
            divided by their sum, or the exponent alpha >= 0 of j^-alpha: it is drawn to those
            (PMSN).
        normalize: rows and prototypes to unit length.
        return_terms: also return {"entropy": of the targets' codes, "divergence": of the anchors'
            from them, "regularization": R}.
        impl: "fused", or "torch" for the plain reference.
        group: a process group or 1-D DeviceMesh whose ranks hold the samples of the batch together,
            and each all prototypes (docs/distributed.md).

    Returns:
        The loss, 0-dim, in the dtype of the anchors (float32 for half precision); (loss,
        terms) with return_terms.

    Raises:
        ValueError or TypeError: shapes, dtypes, devices or ranges that do not fit.
        NotImplementedError: a prior that requires a gradient.

    >>> z = torch.eye(3)
    >>> round(float(msn(z, z, z)), 4)
    0.0001
    """
    op = "msn"
    check.common(op, impl, group)
    heads, temperature, sharpening, iterations, regularization, law = msn_anchors(
        anchors,
        targets,
        prototypes,
        temperature,
        sharpening,
        iterations,
        regularization,
        prior,
        normalize,
    )

    def plain() -> Tensor:
        a, b, w, _ = heads.tensors()
        return run_reference(
            reference.msn,
            a,
            b,
            w,
            temperature=temperature,
            sharpening=sharpening,
            iterations=iterations,
            weight=regularization,
            prior=law,
            normalize=normalize,
        )

    def fused() -> tuple[Tensor, Terms]:
        bias = sinkhorn_bias(
            targets,
            prototypes,
            temperature=temperature * sharpening,
            iterations=iterations,
            start="rows",
            normalize=normalize,
        )
        sides = heads.sides(bias.to(computed_dtype(anchors)))
        loss, terms = loss_and_terms(sides, heads.graph)
        if regularization or return_terms:
            mean = mean_probability(sides)
            surplus = divergence(mean) if law is None else divergence_of_law(law, mean)
            loss, terms["regularization"] = loss + regularization * surplus, surplus
        return loss, terms

    return answer(impl, plain, fused, return_terms)


class MSNLoss(Loss):
    """`msn` with lightly's constructor and ``forward(anchors, targets, prototypes,
    target_sharpen_temperature=0.25)``.

    Args:
        temperature: as in `msn`.
        sinkhorn_iterations, regularization_weight: its `iterations` and `regularization`.
        gather_distributed: the loss of the samples of all processes.
        group, options: as in `msn`; its further keywords.

    Raises:
        TypeError: a keyword that `msn` does not have.
    """

    functional = staticmethod(msn)
    named = ("temperature", "sharpening", "iterations", "regularization", "prior")
    prior: float | None = None

    def __init__(
        self,
        temperature: float = TEMPERATURE,
        sinkhorn_iterations: int = 3,
        regularization_weight: float = 1.0,
        gather_distributed: bool = False,
        *,
        group: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(group, options)
        self.temperature, self.sinkhorn_iterations = temperature, sinkhorn_iterations
        self.regularization_weight = regularization_weight
        self.gather_distributed = gather_distributed

    def forward(
        self,
        anchors: Tensor,
        targets: Tensor,
        prototypes: Tensor,
        target_sharpen_temperature: float = 0.25,
    ) -> LossOrTerms:
        return msn(
            anchors,
            targets,
            prototypes,
            temperature=self.temperature,
            sharpening=target_sharpen_temperature,
            iterations=self.sinkhorn_iterations,
            regularization=self.regularization_weight,
            prior=self.prior,
            group=self.group,
            **self.options,
        )


class PMSNLoss(MSNLoss):
    """`msn` with PMSN's prior and lightly's constructor; ``forward`` is that of `MSNLoss`.

    Args:
        temperature, sinkhorn_iterations, regularization_weight: as in `MSNLoss`.
        power_law_exponent: alpha >= 0 of the prior j^-alpha.
        gather_distributed, group, options: as in `MSNLoss`.

    Raises:
        TypeError: a keyword that `msn` does not have.
    """

    def __init__(
        self,
        temperature: float = TEMPERATURE,
        sinkhorn_iterations: int = 3,
        regularization_weight: float = 1.0,
        power_law_exponent: float = 0.25,
        gather_distributed: bool = False,
        *,
        group: Any = None,
        **options: Any,
    ) -> None:
        given = temperature, sinkhorn_iterations, regularization_weight, gather_distributed
        super().__init__(*given, group=group, **options)
        self.power_law_exponent = self.prior = power_law_exponent

r"""CAPI: a predictor of masked tokens learns their codes, balanced at each position.

.. math::
    L = \frac{1}{B P} \sum_{b, p} \sum_j -q^{t(b, p)}_{bj} \log p_{bpj},

:math:`p_{bp}` the softmax over prototypes of the predicted token p of image b at :math:`\tau_s`,
:math:`q^t_b` the code of the teacher's token t of that image after Sinkhorn's iteration over the
tokens of all images *at position t*: balanced over all positions at once, a code may stand for a
position. It is `prototype_cross_entropy` with a `sinkhorn_bias` of each position. With the
teacher's tokens on both sides it trains the prototypes that the codes are of. Gradient:
docs/math/capi.md. It replaces the (tokens, k) matrices of logits, their exponentials, codes and
softmax.

Darcet, Baldassarre, Oquab, Mairal, Bojanowski, "Cluster and Predict Latent Patches for Improved
Masked Image Modeling" (arXiv 2502.08769), section 3.
"""

from __future__ import annotations

from typing import Any

import torch  # noqa: F401  the docstring example
from torch import Tensor

from .. import _checks as check
from ..reference import capi as reference
from ._common import Loss, LossOrTerms, Terms, run_reference
from ._heads import answer, loss_and_terms
from ._tokens import biases_of_positions, capi_tokens
from .over_ranks import over_ranks
from .over_ranks.prototypes.tokens import CAPI

STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.12, 0.06


@over_ranks(CAPI)
def capi(
    student: Tensor,
    teacher: Tensor,
    prototypes: Tensor | None = None,
    teacher_prototypes: Tensor | None = None,
    *,
    index: Tensor | None = None,
    student_temperature: float | Tensor = STUDENT_TEMPERATURE,
    teacher_temperature: float = TEACHER_TEMPERATURE,
    iterations: int = 3,
    normalize: bool = True,
    return_terms: bool = False,
    impl: str = "fused",
    group: Any = None,
) -> LossOrTerms:
    """CAPI's loss of p predicted tokens of each of b images.

    Args:
        student: (b, p, d) rows; float64, float32, bfloat16 or float16 (computed in float32).
        teacher: (b, s, e) rows of the tokens at s positions; no gradient.
        prototypes: (k, d), the rows of the student's last layer; None: both are logits (..., k).
        teacher_prototypes: (k, e), of the teacher; None: `prototypes`. No gradient.
        index: (b, p) integers in [0, s): the teacher's token that each predicted one is to match;
            None: token i of token i, p = s. The codes are balanced over all s positions' tokens.
        student_temperature: a number or a 0-dim tensor, which may require a gradient.
        teacher_temperature: > 0, of the codes.
        iterations: rounds of Sinkhorn's iteration, >= 0.
        normalize: rows and prototypes to unit length; not with logits.
        return_terms: also return {"entropy": of the codes, "divergence": loss - entropy}.
        impl: "fused", or "torch" for the plain reference.
        group: a process group or 1-D DeviceMesh whose ranks hold the images of the batch together,
            and each all prototypes (docs/distributed.md).

    Returns:
        The loss, 0-dim, in the dtype of the student's rows (float32 for half precision); (loss,
        terms) with return_terms.

    Raises:
        ValueError or TypeError: shapes, dtypes, devices or ranges that do not fit.

    >>> tokens = torch.eye(4).view(2, 2, 4)  # logits of two tokens of two images
    >>> round(float(capi(tokens, tokens, student_temperature=1.0)), 4)
    1.2437
    """
    op = "capi"
    check.common(op, impl, group)
    given = capi_tokens(
        student,
        teacher,
        prototypes,
        teacher_prototypes,
        index,
        student_temperature,
        teacher_temperature,
        iterations,
        normalize,
    )
    heads = given.heads

    def plain() -> Tensor:
        a, b, w, v = heads.tensors()
        return run_reference(
            reference.capi,
            given.by_image(a),
            given.by_image(b),
            w,
            v,
            given.targets,
            student_temperature=heads.student_temperature,
            teacher_temperature=given.teacher_temperature,
            iterations=given.iterations,
            normalize=normalize,
        )

    def fused() -> tuple[Tensor, Terms]:
        return loss_and_terms(heads.sides(biases_of_positions(given)), heads.graph)

    return answer(impl, plain, fused, return_terms)


class CAPILoss(Loss):
    """`capi` with lightly's constructor and ``forward(teacher_logits, student_logits,
    teacher_index=None)`` on logits (b, tokens, k).

    With ``prototypes=`` and ``teacher_prototypes=`` of a call the tokens are rows (b, tokens, d)
    instead of logits, and the last layers are no part of the model.

    Args:
        teacher_temperature, student_temperature: as in `capi`.
        sinkhorn_iterations: its `iterations`.
        gather_distributed: the loss of the images of all processes, with codes that are balanced
            over all of them.
        group, options: as in `capi`; its further keywords.

    Raises:
        TypeError: a keyword that `capi` does not have.
    """

    functional = staticmethod(capi)
    named = ("index", "student_temperature", "teacher_temperature", "iterations")

    def __init__(
        self,
        teacher_temperature: float = TEACHER_TEMPERATURE,
        student_temperature: float = STUDENT_TEMPERATURE,
        sinkhorn_iterations: int = 3,
        gather_distributed: bool = False,
        *,
        group: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(group, options)
        self.teacher_temperature = teacher_temperature
        self.student_temperature = student_temperature
        self.sinkhorn_iterations = sinkhorn_iterations
        self.gather_distributed = gather_distributed

    def forward(
        self,
        teacher_logits: Tensor,
        student_logits: Tensor,
        teacher_index: Tensor | None = None,
        *,
        prototypes: Tensor | None = None,
        teacher_prototypes: Tensor | None = None,
    ) -> LossOrTerms:
        return capi(
            student_logits,
            teacher_logits,
            prototypes,
            teacher_prototypes,
            index=teacher_index,
            student_temperature=self.student_temperature,
            teacher_temperature=self.teacher_temperature,
            iterations=self.sinkhorn_iterations,
            group=self.group,
            **self.options,
        )

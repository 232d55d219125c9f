r"""iBOT: the student, which sees masked tokens, predicts the codes that a teacher gives them.

.. math::
    L = \frac1B \sum_{b} \frac{1}{|M_b|} \sum_{i \in M_b} c_i, \qquad
    c_i = \sum_j -q_{ij} \log p_{ij},

:math:`M_b` the masked tokens of image b, p the softmax over prototypes of the student's tokens at
:math:`\tau_s`, q that of the teacher's at :math:`\tau_t` with a center taken off its logits, or
another bias (`sinkhorn_bias`). iBOT++ adds the mean of :math:`c_i` over the visible tokens of an
image with a weight. It is `prototype_cross_entropy` with the weights :math:`1 / (B |M_b|)`.
Gradient: docs/math/ibot.md. It replaces both (tokens, k) matrices of logits and their softmax.

Zhou, Wei, Wang, Shen, Xie, Yuille, Kong, "iBOT: Image BERT Pre-Training with Online Tokenizer"
(arXiv 2111.07832), section 3.1; iBOT++: "TIPSv2" (arXiv 2604.12012).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _checks as check
from ..reference import ibot as reference
from ._center import Center, told_to_all_centers
from ._common import Loss, LossOrTerms, Terms, run_reference
from ._head_inputs import ibot_heads, token_weights
from ._heads import answer, loss_and_terms
from .over_ranks import over_ranks
from .over_ranks.prototypes.teachers import IBOT


@over_ranks(IBOT)
def ibot(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor,
    prototypes: Tensor | None = None,
    teacher_prototypes: Tensor | None = None,
    *,
    student_temperature: float | Tensor = 0.1,
    teacher_temperature: float = 0.04,
    center: Tensor | None = None,
    bias: Tensor | None = None,
    visible_weight: float | None = None,
    normalize: bool = True,
    return_terms: bool = False,
    impl: str = "fused",
    group: Any = None,
) -> LossOrTerms:
    """iBOT's loss of the masked tokens of b images.

    Args:
        student: (m, d) rows of the masked tokens in the order of the True entries of `mask`, or of
            all tokens in order with `visible_weight`; float64, float32, bfloat16 or float16
            (computed in float32).
        teacher: (m, e), of the same tokens; no gradient.
        mask: (b, height, width) or (b, tokens) bool, True where the student's token is masked. An
            image without masked tokens counts with the loss 0.
        prototypes: (k, d), the rows of the last layer; None: the rows are logits.
        teacher_prototypes: (k, e), of the teacher; None: `prototypes`. No gradient.
        student_temperature: a number or a 0-dim tensor, which may require a gradient.
        teacher_temperature: a number.
        center: (k,), taken off the teacher's logits.
        bias: (k,), added to the teacher's logits over their temperature, in place of a center:
            `sinkhorn_bias` of its rows is DINOv2's.
        visible_weight: >= 0, that of the mean over the visible tokens of an image (iBOT++); None:
            only the masked tokens are given.
        normalize: rows and prototypes to unit length; not with logits.
        return_terms: also return {"entropy": of the codes, "divergence": loss - entropy}.
        impl: "fused", or "torch" for the plain reference.
        group: a process group or 1-D DeviceMesh whose ranks hold the images of the batch together,
            and each all prototypes (docs/distributed.md).

    Returns:
        The loss, 0-dim, in the dtype of the student's rows (float32 for half precision); (loss,
        terms) with return_terms.

    Raises:
        ValueError or TypeError: shapes, dtypes, devices or ranges that do not fit; on a CPU also
            where the rows are not as many as the masked tokens.
        NotImplementedError: a bias that requires a gradient.

    >>> logits, mask = torch.eye(3), torch.tensor([[True, True, False], [False, False, True]])
    >>> round(float(ibot(logits, logits, mask, student_temperature=1.0)), 4)
    0.5514
    """
    op = "ibot"
    check.common(op, impl, group)
    heads, masked, visible_weight = ibot_heads(
        student,
        teacher,
        mask,
        prototypes,
        teacher_prototypes,
        student_temperature,
        teacher_temperature,
        center,
        bias,
        visible_weight,
        normalize,
    )
    weight = token_weights(masked, visible_weight, student, masked.shape[0])

    def plain() -> Tensor:
        how = {**heads.options(), "visible_weight": visible_weight}
        return run_reference(reference.ibot, *heads.tensors(), masked, **how)

    def fused() -> tuple[Tensor, Terms]:
        return loss_and_terms(heads.sides(), heads.graph, "sum", weight)

    return answer(impl, plain, fused, return_terms)


class IBOTPatchLoss(Loss):
    """`ibot` with lightly's constructor and ``forward(teacher_out, student_out, mask,
    teacher_temp=None)`` on the masked tokens; its center follows the teacher's logits after every
    call.

    With ``prototypes=`` and ``teacher_prototypes=`` of a call the tokens are (m, d) rows instead of
    logits, and the last layer is no part of the model. The teacher has no gradient. With a group,
    loss and center are those of the tokens of all its ranks. Without one, once torch.distributed is
    initialised, all processes call it together and have the same center, the mean of theirs.

    Args:
        output_dim: k, the prototypes, >= 1.
        teacher_temp, student_temp: `teacher_temperature` and `student_temperature` of `ibot`.
        center_mode: "mean".
        center_momentum: in [0, 1], the part of the center that a call leaves as it is.
        group, options: as in `ibot`; its further keywords.

    Raises:
        ValueError or TypeError: a size, momentum or mode that does not fit.
        TypeError: a keyword that `ibot` does not have.
    """

    functional = staticmethod(ibot)
    named = ("student_temperature", "teacher_temperature", "center", "bias", "visible_weight")

    def __init__(
        self,
        output_dim: int = 65536,
        teacher_temp: float = 0.04,
        student_temp: float = 0.1,
        center_mode: str = "mean",
        center_momentum: float = 0.9,
        *,
        group: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(group, options)
        self.output_dim, self.center_mode = output_dim, center_mode
        self.teacher_temp, self.student_temp = teacher_temp, student_temp
        self.center_momentum = center_momentum
        op = type(self).__name__
        self.center = Center(op, (1, output_dim), center_mode, center_momentum)

    def forward(
        self,
        teacher_out: Tensor,
        student_out: Tensor,
        mask: Tensor,
        teacher_temp: float | None = None,
        *,
        prototypes: Tensor | None = None,
        teacher_prototypes: Tensor | None = None,
    ) -> LossOrTerms:
        how = (teacher_temp, prototypes, teacher_prototypes)
        return self._loss(teacher_out, student_out, mask, None, how)

    def _loss(
        self,
        teacher_out: Tensor,
        student_out: Tensor,
        mask: Tensor,
        visible_weight: float | None,
        how: tuple[float | None, Tensor | None, Tensor | None],
    ) -> LossOrTerms:
        teacher_temp, prototypes, teacher_prototypes = how
        with told_to_all_centers(type(self).__name__, self.group):
            loss = ibot(
                student_out,
                teacher_out,
                mask,
                prototypes,
                teacher_prototypes,
                student_temperature=self.student_temp,
                teacher_temperature=self.teacher_temp if teacher_temp is None else teacher_temp,
                center=self.center.value,
                visible_weight=visible_weight,
                group=self.group,
                **self.options,
            )
        own = prototypes if teacher_prototypes is None else teacher_prototypes
        self.center.update(teacher_out, own, self.group)
        return loss


class IBOTPlusPlusPatchLoss(IBOTPatchLoss):
    """`ibot` with visible tokens, as lightly's: ``forward(teacher_out, student_out, mask=None,
    teacher_temp=None, visible_loss_weight=1.0)`` on all tokens, (b, tokens, k) or (b tokens, k).

    Without a mask the mean is over all tokens. The rest is as in `IBOTPatchLoss`.

    Args:
        output_dim, teacher_temp, student_temp, center_mode, center_momentum, group, options: as in
            `IBOTPatchLoss`.

    Raises:
        ValueError or TypeError: as in `IBOTPatchLoss`.
    """

    def forward(
        self,
        teacher_out: Tensor,
        student_out: Tensor,
        mask: Tensor | None = None,
        teacher_temp: float | None = None,
        visible_loss_weight: float = 1.0,
        *,
        prototypes: Tensor | None = None,
        teacher_prototypes: Tensor | None = None,
    ) -> LossOrTerms:
        op = type(self).__name__
        for name, x in (("teacher_out", teacher_out), ("student_out", student_out)):
            check.views(op, name, x)
        if teacher_out.shape[:-1] != student_out.shape[:-1]:
            raise ValueError(
                f"{op}: student_out must have the tokens of teacher_out "
                f"{tuple(teacher_out.shape)}, got {tuple(student_out.shape)}"
            )
        if mask is None:
            if teacher_out.dim() == 2:
                raise ValueError(f"{op}: mask must be given for tokens (b tokens, k), got None")
            mask = torch.ones(teacher_out.shape[:2], dtype=torch.bool, device=teacher_out.device)
        teacher, student = (x.flatten(0, -2) for x in (teacher_out, student_out))
        how = (teacher_temp, prototypes, teacher_prototypes)
        return self._loss(teacher, student, mask, visible_loss_weight, how)

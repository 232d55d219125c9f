r"""DINO: every view of a sample predicts the codes that a teacher gives its other global views.

.. math::
    L = \frac{1}{|P|\, n} \sum_{(s, t) \in P} \sum_i \sum_j -q^t_{ij} \log p^s_{ij}, \qquad
    P = \{(s, t) : s \ne t\},

:math:`p^s_i` the softmax over prototypes of view s at :math:`\tau_s`, :math:`q^t_i` that of the
teacher's view t at :math:`\tau_t` with a center taken off its logits, or another bias
(`sinkhorn_bias`). It is `prototype_cross_entropy` on the graph of the views of a sample: a view is
visited once, however many others it is compared with. Gradient: docs/math/dino.md. It replaces both
stacks of logits, their softmax and the product of every pair of views.

Caron, Touvron, Misra, Jegou, Mairal, Bojanowski, Joulin, "Emerging Properties in Self-Supervised
Vision Transformers" (arXiv 2104.14294), section 3.1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _checks as check
from ..reference import dino as reference
from ._center import MODES, check_momentum, follow, told_to_all_centers
from ._common import Loss, LossOrTerms, Terms, run_reference
from ._head_inputs import dino_heads
from ._heads import answer, loss_and_terms
from ._views import Views, view_list
from .over_ranks import over_ranks
from .over_ranks.prototypes.teachers import DINO


@over_ranks(DINO)
def dino(
    student_views: Views,
    teacher_views: Views,
    prototypes: Tensor | None = None,
    teacher_prototypes: Tensor | None = None,
    *,
    student_temperature: float | Tensor = 0.1,
    teacher_temperature: float = 0.04,
    center: Tensor | None = None,
    bias: Tensor | None = None,
    normalize: bool = True,
    return_terms: bool = False,
    impl: str = "fused",
    group: Any = None,
) -> LossOrTerms:
    """DINO's loss of n samples: the mean over all pairs of a student's view and another view of the
    teacher.

    Args:
        student_views: (views, n, d) or a list of (n, d), in the order of the teacher's views, which
            come first; float64, float32, bfloat16 or float16 (computed in float32).
        teacher_views: (views, n, e) or a list of (n, e); no gradient. At least two views in all.
        prototypes: (k, d), the rows of the last layer; None: the views are logits.
        teacher_prototypes: (k, e), of the teacher; None: `prototypes`. No gradient.
        student_temperature: a number or a 0-dim tensor, which may require a gradient.
        teacher_temperature: a number.
        center: (k,), taken off the teacher's logits.
        bias: (k,), added to the teacher's logits over their temperature, in place of a center:
            `sinkhorn_bias` of all its views together is DINOv2's.
        normalize: rows and prototypes to unit length; not with logits.
        return_terms: also return {"entropy": of the codes, "divergence": loss - entropy}.
        impl: "fused", or "torch" for the plain reference.
        group: a process group or 1-D DeviceMesh whose ranks hold the samples of the batch together,
            and each all prototypes (docs/distributed.md).

    Returns:
        The loss, 0-dim, in the dtype of the student's views (float32 for half precision); (loss,
        terms) with return_terms.

    Raises:
        ValueError or TypeError: shapes, dtypes, devices or ranges that do not fit.
        NotImplementedError: a bias that requires a gradient.

    >>> views, w = torch.eye(3).repeat(2, 1, 1), torch.eye(3)
    >>> round(float(dino(views, views, w, teacher_temperature=0.1)), 4)
    0.001
    """
    op = "dino"
    check.common(op, impl, group)
    heads, n = dino_heads(
        student_views,
        teacher_views,
        prototypes,
        teacher_prototypes,
        student_temperature,
        teacher_temperature,
        center,
        bias,
        normalize,
    )

    def plain() -> Tensor:
        a, b, w, v = heads.tensors()
        a, b = a.unflatten(0, (-1, n)), b.unflatten(0, (-1, n))
        return run_reference(reference.dino, a, b, w, v, **heads.options())

    def fused() -> tuple[Tensor, Terms]:
        return loss_and_terms(heads.sides(), heads.graph)

    return answer(impl, plain, fused, return_terms)


class DINOLoss(Loss):
    """`dino` with lightly's constructor and ``forward(teacher_out, student_out, teacher_temp=None,
    epoch=None)`` on lists of views; its center follows the teacher's logits after every call.

    With ``prototypes=`` and ``teacher_prototypes=`` of a call the views are (n, d) rows instead of
    logits, and the last layer is no part of the model. The teacher has no gradient. With a group,
    loss and center are those of the rows of all its ranks. Without one, once torch.distributed is
    initialised, all processes call it together and have the same center, the mean of theirs.

    Args:
        output_dim: k, the prototypes, >= 1.
        warmup_teacher_temp: the teacher's temperature in the first epoch.
        teacher_temp: the same after the warm-up.
        warmup_teacher_temp_epochs: how many epochs the warm-up takes, >= 0.
        student_temp: `student_temperature` of `dino`.
        center_momentum: in [0, 1], the part of the center that a call leaves as it is.
        center_mode: "mean".
        group, options: as in `dino`; its further keywords.

    Raises:
        ValueError or TypeError: a size, momentum or mode that does not fit.
        TypeError: a keyword that `dino` does not have.
    """

    center: Tensor
    functional = staticmethod(dino)
    named = ("student_temperature", "teacher_temperature", "center", "bias")

    def __init__(
        self,
        output_dim: int = 65536,
        warmup_teacher_temp: float = 0.04,
        teacher_temp: float = 0.04,
        warmup_teacher_temp_epochs: int = 30,
        student_temp: float = 0.1,
        center_momentum: float = 0.9,
        center_mode: str = "mean",
        *,
        group: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(group, options)
        op = "DINOLoss"
        self.output_dim = check.count(op, "output_dim", output_dim, 1)
        self.warmup_teacher_temp, self.teacher_temp = warmup_teacher_temp, teacher_temp
        self.warmup_teacher_temp_epochs = check.count(
            op, "warmup_teacher_temp_epochs", warmup_teacher_temp_epochs, 0
        )
        self.student_temp = student_temp
        self.center_momentum = check_momentum(op, center_momentum)
        check.choice(op, "center_mode", center_mode, MODES)
        self.center_mode = center_mode
        self.register_buffer("center", torch.zeros(1, 1, self.output_dim))

    def temperature(self, epoch: int | None) -> float:
        """Of the teacher: it goes from its first to its last value in equal steps, one an epoch."""
        steps = self.warmup_teacher_temp_epochs
        if epoch is None or epoch >= steps:
            return self.teacher_temp
        part = epoch / (steps - 1) if steps > 1 else 0.0
        return self.warmup_teacher_temp + part * (self.teacher_temp - self.warmup_teacher_temp)

    def forward(
        self,
        teacher_out: Views,
        student_out: Views,
        teacher_temp: float | None = None,
        epoch: int | None = None,
        *,
        prototypes: Tensor | None = None,
        teacher_prototypes: Tensor | None = None,
    ) -> LossOrTerms:
        with told_to_all_centers("DINOLoss", self.group):
            loss = dino(
                student_out,
                teacher_out,
                prototypes,
                teacher_prototypes,
                student_temperature=self.student_temp,
                teacher_temperature=self.temperature(epoch)
                if teacher_temp is None
                else teacher_temp,
                center=self.center.flatten(),
                group=self.group,
                **self.options,
            )
        rows = torch.cat(view_list("DINOLoss", "teacher_out", teacher_out, min_rows=0))
        own = prototypes if teacher_prototypes is None else teacher_prototypes
        follow(self.center, rows, own, self.center_momentum, self.group)
        return loss

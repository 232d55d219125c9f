r"""Gram anchoring: the cosines between the patches of an image stay those of an earlier teacher.

.. math::
    L = \frac{1}{B} \sum_b \frac{1}{n^2} \|S_b S_b^\top - T_b T_b^\top\|_F^2,

S and T the unit rows of the n patches of image b. Gradient:
:math:`\partial L / \partial S_b = \frac{4}{B n^2} (S_b S_b^\top - T_b T_b^\top) S_b`. It
replaces the (B, n, n) matrices of cosines, and takes their difference entry by entry.

Siméoni et al., "DINOv3" (arXiv 2508.10104), section 4.
"""

from __future__ import annotations

from typing import Any

import torch  # noqa: F401  the docstring example
from torch import Tensor

from .. import _checks as check
from .._dtypes import widen
from ..primitives.gram.difference import gram_difference
from ..primitives.rows.unit_rows import unit_rows
from ..reference import gram_anchor as reference
from ._common import Loss, reduce_rows, run_reference
from ._inputs import prepare_patches
from .over_ranks import over_ranks
from .over_ranks.patches import GRAM_ANCHOR


@over_ranks(GRAM_ANCHOR)
def gram_anchor(
    student: Tensor,
    teacher: Tensor,
    *,
    clamp: bool = False,
    reduction: str = "mean",
    impl: str = "fused",
    group: Any = None,
) -> Tensor:
    """Mean squared difference of the cosines of patches, student's and teacher's, by image.

    Args:
        student: (images, patches, d), or (patches, d) of one image, float64, float32, bfloat16 or
            float16 (computed in float32); normalised inside.
        teacher: (images, patches, e) of the same images and patches, of any width; no gradient.
        clamp: negative cosines of either count as 0 (the paper's code does this by default).
        reduction: "mean" or "sum" over the images, or "none": (images,).
        impl: "fused", or "torch" for the plain reference.
        group: a process group or 1-D DeviceMesh whose ranks hold the images of the batch together
            (docs/distributed.md), in any number, with equally many patches. Images have no term
            between them: without it, DDP's mean of the gradients is that of all images where ranks
            hold equally many.

    Returns:
        The loss, 0-dim, in the dtype of the rows (float32 for half precision), or (images,) with
        reduction="none".

    Raises:
        ValueError or TypeError: shapes, dtypes, devices or ranges that do not fit.

    >>> round(float(gram_anchor(torch.eye(2), torch.ones(2, 3))), 4)  # cosines 0 in place of 1
    0.5
    """
    op = "gram_anchor"
    check.common(op, impl, group, reduction)
    x, y = (widen(z) for z in prepare_patches(op, student, teacher))
    if impl == "torch":
        return run_reference(reference.gram_anchor, x, y, clamp=clamp, reduction=reduction)
    u, v = (unit_rows(z.flatten(0, 1)).view(z.shape) for z in (x, y))
    images = gram_difference(u, v, clamp=bool(clamp)) / x.shape[1] ** 2
    return reduce_rows(images, reduction, None)


class GramAnchorLoss(Loss):
    """`gram_anchor` as a module: ``forward(student, teacher)``.

    Args:
        clamp, group: as in `gram_anchor`.
        options: further keywords of `gram_anchor`.

    Raises:
        TypeError: a keyword that `gram_anchor` does not have.
    """

    functional = staticmethod(gram_anchor)
    named = ("clamp",)

    def __init__(self, clamp: bool = False, *, group: Any = None, **options: Any) -> None:
        super().__init__(group, options)
        self.clamp = clamp

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return gram_anchor(student, teacher, clamp=self.clamp, group=self.group, **self.options)

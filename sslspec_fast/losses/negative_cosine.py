r"""Negative cosine similarity of paired rows, the loss of SimSiam and BYOL.

.. math::
    L = -\frac1n \sum_i \frac{p_i \cdot z_i}
        {\max(\|p_i\|, \epsilon) \max(\|z_i\|, \epsilon)} .

Gradient: with u, v the unit rows and :math:`s_i = u_i \cdot v_i`,
:math:`\partial L / \partial p_i = -(v_i - s_i u_i) / (n \|p_i\|)`, and the same for z. Without a
stop-gradient on the targets z, equal rows are an optimum that training finds: the caller detaches
them. It replaces the normalised copies of ``F.cosine_similarity``.

Chen, He, "Exploring Simple Siamese Representation Learning" (CVPR 2021, arXiv 2011.10566),
equation 1; Grill et al., "Bootstrap your own latent" (arXiv 2006.07733), equation 2.
"""

from __future__ import annotations

from typing import Any

import torch  # noqa: F401  the docstring example
from torch import Tensor

from .. import _checks as check
from ..primitives.rows.unit_rows import cosines
from ..reference import negative_cosine as reference
from ._common import Loss, reduce_rows, run_reference
from ._inputs import prepare_pair
from .over_ranks import over_ranks
from .over_ranks.cosine import NEGATIVE_COSINE


@over_ranks(NEGATIVE_COSINE)
def negative_cosine(
    p: Tensor,
    z: Tensor,
    *,
    eps: float = 1e-8,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
    impl: str = "fused",
    group: Any = None,
) -> Tensor:
    """Minus the cosines of n paired rows. Equal to lightly's NegativeCosineSimilarity.

    Args:
        p, z: (n, d) predictions and targets, float64, float32, bfloat16 or float16 (computed in
            float32). Both get a gradient: pass ``z.detach()`` for SimSiam and BYOL, whose loss is
            ``0.5 * negative_cosine(p1, z2.detach()) + 0.5 * negative_cosine(p2, z1.detach())``.
        eps: lengths are taken to be at least that, >= 1e-12, as in torch's cosine_similarity.
        reduction: "mean", "sum" or "none": (n,).
        sample_weight: (n,); mean = sum of w l / sum of w.
        impl: "fused", or "torch" for the plain reference.
        group: a process group or 1-D DeviceMesh whose ranks hold the rows of the batch together
            (docs/distributed.md).

    Returns:
        The loss, 0-dim or (n,), in the dtype of the rows (float32 for half precision).

    Raises:
        ValueError or TypeError: shapes, dtypes, devices or ranges that do not fit.

    >>> p, z = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[3.0, 0.0], [1.0, 0.0]])
    >>> float(negative_cosine(p, z))  # one pair is parallel, one is orthogonal
    -0.5
    """
    op = "negative_cosine"
    pair = prepare_pair(
        op,
        ("p", "z"),
        p,
        z,
        impl=impl,
        group=group,
        reduction=reduction,
        weight=sample_weight,
    )
    eps = check.number(op, "eps", eps, low=1e-12)

    x, y = pair.rows()
    if impl == "torch":
        how = {"eps": eps, "reduction": reduction, "sample_weight": pair.weight}
        return run_reference(reference.negative_cosine, x, y, **how)
    return reduce_rows(-cosines(x, y, eps), reduction, pair.weight)


class NegativeCosineSimilarity(Loss):
    """`negative_cosine` with lightly's constructor and ``forward(x0, x1)``; dim must be 1.

    As there, the caller detaches the targets.

    Args:
        dim: 1, the features.
        eps, group: as in `negative_cosine`.
        options: further keywords of `negative_cosine`.

    Raises:
        ValueError: dim is not 1.
        TypeError: a keyword that `negative_cosine` does not have.
    """

    functional = staticmethod(negative_cosine)
    named = ("eps",)

    def __init__(
        self, dim: int = 1, eps: float = 1e-8, *, group: Any = None, **options: Any
    ) -> None:
        super().__init__(group, options)
        if dim != 1:
            raise ValueError(f"NegativeCosineSimilarity: dim must be 1, the features, got {dim}")
        self.dim, self.eps = dim, eps

    def forward(self, x0: Tensor, x1: Tensor, *, sample_weight: Tensor | None = None) -> Tensor:
        return negative_cosine(
            x0, x1, eps=self.eps, sample_weight=sample_weight, group=self.group, **self.options
        )

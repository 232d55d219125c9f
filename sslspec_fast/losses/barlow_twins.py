r"""Barlow Twins: the cross-correlation of two views pushed towards the identity.

.. math::
    L = \sum_k (1 - C_{kk})^2 + \lambda \sum_{k \ne l} C_{kl}^2, \qquad C = \tfrac{1}{n} X^\top Y,

X and Y the two views with every column centred and divided by :math:`\sqrt{\mathrm{var} +
\epsilon}` (biased variance, as batch norm). Gradient: :math:`\partial L / \partial X = Y E^\top /
n` with :math:`E_{kk} = 2 (C_{kk} - 1)` and :math:`E_{kl} = 2 \lambda C_{kl}`, then through the
standardisation. It replaces the (d, d) matrix C: :math:`\|X^\top Y\|_F^2 = \langle X X^\top, Y
Y^\top \rangle` is taken on the cheaper side.

Zbontar, Jing, Misra, LeCun, Deny, "Barlow Twins: Self-Supervised Learning via Redundancy Reduction"
(ICML 2021, arXiv 2103.03230), section 2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _checks as check
from .._dtypes import is_half, own_rows
from ..primitives import gram
from ..reference import barlow_twins as reference
from ._common import Loss, LossOrTerms, run_reference, with_terms
from ._inputs import prepare_pair
from .over_ranks import over_ranks
from .over_ranks.columns import BARLOW_TWINS


@over_ranks(BARLOW_TWINS)
def barlow_twins(
    z1: Tensor,
    z2: Tensor,
    *,
    off_diagonal: float = 5e-3,
    eps: float = 1e-5,
    return_terms: bool = False,
    impl: str = "fused",
    group: Any = None,
) -> LossOrTerms:
    """Barlow Twins of n pairs, with batch-norm statistics. Equal to the authors' code and lightly.

    Args:
        z1, z2: (n, d), n >= 2, float64, float32, bfloat16 or float16 (computed in float32).
        off_diagonal: weight of the redundancy term, lambda >= 0.
        eps: added to the variances inside the root, > 0; a constant column has C_kk = 0.
        return_terms: also return the unweighted {"on_diagonal", "off_diagonal"}.
        impl: "fused", or "torch" for the plain reference.
        group: a process group or 1-D DeviceMesh whose ranks hold the rows of the batch together
            (docs/distributed.md).

    Rows have no loss of their own, so there is no ``reduction`` and no ``sample_weight``.

    Returns:
        The loss, 0-dim, in the dtype of the rows (float32 for half precision); (loss, terms) with
        return_terms.

    Raises:
        ValueError or TypeError: shapes, dtypes, devices or ranges that do not fit.

    >>> float(barlow_twins(torch.zeros(4, 3), torch.zeros(4, 3)))
    3.0
    """
    op = "barlow_twins"
    pair = prepare_pair(op, ("z1", "z2"), z1, z2, impl=impl, group=group, min_rows=2)
    off_diagonal = check.number(op, "off_diagonal", off_diagonal, low=0.0)
    eps = check.number(op, "eps", eps, low=0.0, strict=True)

    if impl == "torch":
        x1, x2 = pair.rows()
        loss = run_reference(reference.barlow_twins, x1, x2, off_diagonal=off_diagonal, eps=eps)
        if not return_terms:
            return loss
        with torch.no_grad():
            on = run_reference(reference.barlow_twins, x1, x2, off_diagonal=0.0, eps=eps)
            both = run_reference(reference.barlow_twins, x1, x2, off_diagonal=1.0, eps=eps)
        return with_terms(loss, {"on_diagonal": on, "off_diagonal": both - on})

    x1, x2, half = own_rows(z1), own_rows(z2), is_half(z1)
    loss, terms = gram.barlow_twins(x1, x2, off_diagonal=off_diagonal, eps=eps, half=half)
    if not return_terms:
        return loss
    return with_terms(loss, {"on_diagonal": terms[0], "off_diagonal": terms[1]})


class BarlowTwinsLoss(Loss):
    """`barlow_twins` with lightly's constructor and ``forward(z0, z1)``.

    Args:
        lambda_param: weight of the redundancy term.
        gather_distributed: the rows of all processes are one batch.
        group: as in `barlow_twins`.
        options: further keywords of `barlow_twins`.

    Raises:
        TypeError: a keyword that `barlow_twins` does not have.
    """

    functional = staticmethod(barlow_twins)
    named = ("off_diagonal",)

    def __init__(
        self,
        lambda_param: float = 5e-3,
        gather_distributed: bool = False,
        *,
        group: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(group, options)
        self.lambda_param, self.gather_distributed = lambda_param, gather_distributed

    def forward(self, z0: Tensor, z1: Tensor) -> LossOrTerms:
        return barlow_twins(
            z0, z1, off_diagonal=self.lambda_param, group=self.group, **self.options
        )

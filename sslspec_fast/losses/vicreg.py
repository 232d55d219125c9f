r"""VICReg: invariance, variance and covariance of two views.

.. math::
    L = \frac{\lambda}{n d} \|Z_1 - Z_2\|_F^2
      + \frac{\mu}{2d} \sum_{v, k} \Bigl(1 - \sqrt{C^v_{kk} + \epsilon}\Bigr)_+
      + \frac{\nu}{d} \sum_v \sum_{k \ne l} (C^v_{kl})^2,
    \qquad C^v = \tfrac{1}{n-1} Z_v^\top H Z_v,

H the centring. Gradient of the covariance term: :math:`\frac{4 \nu}{d (n-1)} H Z_v (C^v -
\mathrm{diag}\, C^v)`. It replaces the (d, d) covariance of each view: the penalty is taken on the
cheaper side of the Gram duality :math:`\|Z^\top Z\|_F = \|Z Z^\top\|_F` (Garrido et al., arXiv
2206.02574) and neither matrix is stored.

Bardes, Ponce, LeCun, "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised
Learning" (ICLR 2022, arXiv 2105.04906), section 4.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _checks as check
from .._dtypes import is_half, own_rows
from ..primitives import gram
from ..reference import vicreg as reference
from ._common import Loss, LossOrTerms, run_reference, with_terms
from ._inputs import prepare_pair
from .over_ranks import over_ranks
from .over_ranks.columns import VICREG


@over_ranks(VICREG)
def vicreg(
    z1: Tensor,
    z2: Tensor,
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    eps: float = 1e-4,
    return_terms: bool = False,
    impl: str = "fused",
    group: Any = None,
) -> LossOrTerms:
    """VICReg of n pairs, not normalised. Equal to the authors' code and to lightly's VICRegLoss.

    Args:
        z1, z2: (n, d), n >= 2, float64, float32, bfloat16 or float16 (computed in float32).
        invariance, variance, covariance: the coefficients lambda, mu, nu, each >= 0.
        eps: added to the variances inside the root, > 0.
        return_terms: also return the unweighted {"invariance", "variance", "covariance"}:
            loss = 25 invariance + 25 variance + 1 covariance with the default coefficients.
        impl: "fused", or "torch" for the plain reference.
        group: a process group or 1-D DeviceMesh whose ranks hold the rows of the batch together
            (docs/distributed.md).

    Rows have no loss of their own, so there is no ``reduction`` and no ``sample_weight``.

    Returns:
        The loss, 0-dim, in the dtype of the rows (float32 for half precision); (loss, terms) with
        return_terms.

    Raises:
        ValueError or TypeError: shapes, dtypes, devices or ranges that do not fit.

    >>> float(vicreg(torch.zeros(4, 3), torch.zeros(4, 3)))
    24.75
    """
    op = "vicreg"
    pair = prepare_pair(op, ("z1", "z2"), z1, z2, impl=impl, group=group, min_rows=2)
    coefficients = {"invariance": invariance, "variance": variance, "covariance": covariance}
    coefficients = {k: check.number(op, k, value, low=0.0) for k, value in coefficients.items()}
    eps = check.number(op, "eps", eps, low=0.0, strict=True)

    if impl == "torch":
        x1, x2 = pair.rows()
        loss = run_reference(reference.vicreg, x1, x2, **coefficients, eps=eps)
        if not return_terms:
            return loss
        with torch.no_grad():  # the loss is linear in its coefficients: one at a time gives a term
            terms = {
                name: run_reference(
                    reference.vicreg,
                    x1,
                    x2,
                    **dict.fromkeys(coefficients, 0.0) | {name: 1.0},
                    eps=eps,
                )
                for name in coefficients
            }
        return with_terms(loss, terms)

    loss, values = gram.vicreg(
        own_rows(z1), own_rows(z2), **coefficients, eps=eps, half=is_half(z1)
    )
    if not return_terms:
        return loss
    return with_terms(loss, dict(zip(coefficients, values, strict=True)))


class VICRegLoss(Loss):
    """`vicreg` with lightly's constructor and ``forward(z0, z1)``.

    Args:
        lambda_param, mu_param, nu_param: the coefficients of invariance, variance and covariance.
        gather_distributed: the rows of all processes are one batch.
        eps, group: as in `vicreg`.
        options: further keywords of `vicreg`.

    Raises:
        TypeError: a keyword that `vicreg` does not have.
    """

    functional = staticmethod(vicreg)
    named = ("invariance", "variance", "covariance", "eps")

    def __init__(
        self,
        lambda_param: float = 25.0,
        mu_param: float = 25.0,
        nu_param: float = 1.0,
        gather_distributed: bool = False,
        eps: float = 1e-4,
        *,
        group: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(group, options)
        self.lambda_param, self.mu_param, self.nu_param = lambda_param, mu_param, nu_param
        self.gather_distributed, self.eps = gather_distributed, eps

    def forward(self, z0: Tensor, z1: Tensor) -> LossOrTerms:
        return vicreg(
            z0,
            z1,
            invariance=self.lambda_param,
            variance=self.mu_param,
            covariance=self.nu_param,
            eps=self.eps,
            group=self.group,
            **self.options,
        )

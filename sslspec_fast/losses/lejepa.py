r"""LeJEPA: views of a sample near the mean of its global views, every view near N(0, I).

.. math::
    L = \lambda\, \frac1V \sum_v \mathrm{SIGReg}(Z_v) + (1 - \lambda)\,
        \frac{1}{V n d} \sum_{v, i} \Bigl\| z_{vi} - \frac1G \sum_{g \le G} z_{gi} \Bigr\|^2,

the first G of the V views being global ones. Gradient of the second term:
:math:`\frac{2}{V n d} (z_{vi} - m_i)`, minus :math:`\frac{2}{G n d} (\bar z_i - m_i)` for global
views, m the mean of the global ones and :math:`\bar z` that of all. As a Dirichlet energy its view
graph is signed: docs/math/lejepa.md.

Balestriero, LeCun, "LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics"
(arXiv 2511.08544), section 6.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _checks as check
from .._dtypes import widen
from ..reference import lejepa as reference
from ._common import Loss, LossOrTerms, run_reference, with_terms
from ._normality import Kernel, check_options, given_views
from ._views import Views
from .over_ranks import over_ranks
from .over_ranks.normality import LEJEPA
from .sigreg import check_reference, draw, normality


@over_ranks(LEJEPA)
def lejepa(
    global_views: Views,
    local_views: Views | None = None,
    *,
    weight: float = 0.05,
    slices: int | None = 1024,
    directions: Tensor | None = None,
    knots: int = 17,
    t_max: float = 3.0,
    seed: int | None = None,
    kernel: Kernel | None = None,
    return_terms: bool = False,
    impl: str = "fused",
    group: Any = None,
) -> LossOrTerms:
    """LeJEPA of n samples in several views; rows are not normalised. Equal to lightly's LeJEPALoss.

    Args:
        global_views: (G, n, d), or a list of G tensors (n, d): the views whose mean is the target;
            float64, float32, bfloat16 or float16 (computed in float32).
        local_views: further views of the same samples in either form, or None.
        weight: lambda in [0, 1].
        slices, directions, knots, t_max, seed, kernel: of `sigreg`; the same directions serve all
            views. slices=None takes the mean over all directions.
        return_terms: also return the unweighted {"sigreg", "invariance"}.
        impl: "fused", or "torch" for the plain reference; see `sigreg`.
        group: a process group or 1-D DeviceMesh whose ranks hold the rows of the batch together
            (docs/distributed.md).

    Returns:
        The loss, 0-dim, in the dtype of the rows (float32 for half precision); (loss, terms) with
        return_terms.

    Raises:
        ValueError or TypeError: shapes, dtypes, devices or ranges that do not fit.

    >>> z = torch.tensor([[[1.0]], [[3.0]]])  # two global views of one sample, 1 from their mean
    >>> float(lejepa(z, weight=0.0))
    1.0
    """
    op = "lejepa"
    check.common(op, impl, group)
    first, further, weight = given_views(op, global_views, local_views, weight)
    options = check_options(op, first[0], slices, directions, knots, t_max, seed, kernel)

    z = widen(torch.stack([*first, *further]))
    count = len(first)
    along = draw(z, slices, directions, seed)
    if impl == "torch":
        check_reference(op, z, along, **options)
        loss = run_reference(reference.lejepa, z, count, along, weight=weight, **options)
        if not return_terms:
            return loss
        with torch.no_grad():  # the loss is linear in its weights: one at a time gives a term
            terms = {
                name: run_reference(reference.lejepa, z, count, along, weight=w, **options)
                for name, w in (("sigreg", 1.0), ("invariance", 0.0))
            }
        return with_terms(loss, terms)
    terms = {
        "sigreg": normality(z, along, **options),
        "invariance": (z - z[:count].mean(0)).square().mean(),
    }
    loss = weight * terms["sigreg"] + (1 - weight) * terms["invariance"]
    return with_terms(loss, terms if return_terms else None)


class LeJEPALoss(Loss):
    """`lejepa` with lightly's constructor and ``forward(*, local_proj, global_proj)``.

    Args:
        lambda_param: the weight lambda.
        gather_distributed: the rows of all processes are one batch.
        sigreg_knots, sigreg_t_max: `knots` and `t_max` of `sigreg`.
        sigreg_num_vectors: how many directions are drawn; None takes all of them.
        group: as in `lejepa`.
        options: further keywords of `lejepa`.

    Raises:
        TypeError: a keyword that `lejepa` does not have.
    """

    functional = staticmethod(lejepa)
    named = ("weight", "slices", "knots", "t_max")

    def __init__(
        self,
        lambda_param: float = 0.05,
        gather_distributed: bool = False,
        sigreg_knots: int = 17,
        sigreg_t_max: float = 3.0,
        sigreg_num_vectors: int | None = 1024,
        *,
        group: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(group, options)
        self.lambda_param, self.gather_distributed = lambda_param, gather_distributed
        self.sigreg_knots, self.sigreg_t_max = sigreg_knots, sigreg_t_max
        self.sigreg_num_vectors = sigreg_num_vectors

    def forward(self, *, local_proj: Views | None = None, global_proj: Views) -> LossOrTerms:
        return lejepa(
            global_proj,
            local_proj,
            weight=self.lambda_param,
            slices=self.sigreg_num_vectors,
            knots=self.sigreg_knots,
            t_max=self.sigreg_t_max,
            group=self.group,
            **self.options,
        )

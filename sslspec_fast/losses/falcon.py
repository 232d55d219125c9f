r"""FALCON: embeddings classified onto fixed random codes.

.. math::
    L = \tfrac12 \sum_{v} \Bigl[ KL\bigl( \bar p^v \| \tfrac1c \bigr)
        + \beta \cdot \tfrac1n \sum_i -\langle p_i^v, \log p_i^{v'} \rangle \Bigr], \qquad
    p_i = \mathrm{softmax}(h_i W / \tau),

v and v' the two views, W (f, c) of random signs, :math:`h_i` the rows scaled to length
:math:`\sqrt{f / n}` and :math:`\bar p` the mean over the batch. The temperature :math:`\tau = f /
(\sqrt n \log((1 - \epsilon (c - 1)) / \epsilon))` lets a row that equals a code reach the
probability :math:`1 - \epsilon (c - 1)`. Gradient: with g the gradient of the probabilities,
:math:`\partial L / \partial h = (p \circ (g - \langle p, g \rangle)) W^\top / \tau`. The (n, c)
probabilities exist for a block of rows at a time and are recomputed in the backward pass.

Sansone, Lebailly, Tuytelaars, "Collapse-Proof Non-Contrastive Self-Supervised Learning" (ICML 2025,
arXiv 2410.04959).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .. import _checks as check
from ..primitives.rows.unit_rows import unit_rows
from ..reference import falcon as reference
from ._codes import code_sums, divergence, given_codes, random_codes
from ._common import Loss, LossOrTerms, run_reference, with_terms
from ._inputs import prepare_pair
from .over_ranks import over_ranks
from .over_ranks.codes import FALCON


@over_ranks(FALCON)
def falcon(
    h1: Tensor,
    h2: Tensor,
    *,
    codes: Tensor | None = None,
    n_codes: int | None = None,
    beta: float = 0.05,
    eps: float = 1e-8,
    seed: int = 0,
    return_terms: bool = False,
    impl: str = "fused",
    group: Any = None,
) -> LossOrTerms:
    """FALCON loss of n pairs; rows are normalised inside.

    Args:
        h1, h2: (n, f) projector outputs, float64, float32, bfloat16 or float16 (computed in
            float32).
        codes: (f, c) floating-point code words in columns; None draws random signs (outside
            torch.compile only).
        n_codes: c when codes is None; None means 8 f.
        beta: weight of the cross-entropy between the views, >= 0.
        eps: probability of every other code at a code word, 0 < eps < 1 / c.
        seed: of the drawn codes.
        return_terms: also return the unweighted {"prior", "consistency"}.
        impl: "fused", or "torch" for the plain reference.
        group: a process group or 1-D DeviceMesh whose ranks hold the rows of the batch together
            (docs/distributed.md).

    Returns:
        The loss, 0-dim, in the dtype of the rows (float32 for half precision); (loss, terms) with
        return_terms.

    Raises:
        ValueError or TypeError: shapes, dtypes, devices or ranges that do not fit.

    >>> h = torch.eye(4)
    >>> float(falcon(h, h)) > 0
    True
    """
    op = "falcon"
    x1, x2 = prepare_pair(op, ("h1", "h2"), h1, h2, impl=impl, group=group).rows()
    beta = check.number(op, "beta", beta, low=0.0)
    eps = check.number(op, "eps", eps, low=0.0, strict=True)
    n, f = x1.shape
    codes = given_codes(codes, n_codes, seed, eps, x1)
    c = codes.shape[1]

    if impl == "torch":
        loss = run_reference(reference.falcon, x1, x2, codes, beta=beta, eps=eps)
        if not return_terms:
            return loss
        with torch.no_grad():
            prior = run_reference(reference.falcon, x1, x2, codes, beta=0.0, eps=eps)
            both = run_reference(reference.falcon, x1, x2, codes, beta=1.0, eps=eps)
        return with_terms(loss, {"prior": prior, "consistency": both - prior})

    tau = f / (math.sqrt(n) * math.log((1 - eps * (c - 1)) / eps))
    logit_scale = math.sqrt(f / n) / tau
    u1, u2 = unit_rows(x1) * logit_scale, unit_rows(x2) * logit_scale
    mean_1, mean_2, cross = code_sums(u1, u2, codes)
    terms = {
        "prior": 0.5 * (divergence(mean_1 / n) + divergence(mean_2 / n)),
        "consistency": 0.5 * cross / n,
    }
    loss = terms["prior"] + beta * terms["consistency"]
    return with_terms(loss, terms if return_terms else None)


class FalconLoss(Loss):
    """`falcon` with its codes as a buffer: ``forward(h1, h2)``.

    The codes are drawn once, from ``seed``, so the module also works under torch.compile.

    Args:
        n_features: f, the columns of h1 and h2.
        n_codes, beta, eps, seed, group: as in `falcon`.
        options: further keywords of `falcon`.

    Raises:
        TypeError: a keyword that `falcon` does not have.
    """

    functional = staticmethod(falcon)
    named = ("codes", "n_codes", "beta", "eps", "seed")
    codes: Tensor

    def __init__(
        self,
        n_features: int,
        n_codes: int | None = None,
        beta: float = 0.05,
        eps: float = 1e-8,
        seed: int = 0,
        *,
        group: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(group, options)
        self.beta, self.eps = beta, eps
        size = 8 * n_features if n_codes is None else n_codes
        self.register_buffer("codes", random_codes(n_features, size, seed))

    def forward(self, h1: Tensor, h2: Tensor) -> LossOrTerms:
        return falcon(
            h1,
            h2,
            codes=self.codes,
            beta=self.beta,
            eps=self.eps,
            group=self.group,
            **self.options,
        )

r"""VICReg on any graph, in the paper's form.

.. math::
    L = \alpha \sum_k \mathrm{pen}(C_{kk}) + \beta \sum_{k \ne l} C_{kl}^2
      + \frac{\gamma}{N} \sum_{ij} G_{ij} \|z_i - z_j\|^2, \qquad C = \tfrac{1}{N-1} Z^\top H Z,

with pen(v) one of ``hinge_std`` :math:`(1 - \sqrt{v + \epsilon})_+`, ``ls_std``
:math:`(1 - \sqrt{v + \epsilon})^2`, ``hinge_var`` :math:`(1 - v)_+` and ``ls_var``
:math:`(1 - v)^2`, the one whose optimum is spectral. ``measure="degree"`` weighs rows by their
degree: :math:`C = Z^\top (\mathcal{D} - d d^\top / vol) Z / vol` and the edge sum is divided by vol
instead of N. Gradient: :math:`\frac{2}{N-1} H Z T + \frac{4 \gamma}{N} (\mathcal{D} - G) Z` with
:math:`T_{kk} = \alpha\, \mathrm{pen}'(C_{kk})`, :math:`T_{kl} = 2 \beta C_{kl}`. It replaces the
(d, d) covariance and the gathered pairs.

Balestriero, LeCun, "Contrastive and Non-Contrastive Self-Supervised Learning Recover Global and
Local Spectral Embedding Methods" (NeurIPS 2022, arXiv 2205.11508), section 2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _checks as check
from .._dtypes import is_half
from ..graph.pair_graph import PairGraph
from ..primitives import gram
from ..primitives.gram.nested import nested_sqnorm
from ..primitives.rows import moments
from ..reference import graph_vicreg as reference
from ._common import LossOrTerms, run_reference, with_terms
from ._inputs import dense, prepare_graph
from ._nested import Nested, over_prefixes, prefix_weights, tails
from ._penalties import penalise
from .over_ranks import over_ranks
from .over_ranks.graph_losses.quadratic import GRAPH_VICREG


@over_ranks(GRAPH_VICREG)
def graph_vicreg(
    z: Tensor,
    graph: PairGraph,
    *,
    variance: float = 1.0,
    covariance: float | None = None,
    invariance: float = 1.0,
    penalty: str = "hinge_std",
    measure: str = "uniform",
    eps: float = 0.0,
    nested: Nested = False,
    return_terms: bool = False,
    impl: str = "fused",
    group: Any = None,
) -> LossOrTerms:
    """VICReg of the rows z on a symmetric graph; rows are not normalised.

    Args:
        z: (n, d), n >= 2, float64, float32, bfloat16 or float16 (computed in float32).
        graph: symmetric, at least one edge; weights >= 0 with measure="degree".
        variance, covariance, invariance: alpha, beta, gamma, each >= 0; covariance=None means
            equal to variance.
        penalty: "hinge_std", "ls_var", "ls_std" or "hinge_var".
        measure: "uniform" or "degree".
        eps: >= 0, added to the variances inside the root; at eps = 0 and zero variance the
            gradient of the root is taken as 0.
        nested: True for the mean of the losses of all prefixes of the columns, or a weight >= 0
            for each of the d prefixes: their weighted sum. With "ls_var" and beta = alpha its
            optimum is the eigenvectors in order, not only their span. The (d, d) product is then
            stored.
        return_terms: also return the unweighted {"variance", "covariance", "invariance"}.
        impl: "fused", or "torch" for the plain reference.
        group: that of the graph, if its rows are spread over ranks (docs/distributed.md); may be
            left out.

    Returns:
        The loss, 0-dim, in the dtype of the rows (float32 for half precision); (loss, terms) with
        return_terms.

    Raises:
        ValueError or TypeError: shapes, dtypes, devices or ranges that do not fit, or a directed
            graph.

    >>> g = PairGraph.from_edges([0, 1], [1, 0], n=2)
    >>> float(graph_vicreg(torch.zeros(2, 3), g))
    3.0
    """
    op = "graph_vicreg"
    x = prepare_graph(op, z, graph, impl, group, nonnegative=measure == "degree", min_rows=2)
    check.choice(op, "penalty", penalty, check.PENALTIES)
    check.choice(op, "measure", measure, check.MEASURES)
    beta = variance if covariance is None else covariance
    coefficients = {"variance": variance, "covariance": beta, "invariance": invariance}
    coefficients = {k: check.number(op, k, value, low=0.0) for k, value in coefficients.items()}
    eps = check.number(op, "eps", eps, low=0.0)
    weights = prefix_weights(op, nested, x)

    if impl == "torch":
        kind = {"penalty": penalty, "measure": measure, "eps": eps}
        g = dense(graph, x)

        def plain(**chosen: float) -> Tensor:
            return over_prefixes(
                lambda part: run_reference(reference.graph_vicreg, part, g, **chosen, **kind),
                x,
                weights,
            )

        loss = plain(**coefficients)
        if not return_terms:
            return loss
        with torch.no_grad():  # the loss is linear in its coefficients: one at a time gives a term
            terms = {
                name: plain(**dict.fromkeys(coefficients, 0.0) | {name: 1.0})
                for name in coefficients
            }
        return with_terms(loss, terms)

    tail = None if weights is None else tails(weights, x)
    edge_sum = graph.edge_sqdist(x if tail is None else x * tail.sqrt()).sum()
    if measure == "uniform":
        n = x.shape[0]
        var = moments.column_moments(x)[1] * (n / (n - 1))
        off_diagonal = _off_diagonal(x, tail, is_half(z), center=True) / (n - 1) ** 2
        distance = edge_sum / n
    else:
        weight = (graph.degree / graph.volume).to(x.dtype)[:, None]
        y = weight.sqrt() * (x - (weight * x).sum(0))
        var = y.square().sum(0)
        off_diagonal = _off_diagonal(y, tail, is_half(z), center=False)
        distance = edge_sum / graph.volume
    variances = penalise(var, penalty, eps)
    terms = {
        "variance": (variances if tail is None else variances * tail).sum(),
        "covariance": off_diagonal,
        "invariance": distance,
    }
    alpha, beta, gamma = coefficients.values()
    loss = alpha * terms["variance"] + beta * off_diagonal + gamma * distance
    return with_terms(loss, terms if return_terms else None)


def _off_diagonal(x: Tensor, tail: Tensor | None, half: bool, *, center: bool) -> Tensor:
    """|| X^T X ||^2 without its diagonal, or the weighted sum of those of all prefixes."""
    if tail is None:
        return gram.sqnorm(x, off_diagonal=True, center=center, half=half)
    return nested_sqnorm(x, tail, off_diagonal=True, center=center, half=half)

r"""Barlow Twins on any graph: correlations over the edge list pushed towards the identity.

.. math::
    L = \sum_k (1 - C_{kk})^2 + \alpha \sum_{k \ne l} C_{kl}^2, \qquad
    C_{kl} = \frac{z_k^\top \hat G z_l}{p_k p_l}, \quad p_k = \sqrt{z_k^\top \hat{\mathcal D} z_k},

z_k the columns; centred (default) :math:`\hat G = G - d d^\top / vol` and
:math:`\hat{\mathcal D} = \mathcal D - d d^\top / vol`, else G and D themselves. Gradient, with
:math:`E_{kk} = 2 (C_{kk} - 1)`, :math:`E_{kl} = 2 \alpha C_{kl}`:
:math:`2 \hat G Z (E \oslash p p^\top) - 2 \hat{\mathcal D} Z\, \mathrm{diag}(t)`,
:math:`t_k = \sum_l E_{kl} C_{kl} / p_k^2`.
It replaces the duplicated rows of the edge list and the (d, d) matrix C.

Zbontar et al. (ICML 2021, arXiv 2103.03230); the graph form: Balestriero, LeCun (NeurIPS 2022,
arXiv 2205.11508), section 2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _checks as check
from .._dtypes import is_half
from ..graph.pair_graph import PairGraph
from ..primitives import gram
from ..reference import graph_barlow_twins as reference
from ._common import LossOrTerms, run_reference, with_terms
from ._inputs import dense, prepare_graph
from .over_ranks import over_ranks
from .over_ranks.graph_losses.quadratic import GRAPH_BARLOW_TWINS


@over_ranks(GRAPH_BARLOW_TWINS)
def graph_barlow_twins(
    z: Tensor,
    graph: PairGraph,
    *,
    off_diagonal: float = 1.0,
    center: bool = True,
    eps: float = 1e-12,
    return_terms: bool = False,
    impl: str = "fused",
    group: Any = None,
) -> LossOrTerms:
    """Barlow Twins of the rows z on a symmetric graph with weights >= 0.

    Args:
        z: (n, d) float64, float32, bfloat16 or float16 (computed in float32).
        graph: symmetric, weights >= 0, at least one edge. Isolated rows have no effect.
        off_diagonal: weight alpha >= 0 of the redundancy term.
        center: remove the degree-weighted mean, as batch norm does for a list of pairs.
        eps: norms are max(p_k, eps), > 0; a zero column has C_kk = 0 and no gradient.
        return_terms: also return the unweighted {"on_diagonal", "off_diagonal"}.
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
    >>> float(graph_barlow_twins(torch.zeros(2, 3), g))
    3.0
    """
    op = "graph_barlow_twins"
    x = prepare_graph(op, z, graph, impl, group, nonnegative=True)
    off_diagonal = check.number(op, "off_diagonal", off_diagonal, low=0.0)
    eps = check.number(op, "eps", eps, low=0.0, strict=True)

    if impl == "torch":
        g, kind = dense(graph, x), {"center": center, "eps": eps}
        loss = run_reference(reference.graph_barlow_twins, x, g, off_diagonal=off_diagonal, **kind)
        if not return_terms:
            return loss
        with torch.no_grad():
            on = run_reference(reference.graph_barlow_twins, x, g, off_diagonal=0.0, **kind)
            both = run_reference(reference.graph_barlow_twins, x, g, off_diagonal=1.0, **kind)
        return with_terms(loss, {"on_diagonal": on, "off_diagonal": both - on})

    degree = graph.degree.to(x.dtype)[:, None]
    # a column whose squares do not fit is taken in units of a power of two, which rounds nothing
    room = 100 if x.dtype == torch.float32 else 900
    exponent = x.detach().abs().amax(0).frexp().exponent.clamp(0, room)
    unit = torch.exp2(exponent.neg().to(x.dtype))
    x = x * unit
    if center:  # a row of Z^T (G - d d^T / vol) Z is then one of Z^T G Z
        x = x - (degree * x).sum(0) / graph.volume
    least = max(eps**2, torch.finfo(x.dtype).tiny) * unit.square()
    y = x / torch.maximum((degree * x.square()).sum(0), least).sqrt()
    gy = graph.matmul(y)
    on = (1 - (y * gy).sum(0)).square().sum()
    off = gram.sqnorm(y, gy, off_diagonal=True, half=is_half(z))
    terms = {"on_diagonal": on, "off_diagonal": off}
    return with_terms(on + off_diagonal * off, terms if return_terms else None)

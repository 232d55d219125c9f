r"""Least-squares SimCLR: the Gram matrix of the embedding fitted to the graph.

.. math::
    L = \|Z Z^\top - G\|_F^2 = \|Z^\top Z\|_F^2 - 2 \langle Z, G Z \rangle + \|G\|_F^2 .

Gradient: :math:`4 Z (Z^\top Z) - 4 G Z`. The right-hand side costs O(n d min(n, d) + nnz d) and
replaces both (n, n) matrices. With ``center=True`` the target is H G H. The diagonal of G is
part of the target.

Balestriero, LeCun, "Contrastive and Non-Contrastive Self-Supervised Learning Recover Global and
Local Spectral Embedding Methods" (NeurIPS 2022, arXiv 2205.11508): the least-squares form of
SimCLR, the one with a closed-form optimum.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._dtypes import is_half
from ..graph.pair_graph import PairGraph
from ..primitives import gram
from ..primitives.gram.nested import nested_sqnorm
from ..reference import ls_simclr as reference
from ._common import LossOrTerms, run_reference, with_terms
from ._inputs import dense, prepare_graph
from ._nested import Nested, over_prefixes, prefix_weights, tails
from .over_ranks import over_ranks
from .over_ranks.graph_losses.quadratic import LS_SIMCLR


@over_ranks(LS_SIMCLR)
def ls_simclr(
    z: Tensor,
    graph: PairGraph,
    *,
    center: bool = False,
    nested: Nested = False,
    return_terms: bool = False,
    impl: str = "fused",
    group: Any = None,
) -> LossOrTerms:
    """|| Z Z^T - G ||_F^2, or with H G H as the target; rows are not normalised.

    Args:
        z: (n, d) float64, float32, bfloat16 or float16 (computed in float32).
        graph: symmetric, at least one edge; weights of any sign.
        center: fit H G H instead of G (classical scaling).
        nested: True for the mean of the losses of all prefixes of the columns, or a weight >= 0
            for each of the d prefixes: their weighted sum. Its optimum is the eigenvectors in
            order, not only their span (arXiv 2510.24672). The (d, d) product is then stored.
        return_terms: also return {"alignment": -2 <Z, G Z>, "uniformity": ||Z^T Z||^2,
            "constant": the squared norm of the target}; they add up to the loss.
        impl: "fused", or "torch" for the plain reference.
        group: that of the graph, if its rows are spread over ranks (docs/distributed.md); may be
            left out.

    Returns:
        The loss, 0-dim, in the dtype of the rows (float32 for half precision); (loss, terms) with
        return_terms.

    Raises:
        ValueError or TypeError: shapes, dtypes or devices that do not fit, or a directed graph.

    >>> g = PairGraph.from_edges([0, 1], [1, 0], n=2)
    >>> float(ls_simclr(torch.zeros(2, 1), g))
    2.0
    """
    x = prepare_graph("ls_simclr", z, graph, impl, group)
    weights = prefix_weights("ls_simclr", nested, x)
    if impl == "torch":
        g = dense(graph, x)

        def plain(x: Tensor, g: Tensor, center: bool) -> Tensor:
            return over_prefixes(
                lambda part: run_reference(reference.ls_simclr, part, g, center=center), x, weights
            )

        loss = plain(x, g, center)
        if not return_terms:
            return loss
        with torch.no_grad():
            constant = plain(torch.zeros_like(x), g, center)
            uniformity = plain(x, torch.zeros_like(g), False)
        terms = {
            "alignment": loss - uniformity - constant,
            "uniformity": uniformity,
            "constant": constant,
        }
        return with_terms(loss, terms)

    y = x - x.mean(0) if center else x
    if weights is None:
        positive, uniformity = graph.edge_dot(y, y), gram.sqnorm(x, half=is_half(z))
    else:
        tail = tails(weights, x)
        positive, uniformity = graph.edge_dot(y * tail, y), nested_sqnorm(x, tail, half=is_half(z))
    alignment = -2 * positive.sum()
    norm = torch.full((), graph.frobenius_sq(), dtype=torch.float64, device=x.device)
    if center:  # || H G H ||^2 of a symmetric G
        norm = norm + (graph.volume / graph.n) ** 2 - 2 / graph.n * graph.degree.square().sum()
    constant = (norm if weights is None else sum(weights) * norm).to(x.dtype)
    terms = {"alignment": alignment, "uniformity": uniformity, "constant": constant}
    return with_terms(uniformity + alignment + constant, terms if return_terms else None)

r"""Any graph loss as a module.

.. math::
    L = \ell(Z, G),

with l one of the graph functionals, its keywords fixed at construction. Example:
``GraphLoss("graph_vicreg", penalty="ls_var")``. The losses are those of Balestriero, LeCun (NeurIPS
2022, arXiv 2205.11508).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _checks as check
from ..graph.pair_graph import PairGraph
from ._catalogue import CATALOGUE

ROWS = {row.name: row for row in CATALOGUE.values() if "GraphLoss" in row.modules}
LOSSES = {name: row.function for name, row in ROWS.items()}
ALIASES = {row.closed_form: name for name, row in ROWS.items() if row.closed_form is not None}


class GraphLoss(torch.nn.Module):
    """``GraphLoss(name, **hyper)(z, graph)`` is ``functional.<name>(z, graph, **hyper)``.

    Args:
        name: "graph_info_nce", "graph_vicreg", "graph_barlow_twins", "graph_spectral_contrastive",
            "ls_simclr" or "dirichlet_energy"; the names of sslspec_fast.spectral work too.
        hyper: keywords of that functional.

    Raises:
        ValueError: another name.
        TypeError: a keyword that the loss does not have.

    >>> g = PairGraph.from_edges([0, 1], [1, 0], n=2)
    >>> float(GraphLoss("vicreg", penalty="ls_var")(torch.zeros(2, 3), g))
    3.0
    """

    def __init__(self, name: str, **hyper: Any) -> None:
        super().__init__()
        check.choice("GraphLoss", "name", name, (*LOSSES, *ALIASES))
        self.name = ALIASES.get(name, name)
        known = ROWS[self.name].keywords
        for keyword in hyper:
            if keyword not in known:
                raise TypeError(
                    f"GraphLoss: {self.name} has no keyword {keyword!r}, only {', '.join(known)}"
                )
        self.hyper = hyper

    def forward(self, z: Tensor, graph: PairGraph) -> Any:
        return LOSSES[self.name](z, graph, **self.hyper)

    def extra_repr(self) -> str:
        return ", ".join([repr(self.name), *(f"{k}={v!r}" for k, v in self.hyper.items())])

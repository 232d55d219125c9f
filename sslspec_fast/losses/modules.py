r"""Any graph loss as a module.

.. math::
    L = \ell(Z, G),

with l one of the graph functionals, its keywords fixed at construction. Example:
``GraphLoss("graph_vicreg", penalty="ls_var")``. The losses are those of Balestriero, LeCun (NeurIPS
2022, arXiv 2205.11508).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import _checks as check
from ..graph.pair_graph import PairGraph
from .dirichlet_energy import dirichlet_energy
from .graph_barlow_twins import graph_barlow_twins
from .graph_info_nce import graph_info_nce
from .graph_spectral_contrastive import graph_spectral_contrastive
from .graph_vicreg import graph_vicreg
from .ls_simclr import ls_simclr

LOSSES: dict[str, Callable[..., Any]] = {
    "dirichlet_energy": dirichlet_energy,
    "graph_barlow_twins": graph_barlow_twins,
    "graph_info_nce": graph_info_nce,
    "graph_spectral_contrastive": graph_spectral_contrastive,
    "graph_vicreg": graph_vicreg,
    "ls_simclr": ls_simclr,
}
ALIASES = {
    "barlow_twins": "graph_barlow_twins",
    "info_nce": "graph_info_nce",
    "simclr": "ls_simclr",
    "spectral_contrastive": "graph_spectral_contrastive",
    "vicreg": "graph_vicreg",
}


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
        known = [
            p for p in inspect.signature(LOSSES[self.name]).parameters if p not in ("z", "graph")
        ]
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

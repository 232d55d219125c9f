"""What a type checker says of a user's file: mypy checks it with the package (`make lint`).

Each line with an ignore holds a mistake that has to be found: an ignore without one is an error.
"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import assert_type

import sslspec_fast as sf
import sslspec_fast.functional as F


def losses(z1: Tensor, z2: Tensor, graph: sf.PairGraph, wanted: bool) -> Tensor:
    F.nt_xent(z1, z2, temperature=0.2).backward()
    assert_type(F.nt_xent(z1, z2, reduction="none"), Tensor)
    assert_type(F.sigreg(z1), Tensor)
    assert_type(F.graph_vicreg(z1, graph, penalty="ls_var"), Tensor)
    loss, terms = F.vicreg(z1, z2, return_terms=True)
    assert_type(loss, Tensor)
    assert_type(terms["variance"], Tensor)
    assert_type(
        F.clip(z1, z2, 10.0, return_terms=wanted), Tensor | tuple[Tensor, dict[str, Tensor]]
    )
    assert_type(F.matryoshka("nt_xent", z1, z2, dims=[8, 16], temperature=0.1), Tensor)
    return loss


def mistakes(z: Tensor, graph: sf.PairGraph) -> None:
    F.nt_xent(z, z, reduction="men")  # type: ignore[call-overload]
    F.koleo(z, reduction="men")  # type: ignore[arg-type]
    F.vicreg(z, z, impl="cuda")  # type: ignore[call-overload]
    F.vicreg(z, z, temperature=0.1)  # type: ignore[call-overload]
    F.graph_vicreg(z, graph, penalty="hinge")  # type: ignore[call-overload]
    F.nt_xent(z, z).no_such_method()  # type: ignore[attr-defined]
    sf.PairGraph.from_labels(z, weight="size")  # type: ignore[arg-type]
    sf.PairGraph.from_knn(z, metric="l1")  # type: ignore[arg-type]
    sf.eigsh(z, 3, which="largest")  # type: ignore[call-overload]


def results(z: Tensor, graph: sf.PairGraph) -> None:
    form = sf.spectral.simclr(graph, 3)
    assert_type(form.loss, float)
    assert_type(sf.eigsh(graph, 3).info.converged, bool)
    assert_type(sf.eigsh(graph, 3, sigma=0.5), sf.EigResult)
    assert_type(graph.matmul(torch.ones(3, 2)), Tensor)

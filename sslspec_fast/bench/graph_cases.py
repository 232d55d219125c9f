"""The benchmark cases of losses on a graph; see cases.py."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

import sslspec_fast as sf
import sslspec_fast.functional as F

from . import torch_peers as peers
from .case import Case, pair_inputs


def neighbor_graph(rows: int, neighbors: int = 15, seed: int = 0) -> sf.PairGraph:
    """A symmetric graph with about ``neighbors`` edges a row, partners anywhere, stored both ways.

    Random partners are the hardest case for a gather: no row of Z is near the next one.
    """
    generator = torch.Generator().manual_seed(seed)
    row = torch.arange(rows).repeat_interleave((neighbors + 1) // 2)
    column = (row + torch.randint(1, rows, row.shape, generator=generator)) % rows
    both = torch.cat([row, column]), torch.cat([column, row])
    return sf.PairGraph.from_edges(*both, n=rows)


def graph_covariance(rows: int, width: int) -> Case:
    """Z^T G Z and its gradient for a fixed matrix of weights, against torch.sparse.mm + mm."""
    stored: dict[str, Any] = {}

    def graph(device: str) -> tuple[sf.PairGraph, Tensor]:
        if not stored:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch says that its sparse CSR is in beta
                stored["pair"] = neighbor_graph(rows).to(device)
                stored["matrix"] = stored["pair"].to_torch().to(torch.float32)
        return stored["pair"], stored["matrix"]

    def inputs(device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
        graph(device)  # built before anything is timed
        generator = torch.Generator().manual_seed(rows)
        z = torch.randn(rows, width, generator=generator).to(device, dtype).requires_grad_()
        upstream = torch.randn(width, width, generator=generator).to(device, dtype)
        return z, upstream

    def fused(z: Tensor, upstream: Tensor) -> Tensor:
        covariance = F.graph_covariance(z, graph(z.device.type)[0], center=False)
        return (covariance * upstream).sum()

    def eager(z: Tensor, upstream: Tensor) -> Tensor:
        covariance = z.T @ torch.sparse.mm(graph(z.device.type)[1], z)
        return (covariance * upstream).sum()

    edges = 2.0 * ((15 + 1) // 2) * rows
    flops = 4 * edges * width + 4.0 * rows * width**2
    return Case(
        "graph_covariance",
        rows,
        width,
        flops,
        inputs,
        {"fused": fused, "sparse.mm + mm": eager},
        compiled=(),
        by_rows=False,
    )


def graph_siglip(rows: int, width: int) -> Case:
    """SigLIP where two images and two texts each belong together, against a dense mask."""
    ids = torch.arange(rows) // 2
    stored = {"cpu": sf.PairGraph.from_labels(ids)}

    def fused(image: Tensor, text: Tensor) -> Tensor:
        graph = stored.setdefault(image.device.type, stored["cpu"].to(image.device))
        loss: Tensor = F.graph_siglip(image, text, graph, 10.0, -10.0)
        return loss

    return Case(
        "graph_siglip",
        rows,
        width,
        6.0 * rows**2 * width,
        pair_inputs(rows, width, unit=True),
        {
            "fused": fused,
            "eager": lambda a, b: peers.graph_siglip_eager(a, b, ids.to(a.device)),
        },
        by_rows=False,
    )


def per_positive(rows: int, width: int) -> Case:
    """A softmax for each positive of four rows a class, against pytorch-metric-learning's form."""
    labels = torch.arange(rows) // 4
    stored = {"cpu": sf.PairGraph.from_labels(labels)}

    def inputs(device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return pair_inputs(rows, width)(device, dtype)[:1]

    def fused(z: Tensor) -> Tensor:
        graph = stored.setdefault(z.device.type, stored["cpu"].to(z.device))
        total = F.graph_info_nce(z, graph, negatives="per_positive", reduction="sum")
        return total / graph.volume

    return Case(
        "per_positive",
        rows,
        width,
        3.0 * rows**2 * width,
        inputs,
        {
            "fused": fused,
            "eager": lambda z: peers.per_positive_eager(z, labels.to(z.device)),
            "smart": lambda z: peers.per_positive_smart(z, labels.to(z.device)),
        },
        compiled=("smart",),
        by_rows=False,
    )

"""Losses of a batch, in one process or with its rows spread over ranks, by the same expression."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import scipy.sparse
import torch
from torch import Tensor

import sslspec_fast as sf
import sslspec_fast.functional as F
from sslspec_fast.losses._catalogue import CATALOGUE, TWO_VIEWS
from sslspec_fast.losses.falcon import random_codes

from .batch import Case, N, Own, unit
from .prototypes import PROTOTYPE_CASES, bias, logits, prototypes
from .queries import QUERY_CASES


def graph_of(name: str, own: Own, group: Any = None, **_: Any) -> sf.PairGraph:
    """A graph of the rows of the batch, from what this rank has of it."""
    if name == "views":
        return sf.PairGraph.from_views(own["x1"].shape[0], group=group)
    if name == "labels":
        return sf.PairGraph.from_labels(own["labels"], weight="class_size", group=group)
    if name == "loops":
        return sf.PairGraph.from_labels(own["labels"], self_loops=True, group=group)
    if name == "edges":
        rows, cols = own["directed"].nonzero().unbind(1)
        weights, n = own["directed"][rows, cols], len(own["directed"])
        return sf.PairGraph.from_edges(rows, cols, weights, n=n, symmetrize=True, group=group)
    if name == "sum":
        return 0.5 * graph_of("labels", own, group) + graph_of("weights", own, group)
    matrix = scipy.sparse.csr_array(own[name].numpy())
    return sf.PairGraph.from_sparse(matrix, group=group)


def on_graph(loss: str, graph: str, **options: Any) -> Callable[..., Any]:
    """A graph loss of the first view, or of both where the graph is that of views."""

    def call(a: Tensor, b: Tensor, c: Tensor, t: Tensor, own: Own, **k: Any) -> Any:
        z = torch.cat([a, b]) if graph == "views" else a
        given = {key: f(c, t, own) if callable(f) else f for key, f in options.items()}
        return getattr(F, loss)(z, graph_of(graph, own, **k), **given, **k)

    return call


def on_pairs(graph: str, **options: Any) -> Callable[..., Any]:
    """`graph_siglip` of the pairs, or of those and the flipped ones where the graph is of views."""

    def call(a: Tensor, b: Tensor, c: Tensor, t: Tensor, own: Own, **k: Any) -> Any:
        x, y = (torch.cat([a, b]), torch.cat([b, a])) if graph == "views" else (a, b)
        given = {key: f(own) for key, f in options.items()}
        scale = c * given.pop("scale", 1.0)
        return F.graph_siglip(unit(x), unit(y), graph_of(graph, own, **k), scale, t, **given, **k)

    return call


def first_weights(u1: Tensor, u2: Tensor) -> Tensor:
    return 1 + (u1 * u2).sum(1).square()


def _patches(a: Tensor, b: Tensor, own: Own, **options: Any) -> Any:
    """Images of three patches."""
    student, teacher = torch.stack([a, b, a * b], 1), torch.stack([own["x1"], own["x2"]], 1)
    teacher = torch.cat([teacher, teacher[:, :1].flip(2)], 1)
    return F.gram_anchor(student, teacher, **options)


CASES = QUERY_CASES | {
    "nt_xent": Case(lambda a, b, c, t, o, **k: F.nt_xent(a, b, temperature=1 / c, **k), 2),
    "nt_xent weights, smoothing": Case(
        lambda a, b, c, t, o, **k: F.nt_xent(
            a, b, temperature=1 / c, sample_weight=o["weight"], label_smoothing=0.1, **k
        ),
        2,
    ),
    "nt_xent debiased": Case(
        lambda a, b, c, t, o, **k: F.nt_xent(a, b, temperature=1 / c, tau_plus=0.05, **k), 2
    ),
    "nt_xent, a temperature per sample": Case(
        lambda a, b, c, t, o, **k: F.nt_xent(a, b, temperature=o["temperature"] / c, **k), 2
    ),
    "nt_xent, a temperature per anchor": Case(
        lambda a, b, c, t, o, **k: F.nt_xent(
            a, b, temperature=o["temperatures"].flatten() / c, tau_plus=0.05, **k
        ),
        2,
    ),
    "dcl": Case(lambda a, b, c, t, o, **k: F.dcl(a, b, temperature=1 / c, **k), 2),
    "dcl with weights": Case(
        lambda a, b, c, t, o, **k: F.dcl(
            a, b, temperature=1 / c, weight_fn=first_weights, sample_weight=o["weight"], **k
        ),
        2,
    ),
    "gram_anchor": Case(lambda a, b, c, t, o, **k: _patches(a, b, o, **k), terms=False),
    "gram_anchor, clamped": Case(
        lambda a, b, c, t, o, **k: _patches(a, b, o, clamp=True, **k), terms=False
    ),
    "koleo": Case(lambda a, b, c, t, o, **k: F.koleo(a, **k), terms=False),
    "koleo, neighbours": Case(
        lambda a, b, c, t, o, **k: F.koleo(a, k=3, ids=o["labels"], **k), terms=False
    ),
    "clip": Case(lambda a, b, c, t, o, **k: F.clip(unit(a), unit(b), c, logit_bias=t, **k)),
    "clip weights, smoothing": Case(
        lambda a, b, c, t, o, **k: F.clip(
            unit(a), unit(b), c, sample_weight=o["weight"], label_smoothing=0.1, **k
        )
    ),
    "clip, a scale per pair": Case(
        lambda a, b, c, t, o, **k: F.clip(
            unit(a), unit(b), c * o["temperature"], tau_plus=0.05, **k
        )
    ),
    "siglip": Case(lambda a, b, c, t, o, **k: F.siglip(unit(a), unit(b), c, t, **k)),
    "siglip weights, a scale per image": Case(
        lambda a, b, c, t, o, **k: F.siglip(
            unit(a), unit(b), c * o["temperature"], t, sample_weight=t.exp() * o["weight"], **k
        )
    ),
    "sup_con": Case(
        lambda a, b, c, t, o, **k: F.sup_con(unit(a), o["labels"], temperature=1 / c, **k)
    ),
    "sup_con weights, smoothing, base": Case(
        lambda a, b, c, t, o, **k: F.sup_con(
            unit(a),
            o["labels"],
            temperature=o["temperature"] / c,
            base_temperature=0.2,
            sample_weight=o["weight"],
            label_smoothing=0.1,
            **k,
        )
    ),
    "vicreg, columns": Case(lambda a, b, c, t, o, **k: F.vicreg(a, b, **k), 0, 2),
    "vicreg, rows": Case(lambda a, b, c, t, o, **k: F.vicreg(a, b, **k), 0, 24),
    "barlow_twins, columns": Case(lambda a, b, c, t, o, **k: F.barlow_twins(a, b, **k), 0, 2),
    "barlow_twins, rows": Case(
        lambda a, b, c, t, o, **k: F.barlow_twins(a, b, off_diagonal=0.3, **k), 0, 24
    ),
    "spectral_contrastive, columns": Case(
        lambda a, b, c, t, o, **k: F.spectral_contrastive(a, b, mu=0.1, **k), 1, 2
    ),
    "spectral_contrastive, rows": Case(
        lambda a, b, c, t, o, **k: F.spectral_contrastive(a, b, **k), 1, 24
    ),
    "spectral_contrastive weights": Case(
        lambda a, b, c, t, o, **k: F.spectral_contrastive(a, b, sample_weight=o["weight"], **k)
    ),
    "sigreg, drawn": Case(
        lambda a, b, c, t, o, **k: F.sigreg(torch.stack([a, b]), slices=12, seed=3, **k),
        0,
        terms=False,
    ),
    "sigreg, one view": Case(
        lambda a, b, c, t, o, **k: F.sigreg(a, slices=12, seed=3, knots=5, **k), 0, terms=False
    ),
    "sigreg, pairs": Case(lambda a, b, c, t, o, **k: F.sigreg(a, slices=None, **k), 0, terms=False),
    "sigreg, another kernel": Case(
        lambda a, b, c, t, o, **k: F.sigreg(
            torch.stack([a, b]), slices=None, kernel=("imq", 2.0), **k
        ),
        0,
        terms=False,
    ),
    "lejepa": Case(lambda a, b, c, t, o, **k: F.lejepa([a, b], [a + b], slices=12, seed=3, **k), 0),
    "lejepa, pairs": Case(
        lambda a, b, c, t, o, **k: F.lejepa([a, b], weight=0.3, slices=None, **k), 0
    ),
    "falcon": Case(
        lambda a, b, c, t, o, **k: F.falcon(a, b, codes=random_codes(5, 12).to(a), **k), 0
    ),
    "matryoshka": Case(
        lambda a, b, c, t, o, **k: F.matryoshka(
            "clip", a, b, dims=[2, 5], weights=[1.0, 0.5], logit_scale=c, **k
        )
    ),
}


def _plain(name: str, weighted: bool) -> Case:
    """A loss of two views with its own defaults, and with weights of the samples."""
    loss, taken = getattr(F, name), CATALOGUE[name].keywords

    def call(a: Tensor, b: Tensor, c: Tensor, t: Tensor, o: Own, **keywords: Any) -> Any:
        return loss(a, b, **{"sample_weight": o["weight"]} if weighted else {}, **keywords)

    return Case(call, int("reduction" in taken), terms="return_terms" in taken)


for name, row in CATALOGUE.items():
    if row.inputs == TWO_VIEWS and not any(re.split("[, ]", case)[0] == name for case in CASES):
        CASES[name] = _plain(name, weighted=False)
        if "sample_weight" in row.keywords:
            CASES[f"{name} weights"] = _plain(name, weighted=True)

GRAPH_CASES = {
    "dirichlet": Case(on_graph("dirichlet_energy", "weights"), 0, terms=False),
    "dirichlet, labels": Case(on_graph("dirichlet_energy", "labels"), 0, terms=False),
    "dirichlet, edges": Case(on_graph("dirichlet_energy", "edges"), 0, terms=False),
    "dirichlet, sum": Case(on_graph("dirichlet_energy", "sum"), 0, terms=False),
    "graph_vicreg, columns": Case(on_graph("graph_vicreg", "weights", eps=0.1), 0, 2),
    "graph_vicreg, rows": Case(on_graph("graph_vicreg", "labels", penalty="ls_var"), 0, 24),
    "graph_vicreg, degrees": Case(on_graph("graph_vicreg", "weights", measure="degree"), 0),
    "graph_vicreg, views": Case(on_graph("graph_vicreg", "views", penalty="hinge_var"), 0),
    "graph_barlow_twins, columns": Case(on_graph("graph_barlow_twins", "weights"), 0, 2),
    "graph_barlow_twins, rows": Case(
        on_graph("graph_barlow_twins", "loops", center=False, off_diagonal=0.3), 0, 24
    ),
    "graph_spectral, columns": Case(on_graph("graph_spectral_contrastive", "edges"), 0, 2),
    "graph_spectral, rows": Case(on_graph("graph_spectral_contrastive", "views"), 0, 32),
    "graph_vicreg, nested": Case(
        on_graph("graph_vicreg", "weights", penalty="ls_var", nested=True), 0
    ),
    "graph_vicreg, nested, by degree": Case(
        on_graph("graph_vicreg", "labels", measure="degree", nested=[1.0, 0, 2, 0, 0.5]), 0
    ),
    "graph_spectral, nested": Case(
        on_graph("graph_spectral_contrastive", "weights", nested=True), 0
    ),
    "ls_simclr, columns": Case(on_graph("ls_simclr", "weights", center=True), 0, 2),
    "ls_simclr, rows": Case(on_graph("ls_simclr", "loops"), 0, 24),
    "ls_simclr, sum": Case(on_graph("ls_simclr", "sum", center=True), 0),
    "ls_simclr, nested": Case(on_graph("ls_simclr", "labels", nested=[1.0, 0, 2, 0, 0.5]), 0),
    "graph_info_nce, views": Case(
        on_graph("graph_info_nce", "views", temperature=lambda c, t, o: 1 / c), 2
    ),
    "graph_info_nce, debiased views": Case(
        on_graph("graph_info_nce", "views", temperature=lambda c, t, o: 1 / c, tau_plus=0.05), 2
    ),
    "graph_info_nce, directed": Case(
        on_graph(
            "graph_info_nce",
            "directed",
            temperature=lambda c, t, o: o["temperature"] / c,
            sample_weight=lambda c, t, o: o["weight"],
            label_smoothing=0.1,
        )
    ),
    "graph_info_nce, debiased": Case(
        on_graph("graph_info_nce", "loops", temperature=lambda c, t, o: 1 / c, tau_plus=0.05)
    ),
    "graph_info_nce, ids": Case(
        on_graph(
            "graph_info_nce",
            "weights",
            temperature=lambda c, t, o: 1 / c,
            ids=lambda c, t, o: o["labels"],
        )
    ),
    "graph_info_nce, decoupled": Case(
        on_graph("graph_info_nce", "weights", normalize=False, negatives="non_positive")
    ),
    "graph_info_nce, decoupled labels": Case(
        on_graph("graph_info_nce", "labels", negatives="non_positive")
    ),
    "graph_info_nce, decoupled ids": Case(
        on_graph(
            "graph_info_nce",
            "directed",
            negatives="non_positive",
            ids=lambda c, t, o: torch.arange(N)[o.rows] // 2,
        )
    ),
}
GRAPH_CASES |= {
    f"graph_info_nce, per positive, {kind}": Case(
        on_graph(
            "graph_info_nce",
            kind,
            negatives="per_positive",
            **{"temperature": lambda c, t, o: 1 / c, **options},
        ),
        2 if kind == "views" else 1,
    )
    for kind, options in {
        "views": {},
        "labels": {"sample_weight": lambda c, t, o: t.exp() * o["weight"]},
        "weights": {"ids": lambda c, t, o: torch.arange(N)[o.rows] // 2},
        "directed": {"temperature": lambda c, t, o: o["temperature"] / c, "normalize": False},
        "sum": {},
    }.items()
}
GRAPH_CASES |= {
    "graph_siglip, views": Case(on_pairs("views"), 2),
    "graph_siglip, labels": Case(
        on_pairs("loops", sample_weight=lambda o: o["weight"], scale=lambda o: o["temperature"])
    ),
    "graph_siglip, edges": Case(on_pairs("edges")),
    "graph_siglip, directed": Case(
        on_pairs("directed", sample_weight=lambda o: o["weight"], scale=lambda o: o["temperature"])
    ),
}
GRAPH_CASES |= {
    "prototype_cross_entropy, a graph over ranks": Case(
        lambda a, b, c, t, o, **k: F.prototype_cross_entropy(
            a,
            b,
            prototypes(t),
            pairs=graph_of("directed", o, **k),
            student_temperature=1 / c,
            teacher_temperature=o["temperature"],
            bias=bias(),
            sample_weight=o["weight"],
            **k,
        )
    ),
    "prototype_cross_entropy, labels over ranks": Case(
        lambda a, b, c, t, o, **k: F.prototype_cross_entropy(
            logits(a), logits(b), None, pairs=graph_of("loops", o, **k), **k
        )
    ),
}
CASES |= GRAPH_CASES | PROTOTYPE_CASES

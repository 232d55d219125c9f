"""Both forms of every loss, in every option, against loops over rows and pairs in Python floats."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import sslspec_fast.functional as F
from sslspec_fast.graph import PairGraph
from sslspec_fast.losses._inputs import dense
from sslspec_fast.losses.falcon import random_codes

from ..support import by_rows
from ..support.inputs import directed_graph, labels_of, pair_rows, unit, weighted_graph

IMPLEMENTATIONS = ("fused", "torch")
REDUCTIONS = ("mean", "sum", "none")
# none, a small and a large share; the last leaves less than the least sum of negatives in some rows
SOFTMAX = ({}, {"label_smoothing": 0.3}, {"tau_plus": 0.1}, {"tau_plus": 0.6})
SIZES = ((1, 1), (2, 3), (7, 4))


def close(value: Tensor, want: object) -> None:
    expected = torch.tensor(want, dtype=torch.float64)
    torch.testing.assert_close(value, expected, rtol=2e-13, atol=2e-13)


def per_row(given: str, n: int, low: float) -> tuple[float | Tensor, list[float]]:
    """A temperature as a loss takes it, and one number per anchor."""
    if given == "number":
        return low, [low] * n
    t = low + torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    return t, t.tolist()


def weights(given: bool, n: int) -> Tensor | None:
    return torch.arange(1, n + 1, dtype=torch.float64) if given else None


def opposed(n: int, d: int) -> tuple[Tensor, Tensor]:
    """Positives far apart and negatives near: the debiased sum reaches its floor in some rows."""
    a, b = pair_rows(n, d)
    return a, torch.cat([b[: n // 2], -a[n // 2 :]])


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("options", SOFTMAX)
@pytest.mark.parametrize(("n", "d"), SIZES)
@pytest.mark.parametrize("given", ["number", "rows"])
def test_one_positive(given, n, d, options, impl):
    a, b = opposed(n, d)
    extra = pair_rows(3, d, 1)[0]
    for reduction, weighted in itertools.product(REDUCTIONS, (False, True)):
        w = weights(weighted, n)
        listed = None if w is None else w.tolist()
        how = {"reduction": reduction, "sample_weight": w, "impl": impl, **options}

        t, each = per_row(given, n, 0.4)
        rows = by_rows.info_nce(a.tolist(), b.tolist(), [], each, **options)
        close(F.info_nce(a, b, temperature=t, **how), by_rows.reduced(rows, reduction, listed))
        rows = by_rows.info_nce(a.tolist(), b.tolist(), extra.tolist(), each, **options)
        value = F.info_nce(a, b, temperature=t, negatives=extra, **how)
        close(value, by_rows.reduced(rows, reduction, listed))

        x, y = unit(a), unit(b)
        c, each = per_row(given, n, 2.0)
        rows = by_rows.clip(x.tolist(), y.tolist(), each, **options)
        close(F.clip(x, y, c, **how), by_rows.reduced(rows, reduction, listed))

        twice = None if listed is None else 2 * listed
        for anchors in (n, 2 * n):
            t, each = per_row(given, anchors, 0.4)
            each = (each * 2)[: 2 * n]
            rows = by_rows.nt_xent(a.tolist(), b.tolist(), each, **options)
            value = F.nt_xent(a, b, temperature=t, **how)
            close(value, by_rows.reduced(rows, reduction, twice))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("given", ["number", "rows"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_dcl_and_siglip(weighted, reduction, given, impl):
    n = 5
    a, b = pair_rows(n, 3)
    w = weights(weighted, n)
    listed = None if w is None else w.tolist()
    how = {"reduction": reduction, "sample_weight": w, "impl": impl}
    pull = torch.linspace(0.5, 1.5, n, dtype=torch.float64)
    for anchors in (n, 2 * n):
        t, each = per_row(given, anchors, 0.2)
        for weight_fn, factor in ((None, [1.0] * n), (lambda *_: pull, pull.tolist())):
            rows = by_rows.dcl(a.tolist(), b.tolist(), (each * 2)[: 2 * n], 2 * factor)
            value = F.dcl(a, b, temperature=t, weight_fn=weight_fn, **how)
            close(value, by_rows.reduced(rows, reduction, listed and 2 * listed))
    c, each = per_row(given, n, 3.0)
    x, y = unit(a), unit(b)
    rows = by_rows.siglip(x.tolist(), y.tolist(), each, -1.5)
    close(F.siglip(x, y, c, -1.5, **how), by_rows.reduced(rows, reduction, listed))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("given", ["number", "rows"])
@pytest.mark.parametrize("base", [None, 0.3])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_sup_con(label_smoothing, base, given, impl):
    z = pair_rows(9, 4)[0]
    for y in (labels_of(9), torch.zeros(9, dtype=torch.long), torch.arange(9)):
        t, each = per_row(given, 9, 0.4)
        rows = by_rows.sup_con(z.tolist(), y.tolist(), each, base, label_smoothing)
        for reduction, weighted in itertools.product(REDUCTIONS, (False, True)):
            w = weights(weighted, 9)
            value = F.sup_con(
                z,
                y,
                temperature=t,
                base_temperature=base,
                label_smoothing=label_smoothing,
                reduction=reduction,
                sample_weight=w,
                impl=impl,
            )
            close(value, by_rows.reduced(rows, reduction, None if w is None else w.tolist()))


def star(n: int) -> PairGraph:
    """Row 0 is the positive of all others: it has no negative."""
    spokes = list(range(1, n))
    return PairGraph.from_edges([0] * (n - 1) + spokes, spokes + [0] * (n - 1), n=n)


GRAPHS = {
    "weighted": weighted_graph,
    "directed": directed_graph,
    "labels": lambda n: PairGraph.from_labels(labels_of(n)),
    "one class": lambda n: PairGraph.from_labels([0] * n),
    "star": star,
    "two views": lambda n: PairGraph.from_views(n // 2),
    "one pair": lambda n: PairGraph.from_edges([0, 1], [1, 0], n=n),
}


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("given", ["number", "rows"])
@pytest.mark.parametrize(
    "options",
    [
        *SOFTMAX,
        {"normalize": False},
        {"negatives": "non_positive"},
        {"ids": torch.tensor([0, 0, 1, 1, 2, 3, 4, 0])},
        {"negatives": "non_positive", "ids": torch.tensor([0, 0, 1, 1, 2, 3, 4, 0])},
    ],
)
@pytest.mark.parametrize("kind", GRAPHS)
def test_graph_info_nce(kind, options, given, impl):
    n, graph = 8, GRAPHS[kind](8)
    z = pair_rows(n, 3)[0]
    t, each = per_row(given, n, 0.4)
    g, names = dense(graph, z), {"normalize": True, "negatives": "others", "ids": None}
    how = {**names, "label_smoothing": 0.0, "tau_plus": 0.0, **options}
    ids = how["ids"]
    listed = {**how, "ids": None if ids is None else ids.tolist()}
    rows = by_rows.graph_info_nce(z.tolist(), g.tolist(), each, **listed)
    if any(row == -float("inf") for row in rows):  # "non_positive" where all others are positives
        if impl == "fused":
            with pytest.raises(
                ValueError, match="every row with a positive needs a negative, row 0 of 8 has none"
            ):
                F.graph_info_nce(z, graph, temperature=t, impl=impl, **options)
        return
    degree = dense(graph.without_diagonal(), z).sum(1).tolist()
    for weighted in (False, True):
        w = torch.arange(1, n + 1, dtype=torch.float64)
        given_weight = w.tolist() if weighted else [1.0] * n
        used = [a if dg > 0 else 0.0 for a, dg in zip(given_weight, degree, strict=True)]
        kept = [0.0 if dg == 0 else row for row, dg in zip(rows, degree, strict=True)]
        call = {"temperature": t, "impl": impl, "sample_weight": w if weighted else None}
        total = sum(a * b for a, b in zip(kept, used, strict=True))
        close(F.graph_info_nce(z, graph, **call, **options), total / sum(used))
        by_degree = sum(a * b * dg for a, b, dg in zip(kept, used, degree, strict=True))
        close(F.graph_info_nce(z, graph, reduction="sum", **call, **options), by_degree)
        value = F.graph_info_nce(z, graph, reduction="none", **call, **options)
        close(value, [a * b for a, b in zip(kept, used, strict=True)])


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", [(2, 1), (2, 5), (7, 3), (3, 7)])
def test_losses_of_columns(shape, impl):
    a, b = pair_rows(*shape)
    x, y = a.tolist(), b.tolist()
    for off_diagonal, eps in ((5e-3, 1e-5), (1.0, 1e-12)):
        value = F.barlow_twins(a, b, off_diagonal=off_diagonal, eps=eps, impl=impl)
        close(value, by_rows.barlow_twins(x, y, off_diagonal, eps))
    for coefficients in ((25.0, 25.0, 1.0), (0.0, 3.0, 0.0), (1.0, 0.0, 2.0)):
        names = dict(zip(("invariance", "variance", "covariance"), coefficients, strict=True))
        value = F.vicreg(0.3 * a, b, **names, eps=1e-4, impl=impl)
        scaled = (0.3 * a).tolist()
        close(value, by_rows.vicreg(scaled, y, *coefficients, 1e-4))
    for mu, reduction, weighted in itertools.product((1.0, 9.0), REDUCTIONS, (False, True)):
        w = weights(weighted, shape[0])
        value = F.spectral_contrastive(a, b, mu=mu, reduction=reduction, sample_weight=w, impl=impl)
        rows = by_rows.spectral_contrastive(x, y, mu)
        close(value, by_rows.reduced(rows, reduction, None if w is None else w.tolist()))
    codes = random_codes(shape[1], 6, 1)
    for beta, eps in ((0.05, 1e-8), (0.0, 0.1)):
        value = F.falcon(a, b, codes=codes.double(), beta=beta, eps=eps, impl=impl)
        close(value, by_rows.falcon(x, y, codes.tolist(), beta, eps))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", ["weighted", "labels", "star", "two views", "one pair"])
def test_losses_on_a_graph(kind, impl):
    z, graph = pair_rows(8, 3)[0], GRAPHS[kind](8)
    x, g = z.tolist(), dense(graph, z).tolist()
    close(F.dirichlet_energy(z, graph, impl=impl), by_rows.dirichlet_energy(x, g))
    value = F.graph_spectral_contrastive(z, graph, impl=impl)
    close(value, by_rows.graph_spectral_contrastive(x, g))
    for center in (False, True):
        value = F.graph_covariance(z, graph, center=center, impl=impl)
        close(value, by_rows.graph_covariance(x, g, center))
        close(F.ls_simclr(z, graph, center=center, impl=impl), by_rows.ls_simclr(x, g, center))
        for eps in (1e-12, 0.5, 1e-200):
            value = F.graph_barlow_twins(
                z, graph, off_diagonal=0.3, center=center, eps=eps, impl=impl
            )
            close(value, by_rows.graph_barlow_twins(x, g, 0.3, center, eps))
    for penalty, measure, eps in itertools.product(
        ("hinge_std", "ls_std", "hinge_var", "ls_var"), ("uniform", "degree"), (0.0, 0.1)
    ):
        how = {"variance": 2.0, "covariance": 0.3, "invariance": 0.7}
        how = {**how, "penalty": penalty, "measure": measure, "eps": eps}
        value = F.graph_vicreg(z, graph, **how, impl=impl)
        close(value, by_rows.graph_vicreg(x, g, **how))

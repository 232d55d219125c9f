"""Anchors without negatives, one pair, one class, identical and zero rows, constant columns: values
and gradients of both forms agree in float64, or the argument that makes no loss is named.
"""

import itertools

import pytest
import torch

import sslspec_fast.functional as F
from sslspec_fast.graph import PairGraph

from ..support.inputs import pair_rows, unit

IMPLEMENTATIONS = ("fused", "torch")
OPTIONS = ({}, {"label_smoothing": 0.2}, {"tau_plus": 0.1}, {"tau_plus": 0.9})


def rows(kind, n, d):
    a, b = pair_rows(n, d)
    if kind == "identical views":
        b = a.clone()
    elif kind == "opposite views":
        b = -a
    elif kind == "one point":
        a = a[:1].repeat(n, 1)
        b = a.clone()
    elif kind == "repeated rows":
        a[1::2], b[1::2] = a[0], a[0]
    elif kind == "constant columns":
        a[:, 0], b[:, 0] = 3.0, -1.0
    elif kind == "zeros":
        a, b = torch.zeros_like(a), torch.zeros_like(b)
    return a, b


KINDS = (
    "as drawn",
    "identical views",
    "opposite views",
    "one point",
    "repeated rows",
    "constant columns",
    "zeros",
)


def star(n):
    """Row 0 is the positive of all others and they are its positives."""
    spokes = list(range(1, n))
    return PairGraph.from_edges([0] * (n - 1) + spokes, spokes + [0] * (n - 1), n=n)


def graphs(n):
    return {
        "one class": PairGraph.from_labels([0] * n),
        "one class with loops": PairGraph.from_labels([0] * n, self_loops=True),
        "star": star(n),
        "one pair": PairGraph.from_edges([0, 1], [1, 0], n=n),
        "one direction": PairGraph.from_edges([0], [n - 1], n=n),
    }


def assert_both_agree(loss, inputs, *arguments, **keywords):
    """loss(*inputs, ...): finite, and the same value and gradients for both forms."""
    out = []
    for impl in IMPLEMENTATIONS:
        leaves = [x.clone().requires_grad_() for x in inputs]
        value = loss(*leaves, *arguments, impl=impl, **keywords)
        upstream = torch.linspace(1, 2, value.numel(), dtype=value.dtype).view_as(value)
        out.append((value, torch.autograd.grad(value, leaves, upstream, materialize_grads=True)))
        assert value.isfinite().all()
    (value, grads), (expected, wanted) = out
    torch.testing.assert_close(value, expected, rtol=1e-8, atol=1e-10)
    size = max(float(g.abs().max()) for g in wanted)
    torch.testing.assert_close(grads, wanted, rtol=1e-8, atol=1e-8 * max(size, 1.0))


def settings(n):
    """Options, a temperature and weights; a temperature per row and a weight of 0 among them."""
    per_row = torch.linspace(0.05, 2, n, dtype=torch.float64)
    weight = torch.linspace(2, 0, n, dtype=torch.float64)
    for options, t, w, reduction in itertools.product(
        OPTIONS, (0.2, per_row), (None, weight), ("mean", "none")
    ):
        yield options, t, {"sample_weight": w, "reduction": reduction}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 5])
def test_pairs(n, kind):
    a, b = rows(kind, n, 3)
    for options, t, how in settings(n):
        call = {**how, **options}
        assert_both_agree(F.nt_xent, (a, b), temperature=t, **call)
        assert_both_agree(F.info_nce, (a, b), temperature=t, **call)
        assert_both_agree(F.info_nce, (a, b), temperature=t, negatives=b[:1], **call)
        assert_both_agree(F.clip, (a, b), 1 / t, **call)
        if not options:
            assert_both_agree(F.siglip, (a, b), 1 / t, -2.0, **how)
        if not options and n > 1:
            assert_both_agree(F.dcl, (a, b), temperature=t, **how)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [2, 6])
def test_classes_and_graphs(n, kind):
    z = rows(kind, n, 3)[:1]
    labels = ([0] * n, list(range(n)), [-1] * n, [0, 0] + [-1] * (n - 2))
    for options, t, how in settings(n):
        for y in labels if "tau_plus" not in options else ():
            assert_both_agree(F.sup_con, z, torch.tensor(y), temperature=t, **how, **options)
        ids = ({}, {"ids": [0] * n}, {"ids": [0, 1] * (n // 2)}) if not options else ({},)
        for graph, other in itertools.product(graphs(n).values(), ids):
            call = {**how, **options, **other}
            assert_both_agree(F.graph_info_nce, z, graph, temperature=t, **call)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(2, 1), (2, 5), (6, 3)])
def test_columns(shape, kind):
    a, b = rows(kind, *shape)
    for loss in (F.vicreg, F.barlow_twins, F.falcon, F.spectral_contrastive):
        assert_both_agree(loss, (a, b))
    assert_both_agree(F.spectral_contrastive, (a, b), reduction="none")
    for graph in list(graphs(len(a)).values())[:4]:
        for penalty, measure in itertools.product(
            ("hinge_std", "ls_std", "hinge_var", "ls_var"), ("uniform", "degree")
        ):
            assert_both_agree(F.graph_vicreg, (a,), graph, penalty=penalty, measure=measure)
        for center in (False, True):
            assert_both_agree(F.ls_simclr, (a,), graph, center=center)
            assert_both_agree(F.graph_covariance, (a,), graph, center=center)
            if kind not in ("one point", "repeated rows", "constant columns"):  # C is 0 / 0 there
                assert_both_agree(F.graph_barlow_twins, (a,), graph, center=center)
        assert_both_agree(F.graph_spectral_contrastive, (a,), graph)
        assert_both_agree(F.dirichlet_energy, (a,), graph)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_pair_has_nothing_to_correct(dtype):
    a, b = (unit(x).to(dtype).requires_grad_() for x in pair_rows(1, 4))
    for loss in (
        F.nt_xent(a, b, tau_plus=0.1),
        F.info_nce(a, b, tau_plus=0.1),
        F.clip(a, b, 3.0, tau_plus=0.1),
    ):
        grads = torch.autograd.grad(loss, (a, b))
        assert loss.item() == 0
        assert not any(g.any() for g in grads)


def test_second_derivatives_without_negatives():
    a, b = pair_rows(1, 3)
    z = pair_rows(4, 3)[0]
    graph = PairGraph.from_labels([0] * 4)
    for loss, inputs in (
        (lambda x, y: F.nt_xent(x, y, tau_plus=0.1), (a, b)),
        (lambda x, y: F.clip(x, y, 2.0, tau_plus=0.1), (a, b)),
        (lambda x: F.graph_info_nce(x, graph, tau_plus=0.1, temperature=0.5), (z,)),
    ):
        leaves = [x.requires_grad_() for x in inputs]
        assert torch.autograd.gradgradcheck(loss, leaves)


def test_no_negative_where_one_is_needed():
    z = pair_rows(4, 3)[0]
    message = "every row with a positive needs a negative, row 0 of 4 has none"
    with pytest.raises(ValueError, match=message):
        F.graph_info_nce(z, PairGraph.from_labels([0] * 4), negatives="non_positive")
    # row 3 has neither positives nor, by the ids, negatives: it has no term that could need one
    graph, ids = PairGraph.from_edges([0, 1], [1, 0], n=4), [0, 1, 2, 3]
    assert F.graph_info_nce(z, graph, negatives="non_positive", ids=ids).isfinite()
    with pytest.raises(ValueError, match="z1 needs at least 2 rows"):
        F.dcl(z[:1], z[:1])

"""Candidates of InfoNCE: directions, targets, negatives alone, false negatives found by a guide.

The golden values are those of sentence-transformers 6.2.0 in float64, at temperature 0.1, on the
inputs of `columns`: the loss and the norms of the gradients of queries, keys and negatives.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

import sslspec_fast.functional as F
from sslspec_fast.losses import InfoNCELoss

from ..support.inputs import golden_rows, pair_rows, unit

IMPLEMENTATIONS = ("fused", "torch")
EVERY = ("query_to_key", "query_to_query", "key_to_key", "key_to_query")
GIST = EVERY[:3]

# GISTEmbedLoss, by n, d and options; the first two columns of texts, or three
GUIDED = {
    (8, 5, "{}"): (0.50291969211, 0.347035775579, 0.354736585264),
    (8, 5, "margin"): (0.484661046428, 0.343076402054, 0.352613294698),
    (8, 5, "relative"): (0.484661046428, 0.343076402054, 0.352613294698),
    (8, 5, "no queries"): (0.340085394815, 0.2160693669, 0.337488691625),
    (8, 5, "no keys"): (0.355289101046, 0.335049139647, 0.210182451382),
    (8, 5, "negatives"): (0.503336864883, 0.347190200551, 0.354800923117, 0.000418791337434),
    (8, 5, "negatives, margin"): (
        0.485084487819,
        0.343230420492,
        0.352673867622,
        0.000424959379606,
    ),
    (6, 16, "{}"): (0.21220422409, 0.251742591923, 0.0854706635021),
    (6, 16, "margin"): (0.204735923444, 0.251431119084, 0.0955637219563),
    (6, 16, "relative"): (0.208197675165, 0.251459308238, 0.0914631724673),
    (6, 16, "no queries"): (0.142383825865, 0.121048752331, 0.0963590451846),
    (6, 16, "no keys"): (0.173969524362, 0.259635005581, 0.0699976496887),
    (6, 16, "negatives"): (0.212574324556, 0.251715697788, 0.0854740646545, 0.000160848456337),
    (6, 16, "negatives, margin"): (
        0.205109167128,
        0.251402374919,
        0.0955596339974,
        0.000162658113902,
    ),
}
OPTIONS = {
    "{}": {},
    "margin": {"guide_margin": 0.1},
    "relative": {"guide_margin": 0.1, "guide_relative": True},
    "no queries": {"directions": ("query_to_key", "key_to_key")},
    "no keys": {"directions": ("query_to_key", "query_to_query")},
    "negatives": {},
    "negatives, margin": {"guide_margin": 0.1},
}
# MultipleNegativesRankingLoss with directions and partition_mode="joint"
JOINT = {
    (8, 5, EVERY): (1.10973651503, 0.304912446579, 0.311997540935),
    (8, 5, EVERY[:2]): (0.414987036749, 0.370579431591, 0.244609206871),
    (6, 16, EVERY): (0.869437448206, 0.169349576938, 0.0744486776125),
    (6, 16, EVERY[:2]): (0.207138804316, 0.223505775008, 0.0774667184928),
}


def columns(n: int, d: int) -> tuple[list[Tensor], list[Tensor]]:
    """Queries, keys and negatives, and what the guide makes of them."""
    k = torch.arange(n * d, dtype=torch.float64).view(n, d)
    guide = torch.cos(0.5 * k + 0.2)
    rows = [*golden_rows(n, d), torch.sin(1.9 * k + 0.7)]
    guides = [guide, guide + 0.9 * torch.sin(1.1 * k + 0.4), torch.cos(1.7 * k)]
    return [x.requires_grad_() for x in rows], guides


def assert_values(loss: Tensor, rows: list[Tensor], expected: tuple[float, ...]) -> None:
    grads = torch.autograd.grad(loss, rows[: len(expected) - 1])
    found = torch.stack([loss.detach(), *(g.norm() for g in grads)])
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-13
    )


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize(("n", "d", "name"), GUIDED)
def test_guided_false_negatives_are_those_of_gistembed(n, d, name, impl):
    rows, guide = columns(n, d)
    count = 3 if name.startswith("negatives") else 2
    loss = F.info_nce(
        *rows[:2],
        negatives=rows[2] if count == 3 else None,
        guide=guide[:count],
        impl=impl,
        **{"directions": GIST, **OPTIONS[name]},
    )
    assert_values(loss, rows, GUIDED[n, d, name])


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize(("n", "d", "directions"), JOINT)
def test_all_pairs_of_a_batch_as_columns(n, d, directions, impl):
    rows, _ = columns(n, d)
    loss = F.info_nce(*rows[:2], directions=directions, impl=impl)
    assert_values(loss, rows, JOINT[n, d, directions])


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_negatives_alone_are_columns_without_the_other_keys(impl, reduction):
    """info-nce-pytorch's InfoNCE with negative_keys, and MoCo with a gradient of the queue."""
    q, k = (z.requires_grad_() for z in pair_rows(7, 4))
    extra = pair_rows(11, 4, seed=3)[0].requires_grad_()
    u, v, w = unit(q), unit(k), unit(extra)
    logits = torch.cat([(u * v).sum(1, keepdim=True), u @ w.T], 1) / 0.1
    expected = nnf.cross_entropy(logits, torch.zeros(7, dtype=torch.long), reduction=reduction)
    loss = F.info_nce(q, k, negatives=extra, directions=(), reduction=reduction, impl=impl)
    torch.testing.assert_close(loss, expected)
    of = q, k, extra
    ours, wanted = (torch.autograd.grad(x.sum(), of) for x in (loss, expected))
    torch.testing.assert_close(ours, wanted)
    if reduction == "mean":
        moco = F.moco(q, k, w.detach(), temperature=0.1, impl=impl)
        torch.testing.assert_close(moco, expected)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.2}, {"margin": 0.3}])
@pytest.mark.parametrize("m", [3, 7, 20])
def test_target_is_the_key_of_each_query(impl, options, m):
    """Keys in another number and order, some of them of several queries, some of none."""
    q, k = pair_rows(7, 4)[0].requires_grad_(), pair_rows(m, 4, seed=2)[0].requires_grad_()
    extra, target = pair_rows(5, 4, seed=3)[0], torch.arange(7) * 5 % m
    logits = unit(q) @ unit(torch.cat([k, extra])).T
    less = options.get("margin", 0.0) * nnf.one_hot(target, m + 5)
    smooth = {"label_smoothing": options.get("label_smoothing", 0.0)}
    expected = nnf.cross_entropy((logits - less) / 0.1, target, **smooth)
    loss = F.info_nce(q, k, target=target, negatives=extra, impl=impl, **options)
    torch.testing.assert_close(loss, expected)
    ours, wanted = (torch.autograd.grad(x, (q, k)) for x in (loss, expected))
    torch.testing.assert_close(ours, wanted)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_target_of_the_same_number_is_no_target(impl):
    q, k = pair_rows(9, 4)
    guide = pair_rows(9, 3, seed=5)
    for options in ({"directions": EVERY}, {"tau_plus": 0.1}, {"guide": guide, "threshold": 0.6}):
        expected = F.info_nce(q, k, impl=impl, **options)
        got = F.info_nce(q, k, target=range(9), impl=impl, **options)
        torch.testing.assert_close(got, expected)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    got = F.info_nce(q, k[order], target=order.argsort(), directions=EVERY, impl=impl)
    torch.testing.assert_close(got, F.info_nce(q, k, directions=EVERY, impl=impl))


@pytest.mark.parametrize("target", [None, torch.tensor([5, 0, 3, 3, 8, 1, 2, 0, 7])])
def test_every_option_together(target):
    """Both forms agree, with values and gradients, where everything that leaves out is in use."""
    (q, k), extra = pair_rows(9, 4), pair_rows(12, 4, seed=3)[0]
    of = [z.requires_grad_() for z in (q, k, extra)]
    guide = [pair_rows(n, 3, seed=s)[0] for n, s in ((9, 5), (9, 6), (12, 7))]
    ids = {} if target is not None else {"ids": torch.arange(9) % 4, "negative_ids": [2] * 12}
    scale = torch.linspace(0.1, 0.3, 9, dtype=torch.float64)
    for directions in (EVERY, GIST, ("key_to_key",), ("query_to_query", "key_to_query"), ()):
        out = [
            F.info_nce(
                q,
                k,
                negatives=extra,
                temperature=scale,
                directions=directions,
                target=target,
                guide=guide,
                guide_margin=0.2,
                threshold=0.7,
                margin=0.1,
                sample_weight=torch.linspace(0, 2, 9),
                impl=impl,
                **ids,
            )
            for impl in IMPLEMENTATIONS
        ]
        torch.testing.assert_close(out[0], out[1])
        grads = [torch.autograd.grad(x, of, materialize_grads=True) for x in out]
        torch.testing.assert_close(grads[0], grads[1])


def test_a_query_without_negatives_has_no_loss():
    """A guide that takes every column for a false negative leaves the positive alone."""
    q, k = (z.requires_grad_() for z in pair_rows(5, 4))
    guide = (torch.ones(5, 3), torch.ones(5, 3))
    loss = F.info_nce(q, k, guide=guide, guide_margin=0.5, directions=GIST, reduction="none")
    assert loss.tolist() == [0.0] * 5
    grads = torch.autograd.grad(loss.sum(), (q, k))
    assert all((g == 0).all() for g in grads)


def test_derivatives():
    q, k, extra = (x.requires_grad_() for x in (*pair_rows(4, 3), pair_rows(3, 3, seed=1)[0]))
    guide = [pair_rows(n, 2, seed=s)[0] for n, s in ((4, 5), (4, 6), (3, 7))]
    t = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def loss(q: Tensor, k: Tensor, extra: Tensor, t: Tensor) -> Tensor:
        return F.info_nce(
            q, k, negatives=extra, temperature=t, guide=guide, directions=EVERY, threshold=0.9
        )

    assert torch.autograd.gradcheck(loss, (q, k, extra, t))
    assert torch.autograd.gradgradcheck(loss, (q, k, extra, t))


def test_the_guide_may_have_any_width_and_precision():
    q, k = pair_rows(8, 5)
    guide = pair_rows(8, 3, seed=4)
    exact = F.info_nce(q, k, guide=guide, directions=GIST)
    for kind in (torch.float32, torch.bfloat16):
        half = [x.to(kind) for x in guide]
        wide = [x.float() for x in half]
        got = F.info_nce(q, k, guide=half, directions=GIST)
        torch.testing.assert_close(got, F.info_nce(q, k, guide=wide, directions=GIST))
    got = F.info_nce(q.float(), k.float(), guide=guide, directions=GIST)
    torch.testing.assert_close(got.double(), exact, rtol=1e-6, atol=0)


def test_terms_and_module():
    rows, guide = columns(8, 5)
    loss, terms = F.info_nce(
        *rows[:2], guide=guide[:2], directions=GIST, target=range(8), return_terms=True
    )
    torch.testing.assert_close(terms["alignment"] + terms["uniformity"], loss)
    torch.testing.assert_close(
        terms["alignment"], -(unit(rows[0]) * unit(rows[1])).sum(1).mean() / 0.1
    )
    module = InfoNCELoss(directions=GIST, guide_margin=0.1)
    got = module(*rows[:2], target=range(8), guide=guide[:2])
    torch.testing.assert_close(got.item(), GUIDED[8, 5, "margin"][0])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"directions": "query_to_key"},
            TypeError,
            "directions must be a sequence of names, got s",
        ),
        ({"directions": ("key",)}, ValueError, "directions must be one of 'query_to_key', 'query_"),
        ({"directions": ()}, ValueError, "directions must name one where negatives are None"),
        (
            {"directions": EVERY, "tau_plus": 0.1},
            ValueError,
            r"label_smoothing and tau_plus need directions=\('query_to_key',\), got \('query",
        ),
        ({"target": [0, 1, 2, 4]}, ValueError, r"target must have rows of key in \[0, 4\), got 4"),
        ({"target": [0, -1, 2, 3]}, ValueError, r"target must have rows of key in .*, got -1"),
        ({"target": [0, 1]}, ValueError, r"target must have one value per row \(4,\), got \(2,\)"),
        ({"target": range(4), "ids": range(4)}, ValueError, "ids go without target"),
        (
            {"guide_margin": 0.1},
            ValueError,
            "guide_margin and guide_relative need a guide, got gui",
        ),
        (
            {"guide": (torch.ones(4, 2),)},
            ValueError,
            "guide must be 2 tensors, embeddings of query",
        ),
        ({"guide": torch.ones(4, 2)}, ValueError, "guide must be 2 tensors, .* key, got Tensor"),
        (
            {"guide": (torch.ones(4, 2), torch.ones(5, 2))},
            ValueError,
            r"guide of key must be \(4, 2\), a row for each of key, got \(5, 2\)",
        ),
        (
            {"guide": (torch.ones(4, 2), torch.ones(4, 2).double())},
            TypeError,
            "guide of key must have the dtype of guide of query",
        ),
        (
            {"guide": (torch.ones(4, 2), torch.ones(4, 2, requires_grad=True))},
            NotImplementedError,
            "guide of key must not require grad, got a tensor that does; detach it",
        ),
        (
            {"guide": (torch.ones(4, 2),) * 2, "guide_margin": math.inf},
            ValueError,
            "guide_margin must be finite, got inf",
        ),
        (
            {"guide": (torch.ones(4, 2),) * 2, "label_smoothing": 0.1},
            ValueError,
            "margin, ids, threshold, guide and column_weight go without label_smoothing",
        ),
    ],
)
def test_bad_arguments(options, error, message):
    q, k = pair_rows(4, 3)
    with pytest.raises(error, match=f"info_nce: {message}"):
        F.info_nce(q, k, **options)


def test_keys_in_another_number_need_a_target():
    q, k = pair_rows(4, 3)[0], pair_rows(6, 3)[0]
    with pytest.raises(ValueError, match=r"info_nce: key must match query \(4, 3\), got \(6, 3\)"):
        F.info_nce(q, k)
    with pytest.raises(ValueError, match=r"info_nce: key must have the 3 features of query"):
        F.info_nce(q, pair_rows(6, 2)[0], target=[0, 1, 2, 3])

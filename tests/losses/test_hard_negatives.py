"""What negatives count: hardness, weights of columns, negatives of each query alone."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

import sslspec_fast.functional as F
from sslspec_fast.losses import InfoNCELoss
from sslspec_fast.losses._softmax import FalseNegatives

from ..support.inputs import pair_rows, unit

IMPLEMENTATIONS = ("fused", "torch")
T = 0.3


def rows_of(positive: Tensor, negative: Tensor) -> Tensor:
    """Losses of (n,) positive logits and (n, m) negative ones."""
    logits = torch.cat([positive[:, None], negative], 1)
    return nnf.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64), reduction="none")


def hard(negative: Tensor, b: float, w: Tensor | float = 1.0) -> Tensor:
    """Logits with factors w and e^(b s), the latter of mean 1 over the pairs that are not -inf."""
    w = w * torch.isfinite(negative)
    some = w > 0
    logits = torch.where(some, negative, 0.0)
    factor = w * torch.exp(b * logits)
    factor = factor * (w.sum(1) / factor.sum(1))[:, None]
    return (logits + torch.where(some, factor, 1.0).log()).masked_fill(~some, -math.inf)


def agree(loss: Tensor, expected: Tensor, leaves: list[Tensor]) -> None:
    torch.testing.assert_close(loss, expected)
    ours, theirs = (
        torch.autograd.grad(x.sum(), leaves, retain_graph=True) for x in (loss, expected)
    )
    torch.testing.assert_close(ours, theirs)


def others(cosines: Tensor) -> Tensor:
    """A square matrix without its diagonal."""
    n = len(cosines)
    return cosines[~torch.eye(n, dtype=torch.bool)].view(n, n - 1)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("b", [0.5, 2.0])
def test_hardness(b, reduction, impl):
    q, k = (z.requires_grad_() for z in pair_rows(7, 4))
    extra = pair_rows(5, 4, 3)[0].requires_grad_()
    s = unit(q) @ unit(torch.cat([k, extra])).T / T
    negative = torch.cat([others(s[:, :7]), s[:, 7:]], 1)
    rows = rows_of(s.diagonal(), hard(negative, b))
    how = {"temperature": T, "negatives": extra, "hardness": b, "reduction": reduction}
    loss = F.info_nce(q, k, impl=impl, **how)
    agree(loss, rows if reduction == "none" else rows.mean(), [q, k, extra])


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_hardness_of_the_others_where_some_are_left_out(impl):
    """The mean factor is 1 over what is left, so that a small hardness is none."""
    q, k = (z.requires_grad_() for z in pair_rows(9, 4))
    ids, bound = torch.arange(9) % 4, 0.5
    cosines = unit(q) @ unit(k).T
    false = (ids[:, None] == ids) | (cosines > bound)
    negative = (cosines / T).masked_fill(false, -math.inf)
    expected = rows_of(cosines.diagonal() / T, hard(negative, 1.5)).mean()
    how = {"temperature": T, "ids": ids, "threshold": bound, "impl": impl}
    agree(F.info_nce(q, k, hardness=1.5, **how), expected, [q, k])
    nearly = F.info_nce(q, k, hardness=1e-9, **how)
    torch.testing.assert_close(nearly, F.info_nce(q, k, **how), rtol=1e-7, atol=0)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_hardness_over_all_directions(impl):
    every = ("query_to_key", "query_to_query", "key_to_key", "key_to_query")
    q, k = (z.requires_grad_() for z in pair_rows(6, 4))
    u, v = unit(q), unit(k)
    parts = [others(u @ v.T), others(u @ u.T), others(v @ v.T), v @ u.T]
    positive = (u * v).sum(1) / T
    expected = rows_of(positive, hard(torch.cat(parts, 1) / T, 0.7)).mean()
    loss = F.info_nce(q, k, temperature=T, directions=every, hardness=0.7, impl=impl)
    agree(loss, expected, [q, k])


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("tau_plus", [0.0, 0.1])
def test_hardness_is_the_loss_of_robinson_et_al(tau_plus, impl):
    """Their code for two views z of 2n rows, whose negatives are the 2n - 2 rows of other samples:
    here the other views of a batch, and the own views as negatives.
    """
    n, beta, t = 5, 1.0, 0.5
    a, b = (unit(z) for z in pair_rows(n, 6))
    out = torch.cat([a, b])
    sample = torch.arange(n).repeat(2)
    neg = torch.exp(out @ out.T / t)[sample[:, None] != sample].view(2 * n, 2 * n - 2)
    pos = torch.exp((a * b).sum(1) / t).repeat(2)
    size, imp = 2 * n - 2, (beta * neg.log()).exp()
    reweighted = (imp * neg).sum(1) / imp.mean(1)
    ng = (-tau_plus * size * pos + reweighted) / (1 - tau_plus)
    expected = -torch.log(pos / (pos + ng.clamp(min=size * math.exp(-1 / t)))).mean()
    if tau_plus:  # needs the default directions: each row with the rows of other samples alone
        rows = []
        for i in range(2 * n):
            j = (i + n) % (2 * n)
            rest = out[sample != sample[i]]
            how = {"temperature": t, "hardness": beta, "tau_plus": tau_plus, "impl": impl}
            rows.append(F.info_nce(out[i : i + 1], out[j : j + 1], negatives=rest, **how))
        torch.testing.assert_close(torch.stack(rows).mean(), expected)
        return
    how = {"temperature": t, "hardness": beta, "impl": impl}
    how["directions"] = ("query_to_key", "query_to_query")
    loss = (F.info_nce(a, b, **how) + F.info_nce(b, a, **how)) / 2
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("options", [{}, {"hardness": 0.8}, {"threshold": 0.4}])
@pytest.mark.parametrize("t", [T, "by row"])
def test_column_weights(t, options, impl):
    q, k = (z.requires_grad_() for z in pair_rows(6, 4))
    extra = pair_rows(4, 4, 3)[0].requires_grad_()
    t = torch.linspace(0.2, 0.6, 6).double().requires_grad_() if t == "by row" else t
    w = torch.tensor([0.0, 2.0, 1.0, 0.5, 3.0, 1.0, 0.1, 0.0, 5.0, 1.0])
    cosines = unit(q) @ unit(torch.cat([k, extra])).T
    own = torch.eye(6, 10, dtype=torch.bool)
    false = own | (cosines > options.get("threshold", 2.0)) | (w == 0)
    c = 1 / t if isinstance(t, float) else 1 / t[:, None]
    s = cosines * c
    negative = s.masked_fill(false, -math.inf)
    hardness = options.get("hardness", 0.0)
    negative = hard(negative, hardness, w.double()) if hardness else negative + w.double().log()
    expected = rows_of(s.diagonal(), negative).mean()
    loss = F.info_nce(
        q, k, temperature=t, negatives=extra, column_weight=w.double(), impl=impl, **options
    )
    agree(loss, expected, [q, k, extra, *([] if isinstance(t, float) else [t])])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_of_zero_leave_out_and_ones_change_nothing(dtype):
    q, k = (z.to(dtype).requires_grad_() for z in pair_rows(40, 8))
    ids = torch.arange(40)
    ids[:10] = 99  # the first ten are none of the negatives of each other
    weight = torch.ones(40)
    for t in (0.1, 0.01):
        plain, ones = (
            F.info_nce(q, k, temperature=t, column_weight=w, threshold=2.0) for w in (None, weight)
        )
        # rows in bfloat16 hold the scale where columns have weights, and are rounded with it
        rounding = 2e-4 if dtype == torch.bfloat16 else 3e-5
        torch.testing.assert_close(ones, plain, rtol=rounding / t, atol=1e-6)
    queue = unit(pair_rows(30, 8, 5)[0]).to(dtype)
    dropped = torch.cat([torch.zeros(10), torch.ones(20)])
    zero = F.moco(q.float(), k.float(), queue.float(), column_weight=dropped)
    torch.testing.assert_close(zero, F.moco(q.float(), k.float(), queue[10:].float()))
    nothing = F.moco(q, k, queue, column_weight=torch.zeros(30))
    assert nothing.item() == 0
    assert not torch.autograd.grad(nothing, q)[0].any()


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("options", [{}, {"ids": True}, {"threshold": 0.3}])
def test_moco(options, impl):
    q, k = (z.requires_grad_() for z in pair_rows(6, 4))
    queue = unit(pair_rows(11, 4, 3)[0])
    w = torch.linspace(0.1, 3, 11).double()
    s = unit(q) @ queue.T
    false = s > options.get("threshold", 2.0)
    if "ids" in options:
        options = {"ids": torch.arange(6), "queue_ids": torch.arange(11) % 8}
        false = false | (options["ids"][:, None] == options["queue_ids"])
    negative = (s / T).masked_fill(false, -math.inf)
    positive = ((unit(q) * unit(k)).sum(1) - 0.1) / T
    how = {"temperature": T, "margin": 0.1, "impl": impl, **options}
    for more, harder in (
        ({"hardness": 1.2}, hard(negative, 1.2)),
        ({"column_weight": w}, negative + w.log()),
        ({"column_weight": w, "hardness": 1.2}, hard(negative, 1.2, w)),
    ):
        agree(F.moco(q, k, queue, **how, **more), rows_of(positive, harder).mean(), [q, k])


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_negatives_of_each_query(reduction, impl):
    """info-nce-pytorch's negative_mode="paired" has these columns alone."""
    q, k = (z.requires_grad_() for z in pair_rows(6, 4))
    extra = pair_rows(30, 4, 3)[0].view(6, 5, 4).requires_grad_()
    u, v = unit(q), unit(k)
    cosines = torch.einsum("nd,nld->nl", u, nnf.normalize(extra, dim=2))
    positive, batch = (u * v).sum(1), others(u @ v.T)
    how = {"temperature": T, "reduction": reduction, "impl": impl, "negatives": extra}
    leaves = [q, k, extra]

    def check(negative: Tensor, **options: object) -> None:
        rows = rows_of(positive / T, negative)
        expected = rows if reduction == "none" else rows.mean()
        agree(F.info_nce(q, k, **how, **options), expected, leaves)

    check(cosines / T, directions=())
    check(torch.cat([batch, cosines], 1) / T)
    check(hard(torch.cat([batch, cosines], 1) / T, 0.5), hardness=0.5)
    left = (cosines / T).masked_fill(cosines > 0.2, -math.inf)
    left = torch.cat([(batch / T).masked_fill(batch > 0.2, -math.inf), left], 1)
    check(left, threshold=0.2)
    ids, own = torch.arange(6) % 3, torch.arange(30).view(6, 5) % 4
    in_batch = others((ids[:, None] == ids).double()).bool()
    for given, same in ((own, ids[:, None] == own), (None, torch.zeros(6, 5, dtype=torch.bool))):
        left = torch.cat([batch / T, cosines / T], 1)
        left = left.masked_fill(torch.cat([in_batch, same], 1), -math.inf)
        check(left, ids=ids, negative_ids=given)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_smoothing_and_debiasing_count_the_negatives_of_each_query(impl):
    q, k = pair_rows(6, 4)
    extra = pair_rows(30, 4, 3)[0].view(6, 5, 4)
    u, v = unit(q), unit(k)
    cosines = torch.einsum("nd,nld->nl", u, nnf.normalize(extra, dim=2))
    logits = torch.cat([(u * v).sum(1, keepdim=True), others(u @ v.T), cosines], 1) / T
    first = torch.zeros(6, dtype=torch.int64)
    expected = nnf.cross_entropy(logits, first, label_smoothing=0.2)
    how = {"temperature": T, "negatives": extra, "impl": impl}
    torch.testing.assert_close(F.info_nce(q, k, label_smoothing=0.2, **how), expected)
    e = logits.exp()
    estimate = ((e[:, 1:].sum(1) - 0.1 * 10 * e[:, 0]) / 0.9).clamp(min=10 * math.exp(-1 / T))
    expected = -torch.log(e[:, 0] / (e[:, 0] + estimate)).mean()
    torch.testing.assert_close(F.info_nce(q, k, tau_plus=0.1, **how), expected)


@pytest.mark.parametrize(("left_out", "times"), [({}, 2), ({"threshold": 0.3}, 3)])
def test_hardness_counts_the_queue_where_no_row_of_it_is_left_out(left_out, times, monkeypatch):
    """The number of rows is known: a log-sum-exp of power 0 would visit all pairs once more."""
    powers, lse = [], FalseNegatives.lse

    def counting(self, *args):
        powers.append(args[-1])
        return lse(self, *args)

    monkeypatch.setattr(FalseNegatives, "lse", counting)
    q, k = pair_rows(6, 4)
    F.moco(q, k, unit(pair_rows(11, 4, 3)[0]), hardness=0.5, **left_out)
    assert powers == [1.5, 0.5, 0.0][:times]


def test_rows_without_negatives():
    q, k = (z.requires_grad_() for z in pair_rows(3, 4))
    same = torch.zeros(3, dtype=torch.int64)
    for impl in IMPLEMENTATIONS:
        loss = F.info_nce(q, k, ids=same, hardness=1.0, impl=impl)
        assert loss.item() == 0
        assert not torch.autograd.grad(loss, q)[0].any()
    empty = torch.zeros(0, 4, dtype=torch.float64)
    assert F.moco(q, k, empty, hardness=1.0, column_weight=torch.zeros(0)).item() == 0


@pytest.mark.parametrize(
    "options",
    [
        {"hardness": 0.7},
        {"column_weight": torch.linspace(0, 2, 5).double()},
        {"negatives": pair_rows(10, 3, 2)[0].view(5, 2, 3)},
    ],
)
def test_gradgradcheck(options):
    q, k = (z.requires_grad_() for z in pair_rows(5, 3))

    def loss(q: Tensor, k: Tensor) -> Tensor:
        return F.info_nce(q, k, temperature=0.5, **options)

    assert torch.autograd.gradcheck(loss, (q, k))
    assert torch.autograd.gradgradcheck(loss, (q, k))


def test_module():
    q, k = pair_rows(6, 4)
    extra, w = pair_rows(12, 4, 3)[0].view(6, 2, 4), torch.linspace(0, 1, 6)
    expected = F.info_nce(q, k, negatives=extra, hardness=0.5)
    torch.testing.assert_close(InfoNCELoss(hardness=0.5)(q, k, extra), expected)
    expected = F.info_nce(q, k, column_weight=w)
    torch.testing.assert_close(InfoNCELoss()(q, k, column_weight=w), expected)


Z, QUEUE, W = torch.eye(4), torch.eye(4), torch.ones(4)
THREE = torch.zeros(4, 2, 4)
BAD = [
    ({"hardness": -1.0}, ValueError, "hardness must be finite and >= 0, got -1"),
    ({"hardness": 1.0, "label_smoothing": 0.1}, ValueError, "hardness and label_smoothing exclude"),
    ({"column_weight": W[:3]}, ValueError, r"a number for each of the 4 columns, got \(3,\)"),
    ({"column_weight": -W}, ValueError, "column_weight must be finite and >= 0, got -1"),
    ({"column_weight": 2.0}, TypeError, "column_weight must be a torch.Tensor, got float"),
    (
        {"column_weight": torch.ones(4, requires_grad=True)},
        NotImplementedError,
        "column_weight must not require grad",
    ),
    (
        {"column_weight": torch.ones(4), "directions": ("query_to_query",)},
        ValueError,
        "column_weight needs directions",
    ),
    ({"column_weight": torch.ones(4), "tau_plus": 0.1}, ValueError, "go without label_smoothing"),
    (
        {"column_weight": torch.ones(4), "guide": (Z, Z), "threshold": 0.5},
        ValueError,
        "a threshold or a guide, got both",
    ),
    ({"column_weight": torch.ones(4), "negatives": THREE}, ValueError, r"goes with negatives \(l"),
    ({"negatives": THREE[:3]}, ValueError, r"must be \(4, l, 4\), l >= 1, got \(3, 2, 4\)"),
    ({"negatives": THREE.double()}, TypeError, "negatives must have the dtype of query"),
    ({"negatives": THREE, "guide": (Z, Z, THREE)}, ValueError, "guide"),
    ({"negatives": THREE, "negative_ids": W}, ValueError, "negative_ids need ids, got None"),
    (
        {"negatives": THREE, "ids": [0, 1, 2, 3], "negative_ids": [0, 1]},
        ValueError,
        r"negative_ids must be \(4, 2\), one for each of negatives, got \(2,\)",
    ),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=f"info_nce: .*{message}|info_nce: {message}"):
        F.info_nce(Z, Z, **options)


def test_bad_weights_of_a_queue():
    with pytest.raises(
        ValueError, match="moco: column_weight must have a number for each of the 4"
    ):
        F.moco(Z, Z, QUEUE, column_weight=torch.ones(3))
    with pytest.raises(ValueError, match="moco: hardness must be finite and >= 0"):
        F.moco(Z, Z, QUEUE, hardness=-0.5)

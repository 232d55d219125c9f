"""Matryoshka: prefixes, weights, re-normalisation, every loss it takes."""

import importlib

import pytest
import torch

import sslspec_fast as sf
import sslspec_fast.functional as F
from sslspec_fast import _C
from sslspec_fast.losses import MatryoshkaLoss, _prefixes

from ..support.inputs import pair_rows, unit
from ..support.tolerance import assert_no_worse

matryoshka = importlib.import_module("sslspec_fast.losses.matryoshka")

IMPLEMENTATIONS = ("fused", "torch")


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("loss", ["nt_xent", "info_nce", "dcl", "vicreg", "barlow_twins"])
def test_is_the_sum_over_prefixes(loss, impl):
    a, b = pair_rows(10, 8)
    function = getattr(F, loss)
    expected = sum(w * function(a[:, :m], b[:, :m]) for m, w in ((2, 0.5), (5, 1.0), (8, 2.0)))
    ours = F.matryoshka(loss, a, b, dims=[2, 5, 8], weights=[0.5, 1.0, 2.0], impl=impl)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_prefixes_are_renormalised(impl):
    a, b = (unit(z) for z in pair_rows(10, 8))
    clip = sum(F.clip(unit(a[:, :m]), unit(b[:, :m]), 10.0) for m in (3, 8))
    ours = F.matryoshka("clip", a, b, dims=[3, 8], logit_scale=10.0, impl=impl)
    torch.testing.assert_close(ours, clip)
    siglip = sum(F.siglip(unit(a[:, :m]), unit(b[:, :m]), 10.0, -5.0) for m in (3, 8))
    ours = F.matryoshka("siglip", a, b, dims=(3, 8), logit_scale=10.0, logit_bias=-5.0, impl=impl)
    torch.testing.assert_close(ours, siglip)


def test_negatives_terms_and_reduction():
    a, b = pair_rows(6, 8)
    extra = pair_rows(4, 8, seed=1)[0]
    rows, terms = F.matryoshka(
        "info_nce",
        a,
        b,
        dims=[4, 8],
        weights=[2, 1],
        negatives=extra,
        reduction="none",
        return_terms=True,
    )
    four = F.info_nce(a[:, :4], b[:, :4], negatives=extra[:, :4], reduction="none")
    eight = F.info_nce(a, b, negatives=extra, reduction="none")
    torch.testing.assert_close(rows, 2 * four + eight)
    torch.testing.assert_close(terms, {"dim_4": four, "dim_8": eight})


def test_scale_gets_the_gradient_of_all_prefixes():
    a, b = pair_rows(6, 8)
    t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    loss = F.matryoshka("nt_xent", a, b, dims=[4, 8], temperature=t)
    (grad,) = torch.autograd.grad(loss, t)
    parts = [F.nt_xent(a[:, :m], b[:, :m], temperature=t) for m in (4, 8)]
    torch.testing.assert_close(grad, sum(torch.autograd.grad(p, t)[0] for p in parts))


SOFTMAX = {
    "nt_xent": "temperature",
    "dcl": "temperature",
    "info_nce": "temperature",
    "clip": "logit_scale",
}


@pytest.fixture
def shared(monkeypatch):
    """One pass for all prefixes also on a few rows, and a way to ask whether it was taken."""
    monkeypatch.setattr(_prefixes, "MIN_ROWS", 2)
    taken = []

    def spy(*arguments):
        taken.append(_prefixes.shared_prefixes(*arguments))
        return taken[-1]

    monkeypatch.setattr(matryoshka, "shared_prefixes", spy)
    return taken


def gradients(loss, inputs, dims, impl="fused", seed=None, **hyper):
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    value = F.matryoshka(loss, *leaves, dims=dims, impl=impl, **hyper)
    upstream = torch.linspace(0.5, 2, value.numel()).to(value).view_as(value)
    grads = torch.autograd.grad(value, leaves, upstream)
    return value.detach(), torch.cat([g.flatten() for g in grads])


def composed(loss, a, b, m, **hyper):
    x, y = a[:, :m], b[:, :m]
    return getattr(F, loss)(*((unit(x), unit(y)) if loss == "clip" else (x, y)), **hyper)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [2, 10_000])  # from which on one pass serves all prefixes
@pytest.mark.parametrize("loss", sorted(matryoshka.LOSSES))
def test_columns_behind_a_prefix_do_not_reach_its_loss(loss, rows, dtype, bad, monkeypatch):
    monkeypatch.setattr(_prefixes, "MIN_ROWS", rows)
    dims, options = [17, 33, 72, 100], {"return_terms": True}
    if loss in ("clip", "siglip"):
        options["logit_scale"] = 5.0
    if loss == "siglip":
        options["logit_bias"] = -5.0
    views = [x.to(dtype) for x in pair_rows(40, 100)]
    _, expected = F.matryoshka(loss, *views, dims=dims, **options)
    views[0][:, 72:] = bad
    views[1][3, 80:] = bad
    _, found = F.matryoshka(loss, *views, dims=dims, **options)
    for m in dims[:3]:
        torch.testing.assert_close(found[f"dim_{m}"], expected[f"dim_{m}"], rtol=1e-5, atol=1e-6)
    assert not found["dim_100"].isfinite()


@pytest.mark.parametrize("t", [0.5, 0.02, 0.002])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("loss", SOFTMAX)
def test_one_pass_is_the_composition(loss, reduction, t, shared):
    a, b = (x.requires_grad_() for x in pair_rows(57, 150))
    scale = torch.tensor(1 / t if loss == "clip" else t, dtype=a.dtype, requires_grad=True)
    hyper = {SOFTMAX[loss]: scale, "reduction": reduction}
    hyper["sample_weight"] = torch.linspace(0.5, 2, 57, dtype=a.dtype)
    ours = F.matryoshka(loss, a, b, dims=[130, 8, 64, 8], weights=[1, 2, 0.5, 1], **hyper)
    assert shared[0] is not None
    parts = [w * composed(loss, a, b, m, **hyper) for m, w in ((130, 1), (8, 3), (64, 0.5))]
    expected = sum(parts)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    upstream = torch.linspace(0.5, 2, ours.numel(), dtype=a.dtype).view_as(ours)
    for one, other in zip(
        *(torch.autograd.grad(v, (a, b, scale), upstream) for v in (ours, expected)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_one_pass_with_negatives(shared):
    a, b = pair_rows(40, 30)
    extra = pair_rows(70, 30, seed=1)[0]
    ours = F.matryoshka("info_nce", a, b, dims=[4, 20], negatives=extra)
    assert shared[0] is not None
    parts = [F.info_nce(a[:, :m], b[:, :m], negatives=extra[:, :m]) for m in (4, 20)]
    torch.testing.assert_close(ours, sum(parts), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("t", [1.0, 0.1, 0.01])
@pytest.mark.parametrize("loss", ["nt_xent", "dcl", "info_nce"])
def test_one_pass_in_float32_is_no_worse_than_torch(loss, t, shared):
    dims = [16, 40, 100]
    fused, plain, exact = [], [], []
    for seed, n in enumerate((128, 190, 257, 96)):
        inputs = pair_rows(n, 100, seed)
        narrow = [x.float() for x in inputs]
        exact.append(gradients(loss, [x.double() for x in narrow], dims, "torch", temperature=t))
        plain.append(gradients(loss, narrow, dims, "torch", temperature=t))
        fused.append(gradients(loss, narrow, dims, temperature=t))
    assert all(v is not None for v in shared)
    for k in (0, 1):
        assert_no_worse(*([v[k] for v in results] for results in (fused, plain, exact)), what=loss)


@pytest.mark.parametrize("loss", ["siglip", "vicreg", "nt_xent", "negative_cosine"])
def test_gradients_of_prefixes_add_up_before_they_are_rounded(loss):
    hyper = {"logit_scale": 5.0, "logit_bias": -2.0} if loss == "siglip" else {}
    rows = [x.bfloat16() for x in pair_rows(40, 30)]
    value, grads = gradients(loss, rows, [7, 12, 20, 30], **hyper)
    products = torch.bfloat16 if _C.bf16_products() and loss != "siglip" else torch.float32
    before = sf.set_float32_products(products)
    try:
        same, wanted = gradients(loss, [x.float() for x in rows], [7, 12, 20, 30], **hyper)
    finally:
        sf.set_float32_products(before)
    assert torch.equal(value, same)
    assert torch.equal(grads, wanted.bfloat16())


@pytest.mark.skipif(not _C.bf16_products(), reason="a processor without products of bfloat16")
@pytest.mark.parametrize("loss", SOFTMAX)
def test_one_pass_follows_the_setting_of_float32_products(loss, shared):
    """In both passes, whatever is set between them, compiled, and in a second derivative."""
    rows = [x.float().requires_grad_() for x in pair_rows(40, 30)]

    def run(a, b):
        return F.matryoshka(loss, a, b, dims=[7, 30], **{SOFTMAX[loss]: 0.7})

    def both(function, backward=None, **options):
        value = function(*rows)
        if backward is not None:
            sf.set_float32_products(backward)
        return [value.detach(), *torch.autograd.grad(value, rows, **options)]

    def untold(a, b):  # without the list of what was taken, which is no part of a compiled function
        options = {SOFTMAX[loss]: 0.7}
        return sum(_prefixes.shared_prefixes(loss, a, b, [7, 30], None, options).values())

    exact, halves = both(run), [x.detach().bfloat16().float() for x in rows]
    compiled = torch.compile(untold, fullgraph=True, backend="aot_eager")
    try:
        sf.set_float32_products(torch.bfloat16)
        rounded = both(run)
        value = run(*halves)
        assert all(v is not None for v in shared)
        torch.testing.assert_close(both(compiled), rounded)
        slopes = both(run, create_graph=True)
        later = both(run, backward=torch.float32)
    finally:
        sf.set_float32_products(torch.float32)
    assert not torch.equal(rounded[0], exact[0])
    torch.testing.assert_close(value, run(*halves), rtol=2e-6, atol=0)
    assert all(map(torch.equal, later, rounded))
    for one, other, same in zip(rounded, exact, slopes, strict=True):
        scale = float(other.abs().max())
        torch.testing.assert_close(one, other, rtol=5e-3, atol=2**-6 * scale)
        torch.testing.assert_close(same, one, rtol=0, atol=2**-8 * scale)


@pytest.mark.parametrize("loss", SOFTMAX)
def test_one_pass_under_autograd_and_torch_compile(loss, shared):
    a, b = (x.requires_grad_() for x in pair_rows(6, 5))

    def run(a, b):
        return F.matryoshka(loss, a, b, dims=[2, 5], **{SOFTMAX[loss]: 0.7})

    assert torch.autograd.gradcheck(run, (a, b))
    assert torch.autograd.gradgradcheck(run, (a, b))
    assert shared[0] is not None
    compiled = torch.compile(
        lambda a, b: sum(
            _prefixes.shared_prefixes(loss, a, b, [2, 5], None, {SOFTMAX[loss]: 0.7}).values()
        ),
        fullgraph=True,
        backend="aot_eager",
    )
    torch.testing.assert_close(compiled(a, b), run(a, b))
    grads = (torch.autograd.grad(f(a, b), (a, b)) for f in (compiled, run))
    torch.testing.assert_close(*grads)


def test_rows_of_norm_zero_have_no_gradient_that_is_not_finite(shared):
    a, b = pair_rows(6, 5)
    a[2, :3] = 0
    ours = gradients("nt_xent", (a, b), [3, 5])
    assert shared[0] is not None
    torch.testing.assert_close(ours, gradients("nt_xent", (a, b), [3, 5], "torch"))


@pytest.mark.parametrize(
    ("keywords", "dims"),
    [
        ({"label_smoothing": 0.1}, [2, 4]),
        ({"temperature": torch.full((6,), 0.3)}, [2, 4]),
        ({}, [4]),
    ],
)
def test_what_one_pass_does_not_cover_is_composed(keywords, dims, shared):
    a, b = (x.float() for x in pair_rows(6, 5))
    ours = F.matryoshka("nt_xent", a, b, dims=dims, **keywords)
    assert shared == [None]
    torch.testing.assert_close(ours, sum(F.nt_xent(a[:, :m], b[:, :m], **keywords) for m in dims))


def test_bad_options_are_the_losses_errors(shared):
    a, b = pair_rows(6, 5)
    with pytest.raises(ValueError, match=r"nt_xent: temperature must be .*got -1"):
        F.matryoshka("nt_xent", a, b, dims=[2, 4], temperature=-1.0)
    with pytest.raises(ValueError, match=r"dcl: reduction must be one of .* got 'max'"):
        F.matryoshka("dcl", a, b, dims=[2, 4], reduction="max")
    with pytest.raises(TypeError, match="logit_scale"):
        F.matryoshka("clip", a, b, dims=[2, 4])


def test_module():
    a, b = pair_rows(6, 8)
    module = MatryoshkaLoss("nt_xent", [4, 8], temperature=0.2)
    torch.testing.assert_close(
        module(a, b), F.matryoshka("nt_xent", a, b, dims=[4, 8], temperature=0.2)
    )


def test_errors():
    a, b = pair_rows(4, 3)
    with pytest.raises(ValueError, match=r"loss must be one of .* got 'sup_con'"):
        F.matryoshka("sup_con", a, b, dims=[2])
    with pytest.raises(ValueError, match=r"dims needs at least one prefix length"):
        F.matryoshka("nt_xent", a, b, dims=[])
    with pytest.raises(ValueError, match=r"dims must be in 1 ... 3, the features of z1, got 4"):
        F.matryoshka("nt_xent", a, b, dims=[2, 4])
    with pytest.raises(TypeError, match=r"dims must be an integer, got float"):
        F.matryoshka("nt_xent", a, b, dims=[2.0])
    with pytest.raises(ValueError, match=r"one number per prefix \(2\), got 1"):
        F.matryoshka("nt_xent", a, b, dims=[2, 3], weights=[1.0])
    with pytest.raises(ValueError, match=r"weights must be finite and >= 0, got -1"):
        F.matryoshka("nt_xent", a, b, dims=[2], weights=[-1])

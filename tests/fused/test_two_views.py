"""Losses of two views, their rows, means and sums, against torch's plain forms in fp64."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

from sslspec_fast import _C
from sslspec_fast._seam import view
from sslspec_fast.functional import clip, info_nce, nt_xent, siglip
from sslspec_fast.fused import two_views_cpu
from sslspec_fast.fused.two_views import two_view_loss

from ..support.row_cases import SCALES, TOLERANCE, assert_same, doubles, leaves, rows, weights


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("n", [1, 2, 23, 60, 130])
def test_rows(n: int, scale: float, dtype: torch.dtype) -> None:
    z1, z2, c = leaves(
        3 * rows(n, 20, dtype), 2 * rows(n, 20, dtype, 1), torch.tensor(scale, dtype=dtype)
    )
    e1, e2, ce = doubles(z1, z2, c)
    u = nnf.normalize(torch.cat([e1, e2]), dim=1)
    logits = (ce * (u @ u.T)).masked_fill(torch.eye(2 * n, dtype=torch.bool), -math.inf)
    target = torch.arange(2 * n).roll(n)
    exact = nnf.cross_entropy(logits, target, reduction="none").view(2, n)
    ours = two_view_loss(z1, z2, c)
    g = weights(2, n, dtype=dtype)
    if n == 1:
        assert torch.all(ours == 0)
        return
    assert_same((ours,), (exact,), dtype)
    theirs = torch.autograd.grad((exact * g.double()).sum(), (e1, e2, ce))
    assert_same(torch.autograd.grad((ours * g).sum(), (z1, z2, c)), theirs, dtype)


def test_rows_of_zero_length() -> None:
    z1, z2 = leaves(rows(6, 4, torch.float64), rows(6, 4, torch.float64, 1))
    z1.data[2] = 0
    c = torch.tensor(2.0, dtype=torch.float64)
    grads = torch.autograd.grad(two_view_loss(z1, z2, c).sum(), (z1, z2))
    u = nnf.normalize(torch.cat([z1, z2]), dim=1, eps=1e-12)
    logits = (c * (u @ u.T)).masked_fill(torch.eye(12, dtype=torch.bool), -math.inf)
    loss = nnf.cross_entropy(logits, torch.arange(12).roll(6), reduction="sum")
    assert_same(grads, torch.autograd.grad(loss, (z1, z2)), torch.float64)


def test_row_strides_do_not_matter() -> None:
    z1, z2 = rows(30, 24, torch.float32), rows(30, 24, torch.float32, 1)
    c = torch.tensor(5.0)
    expected = two_view_loss(z1, z2, c)
    padded = torch.zeros(30, 40)
    padded[:, :24] = z1
    assert torch.equal(two_view_loss(padded[:, :24], z2, c), expected)
    assert torch.equal(two_view_loss(z1.T.contiguous().T, z2, c), expected)


@pytest.mark.parametrize("n", [20, 500])
def test_any_number_of_threads_gives_the_same_bits(n: int) -> None:
    z1, z2, c = leaves(rows(n, 33, torch.float32), rows(n, 33, torch.float32, 1), torch.tensor(9.0))
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            out = two_view_loss(z1, z2, c)
            results.append([out, *torch.autograd.grad(out.sum(), (z1, z2, c))])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(p, q) for p, q in zip(results[0], other, strict=True))


def test_nan_reaches_every_row_that_sees_it() -> None:
    z1, z2 = rows(8, 4, torch.float32), rows(8, 4, torch.float32, 1)
    z1[3, 2] = math.nan
    assert two_view_loss(z1, z2, torch.tensor(2.0)).isnan().all()


FORMS = {
    "nt_xent": partial(nt_xent, temperature=0.2),
    "info_nce": partial(info_nce, temperature=0.2),
    "clip": partial(clip, logit_scale=5.0),
    "siglip": partial(siglip, logit_scale=5.0, logit_bias=-3.0),
}
KEYWORDS = {
    "nt_xent": ("temperature",),
    "info_nce": ("temperature",),
    "clip": ("logit_scale",),
    "siglip": ("logit_scale", "logit_bias"),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("n", [1, 2, 70, 300])
def test_a_mean_or_sum_and_all_of_its_gradients(
    n: int, name: str, reduction: str, weighted: bool, dtype: torch.dtype
) -> None:
    """Of rows, temperature or scale and bias, and weights: as the plain form in fp64."""
    loss = FORMS[name]
    numbers = [torch.tensor(loss.keywords[key], dtype=dtype) for key in KEYWORDS[name]]
    inputs = leaves(rows(n, 20, dtype), rows(n, 20, dtype, 1), *numbers, weights(n, dtype=dtype))

    def value(inputs: list[Tensor], impl: str) -> tuple[Tensor, ...]:
        x, y, *given, weight = inputs
        options = dict(zip(KEYWORDS[name], given, strict=True))
        out = loss(
            x,
            y,
            reduction=reduction,
            sample_weight=weight if weighted else None,
            impl=impl,
            **options,
        )
        wanted = inputs if weighted else inputs[:-1]
        return out, *torch.autograd.grad(3 * out, wanted)

    ours, exact = value(inputs, "fused"), value(doubles(*inputs), "torch")
    for a, e in zip(ours, exact, strict=True):
        size = max(
            float(e.detach().norm()), 1e-3
        )  # gradients that vanish, such as those of one pair
        assert float((a.double() - e).detach().norm()) < TOLERANCE[dtype] * size


@pytest.mark.parametrize("name", FORMS)
def test_the_loss_is_the_same_without_a_gradient(name: str) -> None:
    x, y = leaves(rows(60, 20, torch.float64), rows(60, 20, torch.float64, 1))
    with torch.no_grad():
        alone = FORMS[name](x, y)
    torch.testing.assert_close(FORMS[name](x, y), alone, rtol=1e-14, atol=0)
    # InfoNCE visits constant keys in another order of sums
    (first,) = torch.autograd.grad(FORMS[name](x, y.detach()), x)
    (both,) = torch.autograd.grad(FORMS[name](x, y), x)
    if name == "info_nce":
        torch.testing.assert_close(first, both, rtol=1e-12, atol=1e-15)
    else:
        assert torch.equal(first, both)
    second = FORMS[name](x.detach(), y)
    assert torch.equal(
        torch.autograd.grad(second, y)[0], torch.autograd.grad(FORMS[name](x, y), y)[0]
    )


@pytest.mark.parametrize("name", FORMS)
def test_derivatives_of_a_mean(name: str) -> None:
    a, b = leaves(rows(6, 4, torch.float64), rows(6, 4, torch.float64, 1))
    (c,) = leaves(torch.tensor(2.0, dtype=torch.float64))
    key = KEYWORDS[name][0]

    def loss(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return FORMS[name](a, b, **{key: c})

    assert torch.autograd.gradcheck(loss, (a, b, c))
    assert torch.autograd.gradgradcheck(loss, (a, b, c))


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("n", [20, 500])
def test_any_number_of_threads_gives_the_same_mean(name: str, n: int) -> None:
    x, y = leaves(rows(n, 33, torch.float32), rows(n, 33, torch.float32, 1))
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            out = FORMS[name](x, y)
            results.append([out, *torch.autograd.grad(out, (x, y))])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(p, q) for p, q in zip(results[0], other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FORMS)
def test_the_workspace_may_belong_to_the_core(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    z1, z2 = leaves(*(rows(130, 20, dtype, seed) for seed in (0, 1)))
    results = []
    for small in (1 << 15, 0):
        monkeypatch.setattr(two_views_cpu, "SMALL", small)
        value = FORMS[name](z1, z2)
        results.append([value, *torch.autograd.grad(value, (z1, z2))])
    assert all(map(torch.equal, *results))


def test_derivatives() -> None:
    a, b = leaves(rows(6, 4, torch.float64), rows(6, 4, torch.float64, 1))
    (c,) = leaves(torch.tensor(2.0, dtype=torch.float64))
    assert torch.autograd.gradcheck(two_view_loss, (a, b, c))
    assert torch.autograd.gradgradcheck(two_view_loss, (a, b, c))


@pytest.mark.parametrize("form", ["stacked", "rows", "both", "sigmoid"])
def test_opcheck(form: str) -> None:
    a, b = leaves(rows(9, 4, torch.float32), rows(9, 4, torch.float32, 1))
    c, weight = leaves(torch.tensor(2.0), weights(9, dtype=torch.float32))
    op = torch.ops.sslspec_fast.two_views_total.default
    some = c, c if form == "sigmoid" else None, weight
    for tensors, flags in ((some, (True,) * 3), ((None,) * 3, (True, True, False))):
        torch.library.opcheck(op, (a, b, *tensors, 2.0, -1.0, True, form, True, False, *flags))


@pytest.mark.parametrize("tensors", [0, 1, 2])
@pytest.mark.parametrize(("gradient", "of_z2"), [(False, False), (True, False), (True, True)])
def test_gradients_are_made_of_what_needs_one(tensors: int, gradient: bool, of_z2: bool) -> None:
    """Of both rows, and of a scale and a bias that are tensors; the loss is the same."""
    a, b = rows(9, 4, torch.float32), rows(9, 4, torch.float32, 1)
    some = [torch.tensor(2.0), torch.tensor(-1.0)][:tensors] + [None] * (3 - tensors)
    op = torch.ops.sslspec_fast.two_views_total
    rest = 2.0, -1.0, True, "sigmoid", True, False
    loss, made = op(a, b, *some, *rest, gradient, of_z2, False)
    assert [g.dim() for g in made] == gradient * ([2] * (1 + of_z2) + [0] * tensors)
    assert torch.equal(loss, op(a, b, None, None, None, *rest, True, True, False)[0])


def test_the_core_names_what_is_wrong() -> None:
    z, one = torch.zeros(3, 4), torch.zeros(())
    loss = 0, True, False, True, 1.0
    size = _C.two_views_workspace_size(3, 4, 0, loss)

    def call(
        z1: Tensor = z, g: Tensor = z, form: int = 0, weight: Tensor | None = None, less: int = 0
    ) -> None:
        inputs = (view(z1), view(z)), None, None, 1.0, 0.0, view(weight)
        results = view(one), None, (view(g), view(z.clone())), view(one.clone()), None
        work = view(torch.zeros(size - less)), 1
        _C.two_views(inputs, (form, *loss[1:]), results, work)

    call()
    with pytest.raises(ValueError, match=r"z2 must have size 5 in dimension 1, got shape \(3, 4\)"):
        call(torch.zeros(3, 5))
    with pytest.raises(ValueError, match=r"z1 must be \(n, d\), got \(3,\)"):
        call(torch.zeros(3))
    with pytest.raises(ValueError, match="grad_z1 must be contiguous"):
        call(g=torch.zeros(3, 8)[:, :4])
    with pytest.raises(ValueError, match="form must be 0, 1, 2 or 3, got 4"):
        call(form=4)
    with pytest.raises(ValueError, match="weight must have size 3 in dimension 0"):
        call(weight=torch.zeros(4))
    with pytest.raises(ValueError, match="workspace must have size"):
        call(less=1)

"""Gradients of every loss against finite differences in float64."""

import pytest
import torch

import sslspec_fast.functional as F

from ..support.cases import CASES, SOFTMAX
from ..support.inputs import pair_rows, unit, weighted_graph


@pytest.mark.parametrize("name", CASES)
def test_gradcheck(name):
    case = CASES[name]
    inputs, loss = case.make(max(10, case.min_rows), 3, seed=1)
    leaves = [x.requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(loss, leaves, eps=1e-6, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_the_references(name):
    case = CASES[name]
    inputs, loss = case.make(max(14, case.min_rows), 5, seed=2)
    leaves = [x.requires_grad_() for x in inputs]
    for impl in ("fused", "torch"):
        value = loss(*leaves, impl=impl)
        weight = torch.linspace(1, 2, value.numel(), dtype=value.dtype).view_as(value)
        grads = torch.autograd.grad(value, leaves, weight)
        if impl == "fused":
            ours = grads
    torch.testing.assert_close(ours, grads, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    "keywords",
    [{"label_smoothing": 0.1}, {"tau_plus": 0.1}, {"reduction": "sum"}, {"sample_weight": True}],
    ids=str,
)
@pytest.mark.parametrize("name", ["nt_xent", "info_nce", "clip"])
def test_gradcheck_of_options(name, keywords):
    if "sample_weight" in keywords:
        keywords = {"sample_weight": torch.linspace(0.1, 1, 6, dtype=torch.float64)}
    inputs, loss = CASES[name].make(6, 3, seed=1)
    leaves = [x.requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(lambda *x: loss(*x, temperature=0.4, **keywords), leaves)


@pytest.mark.parametrize("name", SOFTMAX)
def test_gradcheck_of_the_scale(name):
    case = CASES[name]
    inputs, loss = case.make(max(6, case.min_rows), 3, seed=1)
    t = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: loss(*inputs, temperature=t), t)


def test_gradcheck_of_scales_of_rows():
    a, b = pair_rows(6, 3)
    graph = weighted_graph(6)
    t = torch.full((6,), 0.3, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-0.5, dtype=torch.float64, requires_grad=True)
    check = torch.autograd.gradcheck
    assert check(lambda t: F.nt_xent(a, b, temperature=t), t)
    assert check(lambda t: F.info_nce(a, b, temperature=t), t)
    assert check(lambda t: F.dcl(a, b, temperature=t), t)
    assert check(lambda t: F.graph_info_nce(a, graph, temperature=t), t)
    assert check(lambda t: F.sup_con(unit(a), [0, 0, 1, 1, 2, 2], temperature=t), t)
    assert check(lambda t: F.clip(unit(a), unit(b), 1 / t), t)
    assert check(lambda t, bias: F.siglip(unit(a), unit(b), 1 / t, bias), (t, bias))


@pytest.mark.parametrize("name", CASES)
def test_only_what_requires_a_gradient_gets_one(name):
    case = CASES[name]
    inputs, loss = case.make(max(10, case.min_rows), 4)
    first, *rest = inputs
    value = loss(first.requires_grad_(), *rest)
    (grad,) = torch.autograd.grad(value.sum(), first)
    assert grad.shape == first.shape
    assert not loss(*inputs[:0], first.detach(), *rest).requires_grad


@pytest.mark.parametrize("name", CASES)
def test_repeatable_bit_for_bit(name):
    case = CASES[name]
    inputs, loss = case.make(66, 19)
    leaves = [x.float().requires_grad_() for x in inputs]
    values, grads = [], []
    for _ in range(2):
        value = loss(*leaves)
        values.append(value)
        grads.append(torch.autograd.grad(value.sum(), leaves))
    assert torch.equal(values[0], values[1])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_two_threads_give_the_same_bits_again(name):
    inputs, loss = CASES[name].make(260, 129)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        results = []
        for _ in range(4):
            leaves = [x.detach().float().requires_grad_() for x in inputs]
            value = loss(*leaves)
            grads = torch.autograd.grad(value.sum(), leaves, allow_unused=True)
            results.append([value.detach(), *(g for g in grads if g is not None)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))

"""Inputs that break careless kernels: ragged, strided, huge, duplicate and collapsed rows."""

import pytest
import torch

import sslspec_fast.functional as F

from ..cases import CASES, RAGGED, SOFTMAX, pair_rows, unit


def finite_pair(name, leaves, **hyper):
    """Fused and reference value with gradients; all of them finite."""
    case = CASES[name]
    n, d = leaves[0].shape
    _, loss = case.make(n, d)
    out = []
    for impl in ("fused", "torch"):
        value = loss(*leaves, impl=impl, **hyper)
        grads = torch.autograd.grad(value.sum(), leaves, allow_unused=True)
        assert torch.isfinite(value).all(), (name, impl)
        assert all(torch.isfinite(g).all() for g in grads), (name, impl)
        out.append((value, grads))
    return out


@pytest.mark.parametrize("n", RAGGED)
@pytest.mark.parametrize("name", CASES)
def test_ragged_rows(name, n):
    case = CASES[name]
    if n < case.min_rows:
        pytest.skip("not a size of this loss")
    inputs, loss = case.make(n, 7)
    torch.testing.assert_close(loss(*inputs), loss(*inputs, impl="torch"), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("d", [1, 2, 7, 65, 130])
@pytest.mark.parametrize("name", CASES)
def test_ragged_features(name, d):
    case = CASES[name]
    inputs, loss = case.make(max(12, case.min_rows), d)
    torch.testing.assert_close(loss(*inputs), loss(*inputs, impl="torch"), rtol=1e-9, atol=1e-11)


def layouts(x):
    n, d = x.shape
    wide = torch.zeros(n, 2 * d + 3, dtype=x.dtype)
    wide[:, 1 : d + 1] = x
    every_other = torch.zeros(2 * n, d, dtype=x.dtype)
    every_other[::2] = x
    comb = torch.zeros(n, 3 * d, dtype=x.dtype)
    comb[:, ::3] = x
    return {
        "columns of a wider matrix": wide[:, 1 : d + 1],
        "transposed": x.T.contiguous().T,
        "every other row": every_other[::2],
        "every third column": comb[:, ::3],
    }


@pytest.mark.parametrize("layout", layouts(torch.zeros(2, 2)))
@pytest.mark.parametrize("name", CASES)
def test_strided_rows(name, layout):
    case = CASES[name]
    inputs, loss = case.make(max(12, case.min_rows), 5)
    expected = loss(*(x.requires_grad_() for x in inputs))
    wanted = torch.autograd.grad(expected.sum(), inputs)
    strided = [layouts(x.detach())[layout].requires_grad_() for x in inputs]
    value = loss(*strided)
    torch.testing.assert_close(value, expected)
    grads = torch.autograd.grad(value.sum(), strided)
    torch.testing.assert_close(grads, wanted)


@pytest.mark.parametrize("name", CASES)
def test_broadcast_rows(name):
    """Expanded tensors have stride 0: a collapsed batch that shares its memory."""
    case = CASES[name]
    inputs, loss = case.make(max(12, case.min_rows), 5)
    leaves = [x[:1].expand(x.shape) for x in inputs]
    value = loss(*leaves)
    torch.testing.assert_close(value, loss(*(x.contiguous() for x in leaves)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_collapsed_embeddings_have_finite_gradients(name, dtype):
    case = CASES[name]
    inputs, _ = case.make(max(12, case.min_rows), 5)
    leaves = [x[:1].repeat(len(x), 1).to(dtype).requires_grad_() for x in inputs]
    (value, _), (expected, _) = finite_pair(name, leaves)
    if name.startswith("graph_barlow_twins"):
        return  # correlations of a constant column are 0 / 0 in exact arithmetic
    tolerance = 1e-4 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(value, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", CASES)
def test_zero_rows_have_finite_gradients(name):
    case = CASES[name]
    inputs, _ = case.make(max(12, case.min_rows), 5)
    leaves = [torch.zeros_like(x).float().requires_grad_() for x in inputs]
    finite_pair(name, leaves)


@pytest.mark.parametrize("temperature", [0.005, 0.01, 1.0])
@pytest.mark.parametrize("name", SOFTMAX)
def test_duplicate_rows_at_small_temperatures(name, temperature):
    case = CASES[name]
    inputs, _ = case.make(max(12, case.min_rows), 5)
    leaves = []
    for x in inputs:
        y = x.clone().float()
        y[1::3] = y[:1]
        leaves.append(y.requires_grad_())
    (value, _), (expected, _) = finite_pair(name, leaves, temperature=temperature)
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", [1e4, 1e-4])
@pytest.mark.parametrize("name", SOFTMAX)
def test_huge_and_tiny_rows_that_are_normalised(name, scale):
    case = CASES[name]
    inputs, loss = case.make(max(12, case.min_rows), 5)
    leaves = [(scale * x).float().requires_grad_() for x in inputs]
    finite_pair(name, leaves)
    expected = loss(*(x.float() for x in inputs))
    torch.testing.assert_close(loss(*leaves), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["vicreg", "barlow_twins", "graph_barlow_twins", "ls_simclr"])
def test_huge_rows(name):
    inputs, _ = CASES[name].make(12, 5)
    leaves = [(1e4 * x).float().requires_grad_() for x in inputs]
    (value, _), (expected, _) = finite_pair(name, leaves)
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=0)


def test_unbounded_logits():
    """Rows that are not normalised inside: logits of 1e4 need the running maximum."""
    a, b = (100 * x.float() for x in pair_rows(20, 8))
    for scale in (1.0, 100.0):
        fused, plain = F.clip(a, b, scale), F.clip(a, b, scale, impl="torch")
        torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-3)
        fused, plain = F.siglip(a, b, scale, -10.0), F.siglip(a, b, scale, -10.0, impl="torch")
        torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-3)


def test_integer_lists_as_labels_and_ids():
    z = unit(pair_rows(6, 3)[0])
    y = [0, 0, 1, 1, 2, 2]
    expected = F.sup_con(z, torch.tensor(y))
    torch.testing.assert_close(F.sup_con(z, y), expected)
    torch.testing.assert_close(F.sup_con(z, torch.tensor(y, dtype=torch.int16)), expected)


def test_inputs_are_left_alone():
    for name, case in CASES.items():
        inputs, loss = case.make(max(10, case.min_rows), 4)
        copies = [x.clone() for x in inputs]
        value = loss(*(x.requires_grad_() for x in inputs))
        value.sum().backward()
        assert all(torch.equal(x, y) for x, y in zip(inputs, copies, strict=True)), name

"""Inputs that break careless kernels: ragged, strided, huge, duplicate and collapsed rows."""

import pytest
import torch

import sslspec_fast.functional as F
from sslspec_fast import _C

from ..support.cases import CASES, RAGGED, SOFTMAX
from ..support.inputs import pair_rows, unit, weighted_graph


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
    tall = torch.zeros(3 * d, n, dtype=x.dtype)
    tall[::3] = x.T
    return {
        "columns of a wider matrix": wide[:, 1 : d + 1],
        "an offset into memory": torch.cat([x.new_zeros(3), x.flatten()])[3:].view(n, d),
        "transposed": x.T.contiguous().T,
        "transposed, with gaps": tall[::3].T,
        "every other row": every_other[::2],
        "every third column": comb[:, ::3],
        "stored with the other sign": torch._neg_view(-x),
    }


DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
STRIDED = [(name, dtype, True) for name in CASES for dtype in DTYPES]


@pytest.mark.parametrize(("name", "dtype", "half"), [*STRIDED, ("clip", torch.bfloat16, False)])
def test_strided_rows(name, dtype, half, monkeypatch):
    """Every layout of every input, alone and with the others, forward and backward."""
    if not half:  # as on a processor that does not multiply bfloat16
        monkeypatch.setattr(_C, "bf16_products", lambda: False)
    case = CASES[name]
    for n, d in ((max(12, case.min_rows), 5), (33, 1), (60, 34)):
        inputs, loss = case.make(n, d)
        plain = [unit(x).to(dtype).requires_grad_() for x in inputs]
        expected = loss(*plain)
        upstream = torch.linspace(-1, 1, expected.numel()).to(expected.dtype).view_as(expected)
        wanted = torch.autograd.grad(expected, plain, upstream)
        every = set(range(len(inputs)))
        for layout in layouts(torch.zeros(2, 2)):
            for which in {frozenset(every), *(frozenset({i}) for i in every)}:
                leaves = [
                    (layouts(x.detach())[layout] if i in which else x.detach()).requires_grad_()
                    for i, x in enumerate(plain)
                ]
                value = loss(*leaves)
                grads = torch.autograd.grad(value, leaves, layouts_of_gradient(upstream))
                tolerance = 1e-12 if dtype == torch.float64 else 1e-5
                torch.testing.assert_close(value, expected, rtol=tolerance, atol=tolerance)
                share = 0.02 if dtype in (torch.bfloat16, torch.float16) else tolerance
                torch.testing.assert_close(grads, wanted, rtol=share, atol=10 * tolerance)


def layouts_of_gradient(upstream):
    """A gradient from above that is not contiguous: column-major, or every other value."""
    return (
        upstream.T.contiguous().T
        if upstream.dim() == 2
        else torch.stack([upstream] * 2, -1)[..., 0]
    )


def lists(values):
    """The same numbers in other layouts, as one-dimensional arguments come."""
    return {
        "every other": torch.stack([values, values + 1], -1)[:, 0],
        "an offset": torch.cat([values[:1], values])[1:],
    }


@pytest.mark.parametrize("layout", ["every other", "an offset", "expanded"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_strided_temperatures_weights_labels_and_ids(reduction, layout):
    n = 12
    a, b = (unit(x) for x in pair_rows(n, 5))
    graph, y = weighted_graph(n, isolated=False), torch.arange(n) % 4
    t = torch.linspace(0.5, 2, n, dtype=torch.float64)
    how = {"reduction": reduction}
    functions = (
        (t, lambda v: F.nt_xent(a, b, temperature=v, **how)),
        (t, lambda v: F.nt_xent(a, b, sample_weight=v, **how)),
        (t, lambda v: F.info_nce(a, b, temperature=v, **how)),
        (t, lambda v: F.info_nce(a, b, sample_weight=v, **how)),
        (t, lambda v: F.clip(a, b, v, **how)),
        (t, lambda v: F.clip(a, b, 3.0, sample_weight=v, **how)),
        (t, lambda v: F.siglip(a, b, v, -1.0, **how)),
        (t, lambda v: F.siglip(a, b, 3.0, -1.0, sample_weight=v, **how)),
        (t, lambda v: F.dcl(a, b, temperature=v, **how)),
        (t, lambda v: F.sup_con(a, y, temperature=v, **how)),
        (y, lambda v: F.sup_con(a, v, **how)),
        (t, lambda v: F.graph_info_nce(a, graph, temperature=v, tau_plus=0.1, **how)),
        (t, lambda v: F.graph_info_nce(a, graph, temperature=v, ids=y, **how)),
        (y, lambda v: F.graph_info_nce(a, graph, ids=v, **how)),
        (y.int(), lambda v: F.graph_info_nce(a, graph, ids=v, **how)),
        (t, lambda v: F.spectral_contrastive(a, b, sample_weight=v, **how)),
    )
    for values, function in functions:
        given = values[:1].expand(n) if layout == "expanded" else lists(values)[layout]
        torch.testing.assert_close(function(given), function(given.clone().contiguous()))


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


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FC00155, 0x7FFFFFFF, -1])
@pytest.mark.parametrize("name", CASES)
def test_nan_of_any_bits_gives_nan(name, bits):
    # Memory that was never written is often all ones; its low bits must not become an exponent.
    case = CASES[name]
    inputs, loss = case.make(max(12, case.min_rows), 7)
    inputs = [x.detach().float() for x in inputs]
    inputs[0][3, 5] = torch.tensor([bits], dtype=torch.int32).view(torch.float32)[0]
    inputs[0].requires_grad_()
    value = loss(*inputs)
    (grad,) = torch.autograd.grad(value.sum(), inputs[0])
    assert value.isnan().any(), value
    assert grad.isnan().any(), grad

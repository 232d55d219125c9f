"""Every loss under torch.compile(fullgraph=True): no graph break, same value and gradient."""

import pytest
import torch

import sslspec_fast.functional as F

from ..cases import CASES, pair_rows, unit

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

# the stored pattern of a graph is needed, and a PairGraph makes it on first use
MATERIALISES = ("graph_info_nce_dcl", "graph_info_nce_ids")


@pytest.fixture(autouse=True)
def _fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def assert_same_compiled(function, *leaves):
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    ours, expected = compiled(*leaves), function(*leaves)
    torch.testing.assert_close(ours, expected)
    grads, wanted = (torch.autograd.grad(v.sum(), leaves) for v in (ours, expected))
    torch.testing.assert_close(grads, wanted)


@pytest.mark.parametrize("impl", ["fused", "torch"])
@pytest.mark.parametrize("name", CASES)
def test_fullgraph(name, impl):
    case = CASES[name]
    inputs, loss = case.make(max(10, case.min_rows), 4)
    leaves = [x.requires_grad_() for x in inputs]
    if impl == "torch" or name in MATERIALISES:
        loss(*leaves, impl=impl)  # builds G once; tracing can read it, not build it
    assert_same_compiled(lambda *x: loss(*x, impl=impl), *leaves)


def test_learnable_temperature_and_scale():
    a, b = (x.requires_grad_() for x in pair_rows(8, 4))
    t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    assert_same_compiled(lambda a, b, t: F.nt_xent(a, b, temperature=t), a, b, t)
    assert_same_compiled(lambda a, b, t: F.clip(unit(a), unit(b), 1 / t), a, b, t)
    assert_same_compiled(
        lambda a, b, t, bias: F.siglip(unit(a), unit(b), 1 / t, bias), a, b, t, bias
    )


@pytest.mark.parametrize("keywords", [{"label_smoothing": 0.1}, {"tau_plus": 0.1}], ids=str)
def test_softmax_options(keywords):
    a, b = (x.requires_grad_() for x in pair_rows(8, 4))
    assert_same_compiled(lambda a, b: F.nt_xent(a, b, reduction="none", **keywords), a, b)


def test_matryoshka():
    a, b = (x.requires_grad_() for x in pair_rows(8, 4))
    assert_same_compiled(lambda a, b: F.matryoshka("nt_xent", a, b, dims=[2, 4]), a, b)


def test_dynamic_rows():
    """One compiled function, batches of several sizes."""
    compiled = torch.compile(F.nt_xent, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (5, 9, 17):
        a, b = pair_rows(n, 4)
        torch.testing.assert_close(compiled(a, b), F.nt_xent(a, b))

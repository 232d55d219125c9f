"""bfloat16 and float16 rows are computed in float32, but for products; autocast changes nothing."""

import pytest
import torch
import torch.nn.functional as nnf

import sslspec_fast.functional as F
from sslspec_fast import _C

from ..support.cases import CASES, SOFTMAX
from ..support.inputs import pair_rows, unit
from ..support.tolerance import relative_error

# losses that multiply bfloat16 rows as such where the processor does; their errors against those of
# autocast are in test_bf16_products.py
PAIRS = (
    "clip",
    "dcl",
    "graph_info_nce",
    "graph_siglip",
    "info_nce",
    "moco",
    "nt_xent",
    "siglip",
    "sup_con",
    "x_clr",
)
COLUMNS = ("vicreg", "barlow_twins", "spectral_contrastive", "graph_vicreg", "graph_barlow_twins")
MULTIPLIED = (*PAIRS, *COLUMNS, "ls_simclr")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("impl", ["fused", "torch"])
@pytest.mark.parametrize("name", CASES)
def test_half_inputs(name, impl, dtype, monkeypatch):
    """The float32 loss of the rounded rows; the gradient comes back rounded once. Products in
    bfloat16 round the unit rows to 2^-9 and the weights of the gradient as well.
    """
    rounds = name.startswith(MULTIPLIED) and _C.bf16_products()
    rounds = rounds and impl == "fused" and dtype == torch.bfloat16
    case = CASES[name]
    inputs, loss = case.make(max(12, case.min_rows), 5)
    if case.unit:
        inputs = [unit(x) for x in inputs]  # half-precision rows are not normalised by the case
    half = [x.to(dtype).requires_grad_() for x in inputs]
    wide = [x.detach().float().requires_grad_() for x in half]
    value = loss(*half, impl=impl)
    with monkeypatch.context() as patch:
        patch.setattr("tests.support.inputs.unit", lambda x: x)
        expected = loss(*wide, impl=impl)
    assert value.dtype == torch.float32
    exact = 5e-3 if rounds else 1e-6
    torch.testing.assert_close(value, expected, rtol=exact, atol=exact)
    grads = torch.autograd.grad(value.sum(), half)
    wanted = torch.autograd.grad(expected.sum(), wide)
    share = 2**-6 if rounds else 0.0
    for g, w in zip(grads, wanted, strict=True):
        assert g.dtype == dtype
        atol = 1e-5 + share * float(w.abs().max())
        torch.testing.assert_close(g, w.to(dtype), rtol=2e-2, atol=atol)


@pytest.mark.parametrize("scale", [2.0, 10.0, 100.0])
def test_clip_in_bfloat16_beats_autocast(scale):
    """Unit rows in bfloat16 are taken as they are, and no logit is rounded."""
    clean, noisy = pair_rows(512, 128)
    a, b = (unit(x).bfloat16() for x in (clean, 8 * noisy - 7 * clean))
    exact, ours, plain = (
        [x.to(t).requires_grad_() for x in (a, b)]
        for t in (torch.float64, torch.bfloat16, torch.bfloat16)
    )
    expected = F.clip(*exact, scale, impl="torch")
    logits = scale * plain[0] @ plain[1].T
    target = torch.arange(512)
    rounded = (nnf.cross_entropy(logits, target) + nnf.cross_entropy(logits.T, target)) / 2
    wanted = torch.cat(torch.autograd.grad(expected, exact))
    errors = []
    for value, leaves in ((F.clip(*ours, scale), ours), (rounded, plain)):
        grads = torch.cat(torch.autograd.grad(value, leaves))
        errors.append(
            (relative_error(value.detach(), expected.detach()), relative_error(grads, wanted))
        )
    (value_error, grad_error), limits = errors
    assert value_error <= min(1e-5, limits[0])
    assert grad_error <= min(2**-7, limits[1])


@pytest.mark.parametrize("impl", ["fused", "torch"])
@pytest.mark.parametrize("name", CASES)
def test_autocast_changes_nothing(name, impl):
    case = CASES[name]
    inputs, loss = case.make(max(12, case.min_rows), 5)
    leaves = [x.float().requires_grad_() for x in inputs]
    expected = loss(*leaves, impl=impl)
    wanted = torch.autograd.grad(expected.sum(), leaves)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(*leaves, impl=impl)
    # autocast stays on where the backward is ours; torch's own products in one would follow it
    ours = impl == "fused" and name != "falcon"
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=ours):
        grads = torch.autograd.grad(value.sum(), leaves)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=0, atol=0)
    torch.testing.assert_close(grads, wanted, rtol=1e-6, atol=1e-7)


def test_half_scales_and_temperatures():
    a, b = (unit(x).bfloat16() for x in pair_rows(8, 4))
    scale = torch.tensor(10.0, dtype=torch.bfloat16, requires_grad=True)
    loss = F.clip(a, b, scale)
    loss.backward()
    assert loss.dtype == torch.float32
    assert scale.grad.dtype == torch.bfloat16


def test_no_temperature_makes_a_nan():
    for name in SOFTMAX:
        inputs, loss = CASES[name].make(20, 8)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            leaves = [x.to(dtype).requires_grad_() for x in inputs]
            value = loss(*leaves, temperature=0.005)
            grads = torch.autograd.grad(value, leaves)
            assert torch.isfinite(value), (name, dtype)
            assert all(torch.isfinite(g).all() for g in grads), (name, dtype)

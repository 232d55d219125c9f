"""SigLIP on a GPU, value and gradients in one visit of the pairs, run by the emulator."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

import sslspec_fast.functional as F
from sslspec_fast.fused.sigmoid_loss import sigmoid_total
from sslspec_fast.primitives.pairwise import cuda

from ..support.agreement import BF16, F16, F32, F64, agree, fused_and_reference
from ..support.emulation import emulated
from ..support.tolerance import relative_error

pytestmark = [emulated, pytest.mark.usefixtures("gpu_paths")]


def views(n: int, d: int, dtype: torch.dtype = F32) -> list[Tensor]:
    torch.manual_seed(n + d)
    z = nnf.normalize(torch.randn(2, n, d, dtype=F64), dim=2)
    return [x.to(dtype).requires_grad_() for x in z]


def both(
    z: list[Tensor], scale: Any = 10.0, bias: Any = -10.0, **keywords: Any
) -> list[list[Tensor]]:
    return fused_and_reference(F.siglip, z, (scale, bias), **keywords)


@pytest.fixture(params=["portable", "sigmoid"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SSLSPEC_HOPPER", request.param)
    return str(request.param)


@pytest.mark.parametrize("dtype", [BF16, F16, F32])
@pytest.mark.parametrize(("n", "d"), [(1, 8), (37, 20), (130, 64), (257, 33), (150, 264)])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_ragged_sizes(n: int, d: int, reduction: str, dtype: torch.dtype) -> None:
    found = both(views(n, d, dtype), reduction=reduction)
    assert found[0][0].dtype == F32
    assert all(g.dtype == dtype and g.is_contiguous() for g in found[0][1:])
    agree(found, dtype)


def test_several_strips_and_the_kernel_of_hopper(
    kernel: str, core: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 1030 columns: two strips, and the last tile is not full; chunks of 128 rows
    monkeypatch.setattr(cuda, "_WEIGHT_BYTES", 0)
    core.launches()
    t = [torch.tensor(x, requires_grad=True) for x in (10.0, -10.0)]
    weight = torch.linspace(0.0, 2.0, 1030, dtype=F64)
    agree(both(views(1030, 16, BF16), *t, sample_weight=weight), BF16)
    name = "pairwise_sigmoid" + ("_sm90a" if kernel == "sigmoid" else "")
    assert core.launches().count(name) == 9


@pytest.mark.parametrize("dtype", [BF16, F32])
@pytest.mark.parametrize("d", [24, 264])
def test_learnable_scale_and_bias_and_weights(d: int, dtype: torch.dtype) -> None:
    t = [torch.tensor(x, requires_grad=True) for x in (8.0, -3.0)]
    weight = torch.linspace(0.0, 2.0, 140, dtype=F64)
    for keywords in ({}, {"sample_weight": weight}, {"sample_weight": weight, "reduction": "sum"}):
        agree(both(views(140, d, dtype), *t, **keywords), dtype)


@pytest.mark.parametrize("dtype", [F16, F32])
def test_products_of_bfloat16_pieces(dtype: torch.dtype, split_products: None) -> None:
    agree(both(views(300, 40, dtype)), dtype)


def test_tf32() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        agree(both(views(140, 40)), F16)
    finally:
        torch.set_float32_matmul_precision(before)


def test_logits_far_from_zero() -> None:
    for scale, bias in ((200.0, 0.0), (1.0, 300.0), (1.0, -300.0)):
        agree(both(views(40, 24), scale, bias), F32)


def test_float16_gradients_are_rounded_after_a_loss_scale() -> None:
    z = views(130, 24, F16)
    tiny = F.siglip(*z, 10.0, -10.0) * 1e-6  # gradients below the smallest number of float16
    scaled = torch.autograd.grad(tiny * 2.0**20, z)
    exact = [x.detach().double().requires_grad_() for x in z]
    wanted = torch.autograd.grad(F.siglip(*exact, 10.0, -10.0, impl="torch"), exact)
    for got, want in zip(scaled, wanted, strict=True):
        assert relative_error(got, want * 1e-6 * 2.0**20) <= 2e-3


def test_gradients_of_one_side() -> None:
    z1, z2 = views(40, 24)
    both_sides = torch.autograd.grad(F.siglip(z1, z2, 10.0, -10.0), (z1, z2))
    (one,) = torch.autograd.grad(F.siglip(z1, z2.detach(), 10.0, -10.0), z1)
    (other,) = torch.autograd.grad(F.siglip(z1.detach(), z2, 10.0, -10.0), z2)
    assert torch.equal(one, both_sides[0])
    assert torch.equal(other, both_sides[1])


def test_values_without_a_gradient_and_rows_are_the_same_loss() -> None:
    z = views(40, 24)
    value = F.siglip(*z, 10.0, -10.0)
    with torch.no_grad():
        torch.testing.assert_close(F.siglip(*z, 10.0, -10.0), value.detach())
    torch.testing.assert_close(F.siglip(*z, 10.0, -10.0, reduction="none").mean(), value)


def test_weights_that_require_a_gradient_get_one() -> None:
    z, weight = views(12, 8), torch.linspace(0.5, 1.5, 12, requires_grad=True)
    found = [
        torch.autograd.grad(F.siglip(*z, 10.0, -10.0, sample_weight=weight, impl=impl), weight)[0]
        for impl in ("fused", "torch")
    ]
    torch.testing.assert_close(*found)


def test_second_derivatives() -> None:
    z, t = views(5, 8), [torch.tensor(x, requires_grad=True) for x in (3.0, -1.0)]
    found = []
    for impl in ("fused", "torch"):
        first = torch.autograd.grad(F.siglip(*z, *t, impl=impl), (*z, *t), create_graph=True)
        total = sum(g.square().sum() for g in first)
        found.append(torch.autograd.grad(total, (*z, *t)))
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=2e-3, atol=1e-4)


def test_strides_do_not_matter_and_nan_stays_visible() -> None:
    z = [x.detach() for x in views(30, 24)]
    expected = sigmoid_total(z[0].requires_grad_(), z[1], 5.0, -1.0)
    shifted = torch.zeros(30, 41)
    shifted[:, 1:25] = z[0].detach()
    for other in (shifted[:, 1:25], z[0].detach().T.contiguous().T):
        got = sigmoid_total(other.requires_grad_(), z[1], 5.0, -1.0)
        torch.testing.assert_close(got, expected)
    z[1][3, 2] = math.nan
    assert sigmoid_total(z[0], z[1], 5.0, -1.0).isnan()


def test_autocast_does_not_reach_inside() -> None:
    z = views(40, 24)
    expected = F.siglip(*z, 10.0, -10.0)
    with torch.autocast("cpu", torch.bfloat16):
        value = F.siglip(*z, 10.0, -10.0)
        grads = torch.autograd.grad(value, z)
    assert torch.equal(value, expected)
    assert all(map(torch.equal, grads, torch.autograd.grad(expected, z)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_with_numbers_that_change() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(sigmoid_total, fullgraph=True, backend="aot_eager")
    for n, scale in ((9, 5.0), (9, 3.0), (12, 2.0)):
        z = views(n, 8)
        results = [f(*z, scale, -1.0) for f in (compiled, sigmoid_total)]
        assert torch.equal(*results)
        grads = [torch.autograd.grad(value, z) for value in results]
        assert all(map(torch.equal, *grads))
    torch._dynamo.reset()


def test_opcheck() -> None:
    t = [torch.tensor(x, requires_grad=True) for x in (3.0, -1.0)]
    op = torch.ops.sslspec_fast.sigmoid_loss.default
    for dtype in (F32, BF16):
        z = views(9, 5, dtype)
        torch.library.opcheck(op, (*z, *t, torch.rand(9), 0.0, 0.0, 1.0, True))
        torch.library.opcheck(op, (*z, None, None, None, 3.0, -1.0, 0.5, False))


def test_the_core_names_what_is_wrong() -> None:
    z = views(9, 8)
    with pytest.raises(ValueError, match="scale must be float32, got float64"):
        sigmoid_total(*z, torch.tensor(2.0, dtype=F64), 0.0)
    with pytest.raises(ValueError, match=r"y must have size 9 in dimension 0, got shape \(8, 8\)"):
        sigmoid_total(z[0], z[1][:8], 2.0, 0.0)

"""InfoNCE of wide rows on a GPU, value and gradients in one visit of the pairs, by the emulator."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

import sslspec_fast.functional as F
from sslspec_fast.fused import info_nce_loss
from sslspec_fast.fused.two_views import matched_loss
from sslspec_fast.primitives.pairwise import cuda

from ..support.agreement import BF16, F16, F32, F64, agree, fused_and_reference
from ..support.cones import CONES, cone_rows
from ..support.emulation import emulated

pytestmark = [emulated, pytest.mark.usefixtures("gpu_paths", "every_size")]


@pytest.fixture
def every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few and narrow rows take this way too."""
    monkeypatch.setattr(info_nce_loss, "_FEWEST", 0)
    monkeypatch.setattr(info_nce_loss, "_CHAINED", 0)


def unit(x: Tensor) -> Tensor:
    return nnf.normalize(x.double(), dim=-1)


def views(n: int, d: int, dtype: torch.dtype = F32) -> list[Tensor]:
    torch.manual_seed(n + d)
    z = torch.randn(2, n, d, dtype=F64) * (1 + torch.rand(2, n, 1))
    return [x.to(dtype).requires_grad_() for x in z]


def both(z: list[Tensor], t: Any = 0.2, **keywords: Any) -> list[list[Tensor]]:
    def loss(query: Tensor, key: Tensor, temperature: Any, **options: Any) -> Tensor:
        return F.info_nce(query, key, temperature=temperature, **options)

    return fused_and_reference(loss, z, (t,), **keywords)


@pytest.mark.parametrize("dtype", [BF16, F16, F32])
@pytest.mark.parametrize(("n", "d"), [(2, 8), (37, 20), (130, 64), (257, 33), (150, 264)])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_ragged_sizes(n: int, d: int, reduction: str, dtype: torch.dtype, core: ModuleType) -> None:
    core.launches()
    found = both(views(n, d, dtype), reduction=reduction)
    assert "pairwise_exponentials" in core.launches()
    assert found[0][0].dtype == F32
    assert all(g.dtype == dtype and g.is_contiguous() for g in found[0][1:])
    agree(found, dtype)


@pytest.mark.parametrize("kernel", ["portable", "exponentials"])
def test_several_strips_and_the_kernel_of_hopper(
    kernel: str, core: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 1030 columns: two strips, and the last tile is not full; chunks of 128 rows
    monkeypatch.setenv("SSLSPEC_HOPPER", kernel)
    monkeypatch.setattr(cuda, "_WEIGHT_BYTES", 0)
    core.launches()
    agree(both(views(1030, 16, BF16), torch.tensor(0.1)), BF16)
    launched, hopper = core.launches(), kernel == "exponentials"
    assert launched.count("pairwise_exponentials" + ("_sm90a" if hopper else "")) == 9
    assert launched.count("pairwise_shift") == launched.count("two_views_gradient") == 1
    # without a kernel of Hopper there is neither statistics nor weights
    assert not {"pairwise_statistics", "pairwise_weights"} & set(launched)


@pytest.mark.parametrize("dtype", [BF16, F32])
@pytest.mark.parametrize("scale", [50.0, 100.0, 150.0, 400.0])
@pytest.mark.parametrize("case", CONES)
def test_one_shift_for_all_rows_or_their_own(case: str, scale: float, dtype: torch.dtype) -> None:
    # rows as they are, so that both sides multiply the same numbers
    z = [x.to(dtype).requires_grad_() for x in cone_rows(case)]
    leaves = [x.detach().double().requires_grad_() for x in z]
    value = matched_loss(*z, scale, "mean", both=False, unit=False)
    logits = scale * leaves[0] @ leaves[1].T
    others = logits.masked_fill(torch.eye(len(logits), dtype=torch.bool), -math.inf)
    margins = others.logsumexp(1) - logits.diagonal()
    want = nnf.softplus(margins).mean()
    loss = float(want.detach())
    assert abs(value.item() - loss) <= 2e-5 * max(1.0, loss) * scale / 50
    grads, exact = torch.autograd.grad(value, z), torch.autograd.grad(want, leaves)
    error = 2e-2 if dtype == BF16 else 2e-5 * scale / 50
    # the terms of a gradient, which cancel where all rows are equal
    size = scale / len(logits) * float(margins.detach().sigmoid().norm()) + 1e-30
    for got, wanted in zip(grads, exact, strict=True):
        assert float((got.double() - wanted).norm()) <= error * size


def test_rows_beside_a_row_that_needs_its_own_shift() -> None:
    # one row of x opposite to all rows of y at scale 150, others beside them
    torch.manual_seed(0)
    axis = unit(torch.randn(1, 24))
    y = unit(axis + 0.1 * torch.randn(200, 24))
    x = unit(axis + 0.1 * torch.randn(200, 24))
    x[140] = -axis
    found = both([x.float().requires_grad_(), y.float().requires_grad_()], 1 / 150)
    agree(found, F32, 3.0)


@pytest.mark.parametrize("dtype", [F16, F32])
def test_products_of_bfloat16_pieces(dtype: torch.dtype, split_products: None) -> None:
    agree(both(views(300, 40, dtype)), dtype)


def test_one_pair_has_no_negatives_and_nan_stays() -> None:
    z = views(1, 8)
    loss = F.info_nce(*z, temperature=0.2)
    assert loss.item() == 0
    assert not any(g.any() for g in torch.autograd.grad(loss, z))
    z = views(8, 4)
    z[1].data[3, 2] = math.nan
    loss = F.info_nce(*z, temperature=0.2)
    assert loss.isnan()
    assert torch.autograd.grad(loss, z)[0].isnan().all()


def test_gradients_of_one_side() -> None:
    z1, z2 = views(40, 24)
    c = torch.tensor(5.0, requires_grad=True)

    def loss(*x: Any) -> Tensor:
        return matched_loss(*x, "mean", both=False, unit=True)

    wanted = torch.autograd.grad(loss(z1, z2, c), (z1, z2, c))
    one, scale = torch.autograd.grad(loss(z1, z2.detach(), c), (z1, c))
    (other,) = torch.autograd.grad(loss(z1.detach(), z2, 5.0), z2)
    for got, want in zip((one, other, scale), wanted, strict=True):
        assert torch.equal(got, want)


def test_only_many_wide_rows_of_which_a_gradient_is_wanted(
    core: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(info_nce_loss, "_FEWEST", 40)
    monkeypatch.setattr(info_nce_loss, "_CHAINED", 24)

    def visits(z: list[Tensor], **keywords: Any) -> bool:
        core.launches()
        F.info_nce(*z, **keywords)
        return "pairwise_exponentials" in core.launches()

    assert visits(views(40, 25))
    assert not visits(views(39, 25))
    assert not visits(views(40, 24))
    assert not visits(views(40, 25, F64))
    assert not visits(views(40, 25), reduction="none")
    assert not visits([x.detach() for x in views(40, 25)])


def test_second_derivatives() -> None:
    found = []
    for dtype in (F32, F64):
        z = [x.detach().to(dtype).requires_grad_() for x in views(12, 24)]
        grads = torch.autograd.grad(F.info_nce(*z), z, create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in grads), z))
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("unit_rows", [True, False])
def test_opcheck(unit_rows: bool) -> None:
    z, c = views(9, 8), torch.tensor(2.0, requires_grad=True)
    op = torch.ops.sslspec_fast.info_nce_loss.default
    # not test_aot_dispatch_dynamic: it compares all of `stats`, also what is not written
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    for scale in (c, None):
        torch.library.opcheck(op, (*z, scale, 1.0, 0.5, unit_rows, True), test_utils=tests)


def test_autocast_does_not_reach_inside() -> None:
    z = views(12, 260)
    expected = F.info_nce(*z)
    with torch.autocast("cpu", torch.bfloat16):
        value = F.info_nce(*z)
        grads = torch.autograd.grad(value, z)
    assert torch.equal(value, expected)
    assert all(map(torch.equal, grads, torch.autograd.grad(expected, z)))

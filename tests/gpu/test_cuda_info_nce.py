"""InfoNCE in one visit of the pairs on a GPU: values, gradients, shifts of rows, repeatability."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

import sslspec_fast.functional as F
from sslspec_fast.fused import info_nce_loss
from sslspec_fast.fused.two_views import matched_loss

from ..support.agreement import BF16, F16, F32, F64, TOLERANCE
from ..support.tolerance import relative_error

pytestmark = pytest.mark.cuda


@pytest.fixture(autouse=True)
def every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(info_nce_loss, "_FEWEST", 0)


def rows(n: int, d: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    generator = torch.Generator().manual_seed(n + d)
    return [x.to(device, dtype).requires_grad_() for x in torch.randn(2, n, d, generator=generator)]


@pytest.mark.parametrize("hopper", ["portable", "all"])
@pytest.mark.parametrize("dtype", [F32, BF16, F16])
@pytest.mark.parametrize(("n", "d"), [(2, 300), (257, 300), (1500, 264), (5000, 512)])
def test_values_and_gradients(
    n: int,
    d: int,
    dtype: torch.dtype,
    hopper: str,
    cuda: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSLSPEC_HOPPER", hopper)
    found = []
    for kind, impl in ((dtype, "fused"), (F64, "torch")):
        z = [x.detach().to(kind).requires_grad_() for x in rows(n, d, dtype, cuda)]
        t = torch.tensor(0.1, dtype=F64 if kind == F64 else F32, device=cuda, requires_grad=True)
        value = F.info_nce(*z, temperature=t, impl=impl)
        found.append([value.detach(), *torch.autograd.grad(value, (*z, t))])
    error, of_gradients = TOLERANCE[dtype]
    for k, (got, want) in enumerate(zip(*found, strict=True)):
        limit = error if k == 0 else of_gradients if want.dim() else 20 * of_gradients
        assert relative_error(got.cpu(), want.cpu()) <= limit


@pytest.mark.parametrize("hopper", ["portable", "all"])
@pytest.mark.parametrize("opposite", [False, True])
def test_rows_that_need_their_own_shift(
    opposite: bool, hopper: str, cuda: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSLSPEC_HOPPER", hopper)
    generator = torch.Generator().manual_seed(0)
    axis = nnf.normalize(torch.randn(1, 320, generator=generator))
    noise = 0.05 * torch.randn(2, 1500, 320, generator=generator)
    a, b = nnf.normalize(axis + noise, dim=2)
    z = [x.to(cuda, BF16).requires_grad_() for x in (a, -b if opposite else b)]
    leaves = [x.detach().double().requires_grad_() for x in z]
    value = matched_loss(*z, 100.0, "mean", both=False, unit=False)
    logits = 100 * leaves[0] @ leaves[1].T
    others = logits.masked_fill(torch.eye(1500, dtype=torch.bool, device=cuda), -torch.inf)
    margins = others.logsumexp(1) - logits.diagonal()
    want = nnf.softplus(margins).mean()
    assert abs(value.item() - want.item()) <= 1e-4 * max(1.0, want.item())
    size = 100 / 1500 * float(margins.detach().sigmoid().norm())
    grads = zip(torch.autograd.grad(value, z), torch.autograd.grad(want, leaves), strict=True)
    for got, exact in grads:
        assert float((got.double() - exact).norm()) <= 2e-2 * size


def test_the_same_bits_each_time(cuda: torch.device) -> None:
    z = rows(3000, 300, BF16, cuda)

    def step() -> list[Tensor]:
        value = F.info_nce(*z)
        return [value.detach(), *torch.autograd.grad(value, z)]

    first = step()
    for _ in range(3):
        assert all(map(torch.equal, step(), first))

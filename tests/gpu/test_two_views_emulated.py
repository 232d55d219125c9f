"""NT-Xent, InfoNCE and CLIP on a GPU, one call of the core per pass, run by the emulator."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

import sslspec_fast.functional as F
from sslspec_fast.fused import two_views_cuda
from sslspec_fast.fused.two_views import _losses_cuda, matched_loss, two_view_loss

from ..support.agreement import BF16, F16, F32, F64, TOLERANCE
from ..support.emulation import emulated
from ..support.tolerance import relative_error

pytestmark = [emulated, pytest.mark.usefixtures("gpu_paths")]

# by the parameter that sits on the logits, all called with a temperature
LOSSES: dict[str, Callable[..., Any]] = {
    "nt_xent": lambda a, b, t, **kw: F.nt_xent(a, b, temperature=t, **kw),
    "info_nce": lambda a, b, t, **kw: F.info_nce(a, b, temperature=t, **kw),
    "clip": lambda a, b, t, **kw: F.clip(a, b, 1 / t, **kw),
}
PRIMITIVES: dict[str, Callable[..., Tensor]] = {
    "nt_xent": two_view_loss,
    "info_nce": lambda *x: matched_loss(*x, both=False, unit=True),
    "clip": lambda *x: matched_loss(*x, both=True, unit=False),
}
every_loss = pytest.mark.parametrize("name", LOSSES)


def views(n: int, d: int, dtype: torch.dtype = F32) -> list[Tensor]:
    """Rows about as long as each other, not unit ones."""
    torch.manual_seed(n + d)
    z = nnf.normalize(torch.randn(2, n, d, dtype=F64), dim=2) * (1 + torch.rand(2, n, 1))
    return [x.to(dtype).requires_grad_() for x in z]


def both(
    name: str, z: list[Tensor], t: Any = 0.2, **keywords: Any
) -> tuple[list[Tensor], list[Tensor]]:
    """Value and gradients, ours and those of the reference in float64."""
    out = []
    for impl in ("fused", "torch"):
        kind = F64 if impl == "torch" else None
        leaves = [x.detach().to(kind or x.dtype).requires_grad_() for x in z]
        temperature = t
        if isinstance(t, Tensor):
            temperature = t.detach().to(kind or t.dtype).requires_grad_()
            leaves = [*leaves, temperature]
        value = LOSSES[name](leaves[0], leaves[1], temperature, impl=impl, **keywords)
        seed = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).reshape(value.shape)
        out.append([value.detach(), *torch.autograd.grad(value, leaves, seed)])
    return out[0], out[1]


def agree(ours: list[Tensor], wanted: list[Tensor], dtype: torch.dtype) -> None:
    value, gradient = TOLERANCE[dtype]
    for k, (got, want) in enumerate(zip(ours, wanted, strict=True)):
        # the terms of a temperature's gradient nearly cancel
        error = value if k == 0 else gradient if want.dim() else 20 * gradient
        assert relative_error(got, want) <= error


@pytest.mark.parametrize("dtype", [BF16, F16, F32, F64])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@every_loss
def test_reductions(name: str, reduction: str, dtype: torch.dtype) -> None:
    ours, wanted = both(name, views(37, 20, dtype), reduction=reduction)
    assert ours[0].dtype == (F64 if dtype == F64 else F32)
    assert all(g.dtype == dtype and g.is_contiguous() for g in ours[1:])
    agree(ours, wanted, dtype)


@pytest.mark.parametrize("dtype", [BF16, F32])
@every_loss
def test_several_blocks_of_rows(name: str, dtype: torch.dtype) -> None:
    agree(*both(name, views(150, 64, dtype)), dtype)


@pytest.mark.parametrize("dtype", [BF16, F16, F32])
@every_loss
def test_rows_that_do_not_fill_16_bytes(name: str, dtype: torch.dtype) -> None:
    agree(*both(name, views(70, 33, dtype)), dtype)


@pytest.mark.parametrize("dtype", [BF16, F32, F64])
@pytest.mark.parametrize("d", [24, 260])
@every_loss
def test_weights_and_a_learnable_temperature(name: str, d: int, dtype: torch.dtype) -> None:
    t = torch.tensor(0.2, dtype=F64 if dtype == F64 else F32, requires_grad=True)
    weight = torch.linspace(0.0, 2.0, 40, dtype=F64)
    for keywords in ({}, {"sample_weight": weight}, {"sample_weight": weight, "reduction": "sum"}):
        agree(*both(name, views(40, d, dtype), t, **keywords), dtype)


@every_loss
def test_a_small_temperature_needs_running_maxima(name: str) -> None:
    agree(*both(name, views(70, 24), 0.01), F32)


@every_loss
def test_one_pair_has_no_negatives(name: str) -> None:
    ours, _ = both(name, views(1, 8))
    assert all(torch.all(x == 0) for x in ours)


@every_loss
def test_rows_of_zero_length(name: str) -> None:
    z = views(6, 8, F64)
    z[0].data[2] = 0
    agree(*both(name, z), F64)


@every_loss
def test_nan_reaches_every_row_that_sees_it(name: str) -> None:
    z = views(8, 4)
    z[1].data[3, 2] = math.nan
    assert PRIMITIVES[name](z[0], z[1], 2.0).isnan().all()


@pytest.mark.parametrize("dtype", [BF16, F32])
@every_loss
def test_strides_and_numbers_do_not_matter(name: str, dtype: torch.dtype) -> None:
    z = [x.detach() for x in views(30, 24, dtype)]
    loss = PRIMITIVES[name]
    expected = loss(z[0], z[1], 5.0)
    shifted = torch.zeros(30, 41, dtype=dtype)
    shifted[:, 1:25] = z[0]
    for other in (shifted[:, 1:25], z[0].T.contiguous().T):
        # rows that do not start at 16 bytes are added up in another order
        torch.testing.assert_close(loss(other, z[1], 5.0), expected, rtol=1e-3, atol=1e-5)
    assert torch.equal(loss(z[0], z[1], torch.tensor(5.0)), expected)


@pytest.mark.parametrize("d", [8, 260])
@every_loss
def test_gradients_of_one_side_and_none(name: str, d: int) -> None:
    z1, z2 = views(12, d)
    c = torch.tensor(5.0, requires_grad=True)
    loss = PRIMITIVES[name]
    all_of_them = torch.autograd.grad(loss(z1, z2, c, "mean"), (z1, z2, c))
    one, scale = torch.autograd.grad(loss(z1, z2.detach(), c, "mean"), (z1, c))
    (other,) = torch.autograd.grad(loss(z1.detach(), z2, 5.0, "mean"), z2)
    for got, want in zip((one, other, scale), all_of_them, strict=True):
        assert torch.equal(got, want)
    assert not loss(z1.detach(), z2.detach(), 5.0).requires_grad


def test_rows_that_fit_are_not_copied() -> None:
    for dtype, d in ((BF16, 24), (F32, 20), (F64, 5)):
        z = views(9, d, dtype)
        _, u, *_ = two_views_cuda.forward(*z, None, 5.0, "mean", "both", False, False)
        assert u.shape == (0, d)


@every_loss
def test_derivatives(name: str) -> None:
    z1, z2 = views(3, 2, F64)
    c = torch.tensor(2.0, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(PRIMITIVES[name], (z1, z2, c))
    assert torch.autograd.gradgradcheck(lambda *x: PRIMITIVES[name](*x, "mean"), (z1, z2, c))


@pytest.mark.parametrize("dtype", [BF16, F32])
@every_loss
def test_second_derivatives_keep_the_dtype(name: str, dtype: torch.dtype) -> None:
    z = views(6, 8, dtype)
    grads = torch.autograd.grad(LOSSES[name](*z, 0.5), z, create_graph=True)
    second = torch.autograd.grad(sum(g.float().square().sum() for g in grads), z)
    assert all(g.dtype == dtype and g.isfinite().all() for g in second)


FORMS = [("stacked", True), ("rows", True), ("both", False)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("form", "unit"), FORMS)
def test_compiled_with_numbers_that_change(form: str, unit: bool) -> None:
    # is_cuda is the truth to the compiler, so that the branch is taken by hand
    def loss(a: Tensor, b: Tensor, t: float) -> Tensor:
        out: Tensor = _losses_cuda(a, b, None, 1 / t, "mean", form, unit, False)[0]
        return out

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for n, t in ((9, 0.5), (9, 0.3), (12, 0.2)):
        z = views(n, 8)
        results = [f(*z, t) for f in (compiled, loss)]
        assert torch.equal(*results)
        grads = [torch.autograd.grad(value, z) for value in results]
        assert all(map(torch.equal, *grads))
    torch._dynamo.reset()


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize(("form", "unit"), FORMS)
def test_opcheck(form: str, unit: bool, reduction: str) -> None:
    z, c = views(9, 4), torch.tensor(2.0, requires_grad=True)
    op = torch.ops.sslspec_fast.two_views.default
    # not test_aot_dispatch_dynamic: it compares all of `stats`, also what a form does not write
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(op, (*z, c, 1.0, reduction, form, unit, False), test_utils=tests)


@every_loss
def test_autocast_does_not_reach_inside(name: str) -> None:
    z = views(12, 260)
    expected = LOSSES[name](*z, 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        value = LOSSES[name](*z, 0.5)
        grads = torch.autograd.grad(value, z)
    assert torch.equal(value, expected)
    assert all(map(torch.equal, grads, torch.autograd.grad(expected, z)))


def test_hopper_statistics_have_their_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLSPEC_HOPPER", "statistics")
    for name in ("info_nce", "clip"):
        agree(*both(name, views(150, 264, BF16), 0.2), BF16)


@every_loss
def test_a_view_that_is_a_function_of_the_other(name: str) -> None:
    z = torch.randn(9, 6, dtype=F64, requires_grad=True)
    grads = []
    for create_graph in (False, True):
        value = LOSSES[name](z, torch.tanh(z) + z.roll(1, 0), 0.5)
        grads += torch.autograd.grad(value, z, create_graph=create_graph)
    torch.testing.assert_close(grads[1].detach(), grads[0], rtol=1e-9, atol=1e-12)


def test_the_core_names_what_is_wrong() -> None:
    z = views(9, 5)
    with pytest.raises(ValueError, match="scale must be float32, got float64"):
        two_view_loss(*z, torch.tensor(2.0, dtype=F64))
    with pytest.raises(ValueError, match=r"z2 must have size 9 in dimension 0, got shape \(8, 5\)"):
        two_view_loss(z[0], z[1][:8], 2.0)
    with pytest.raises(KeyError, match="columns"):
        _losses_cuda(*z, None, 1.0, "mean", "columns", True, False)

"""Exponentials that the statistics of NT-Xent and CLIP keep for the gradient, by the emulator."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import sslspec_fast as sf
import sslspec_fast.functional as F
from sslspec_fast.fused import two_views_cuda
from sslspec_fast.fused.two_views import _losses_cuda, two_view_loss

from ..support.agreement import BF16, F16, F32, F64, agree, fused_and_reference
from ..support.cones import CONES
from ..support.emulation import emulated
from ..support.kept import FORMS, KEPT_LOSSES, compare, every_size, paired_rows, step

pytestmark = [emulated, pytest.mark.usefixtures("gpu_paths", "every_case")]
every_loss = pytest.mark.parametrize("name", KEPT_LOSSES)


@pytest.fixture(params=["portable", "strips"])
def every_case(
    request: pytest.FixtureRequest, portable: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Both kernels that keep exponentials."""
    monkeypatch.setattr(two_views_cuda, "_keeping_is_named", lambda: True)
    if request.param == "strips":
        monkeypatch.setenv("SSLSPEC_HOPPER", "kept")
    with every_size():
        yield request.param


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    ("n", "d"), [(2, 8), (37, 20), (64, 33), (130, 64), (193, 264), (1100, 16)]
)
@every_loss
def test_values_and_gradients(
    name: str, n: int, d: int, reduction: str, every_case: str, core: ModuleType
) -> None:
    z, scale = paired_rows(n, d), torch.tensor(5.0)
    core.launches()
    found = fused_and_reference(KEPT_LOSSES[name], z, (scale,), reduction=reduction)
    launched = core.launches()
    assert launched.count("pairwise_kept_weights") == launched.count("pairwise_weights") == 1
    assert "pairwise_chained" not in launched
    assert ("strips" in launched) is (every_case == "strips")
    agree(found, BF16)


@pytest.mark.parametrize("scale", [20.0, 50.0, 100.0, 150.0])
@pytest.mark.parametrize("case", CONES)
@pytest.mark.parametrize("name", ["both", "stacked"])
def test_narrow_and_wide_ranges(name: str, case: str, scale: float) -> None:
    small = compare(name, case, scale, (150, 24))
    if case != "cosines about -0.1":  # beyond 110 none is tried
        assert small is (name == "both" and case == "opposite cones" and scale == 100)


@every_loss
def test_single_rows_and_weights_of_samples_keep_nothing(name: str, core: ModuleType) -> None:
    z, scale, weight = paired_rows(70, 24), torch.tensor(5.0), torch.linspace(0, 2, 70).double()
    core.launches()
    for options in ({"reduction": "none"}, {"sample_weight": weight}):
        z64 = [x.detach().double().requires_grad_() for x in z]
        found = [
            step(lambda *x, k=options, i=impl: KEPT_LOSSES[name](*x, 5.0, impl=i, **k).mean(), rows)
            for rows, impl in ((z, "fused"), (z64, "torch"))
        ]
        agree(found, BF16)
    assert "pairwise_kept_weights" not in core.launches()
    assert scale.item() == 5.0


@every_loss
def test_a_graph_that_is_used_twice_and_two_runs_have_the_same_bits(name: str) -> None:
    z = [*paired_rows(150, 24), torch.tensor(20.0, requires_grad=True)]
    value = KEPT_LOSSES[name](*z)
    first = torch.autograd.grad(value, z, retain_graph=True)
    for again in (torch.autograd.grad(value, z), torch.autograd.grad(KEPT_LOSSES[name](*z), z)):
        assert all(map(torch.equal, again, first))


def test_gradients_of_one_side_and_a_scale() -> None:
    z1, z2 = paired_rows(70, 24)
    c = torch.tensor(5.0, requires_grad=True)
    wanted = torch.autograd.grad(F.clip(z1, z2, c), (z1, z2, c))
    one, scale = torch.autograd.grad(F.clip(z1, z2.detach(), c), (z1, c))
    (other,) = torch.autograd.grad(F.clip(z1.detach(), z2, 5.0), z2)
    (alone,) = torch.autograd.grad(F.clip(z1.detach(), z2.detach(), c), c)
    for got, want in zip((one, other, scale, alone), (*wanted, wanted[2]), strict=True):
        assert torch.equal(got, want)


@every_loss
def test_nan_and_one_pair(name: str) -> None:
    z = paired_rows(40, 16)
    z[1].data[3, 2] = math.nan
    loss, *grads = step(lambda *x: KEPT_LOSSES[name](*x, 5.0), z)
    assert loss.isnan()
    assert grads[0].isnan().all()
    loss, *grads = step(lambda *x: KEPT_LOSSES[name](*x, 5.0), paired_rows(1, 8))
    assert loss.item() == 0
    assert not any(g.any() for g in grads)


@every_loss
def test_second_derivatives(name: str) -> None:
    found = []
    for dtype in (BF16, F64):
        z = [x.detach().to(dtype).requires_grad_() for x in paired_rows(12, 24)]
        grads = torch.autograd.grad(KEPT_LOSSES[name](*z, 5.0), z, create_graph=True)
        found.append(torch.autograd.grad(sum(g.double().square().sum() for g in grads), z))
    for got, want in zip(*found, strict=True):
        assert float((got.double() - want).norm()) <= 5e-2 * float(want.norm())


def test_which_calls_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {"stacked": (257, 512), "both": (208, 512)}
    monkeypatch.setattr(two_views_cuda, "_FEWEST_KEPT", 256)
    monkeypatch.setattr(two_views_cuda, "_KEPT_COLUMNS", columns)

    def keeps(
        n: int, d: int, scale: float | Tensor = 5.0, name: str = "clip", dtype: torch.dtype = BF16
    ) -> bool:
        rows = torch.empty(n, d, dtype=dtype)
        return two_views_cuda.keeps_weights(rows, scale, FORMS[name], name == "nt_xent")

    assert keeps(256, 208)
    assert keeps(128, 257, name="nt_xent")
    assert keeps(256, 512, 300.0)  # rows as they are may be short
    assert keeps(256, 512, torch.tensor(300.0), "nt_xent")
    for refused in (
        {"n": 255, "d": 512},
        {"n": 256, "d": 207},
        {"n": 256, "d": 513},
        {"n": 256, "d": 256, "name": "nt_xent"},
        {"n": 127, "d": 512, "name": "nt_xent"},
        {"n": 256, "d": 512, "scale": 110.0, "name": "nt_xent"},
        *({"n": 256, "d": 512, "dtype": dtype} for dtype in (F16, F32, F64)),
    ):
        assert not keeps(**refused), refused
    rows = torch.empty(256, 256, dtype=BF16)
    assert not two_views_cuda.keeps_weights(rows, 5.0, "rows", True)
    before = sf.set_kept_limit(2 * 256 * 256, "cuda")
    assert keeps(256, 300)
    assert not keeps(257, 300)  # 384 x 384 in whole tiles
    sf.set_kept_limit(0, "cuda")
    assert not keeps(256, 300)
    sf.set_kept_limit(before, "cuda")
    assert before == 256 << 20
    monkeypatch.setattr(two_views_cuda, "_keeping_is_named", lambda: False)
    assert not keeps(256, 300)


def test_nothing_is_kept_without_a_gradient(core: ModuleType) -> None:
    z, c = paired_rows(40, 24), torch.tensor(5.0, requires_grad=True)
    still = [x.detach() for x in z]
    for rows, scale, kept in ((z, 5.0, True), (still, 5.0, False), (still, c, True)):
        core.launches()
        F.clip(*rows, scale)
        assert ("pairwise_kept_weights" in core.launches()) is kept
    with torch.no_grad():
        F.clip(*z, 5.0)
    assert "pairwise_kept_weights" not in core.launches()


def test_kernels_of_a_step(core: ModuleType) -> None:
    z = paired_rows(150, 24)
    core.launches()
    step(lambda *x: two_view_loss(*x, 5.0, "mean"), z)
    statistics = [name for name in core.launches() if name in {"pairwise_statistics", "sums"}]
    assert len(statistics) == 1
    step(lambda *x: two_view_loss(*x, torch.tensor(5.0), "mean"), z)  # its range may be wide
    launched = core.launches()
    assert launched.count("pairwise_check_sums") == 1
    assert len(launched) <= 10  # `strips` twice among them


@pytest.mark.parametrize(("form", "unit"), [("stacked", True), ("both", False)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled(form: str, unit: bool) -> None:
    def loss(a: Tensor, b: Tensor) -> Tensor:
        out: Tensor = _losses_cuda(a, b, None, 5.0, "mean", form, unit, True)[0]
        return out

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for n in (9, 12):
        z = paired_rows(n, 8)
        assert all(map(torch.equal, step(compiled, z), step(loss, z)))
    torch._dynamo.reset()


@pytest.mark.parametrize(("form", "unit"), [("stacked", True), ("both", False)])
def test_opcheck(form: str, unit: bool) -> None:
    z, c = paired_rows(9, 8), torch.tensor(2.0, requires_grad=True)
    op = torch.ops.sslspec_fast.two_views.default
    # not test_aot_dispatch_dynamic: it compares all of `stats`, also what a form does not write
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(op, (*z, c, 1.0, "mean", form, unit, True), test_utils=tests)


def test_the_core_names_what_is_wrong() -> None:
    a, b = paired_rows(9, 8)
    refused: list[tuple[Any, ...]] = [
        (a, b, "mean", "rows"),
        (a, b, "none", "both"),
        (a.float(), b.float(), "mean", "both"),
    ]
    for x, y, reduction, form in refused:
        with pytest.raises(ValueError, match="a matrix of weights goes with one number"):
            two_views_cuda.forward(x, y, None, 5.0, reduction, form, False, True)

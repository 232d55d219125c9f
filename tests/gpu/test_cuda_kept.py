"""Kept exponentials of NT-Xent and CLIP on a GPU: values, gradients, ranges, captures, memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import sslspec_fast as sf
from sslspec_fast.fused import two_views_cuda

from ..support.agreement import BF16, agree, fused_and_reference
from ..support.cones import CONES
from ..support.kept import FORMS, KEPT_LOSSES, compare, every_size, paired_rows, step

pytestmark = pytest.mark.cuda
every_loss = pytest.mark.parametrize("name", KEPT_LOSSES)


@pytest.fixture(autouse=True, params=["portable", "kept", "all"])
def every_kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SSLSPEC_HOPPER", request.param)
    monkeypatch.setattr(two_views_cuda, "_keeping_is_named", lambda: True)
    with every_size():
        yield


@pytest.mark.parametrize(("n", "d"), [(2, 8), (257, 33), (1500, 264), (2100, 512), (5300, 64)])
@every_loss
def test_values_and_gradients(name: str, n: int, d: int, cuda: torch.device) -> None:
    scale = torch.tensor(5.0, device=cuda)
    agree(fused_and_reference(KEPT_LOSSES[name], paired_rows(n, d, cuda), (scale,)), BF16)


@pytest.mark.parametrize("size", [(1500, 128), (2100, 320)])
@pytest.mark.parametrize("scale", [20.0, 100.0, 150.0])
@pytest.mark.parametrize("case", CONES)
@pytest.mark.parametrize("name", ["both", "stacked"])
def test_narrow_and_wide_ranges(
    name: str, case: str, scale: float, size: tuple[int, int], cuda: torch.device
) -> None:
    compare(name, case, scale, size, cuda)


@every_loss
def test_the_same_bits_each_time_and_in_a_capture(name: str, cuda: torch.device) -> None:
    def loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return KEPT_LOSSES[name](a, b, 20.0)

    z = paired_rows(3000, 264, cuda)
    first, wrapped = step(loss, z), sf.graphed(loss)
    for run in (loss, wrapped, wrapped):
        assert all(map(torch.equal, step(run, z), first))
    assert wrapped.calls == {"replayed": 2}


@every_loss
def test_memory_is_that_of_the_step(name: str, cuda: torch.device) -> None:
    z = paired_rows(2000, 264, cuda)
    rows = 4096 if FORMS[name] == "stacked" else 2048
    step(lambda *x: KEPT_LOSSES[name](*x, 20.0), z)
    held = torch.cuda.memory_allocated()
    value = KEPT_LOSSES[name](*z, 20.0)
    assert torch.cuda.memory_allocated() - held >= 2 * rows * rows
    torch.autograd.grad(value, z)
    del value
    assert torch.cuda.memory_allocated() == held

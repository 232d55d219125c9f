"""`sf.graphed` around the CUDA bodies of losses, run by the emulator: replays run them again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import sslspec_fast as sf
import sslspec_fast.functional as F
from sslspec_fast.cuda_graphs import GraphedLoss

from ..support.emulation import BF16, F32, emulated
from ..support.recorder import AgainRecorder

pytestmark = [emulated, pytest.mark.usefixtures("gpu_paths")]

LOSSES: dict[str, Callable[..., Tensor]] = {
    "nt_xent": F.nt_xent,
    "clip": lambda a, b: F.clip(a, b, 10.0),
    "siglip": lambda a, b: F.siglip(a, b, 10.0, -10.0),
    "vicreg": F.vicreg,
    "barlow_twins": F.barlow_twins,
    "spectral_contrastive": F.spectral_contrastive,
}


@pytest.mark.parametrize("dtype", [BF16, F32])
@pytest.mark.parametrize("d", [20, 264])
@pytest.mark.parametrize("name", LOSSES)
def test_calls_before_a_backward_pass(
    name: str, d: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GraphedLoss, "recorder", AgainRecorder)
    torch.manual_seed(0)
    a, b = (torch.nn.functional.normalize(x, dim=1) for x in torch.randn(2, 40, d))
    leaves = [x.to(dtype).requires_grad_() for x in (a, b, a.roll(1, 0), b)]
    found = []
    for loss in (LOSSES[name], sf.graphed(LOSSES[name])):
        first, second = loss(*leaves[:2]), loss(*leaves[2:])
        grads = torch.autograd.grad(first + 2 * second, leaves)
        found.append([first.detach(), second.detach(), *grads])
    for got, want in zip(*found, strict=True):  # two terms may be added in another order
        torch.testing.assert_close(got, want)

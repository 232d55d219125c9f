"""One shift for all logits of a softmax of two views on a GPU, and rows that need their own."""

from __future__ import annotations

import pytest
import torch

from sslspec_fast.fused import two_views_cuda

from ..support.agreement import BF16, F32
from ..support.cones import CONES, SOFTMAX_LOSSES, check_cones

pytestmark = pytest.mark.cuda


@pytest.mark.parametrize("hopper", ["portable", "all"])
@pytest.mark.parametrize("dtype", [BF16, F32])
@pytest.mark.parametrize(("n", "d"), [(300, 32), (300, 264), (1500, 128), (1500, 320), (5300, 64)])
@pytest.mark.parametrize("case", CONES)
@pytest.mark.parametrize("name", SOFTMAX_LOSSES)
def test_values_and_gradients(
    name: str,
    case: str,
    n: int,
    d: int,
    dtype: torch.dtype,
    hopper: str,
    cuda: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSLSPEC_HOPPER", hopper)
    monkeypatch.setattr(two_views_cuda, "_FEWEST_TRIED", 0)
    check_cones(name, case, 100.0, dtype, (n, d), cuda)

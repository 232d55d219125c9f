"""One shift for all logits of a softmax of two views, or their own where it flushes a sum."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

import sslspec_fast.functional as F
from sslspec_fast.fused import two_views_cuda
from sslspec_fast.fused.two_views import matched_loss

from ..support.cones import CONES, SOFTMAX_LOSSES, check_cones, cone_rows
from ..support.emulation import BF16, F32, emulated

pytestmark = [emulated, pytest.mark.usefixtures("gpu_paths", "every_size")]


@pytest.fixture
def every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows try one shift too."""
    monkeypatch.setattr(two_views_cuda, "_FEWEST_TRIED", 0)


# the way of the statistics, and columns beyond which library products follow
KERNELS = {"portable": 32, "sums": 32, "strips": 32, "statistics": 264, "weights": 264}


@pytest.mark.parametrize("dtype", [BF16, F32])
@pytest.mark.parametrize("scale", [20.0, 50.0, 100.0, 150.0])
@pytest.mark.parametrize("case", CONES)
@pytest.mark.parametrize("name", SOFTMAX_LOSSES)
def test_values_and_gradients(name: str, case: str, scale: float, dtype: torch.dtype) -> None:
    check_cones(name, case, scale, dtype, (140, 24))


@pytest.mark.parametrize("case", ["random", "collapsed", "opposite cones"])
@pytest.mark.parametrize("name", ["both", "stacked"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel(
    kernel: str, name: str, case: str, core: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 1030 rows: several super blocks, and the weights' kernel of Hopper
    monkeypatch.setenv("SSLSPEC_HOPPER", kernel)
    core.launches()
    n = 1030 if kernel == "weights" else 300
    check_cones(name, case, 100.0, BF16, (n, KERNELS[kernel]))
    launched = core.launches()
    assert launched.count("pairwise_check_sums") == 1
    between = launched.index("pairwise_check_sums")
    statistics = "pairwise_statistics" if kernel in ("portable", "weights") else kernel
    assert launched[:between].count(statistics) == launched[between:].count(statistics) > 0


@pytest.mark.parametrize(
    ("case", "scale", "again"),
    [
        ("random", 20.0, False),  # narrow
        ("random", 100.0, False),
        ("aligned", 100.0, False),
        ("collapsed", 100.0, False),
        ("narrow cone", 100.0, False),
        ("opposite cones", 20.0, False),
        ("opposite cones", 60.0, False),
        ("opposite cones", 100.0, True),
        ("random", 400.0, False),  # beyond what one shift can serve: none was tried
    ],
)
def test_which_rows_are_visited_again(case: str, scale: float, again: bool) -> None:
    x, y = (t.float() for t in cone_rows(case))
    *_, stats, _ = two_views_cuda.forward(
        x, y, torch.tensor(scale), 1.0, "mean", "both", False, False
    )
    assert bool(stats[-5:-1].view(torch.int32)[0]) is again


def test_one_column_alone_is_noticed() -> None:
    # no row of y but one is opposite to all of x
    torch.manual_seed(0)
    axis = nnf.normalize(torch.randn(1, 24), dim=1)
    x, y = nnf.normalize(axis + 0.1 * torch.randn(2, 150, 24), dim=2)
    y[70] = -axis
    scale = torch.tensor(100.0)
    for z, again in (((x, y), True), ((y, x), True), ((x, x), False)):
        *_, stats, _ = two_views_cuda.forward(*z, scale, 1.0, "mean", "both", False, False)
        assert bool(stats[-5:-1].view(torch.int32)[0]) is again


def test_a_small_number_and_few_rows_try_nothing(
    core: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = (t.float() for t in cone_rows("random", 40))

    def tries(*args: float | Tensor) -> bool:
        core.launches()
        F.nt_xent(x, y, temperature=args[0])
        return "pairwise_check_sums" in core.launches()

    assert tries(0.01)
    assert tries(torch.tensor(0.5))
    assert not tries(0.5)
    monkeypatch.setattr(two_views_cuda, "_FEWEST_TRIED", 41)
    assert not tries(0.01)


def test_nan_is_not_lost() -> None:
    x, y = (t.float().requires_grad_() for t in cone_rows("random", 40))
    y.data[3, 2] = torch.nan
    loss = matched_loss(x, y, 100.0, "mean", both=True, unit=False)
    assert loss.isnan()
    assert torch.autograd.grad(loss, x)[0].isnan().all()

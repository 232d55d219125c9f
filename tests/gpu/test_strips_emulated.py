"""The Hopper statistics by strips of rows: rings, turns and sums; only the products are the host's.

A thread that reads shared memory before its copy has landed, a copy that lands where others still
read, and threads that wait for each other show as wrong numbers or end the process.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch

from sslspec_fast.primitives.pairwise import Logits

from ..support.emulation import BF16, emulated
from .test_cuda_emulated import case

pytestmark = [emulated]


@pytest.fixture(autouse=True)
def strips(portable: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLSPEC_HOPPER", "strips")


@pytest.mark.parametrize("d", [8, 72, 200, 392, 512])  # 1, 2, 4, 7 and 8 slices of a ring of 8
@pytest.mark.parametrize(
    ("n", "m", "options"),
    [
        (520, 300, {"cols": True, "ids": True}),
        (250, 520, {"skip": True, "row_scale": True}),  # rows only
        (520, 0, {"symmetric": True, "skip_self": True, "ids": True}),
    ],
)
def test_widths(
    pairs: ModuleType, core: ModuleType, n: int, m: int, d: int, options: dict[str, Any]
) -> None:
    core.launches()
    case(pairs, n, m, d, BF16, 0.1, **options)
    assert core.launches()[:3] == ["pairwise_bounds", "strips", "sums"]


@pytest.mark.parametrize(
    ("n", "m", "options"),
    [
        (2250, 130, {"cols": True}),  # 9 tiles of rows in a super block: two strips of a column
        (2250, 0, {"symmetric": True, "skip_self": True}),
        (40, 2250, {"cols": True, "skip_self": True}),
    ],
)
def test_more_rows_than_a_strip(pairs: ModuleType, n: int, m: int, options: dict[str, Any]) -> None:
    case(pairs, n, m, 24, BF16, 0.1, **options)


def test_few_rows_take_one_launch(pairs: ModuleType, core: ModuleType) -> None:
    core.launches()
    case(pairs, 256, 0, 24, BF16, 0.1, symmetric=True, skip_self=True)
    assert "strips" not in core.launches()


def test_two_runs_have_the_same_bits(pairs: ModuleType) -> None:
    a = torch.nn.functional.normalize(torch.randn(600, 40), dim=1).bfloat16()
    runs = [pairs.forward(Logits(a, None, torch.tensor(10.0)), cols=False)[0] for _ in range(2)]
    assert torch.equal(*runs)

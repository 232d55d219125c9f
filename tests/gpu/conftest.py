"""Tests of the CUDA kernels: on a GPU when there is one (marker `cuda`), otherwise skipped."""

from __future__ import annotations

import os

import pytest
import torch

from ..support.emulation import core, gpu_paths, pairs, split_products

__all__ = ["core", "cuda", "gpu_paths", "pairs", "portable", "precision", "split_products"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        for item in items:  # a warning of a library must not hide what a GPU computed
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.filterwarnings("default"))
        return
    skip = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def portable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The emulator claims to be a Hopper GPU, whose own main loops it has not."""
    if os.environ.get("SSLSPEC_EMULATE_CUDA"):
        monkeypatch.setenv("SSLSPEC_HOPPER", "portable")


@pytest.fixture
def cuda() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture(params=["highest", "high"])
def precision(request: pytest.FixtureRequest) -> str:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision(before)

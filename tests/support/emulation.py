"""The CUDA kernels compiled for the host, and tensors that claim to be on a GPU.

SSLSPEC_EMULATE_CUDA names the folder in which tests/cuda_emulator is built. conftest.py makes the
fixtures known.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import pkgutil
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from sslspec_fast import _seam, fused, primitives
from sslspec_fast.primitives import _matmul
from sslspec_fast.primitives.pairwise import common, cuda

FOLDER = os.environ.get("SSLSPEC_EMULATE_CUDA")
SOURCE = Path(__file__).resolve().parent.parent / "cuda_emulator"

if FOLDER:
    # With AMX, bfloat16 products of torch 2.13 read what lies between rows with a pitch, and a NaN
    # there reaches the result. oneDNN looks at this before its first product.
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")

emulated = pytest.mark.skipif(not FOLDER, reason="SSLSPEC_EMULATE_CUDA names no build folder")
F64, F32, F16, BF16 = torch.float64, torch.float32, torch.float16, torch.bfloat16
ERROR = {F64: 1e-11, F32: 2e-5, BF16: 2e-2, F16: 4e-3}


def close(actual: Tensor, expected: Tensor, error: float) -> None:
    actual, expected = actual.double(), expected.detach().double()
    finite = torch.isfinite(expected)
    assert torch.equal(actual[~finite], expected[~finite])
    if finite.any():
        worst = float((actual - expected)[finite].abs().max())
        assert worst <= error * max(float(expected[finite].abs().max()), 1e-12)


def build(folder: Path) -> ModuleType:
    candidates = [os.environ.get("SSLSPEC_CUDA_INCLUDE"), "/usr/local/cuda/include"]
    if nvcc := shutil.which("nvcc"):
        candidates.append(str(Path(nvcc).resolve().parent.parent / "include"))
    found = [c for c in candidates if c and (Path(c) / "vector_types.h").exists()]
    if not found:
        pytest.skip("no CUDA headers: set SSLSPEC_CUDA_INCLUDE")
    include = found[0]
    pybind11 = [sys.executable, "-m", "pybind11", "--cmakedir"]
    hint = subprocess.run(pybind11, check=True, capture_output=True, text=True).stdout.strip()
    defines = {"Python_EXECUTABLE": sys.executable, "CUDA_INCLUDE": include, "pybind11_DIR": hint}
    arguments = [f"-D{key}={value}" for key, value in defines.items()]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:  # of the workers of a run, one builds
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(["cmake", "-S", SOURCE, "-B", folder, *arguments], check=True)
        subprocess.run(["cmake", "--build", folder, "--parallel", "2"], check=True)
    spec = importlib.util.spec_from_file_location("_emulated", next(folder.glob("_emulated*.so")))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def core() -> ModuleType:
    return build(Path(FOLDER or ""))


def view(t: Tensor | None) -> Any:
    """A descriptor that says "device 0" of host memory."""
    return (
        None if t is None else (t.data_ptr(), tuple(t.shape), t.stride(), _seam.CODE[t.dtype], 0, t)
    )


class GpuPaths:
    """Every tensor says that it is on a GPU, and the entry points are the emulated ones."""

    def __init__(self, core: ModuleType) -> None:
        class Core:
            def __getattr__(self, name: str) -> Any:
                return getattr(core if name.startswith("cuda_") else _seam._C, name)

        self.names = {"_C": Core(), "view": view, "stream": lambda t: 0}
        self.patch: pytest.MonkeyPatch | None = None
        self.on()

    def on(self) -> None:
        self.patch = pytest.MonkeyPatch()
        for package in (primitives, fused):
            for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
                module = importlib.import_module(info.name)
                for name, value in self.names.items():
                    if hasattr(module, name):
                        self.patch.setattr(module, name, value)
        self.patch.setattr(_matmul, "_HAS_OUT_DTYPE", False)
        self.patch.setattr(Tensor, "is_cuda", property(lambda self: True), raising=False)

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        self.undo()
        yield
        self.on()

    def undo(self) -> None:
        assert self.patch is not None
        self.patch.undo()


@pytest.fixture
def pairs(core: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`pairwise` on the emulated GPU, whose tensors are plain ones."""
    monkeypatch.setattr(cuda, "_C", core)
    for module in (cuda, common):
        monkeypatch.setattr(module, "view", view)
    return cuda


@pytest.fixture
def split_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 weights are multiplied in bfloat16 pieces, in chunks of 128 rows; the library's GEMM
    has a stand-in.
    """
    monkeypatch.setattr(_matmul, "_wide", lambda a, b: a.float() @ b.float())
    monkeypatch.setattr(cuda, "products_with", _matmul.Split)
    monkeypatch.setattr(cuda, "_WEIGHT_BYTES", 0)
    monkeypatch.setattr(_matmul, "_BLOCK", 64)


@pytest.fixture
def gpu_paths(core: ModuleType) -> Iterator[GpuPaths]:
    paths = GpuPaths(core)
    yield paths
    paths.undo()

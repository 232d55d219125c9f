"""CUTLASS's headers come from one known file, or the build stops and says what to do."""

from __future__ import annotations

import importlib.util
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("scikit_build_core")
pytest.importorskip("pip")
BACKEND = Path(__file__).resolve().parent.parent / "_build_backend" / "sslspec_build.py"


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The backend as on a machine with nvcc, no CUTLASS, and an index that is one local folder."""
    spec = importlib.util.spec_from_file_location("sslspec_build", BACKEND)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("SSLSPEC_CUDA", "SSLSPEC_CUTLASS", "SSLSPEC_CUTLASS_DIR", "SSLSPEC_CUDA_ARCHS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CUDACXX", "nvcc")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(module, "_TARGET", tmp_path / "build" / "cutlass")
    return module


def test_another_file_of_that_name_is_refused(backend: ModuleType, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "nvidia_cutlass-4.2.0.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(backend._HEADERS + "cutlass/cutlass.h", "#error not the file that is known")
    with pytest.raises(RuntimeError, match=r"Expected sha256 f9599.* Got .*OFF builds without"):
        backend._fetch()
    assert not backend._TARGET.exists()


def test_a_build_that_would_lose_the_hopper_kernels_stops(
    backend: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError, match=r"Hopper kernels need .*No matching distribution"):
        backend._fetch()
    for name in ("SSLSPEC_CUTLASS", "SSLSPEC_CUDA"):  # unless that is what is asked for
        with monkeypatch.context() as asked:
            asked.setenv(name, "OFF")
            backend._fetch()
    monkeypatch.setenv("SSLSPEC_CUDA_ARCHS", "80-real")
    backend._fetch()

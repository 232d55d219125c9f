"""A build that lacks something stops and says what to do; CUTLASS is one known file."""

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


def test_a_build_without_a_compiler_says_so_in_three_lines(
    backend: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name in ("CXX", "CMAKE_ARGS", "CMAKE_TOOLCHAIN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    for hook in (backend.get_requires_for_build_wheel, backend.get_requires_for_build_editable):
        with pytest.raises(SystemExit):
            hook()
        first, *others = capfd.readouterr().err.splitlines()
        assert first.startswith("sslspec_fast: no C++ compiler was found")
        assert len(others) == 2
    compiler = tmp_path / "g++"
    compiler.touch(mode=0o755)
    backend._check_compiler()
    compiler.unlink()
    monkeypatch.setenv("CXX", "/opt/compiler")
    backend._check_compiler()

"""PEP 517 backend: scikit-build-core, plus CUTLASS's headers when a CUDA build can use them.

The nvidia-cutlass wheel is header-only for us but lists run-time dependencies that we do not need,
and a CPU build has no use for it. So it is no build requirement: where nvcc is found and Hopper is
among the architectures, it is downloaded without dependencies into the build folder, once. Without
it (offline, or no such file on the index) one line says so and the portable kernels serve Hopper
too. SSLSPEC_CUTLASS_DIR names headers that are there already; SSLSPEC_CUDA=OFF asks for nothing.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from scikit_build_core import build as _core
from scikit_build_core.build import (
    build_sdist,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

_CUTLASS = "nvidia-cutlass==4.2.0.0"
_HEADERS = "cutlass_library/source/include/"
_TARGET = Path(__file__).resolve().parent.parent / "build" / _CUTLASS.replace("==", "-")


def _wanted() -> bool:
    """Would CUTLASS's headers be used, and are they missing?"""
    nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc")
    archs = os.environ.get("SSLSPEC_CUDA_ARCHS", "90")
    if os.environ.get("SSLSPEC_CUDA", "AUTO").upper() == "OFF" or not nvcc:
        return False
    if not any(name in archs for name in ("90", "native", "all")):
        return False
    here = os.environ.get("SSLSPEC_CUTLASS_DIR") or importlib.util.find_spec("cutlass_library")
    return not here


def _fetch() -> None:
    if not _wanted():
        return
    if not (_TARGET / "include" / "cutlass" / "cutlass.h").exists():
        try:
            _download()
        except (OSError, subprocess.SubprocessError, zipfile.BadZipFile) as error:
            failed = isinstance(error, subprocess.SubprocessError)
            reason = "pip could not download it" if failed else str(error)
            print(
                f"sslspec_fast: no {_CUTLASS} ({reason}): building without the Hopper kernels; "
                "SSLSPEC_CUTLASS_DIR can name the headers",
                file=sys.stderr,
            )
            return
    os.environ["SSLSPEC_CUTLASS_DIR"] = str(_TARGET)


def _download() -> None:
    with tempfile.TemporaryDirectory() as folder:
        quiet = ["--quiet", "--disable-pip-version-check", "--no-input", "--retries", "0"]
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--timeout", "15", *quiet]
        subprocess.run(
            [*command, "--dest", folder, _CUTLASS],
            check=True,
            timeout=300,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wheel = next(Path(folder).glob("*.whl"), None)
        if wheel is None:
            raise FileNotFoundError("pip downloaded no wheel")
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.startswith(_HEADERS)]
            archive.extractall(folder, names)
        _TARGET.mkdir(parents=True, exist_ok=True)
        shutil.copytree(Path(folder) / _HEADERS, _TARGET / "include", dirs_exist_ok=True)


def _with_pip(requirements: list[str]) -> list[str]:
    # an isolated build environment has no pip of its own
    return [*requirements, "pip"] if _wanted() else requirements


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    return _with_pip(_core.get_requires_for_build_wheel(config_settings))


def get_requires_for_build_editable(config_settings: dict[str, Any] | None = None) -> list[str]:
    return _with_pip(_core.get_requires_for_build_editable(config_settings))


def build_wheel(
    wheel_directory: str,
    config_settings: dict[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    _fetch()
    return _core.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(
    wheel_directory: str,
    config_settings: dict[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    _fetch()
    return _core.build_editable(wheel_directory, config_settings, metadata_directory)

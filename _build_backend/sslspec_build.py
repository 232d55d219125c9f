"""PEP 517 backend: scikit-build-core, plus CUTLASS's headers when a CUDA build can use them.

The nvidia-cutlass wheel is header-only for us but lists run-time dependencies that we do not need,
and a CPU build has no use for it. So it is no build requirement: where nvcc is found and Hopper is
among the architectures, pip downloads the wheel without dependencies, checks it against the hash
below, and its headers are kept in the build folder.

A build that cannot get them fails, because a wheel without the Hopper kernels would look like any
other. Ways out: SSLSPEC_CUTLASS_DIR names headers that are there already; SSLSPEC_CUTLASS=OFF
builds without the Hopper kernels, so that the portable ones serve Hopper too; SSLSPEC_CUDA=OFF
builds no CUDA part.
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
_SHA256 = "f9599ada45c7bcb6bf53f7d3f0a7d154183e53451c01bfa59eecd37dd4a693f6"  # of its only wheel
_COMPILERS = ("c++", "g++", "clang++", "icpx")
_HEADERS = "cutlass_library/source/include/"
_TARGET = Path(__file__).resolve().parent.parent / "build" / _CUTLASS.replace("==", "-")


def _wanted() -> bool:
    """Would CUTLASS's headers be used, and are they missing?"""
    nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc")
    archs = os.environ.get("SSLSPEC_CUDA_ARCHS", "90")
    if _off("SSLSPEC_CUDA") or _off("SSLSPEC_CUTLASS") or not nvcc:
        return False
    if not any(name in archs for name in ("90", "native", "all")):
        return False
    here = os.environ.get("SSLSPEC_CUTLASS_DIR") or importlib.util.find_spec("cutlass_library")
    return not here


def _off(variable: str) -> bool:
    return os.environ.get(variable, "").upper() == "OFF"


def _fetch() -> None:
    if not _wanted():
        return
    if not _TARGET.exists():  # made by one rename, so it is whole
        try:
            _download()
        except (OSError, subprocess.SubprocessError, zipfile.BadZipFile) as problem:
            said = problem.stderr if isinstance(problem, subprocess.CalledProcessError) else ""
            reason = " ".join((said or str(problem)).split())[-300:]
            raise RuntimeError(
                f"the Hopper kernels need the headers of {_CUTLASS}, which could not be had: "
                f"{reason}. SSLSPEC_CUTLASS_DIR can name the headers; SSLSPEC_CUTLASS=OFF builds "
                "without these kernels"
            ) from problem
    os.environ["SSLSPEC_CUTLASS_DIR"] = str(_TARGET)


def _download() -> None:
    """The headers of the wheel whose hash is above, in _TARGET."""
    _TARGET.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_TARGET.parent) as folder:
        listed = Path(folder) / "requirements.txt"
        listed.write_text(f"{_CUTLASS} --hash=sha256:{_SHA256}\n", encoding="utf-8")
        quiet = ["--quiet", "--disable-pip-version-check", "--no-input", "--retries", "0"]
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--no-deps",
                "--only-binary",
                ":all:",
                "--require-hashes",
                "--timeout",
                "15",
                *quiet,
                "--dest",
                folder,
                "-r",
                str(listed),
            ],
            check=True,
            timeout=300,
            capture_output=True,
            text=True,
            cwd=folder,
        )
        wheel = next(Path(folder).glob("*.whl"), None)
        if wheel is None:
            raise FileNotFoundError("pip downloaded no wheel")
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.startswith(_HEADERS)]
            archive.extractall(folder, names)
        whole = Path(folder) / "whole"
        whole.mkdir()
        (Path(folder) / _HEADERS).rename(whole / "include")
        whole.rename(_TARGET)


def _check_compiler() -> None:
    """Three lines in place of what CMake and Python say where there is no C++ compiler."""
    if "CMAKE_CXX_COMPILER" in os.environ.get("CMAKE_ARGS", "") or os.environ.get("CXX"):
        return
    if os.environ.get("CMAKE_TOOLCHAIN_FILE") or any(map(shutil.which, _COMPILERS)):
        return
    print(
        f"sslspec_fast: no C++ compiler was found (looked for {', '.join(_COMPILERS)})\n"
        "install one, for example: apt-get install g++, or dnf install gcc-c++\n"
        "or name one in the variable CXX; a wheel (pip install some.whl) needs none",
        file=sys.stderr,
    )
    raise SystemExit(1)


def _with_pip(requirements: list[str]) -> list[str]:
    # an isolated build environment has no pip of its own
    return [*requirements, "pip"] if _wanted() else requirements


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    _check_compiler()
    return _with_pip(_core.get_requires_for_build_wheel(config_settings))


def get_requires_for_build_editable(config_settings: dict[str, Any] | None = None) -> list[str]:
    _check_compiler()
    return _with_pip(_core.get_requires_for_build_editable(config_settings))


def build_wheel(
    wheel_directory: str,
    config_settings: dict[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    _check_compiler()
    _fetch()
    return _core.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(
    wheel_directory: str,
    config_settings: dict[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    _check_compiler()
    _fetch()
    return _core.build_editable(wheel_directory, config_settings, metadata_directory)

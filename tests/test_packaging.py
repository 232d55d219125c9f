"""A wheel asks for the symbols of an old glibc, and is made for every Python that works."""

from __future__ import annotations

import ctypes
import importlib.util
import math
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

PACKAGING = Path(__file__).resolve().parent.parent / "packaging"
LINUX = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not all(map(shutil.which, ("gcc", "readelf"))),
    reason="needs gcc, readelf and glibc",
)


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, PACKAGING / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_newest_version_up_to_the_limit() -> None:
    glibc = load("old_glibc")
    known = {"2.2.5": ("function", 1), "2.14": ("function", 1), "2.34": ("function", 1)}
    assert glibc.newest(known, "2.28") == "2.14"  # and not "2.2.5", the larger string
    assert glibc.newest(known, "2.34") == "2.34"
    assert glibc.newest({"2.32": ("object", 1)}, "2.28") is None


@LINUX
def test_a_module_linked_with_the_stand_ins_runs_and_asks_for_old_symbols(tmp_path: Path) -> None:
    load("old_glibc").make(tmp_path / "old", "2.28")
    source, module = tmp_path / "a.c", tmp_path / "a.so"
    source.write_text(
        "#include <math.h>\n#include <pthread.h>\n"
        "static pthread_once_t once = PTHREAD_ONCE_INIT;\n"
        "static double value;\n"
        "static void set(void) { value = exp(1.0); }\n"
        "double e(void) { pthread_once(&once, set); return value; }\n"
    )
    link = ["gcc", "-shared", "-fPIC", "-fno-builtin", "-o", str(module), str(source)]
    libraries = [f"-L{tmp_path / 'old'}", "-Wl,--no-as-needed", "-lpthread", "-lm"]
    subprocess.run([*link, *libraries], check=True)
    shown = subprocess.run(
        ["readelf", "--dyn-syms", "-W", str(module)], capture_output=True, text=True, check=True
    )
    versions = re.findall(r"(\w+)@GLIBC_([\d.]+)", shown.stdout)
    asked = {name: tuple(map(int, version.split("."))) for name, version in versions}
    assert {"exp", "pthread_once"} <= set(asked)
    assert max(asked.values()) <= (2, 28)
    function = ctypes.CDLL(str(module)).e
    function.restype = ctypes.c_double
    assert function() == pytest.approx(math.e)


def test_only_pythons_that_start_are_used(tmp_path: Path) -> None:
    wheels = load("wheels")
    broken = tmp_path / "python3.12"
    broken.write_text("#!/bin/sh\nexit 127\n")
    broken.chmod(0o755)
    assert wheels._minor(str(broken)) is None
    assert wheels._minor(sys.executable) == sys.version_info[1]

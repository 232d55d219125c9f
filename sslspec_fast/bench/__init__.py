"""``python -m sslspec_fast bench``: fused losses against plain, compiled and smart PyTorch.

One comparable line per case, a CSV, a Markdown table, a picture of time and memory against N, and
one HTML page. All variants of a case take turns in one run; each sample is forward + backward;
medians are printed.
``python -m benchmarks`` from a checkout adds other libraries that happen to be installed.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from .. import _outputs as outputs
from .._config import DEVICES
from . import accuracy, machine, memory, report
from .case import Case
from .measure import Timing, flushed_share, flushed_subnormals, interleaved

__all__ = ["main", "measure_case", "run"]

Listing = Callable[[], list[Case]]
# What a run may write into its folder, and what each run writes.
NAMES = ("bench.csv", "bench.md", "bench.png", "bench.html")
ALWAYS = ("bench.csv", "bench.md", "bench.html")


def main(argv: Sequence[str] | None = None, *, peers: str = "sslspec_fast.bench.cases") -> int:
    """peers: the module whose ``all_cases`` and ``smoke_cases`` list what to run."""
    parser = argparse.ArgumentParser(
        prog=f"{outputs.program()} bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("only", nargs="*", help="run cases whose name contains one of these")
    parser.add_argument("--out", type=Path, default=Path("bench_results"), help="output folder")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, seconds in all")
    parser.add_argument("--seconds", type=float, default=20.0, help="timing budget per case")
    parser.add_argument("--no-memory", action="store_true", help="skip the memory processes")
    parser.add_argument("--no-compile", action="store_true", help="skip torch.compile variants")
    parser.add_argument("--no-accuracy", action="store_true", help="skip the table of errors")
    parser.add_argument("--device", choices=DEVICES, default="cpu")
    parser.add_argument("--list", action="store_true", help="list the cases and stop")
    options = parser.parse_args(argv)
    with flushed_subnormals():  # before the cases: some peers start threads when they are imported
        return _run_listed(parser, options, peers)


def _run_listed(parser: argparse.ArgumentParser, options: argparse.Namespace, peers: str) -> int:
    listing = "smoke_cases" if options.smoke else "all_cases"
    cases: list[Case] = getattr(importlib.import_module(peers), listing)()
    if options.only:
        cases = [case for case in cases if any(part in case.name for part in options.only)]
        if not cases:
            parser.error(f"no case name contains any of {options.only}; see --list")
    if options.list:
        print("\n".join(f"{case.name}: {', '.join(case.variants)}" for case in cases))
        return 0
    try:
        outputs.check_folder(options.out, NAMES, ALWAYS)  # before minutes of work
    except ValueError as problem:
        parser.error(str(problem))
    run(
        cases,
        options.out,
        registry=f"{peers}:{listing}",
        seconds=0.5 if options.smoke else options.seconds,
        with_memory=not options.no_memory,
        with_compile=not (options.no_compile or options.smoke),
        with_accuracy=not options.no_accuracy,
        device=options.device,
    )
    return 0


def run(
    cases: Sequence[Case],
    out: Path,
    *,
    registry: str,
    seconds: float,
    with_memory: bool = True,
    with_compile: bool = True,
    with_accuracy: bool = True,
    device: str = "cpu",
) -> list[report.Result]:
    """Measure, print as it goes, and write ``out``."""
    facts = machine.describe(device)
    rates = machine.gemm_rates(device)
    gemm = max(rates.values())
    facts["GEMM, GFLOP/s"] = ", ".join(f"{k} {v:.0f}" for k, v in rates.items())
    if device == "cpu":
        facts["subnormals"] = f"{flushed_share():.0%} of a product's are flushed"
    if with_compile and device == "cpu" and shutil.which("g++") is None:
        facts["note"] = "no g++: torch.compile variants are left out"
        with_compile = False
    print("\n".join(f"{key:>16}: {value}" for key, value in facts.items()))
    print("\n" + report.HEADER, flush=True)
    results = []
    for case in cases:
        result = measure_case(case, registry, seconds, with_memory, with_compile, device)
        results.append(result)
        print(report.line(result, gemm), flush=True)
    errors = accuracy.table(device=device) if with_accuracy else []
    if errors:
        print("\n" + "\n".join(report.accuracy_lines(errors)), flush=True)

    with outputs.results(out, NAMES, ALWAYS) as folder:
        report.write_csv(folder / "bench.csv", results, facts)
        report.write_markdown(folder / "bench.md", results, facts)
        picture = folder / "bench.png"
        drawn = report.draw(picture, results)
        page = picture if drawn else None
        report.write_html(folder / "bench.html", results, errors, facts, gemm, page)
    wrote = [*ALWAYS, *(["bench.png"] if drawn else [])]
    print("\nwrote " + ", ".join(str(out / name) for name in wrote))
    return results


def measure_case(
    case: Case,
    registry: str,
    seconds: float,
    with_memory: bool,
    with_compile: bool,
    device: str,
) -> report.Result:
    """Time every variant of a case by turns, then measure the peak memory of each."""
    names = list(case.variants)
    if with_compile:
        names += ["compiled" if n == "eager" else f"{n} compiled" for n in case.compiled]
        torch._dynamo.reset()  # one shape per case: never fall back to a dynamic kernel
    variants = {name: memory.variant_of(case, name) for name in names}
    leaves = case.inputs(device, case.dtype)
    missing: dict[str, str] = {}
    timings: dict[str, Timing] = {}
    for name in list(variants):
        try:  # a peer may not support a dtype or a size: the table says so instead of stopping
            interleaved({name: variants[name]}, leaves, seconds=0.0, most=1, least=1)
        except (RuntimeError, NotImplementedError, torch.cuda.OutOfMemoryError) as error:
            if name == "fused":
                raise
            missing[name] = str(error).splitlines()[0][:60]
            del variants[name]
    timings = interleaved(variants, leaves, seconds=seconds)
    used: dict[str, float | None] = {}
    if with_memory:
        for name, variant in variants.items():
            if device == "cuda":
                used[name] = memory.peak_extra_mib_cuda(case, variant)
            elif memory.available():
                used[name] = memory.peak_extra_mib(case, name, registry)
    return report.Result(case, timings, used, missing)

"""Losses over prototypes, queues and slices against the usual torch form, eager and compiled.

    python -m benchmarks.cases.prototypes [case ...] [--seconds 30] [--no-memory] [--no-compile]

Forward and backward of the same work by turns in one run: medians of the time, of the CPU seconds
of all threads, and the peak memory beyond inputs and gradients, each from a process of its own.
``sinkhorn`` compares the codes at logits of up to 1,086 with float64.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as nnf

import sslspec_fast.functional as F
from sslspec_fast.bench import cases, machine, measure, memory
from sslspec_fast.bench.cases import Case

__all__ = ["all_cases", "line", "main", "sinkhorn"]

LARGEST = 1086  # logit of `sinkhorn`
REGISTRY = "benchmarks.cases.prototypes:all_cases"


def all_cases() -> list[Case]:
    return [
        cases.sigreg(8, 256, 128),
        cases.dino(32, 256, 65_536),
        cases.prototypes(1024, 256, 65_536),
        cases.prototypes(4900, 256, 65_536),
        cases.swav(256, 128, 3000),
        cases.moco(256, 128, 65_536),
        cases.x_clr(4096, 512),
    ]


def line(case: Case, seconds: float, with_memory: bool, with_compile: bool) -> str:
    """A row of the table: every form with its time, CPU time and memory, and its ratios to ours."""
    names = [*case.variants, *(["compiled"] if with_compile else [])]
    torch._dynamo.reset()
    variants = {name: memory.variant_of(case, name) for name in names}
    leaves = case.inputs("cpu", case.dtype)
    times = measure.interleaved(variants, leaves, seconds=seconds, least=3)
    cells = [case.name]
    for name in names:
        t, ours = times[name], times["fused"]
        used = memory.peak_extra_mib(case, name, REGISTRY) if with_memory else None
        mib = "" if used is None else f", {used:.0f} MiB"
        ratio = (
            "" if name == "fused" else f" (x{t.p50 / ours.p50:.2f}, CPU x{t.cpu / ours.cpu:.2f})"
        )
        cells.append(f"{name} {1e3 * t.p50:.4g} ms, CPU {1e3 * t.cpu:.4g} ms{mib}{ratio}")
    return "; ".join(cells)


def sinkhorn() -> tuple[bool, float]:
    """Whether the bias is finite at logits of up to 1,086, whose exponentials overflow float32, and
    its largest difference from float64 over its largest value.
    """
    generator = torch.Generator().manual_seed(0)
    rows = nnf.normalize(torch.randn(256, 32, generator=generator))
    columns = nnf.normalize(torch.randn(512, 32, generator=generator))
    temperature = float((rows @ columns.T).abs().max()) / LARGEST
    found = F.sinkhorn_bias(rows, columns, temperature=temperature)
    exact = F.sinkhorn_bias(rows.double(), columns.double(), temperature=temperature)
    error = float((found - exact).abs().max() / exact.abs().max())
    return bool(found.isfinite().all()), error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("only", nargs="*", help="cases whose name contains one of these")
    parser.add_argument("--seconds", type=float, default=30.0, help="per case")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--no-compile", action="store_true")
    options = parser.parse_args()
    for key, fact in machine.describe().items():
        print(f"{key}: {fact}")
    with measure.flushed_subnormals():
        for case in all_cases():
            if not options.only or any(part in case.name for part in options.only):
                how = not options.no_memory, not options.no_compile
                print(line(case, options.seconds, *how), flush=True)
    if not options.only or "sinkhorn" in options.only:
        finite, error = sinkhorn()
        print(
            f"sinkhorn, logits up to {LARGEST}: finite {finite}, error against float64 {error:.1e}"
        )


if __name__ == "__main__":
    main()

"""One step of ``python -m benchmarks gpu`` in a process of its own: facts, small shapes, a Hopper
kernel against the portable one, a case or its compilation, a training step, an eigenproblem.

Prints a line of JSON whenever it knows more than before; the last one counts.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sslspec_fast import show_config
from sslspec_fast.bench import machine, memory
from sslspec_fast.bench.case import Case
from sslspec_fast.bench.cases import find
from sslspec_fast.bench.measure import Variant, forward_backward, interleaved

from . import gpu_cases, gpu_eigsh, gpu_hopper, gpu_training, gpu_turns

SHAPES = ((1, 8), (7, 16), (65, 128), (130, 257))
WIDE = (1100, 264)  # reaches the Hopper pass over wide rows
FEW = ((7, 16), (130, 257))
TOLERANCE = ((torch.float32, 1e-4), (torch.bfloat16, 5e-2))


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_stage")
    stages = ("facts", "small", "hopper", "compile", "case", "states", "training", "eigsh")
    parser.add_argument("what", choices=stages)
    parser.add_argument("name", nargs="?")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--few", action="store_true")
    options = parser.parse_args(argv)
    if options.what == "facts":
        print(json.dumps(facts()), flush=True)
        return 0
    if options.what == "small":
        return small_shapes(FEW if options.few else SHAPES, wide=not options.few)
    if options.what == "hopper":
        return gpu_hopper.compare(options.name)
    if options.what == "training":
        gpu_training.measure(options.name, options.seconds)
        return 0
    if options.what == "eigsh":
        if options.name == gpu_eigsh.WARM_UP:
            gpu_eigsh.warm_up()
        else:
            gpu_eigsh.measure(options.name)
        return 0
    case = find(options.name, gpu_cases.all_cases())
    if options.what == "compile":
        compile_forms(case)
    elif options.what == "states":
        states(case)
    else:
        measure(case, options.seconds)
    return 0


def facts() -> dict[str, Any]:
    if not torch.cuda.is_available():
        return {"problem": f"torch {torch.__version__} sees no CUDA device"}
    architectures = show_config()["cuda_architectures"]
    if not architectures:
        return {"problem": "this build of sslspec_fast has no CUDA kernels (see CONTRIBUTING.md)"}
    found: dict[str, Any] = {**machine.describe("cuda"), "kernels for": ", ".join(architectures)}
    rates = machine.gemm_rates("cuda", torch.bfloat16)
    found["bf16 GEMM 8192, TFLOP/s"] = f"{max(rates.values()) / 1e3:.0f}"
    found["cases"] = [case.name for case in gpu_cases.all_cases()]
    found["training"] = list(gpu_training.FAMILIES)
    found["eigsh"] = list(gpu_eigsh.SIZES)
    return found


def small_shapes(shapes: Sequence[tuple[int, int]], *, wide: bool) -> int:
    """Every loss on small ragged shapes in fp32 and bf16, compared with plain torch in fp64.

    Goes on after a disagreement, so that one run shows all of them.
    """
    bad = []
    for name, loss in gpu_cases.SMALL.items():
        softmax = name in ("nt_xent", "clip", "siglip")
        for rows, width in (*shapes, *([WIDE] if wide and softmax else [])):
            if rows == 1 and not softmax:
                continue  # a variance or a pair needs two rows
            generator = torch.Generator().manual_seed(rows)
            views = torch.randn(2, rows, width, generator=generator)
            views = torch.nn.functional.normalize(views, dim=2)
            if name == "spectral":
                views = 0.8 * views  # away from the length at which rows are clipped
            exact = [view.double().requires_grad_() for view in views]
            want = gpu_cases.PLAIN[name](*exact)
            wanted = torch.autograd.grad(want, exact)
            for dtype, tolerance in TOLERANCE:
                leaves = [view.to("cuda", dtype).requires_grad_() for view in views]
                value = loss(*leaves)
                grads = torch.autograd.grad(value, leaves)
                error = abs(float(value) - float(want)) / max(1.0, abs(float(want)))
                size = max(float(w.norm()) for w in wanted)
                slope = max(
                    float((g.double().cpu() - w).norm()) for g, w in zip(grads, wanted, strict=True)
                )
                if not (error <= tolerance and slope <= 2 * tolerance * max(size, 1e-3)):
                    bad.append(f"{name} {rows}x{width} {dtype}: {error:.1e}, gradient {slope:.1e}")
                    print(bad[-1], flush=True)
    machine.synchronize("cuda")
    print("; ".join(bad) if bad else "small shapes agree with plain torch", flush=True)
    return 1 if bad else 0


def forms(case: Case) -> list[str]:
    return [
        *case.variants,
        *("compiled" if n == "eager" else f"{n} compiled" for n in case.compiled),
    ]


def compile_forms(case: Case) -> None:
    leaves = case.inputs("cuda", case.dtype)
    for name in forms(case)[len(case.variants) :]:
        interleaved({name: memory.variant_of(case, name)}, leaves, seconds=0.0, most=1, least=1)


def measure(case: Case, seconds: float) -> None:
    """Times of ours alone first; then all forms by turns, as many as work, and their memory."""
    full, notes = gpu_cases.with_peers(case)
    result: dict[str, Any] = {"case": case.name, "milliseconds": {}, "notes": notes, "missing": {}}
    leaves = full.inputs("cuda", full.dtype)
    variants: dict[str, Variant] = {}
    for name in forms(full):
        try:
            variant = memory.variant_of(full, name)
            first = interleaved({name: variant}, leaves, seconds=0.1, most=10, least=2)
        except Exception as error:  # a peer may lack a dtype, a size or a compiler
            if name == "fused":
                raise
            lines = str(error).strip().splitlines() or [type(error).__name__]
            result["missing"][name] = lines[0][:100]
            torch.cuda.empty_cache()
            continue
        variants[name] = variant
        result["milliseconds"][name] = 1e3 * first[name].p50
        print(json.dumps(result), flush=True)
    # what takes more than 20 times our time is slow enough after one look
    fused = result["milliseconds"]["fused"]
    close = {n: v for n, v in variants.items() if result["milliseconds"][n] <= 20 * fused}
    gpu = gpu_turns.Gpu()
    turns = gpu_turns.by_turns(calls_of(close, leaves), gpu, seconds=seconds)
    for column, values in gpu_turns.as_columns(turns).items():
        result.setdefault(column, {}).update(values)
    print(json.dumps(result), flush=True)
    del leaves, gpu
    for name, variant in variants.items():
        torch.cuda.empty_cache()
        bare = replace(full, variants={name: variant})
        used = memory.peak_extra_mib_cuda(bare, variant)
        result.setdefault("peak extra MiB", {})[name] = used
        print(json.dumps(result), flush=True)


def calls_of(
    variants: dict[str, Variant], leaves: Sequence[Tensor]
) -> dict[str, Callable[[], object]]:
    def call(variant: Variant) -> Callable[[], object]:
        return lambda: forward_backward(variant, leaves)

    return {name: call(variant) for name, variant in variants.items()}


def states(case: Case) -> None:
    """Ours after each state that a GPU can be in, the eager form among them."""
    leaves = case.inputs("cuda", case.dtype)
    other = "amp" if "amp" in case.variants else "eager"
    calls = calls_of({n: case.variants[n] for n in ("fused", other)}, leaves)
    turns = gpu_turns.after_states(calls["fused"], calls[other], gpu_turns.Gpu())
    print(json.dumps({"case": case.name, **gpu_turns.as_columns(turns)}), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

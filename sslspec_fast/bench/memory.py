"""Peak extra memory of one forward + backward: beyond the inputs and the gradients it returns.

On a CPU each measurement is a fresh process: it makes the inputs, runs the same computation on a
tiny input (so that libraries are loaded and threads started), then resets the kernel's high-water
mark of resident memory and runs the computation once. The figure is the growth of that mark minus
the gradients, which every variant must return. Compiled variants run once at full size before the
reset, because compiling needs memory of its own. On a GPU the caching allocator's own peak is used.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from .case import Case
from .cases import find
from .measure import Variant, forward_backward

MIB = 1024.0**2
_STATUS = Path("/proc/self/status")


def available() -> bool:
    """Whether this system reports and resets a process's peak resident memory (Linux does)."""
    return _STATUS.is_file() and os.access("/proc/self/clear_refs", os.W_OK)


def peak_extra_mib(case: Case, variant: str, registry: str) -> float | None:
    """Peak extra MiB of a variant on the CPU, measured in a fresh process; None if it failed.

    registry: "module:function" that lists the cases, so that the new process finds the same one.
    """
    command = [
        sys.executable,
        "-m",
        "sslspec_fast.bench.memory",
        "--case",
        case.name,
        "--variant",
        variant,
        "--registry",
        registry,
    ]
    # Large blocks go back to the system when freed, so that the mark shows what is really in use.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    environment["PYTHONPATH"] = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    # `-m` puts the current folder first on sys.path. In a checkout that is the source, which has no
    # compiled core; in the shared temporary folder it may be another user's. An empty folder
    # that only this user can write to is neither.
    with tempfile.TemporaryDirectory() as empty:
        run = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            timeout=600,
            cwd=empty,
        )
    if run.returncode != 0:
        print(f"memory of {case.name} {variant}: {run.stderr.strip()[-300:]}", file=sys.stderr)
        return None
    return float(json.loads(run.stdout.strip().splitlines()[-1]))


def peak_extra_mib_cuda(case: Case, variant: Variant) -> float:
    """The same on a GPU, from the allocator's statistics."""
    leaves = case.inputs("cuda", case.dtype)
    forward_backward(variant, leaves)
    torch.cuda.synchronize()
    gc.collect()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    gradients = forward_backward(variant, leaves)
    torch.cuda.synchronize()
    held = sum(g.numel() * g.element_size() for g in gradients)
    return (torch.cuda.max_memory_allocated() - before - held) / MIB


def variant_of(case: Case, name: str) -> Variant:
    """The callable of a variant; "X compiled" is torch.compile of X, "compiled" of "eager"."""
    if name in case.variants:
        return case.variants[name]
    base = "eager" if name == "compiled" else name.removesuffix(" compiled")
    compiled: Variant = torch.compile(case.variants[base])
    return compiled


def resident(field: str) -> float:
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return float(line.split()[1]) / 1024
    raise RuntimeError(f"no field {field} in {_STATUS}")


def reset_peak() -> float:
    """MiB that are resident now, from which on `peak_mib` looks for the most."""
    gc.collect()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return before


def peak_mib() -> float:
    """The most MiB that were resident at one time since `reset_peak`."""
    return resident("VmHWM")


def _measure(case: Case, name: str) -> float:
    variant = variant_of(case, name)
    leaves = case.inputs("cpu", case.dtype)
    if "compiled" in name:
        forward_backward(variant, leaves)
    elif case.by_rows:
        tiny = tuple(
            leaf.detach()[:8].clone().requires_grad_(leaf.requires_grad) for leaf in leaves
        )
        forward_backward(variant, tiny)
    before = reset_peak()
    gradients = forward_backward(variant, leaves)
    peak = peak_mib()
    held = sum(g.numel() * g.element_size() for g in gradients) / MIB
    return max(0.0, peak - before - held)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", required=True)
    parser.add_argument("--variant", required=True)
    parser.add_argument("--registry", required=True)
    options = parser.parse_args()
    module, function = options.registry.split(":")
    cases: Callable[[], list[Case]] = getattr(importlib.import_module(module), function)
    print(json.dumps(_measure(find(options.case, cases()), options.variant)))


if __name__ == "__main__":
    main()

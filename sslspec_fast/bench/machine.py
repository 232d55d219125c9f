"""What the numbers were measured on: processor, versions, commit and the bare GEMM rate."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path

import numpy as np
import torch

import sslspec_fast as sf


def describe(device: str = "cpu") -> dict[str, str]:
    """Facts for the header of a benchmark table."""
    facts = {
        "processor": processor(),
        "cores": f"{os.cpu_count()}, torch threads {torch.get_num_threads()}",
        "load": load(),
        "instruction set": str(sf.show_config()["instruction_set"]),
        "versions": f"sslspec_fast {sf.__version__}, torch {torch.__version__}, "
        f"numpy {np.__version__}, Python {platform.python_version()}, {platform.platform()}",
        "commit": commit(),
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        facts["gpu"] = f"{properties.name}, CUDA {torch.version.cuda}"
    return facts


def processor() -> str:
    """Model name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def load() -> str:
    """Load average: a table measured beside other work says so."""
    return f"{os.getloadavg()[0]:.2f} (1 min) at the start" if hasattr(os, "getloadavg") else "?"


def commit() -> str:
    """Commit of the checkout in the current directory, or 'not a checkout'."""
    run = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return run.stdout.strip() if run.returncode == 0 else "not a checkout"


def gemm_rates(device: str = "cpu", dtype: torch.dtype = torch.float32) -> dict[str, float]:
    """GFLOP/s of a 2048^3 product (8192^3 on a GPU, which a smaller one does not fill): torch, and
    on a CPU numpy's BLAS too (the better one counts).
    """
    side = 2048 if device == "cpu" else 8192
    a = torch.randn(side, side, device=device).to(dtype)
    rates = {"torch.mm": _rate(lambda: torch.mm(a, a), side, device)}
    if device == "cpu" and dtype == torch.float32:
        b = a.numpy()
        rates["numpy @"] = _rate(lambda: b @ b, side, device)
    return rates


def _rate(product: object, side: int, device: str, repeats: int = 7) -> float:
    assert callable(product)
    seconds = []
    for _ in range(repeats):
        synchronize(device)
        start = time.perf_counter()
        product()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / sorted(seconds)[repeats // 2] / 1e9


def synchronize(device: str) -> None:
    """Wait for a GPU; nothing to wait for on a CPU."""
    if device == "cuda":
        torch.cuda.synchronize()

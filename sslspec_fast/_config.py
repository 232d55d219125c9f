"""What this installation is made of."""

from __future__ import annotations

import platform
import sys
from typing import Any

import torch

from ._seam import _C

__all__ = ["show_config"]


def show_config() -> dict[str, Any]:
    """Facts about the installation, as printed by ``python -m sslspec_fast``.

    Returns:
        A dict with ``versions`` (of sslspec_fast, torch and Python), ``instruction_set`` (of the
        CPU kernels in use; the environment variable ``SSLSPEC_ISA`` caps it),
        ``cuda_architectures`` (of the compiled CUDA kernels; 90a-real are those of Hopper; empty
        for a CPU-only build), ``cuda_devices`` (names of the GPUs that torch sees), ``threads``
        (torch's setting, which the CPU kernels follow) and ``distributed``: whether torch has
        torch.distributed (``available``), which ``backends`` it was built with, of "gloo", "nccl",
        "mpi" and "ucc", and the version of ``torch`` itself.
    """
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "versions": {
            "sslspec_fast": sys.modules["sslspec_fast"].__version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
        "instruction_set": _C.isa(),
        "cuda_architectures": [arch for arch in _C.cuda_archs().split(",") if arch],
        "cuda_devices": devices,
        "threads": torch.get_num_threads(),
        "distributed": _distributed(),
    }


def _distributed() -> dict[str, Any]:
    if not torch.distributed.is_available():
        return {"available": False, "backends": [], "torch": str(torch.__version__)}
    names = ("gloo", "nccl", "mpi", "ucc")
    found = (getattr(torch.distributed, f"is_{name}_available", None) for name in names)
    backends = [name for name, ask in zip(names, found, strict=True) if ask is not None and ask()]
    return {"available": True, "backends": backends, "torch": str(torch.__version__)}

"""What this installation is made of, and how much memory it may keep."""

from __future__ import annotations

import platform
import sys
from typing import Any

import torch

from ._seam import _C

__all__ = ["release_kept", "set_kept_limit", "show_config"]


def set_kept_limit(limit: int) -> int:
    """Sets how much memory a CPU may use to keep products from a forward pass for its backward.

    The losses with a log-sum-exp over all pairs (NT-Xent, CLIP, DCL, SupCon, InfoNCE on a graph)
    multiply every pair of rows in the forward pass and need the products again in the backward
    pass. One buffer of the process keeps as many as fit, and the others are computed twice. Values
    and gradients are bitwise the same for every limit. The buffer holds the products of the last
    forward pass that recorded a graph; it is made when first used, and grows up to the limit.

    Args:
        limit: bytes; 64 MiB (64 << 20) unless set. 0: nothing is kept.

    Returns:
        The limit until now.

    Raises:
        TypeError: limit is no int.
        ValueError: it is negative.

    >>> before = set_kept_limit(16 << 20)
    >>> set_kept_limit(before) == 16 << 20
    True
    """
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise TypeError(f"set_kept_limit: limit must be an int, got {type(limit).__name__}")
    if limit < 0:
        raise ValueError(f"set_kept_limit: limit must be >= 0 bytes, got {limit}")
    before = _C.kept_limit()
    _C.set_kept_limit(limit)
    return before


def release_kept() -> None:
    """Frees the buffer of `set_kept_limit`; the next forward pass that needs one makes another.

    A backward pass whose products it held computes them again, with the same bits.

    Returns:
        None.
    """
    _C.release_kept()


def show_config() -> dict[str, Any]:
    """Facts about the installation, as printed by ``python -m sslspec_fast``.

    Returns:
        A dict with ``versions`` (of sslspec_fast, torch and Python), ``instruction_set`` (of the
        CPU kernels in use; the environment variable ``SSLSPEC_ISA`` caps it),
        ``cuda_architectures`` (of the compiled CUDA kernels; 90a-real are those of Hopper; empty
        for a CPU-only build), ``cuda_devices`` (names of the GPUs that torch sees), ``threads``
        (torch's setting, which the CPU kernels follow), ``kept_limit`` (bytes; see
        `set_kept_limit`) and ``distributed``: whether torch has torch.distributed
        (``available``), which ``backends`` it was built with, of "gloo", "nccl", "mpi" and "ucc",
        and the version of ``torch`` itself.
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
        "kept_limit": _C.kept_limit(),
    }


def _distributed() -> dict[str, Any]:
    if not torch.distributed.is_available():
        return {"available": False, "backends": [], "torch": str(torch.__version__)}
    names = ("gloo", "nccl", "mpi", "ucc")
    found = (getattr(torch.distributed, f"is_{name}_available", None) for name in names)
    backends = [name for name, ask in zip(names, found, strict=True) if ask is not None and ask()]
    return {"available": True, "backends": backends, "torch": str(torch.__version__)}

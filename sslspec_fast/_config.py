"""What this installation is made of, and how much memory it may keep."""

from __future__ import annotations

import platform
import sys
from typing import Any

import torch

from ._dtypes import change_float32_products, float32_products
from ._seam import _C, change_cuda_kept_limit, cuda_kept_limit, release_workspace

__all__ = ["release_kept", "set_float32_products", "set_kept_limit", "show_config"]

DEVICES = ("cpu", "cuda")  # that this package has kernels for


def set_kept_limit(limit: int, device: str = "cpu") -> int:
    """Sets how much memory a loss may keep: products, and on a CPU its workspace for the next call.

    On a CPU the losses with a log-sum-exp over all pairs (NT-Xent, CLIP, DCL, SupCon, InfoNCE on a
    graph) multiply every pair of rows in the forward pass and need the products again in the
    backward pass. One buffer of the process keeps as many as fit, and the others are computed
    twice. Values and gradients are bitwise the same for every limit. The buffer holds the products
    of the last forward pass that recorded a graph; it is made when first used, and grows up to the
    limit. A second buffer keeps the workspace of a call, such as packed rows, for the next one,
    because fresh memory takes the system time to map: one of 2 MiB or more, up to the same limit.

    On a GPU NT-Xent and CLIP of some thousand bfloat16 rows can keep a matrix of all pairs until
    the backward pass, where it fits as a whole: memory of torch's allocator for each call. Off
    unless ``SSLSPEC_HOPPER`` names it (docs/kernels.md).

    Args:
        limit: bytes; unless set 64 MiB (64 << 20) on a CPU and 256 MiB on a GPU. 0: nothing is
            kept.
        device: "cpu" or "cuda".

    Returns:
        The limit until now.

    Raises:
        TypeError: limit is no int.
        ValueError: it is negative, or no size of memory, or device is another one.

    >>> before = set_kept_limit(16 << 20)
    >>> set_kept_limit(before) == 16 << 20
    True
    """
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise TypeError(f"set_kept_limit: limit must be an int, got {type(limit).__name__}")
    if not 0 <= limit <= sys.maxsize:
        raise ValueError(f"set_kept_limit: limit must be in 0 ... {sys.maxsize} bytes, got {limit}")
    if device not in DEVICES:
        raise ValueError(f"set_kept_limit: device must be 'cpu' or 'cuda', got {device!r}")
    if device == "cuda":
        before = cuda_kept_limit()
        change_cuda_kept_limit(limit)
        return before
    before = _C.kept_limit()
    _C.set_kept_limit(limit)
    release_workspace(above=limit)
    return before


def release_kept() -> None:
    """Frees both buffers of `set_kept_limit` on a CPU; the next call that needs one makes another.

    A backward pass whose products it held computes them again, with the same bits.

    Returns:
        None.
    """
    _C.release_kept()
    release_workspace()


def set_float32_products(dtype: torch.dtype) -> torch.dtype:
    """Sets whether a CPU multiplies float32 rows as they are, or rounded to bfloat16.

    With ``torch.bfloat16`` the losses multiply float32 rows as they do bfloat16 ones: unit, centred
    or scaled rows and the weights of the gradient are rounded (relative 2^-9), sums, logits,
    exponentials, norms, positives and the gradient stay float32. It is nearly twice as fast on
    large batches, with errors below those of autocast (docs/numerics.md). It concerns every loss
    that does so with bfloat16 rows, inside autocast and outside; no other dtype, no
    ``impl="torch"``, and no GPU, where float32 products follow
    ``torch.set_float32_matmul_precision``.

    Like that, it is a setting of the process, for all threads, read when a loss is called: the
    backward pass does what the forward pass did, and a compiled function is compiled once more
    where it has changed. With a group, set the same on every rank.

    Args:
        dtype: torch.float32, unless set, or torch.bfloat16.

    Returns:
        The dtype until now.

    Raises:
        TypeError: dtype is no torch.dtype.
        ValueError: it is another one.
        RuntimeError: torch.bfloat16 on a processor without such products (AVX512-BF16), or where
            ``SSLSPEC_ISA`` leaves them out.

    >>> set_float32_products(torch.float32)
    torch.float32
    """
    if not isinstance(dtype, torch.dtype):
        raise TypeError(
            f"set_float32_products: dtype must be a torch.dtype, got {type(dtype).__name__}"
        )
    if dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(
            "set_float32_products: dtype must be torch.float32 or torch.bfloat16, got " + str(dtype)
        )
    if dtype == torch.bfloat16 and not _C.bf16_products():
        raise RuntimeError(
            "set_float32_products: torch.bfloat16 needs a CPU with products of bfloat16 "
            f"(instruction set avx512bf16 or amx), this one works with {_C.isa()}"
        )
    before = float32_products()
    change_float32_products(dtype)
    return before


def show_config() -> dict[str, Any]:
    """Facts about the installation, as printed by ``python -m sslspec_fast``.

    Returns:
        A dict with ``versions`` (of sslspec_fast, torch and Python), ``instruction_set`` (of the
        CPU kernels in use; the environment variable ``SSLSPEC_ISA`` caps it),
        ``cuda_architectures`` (of the compiled CUDA kernels; 90a-real are those of Hopper; empty
        for a CPU-only build), ``cuda_devices`` (names of the GPUs that torch sees), ``threads``
        (torch's setting, which the CPU kernels follow), ``kept_limit`` and
        ``cuda_kept_limit`` (bytes; see `set_kept_limit`), ``float32_products`` (see
        `set_float32_products`) and ``distributed``: whether torch has torch.distributed
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
        "cuda_kept_limit": cuda_kept_limit(),
        "float32_products": str(float32_products()).removeprefix("torch."),
    }


def _distributed() -> dict[str, Any]:
    if not torch.distributed.is_available():
        return {"available": False, "backends": [], "torch": str(torch.__version__)}
    names = ("gloo", "nccl", "mpi", "ucc")
    found = (getattr(torch.distributed, f"is_{name}_available", None) for name in names)
    backends = [name for name, ask in zip(names, found, strict=True) if ask is not None and ask()]
    return {"available": True, "backends": backends, "torch": str(torch.__version__)}

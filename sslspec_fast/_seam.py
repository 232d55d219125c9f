"""The only code that hands array memory to the compiled core.

A descriptor is ``(data_ptr, shape, strides in elements, dtype code, device index, owner)``; the
core borrows the memory for the duration of one call. The owner travels in the tuple so that a
temporary cannot be freed before the call returns: build views in the argument list of the ``_C``
call and never store them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, overload

import torch

from . import _C

__all__ = [
    "CODE",
    "_C",
    "change_cuda_kept_limit",
    "cuda_kept_limit",
    "empty",
    "rounds",
    "row_threads",
    "stream",
    "threads",
    "unit_stride",
    "view",
]

Descriptor = tuple[int, tuple[int, ...], tuple[int, ...], int, int, Any]

CODE = {
    torch.float32: 0,
    torch.float64: 1,
    torch.float16: 2,
    torch.bfloat16: 3,
    torch.int32: 4,
    torch.int64: 5,
}


@overload
def view(t: torch.Tensor) -> Descriptor: ...
@overload
def view(t: None) -> None: ...
@overload
def view(t: torch.Tensor | None) -> Descriptor | None: ...
def view(t: torch.Tensor | None) -> Descriptor | None:
    """Descriptor of a tensor, or None for an absent optional argument."""
    if t is None:
        return None
    return (t.data_ptr(), t.shape, t.stride(), CODE[t.dtype], t.get_device(), t)


def stream(t: torch.Tensor) -> int:
    """Raw handle of the CUDA stream that is current on the tensor's device; 0 on the CPU."""
    if not t.is_cuda:
        return 0
    # torch.cuda.current_stream makes an object first, at ten times the cost
    return int(torch._C._cuda_getCurrentRawStream(t.get_device()))


_cuda_kept_limit = 256 << 20


def cuda_kept_limit() -> int:
    """Bytes that a loss on a GPU may keep for its backward pass: `set_kept_limit` in _config.py.
    The core knows that of a CPU, whose buffer it owns.
    """
    return _cuda_kept_limit


def change_cuda_kept_limit(limit: int) -> None:
    """For `set_kept_limit`, which checks it."""
    global _cuda_kept_limit
    _cuda_kept_limit = limit


WORK_OF_THREAD = 1.6e7
SHORT_WORK = 1e9  # some milliseconds, as long as a busy machine puts a thread aside


def threads(work: float = math.inf) -> int:
    """Number of CPU threads for a kernel: torch's own setting, or fewer where they do not pay.

    Args:
        work: floating point operations of the whole step. A further thread pays from 1.6e7 on,
            about 0.1 ms: it takes some microseconds to wake. On a busy machine all wait for the one
            that was put aside: after a step that waited longer than it worked, the next 32 steps of
            short work get one thread, and twice as many after each further one in a row. Results
            are the same for any number of threads.
    """
    most = torch.get_num_threads()
    count = most if work >= most * WORK_OF_THREAD else max(1, int(work / WORK_OF_THREAD))
    return 1 if count > 1 and work < SHORT_WORK and _C.next_runs_alone() else count


def row_threads(operands: Sequence[torch.Tensor | None]) -> int:
    """The same for passes over rows: memory is the limit, at the time of 16 operations a value."""
    return threads(16.0 * sum(x.numel() for x in operands if x is not None))


def rounds(half: bool, kind: torch.dtype) -> bool:
    """Whether a CPU multiplies wide rows of that dtype in bfloat16: they came as bfloat16 (`half`),
    and the processor has such products.
    """
    return half and kind == torch.float32 and bool(_C.bf16_products())


def empty(like: torch.Tensor, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """``like.new_empty``; from 8 MiB on, a CPU is asked for pages of 2 MiB: the system maps fresh
    ones of 4 KiB one by one, which takes longer than filling them.
    """
    out = like.new_empty(shape, dtype=dtype)
    if not out.is_cuda:
        _C.prefer_huge_pages(out.data_ptr(), out.nbytes)
    return out


def unit_stride(x: torch.Tensor) -> torch.Tensor:
    """The kernels take any row stride but need contiguous rows. A tensor without rows counts as
    contiguous whatever its strides, so it is cloned too.
    """
    if x.stride(-1) == 1 or x.shape[-1] <= 1:
        return x
    return x.clone(memory_format=torch.contiguous_format)

"""The only code that hands array memory to the compiled core, and the workspaces of its calls.

A descriptor is ``(data_ptr, shape, strides in elements, dtype code, device index, owner)``; the
core borrows the memory for the duration of one call. The owner travels in the tuple so that a
temporary cannot be freed before the call returns: build views in the argument list of the ``_C``
call and never store them.
"""

from __future__ import annotations

import math
import os
import threading
import weakref
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
    "release_workspace",
    "rounds",
    "row_threads",
    "stream",
    "threads",
    "unit_stride",
    "view",
    "workspace",
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


# ---- workspaces: memory that the core writes to during one call, of no use afterwards ----
# The system maps and clears fresh memory while a kernel fills it: a tenth of a step of InfoNCE with
# 4,096 rows of 512 columns, whose workspace has 56 MiB. So the process keeps one buffer for the
# next call, of at most as many bytes as it keeps products (`set_kept_limit`).

SMALLEST = 2 << 20  # bytes of a workspace in the buffer; malloc keeps smaller blocks itself

_buffer: torch.Tensor | None = None
_lent: weakref.ref[torch.Tensor] | None = None  # the part of the buffer that was lent last
_lending = threading.Lock()  # held while one thread looks whether that is gone
# As in csrc/simd/scratch.h: a number that is read before it is written shows in the results.
_starts_as_nan = os.environ.get("SSLSPEC_SCRATCH") == "nan"


def workspace(like: torch.Tensor, size: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    """(size,) values on the device of `like`, not initialised, for one call of the core.

    On a CPU the tensor is a part of the buffer, which is lent to it until it is collected: a body
    must not return it or save it for the backward pass. A call that comes meanwhile, in another
    thread, gets fresh memory, and so does one that needs more than the limit.

    dtype: that of `like`, unless given.
    """
    kind = like.dtype if dtype is None else dtype
    count = size * kind.itemsize
    out, fits = None, not like.is_cuda and SMALLEST <= count <= _C.kept_limit()
    if fits and _lending.acquire(blocking=False):
        try:
            out = _lend(count, kind)
        finally:
            _lending.release()
    if out is None:
        out = like.new_empty(size, dtype=kind)
    return out.fill_(torch.nan) if _starts_as_nan else out


def _lend(count: int, kind: torch.dtype) -> torch.Tensor | None:
    """The first bytes of the buffer, or None while they are lent to another call."""
    global _buffer, _lent
    if _lent is not None and _lent() is not None:
        return None
    buffer = _buffer
    if buffer is None or buffer.numel() < count:
        _buffer = buffer = None  # before the next one is made
        _buffer = buffer = torch.empty(count, dtype=torch.uint8, device="cpu")
    out = buffer[:count].view(kind)
    _lent = weakref.ref(out)
    return out


def release_workspace(above: int = 0) -> None:
    """Frees the buffer if it has more bytes than that, at the end of the call that writes to it."""
    global _buffer
    buffer = _buffer
    if buffer is not None and buffer.numel() > above:
        _buffer = None

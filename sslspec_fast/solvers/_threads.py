"""Settings of torch during a solve.

As many threads as a problem can feed: waking one more for microseconds of work costs more than the
work, and on a busy machine each wait for it can take a whole time slice. And float32 products in
float32: what a training run may round to TF32, a Krylov space may not.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["at_most_threads", "full_products"]

_lock = threading.Lock()
_inside = 0
_before = 1


@contextmanager
def at_most_threads(limit: int) -> Iterator[None]:
    """Run torch on at most `limit` threads; restores the setting when the last such run ends."""
    global _inside, _before
    if limit >= torch.get_num_threads():
        yield
        return
    with _lock:
        if _inside == 0:
            _before = torch.get_num_threads()
        torch.set_num_threads(min(limit, torch.get_num_threads()))
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                torch.set_num_threads(_before)


@contextmanager
def full_products(device: torch.device) -> Iterator[None]:
    """float32 matrix products on a GPU without TF32; restores the setting."""
    before = torch.get_float32_matmul_precision()
    if device.type == "cpu" or before == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)

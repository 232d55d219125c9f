"""One thread for small problems: waking a second one for microseconds of work costs more than the
work, and on a busy machine each wait for it can take a whole time slice.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["few_threads"]

_lock = threading.Lock()
_inside = 0
_before = 1


@contextmanager
def few_threads(small: bool) -> Iterator[None]:
    """Run torch on one thread while any small problem is being solved; restores the setting."""
    global _inside, _before
    if not small:
        yield
        return
    with _lock:
        if _inside == 0:
            _before = torch.get_num_threads()
            torch.set_num_threads(1)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                torch.set_num_threads(_before)

"""An error of one rank, on all ranks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from .agreement import fail


@contextlib.contextmanager
def told_to_all(op: str, group: Any) -> Iterator[None]:
    """An exception of this rank reaches the others, which wait in `agree`. Without a group it is
    an exception as any other.
    """
    try:
        yield
    except Exception as error:
        if group is None:
            raise
        fail(op, group, error)

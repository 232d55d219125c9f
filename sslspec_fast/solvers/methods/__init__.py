"""How it is solved: one file per value of `method=`, each (task, plan, probe) -> outcome."""

from __future__ import annotations

from collections.abc import Callable

from ..problem.task import Outcome
from .chebyshev import chebyshev
from .dense import dense
from .lanczos import lanczos
from .lobpcg import lobpcg
from .shift_invert import shift_invert

__all__ = ["METHODS"]

METHODS: dict[str, Callable[..., Outcome]] = {
    method.__name__: method for method in (dense, chebyshev, lanczos, lobpcg, shift_invert)
}

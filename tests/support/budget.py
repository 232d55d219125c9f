"""How many examples a property test draws: the same ones in every run of the suite, or, with
SSLSPEC_FUZZ=N (`make fuzz`), N new ones a test.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings

FUZZ = int(os.environ.get("SSLSPEC_FUZZ") or 0)


def budget(examples: int) -> Callable[[Any], Any]:
    """A decorator: `examples` in the suite."""
    return settings(
        max_examples=FUZZ or examples,
        derandomize=FUZZ == 0,
        deadline=None,
        database=None,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )

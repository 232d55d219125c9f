"""What the commands share: the options of the losses, and how a mistake is told."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..._checks import MEASURES, PENALTIES
from ..gap import CLOSED_FORMS

__all__ = ["METHODS", "for_json", "hyper_parameters", "loss_arguments", "told_in_one_line"]

# The closed forms of any graph and any number of dimensions.
METHODS = {
    name: CLOSED_FORMS[name]
    for name in ("vicreg", "simclr", "barlow_twins", "spectral_contrastive")
}
# Hyper-parameters on the command line; None means the function's own default.
_HYPER = (
    "variance",
    "covariance",
    "invariance",
    "penalty",
    "measure",
    "off_diagonal",
    "center",
)


def loss_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the loss", "defaults are those of the Python functions")
    group.add_argument("--variance", type=float)
    group.add_argument("--covariance", type=float)
    group.add_argument("--invariance", type=float)
    group.add_argument(
        "--penalty",
        choices=PENALTIES,
        help="of vicreg: embed has ls_var by default, gap hinge_std",
    )
    group.add_argument("--measure", choices=MEASURES)
    group.add_argument("--off-diagonal", type=float)
    group.add_argument("--center", action="store_true", default=None)


def hyper_parameters(method: str, options: argparse.Namespace) -> dict[str, Any]:
    """Those given among the options of `loss_arguments`; an error if the loss has no such one."""
    given = {name: getattr(options, name) for name in _HYPER if getattr(options, name) is not None}
    unknown = sorted(set(given) - set(inspect.signature(METHODS[method]).parameters))
    if unknown:
        raise ValueError(f"{method} has no option {', '.join(unknown)}")
    return given


@contextlib.contextmanager
def told_in_one_line(parser: argparse.ArgumentParser, path: Path) -> Iterator[None]:
    """What a file, an option or the machine can be to blame for ends in one line and status 2."""
    try:
        yield
    except (TypeError, ValueError, ImportError, OSError, MemoryError, RuntimeError) as problem:
        text = " ".join(str(problem).split())
        # torch says so in a RuntimeError
        if isinstance(problem, MemoryError) or "allocate memory" in text:
            text = f"{path}: not enough memory for the computation ({text})"
        elif isinstance(problem, RuntimeError):
            raise
        parser.error(text)


def for_json(value: Any) -> Any:
    """The value with null for a number that is not finite, which JSON cannot write."""
    if isinstance(value, dict):
        return {name: for_json(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [for_json(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

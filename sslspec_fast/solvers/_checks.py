"""The settings of `eigsh` and their checks, shared with the closed forms that pass them on."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .._checks import count, number

__all__ = ["Settings", "check_count", "check_settings"]

_ONE_END = ("LA", "SA")
_CHOICES = {
    "which": (*_ONE_END, "LM", "SM", "BE"),
    "method": ("auto", "lanczos", "chebyshev", "lobpcg", "shift_invert", "dense"),
    "precision": ("mixed", "float64", "float32"),
}


@dataclass(frozen=True)
class Settings:
    """The keywords of `eigsh` but for B and group, as they were given."""

    which: str
    method: str
    tol: float
    angle_tol: float | None
    x0: Any
    deflate: Any
    precision: str
    max_iter: int | None
    seed: int
    callback: Callable[[dict[str, Any]], Any] | None
    progress: bool
    certify: bool
    sigma: float | None = None
    preconditioner: Any = None

    @property
    def one_end(self) -> bool:
        """The wanted pairs are those at one end of the spectrum."""
        return self.which in _ONE_END


def check_settings(settings: Mapping[str, Any]) -> None:
    """The keywords of `eigsh` among `settings`; x0 and deflate need A."""
    for name, allowed in _CHOICES.items():
        value = settings.get(name, allowed[0])
        if value not in allowed:
            raise ValueError(f"eigsh: {name} must be one of {allowed}, got {value!r}")
    for name in ("tol", "angle_tol"):
        value = settings.get(name, 1.0)
        if value is None and name == "angle_tol":
            continue
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError(f"eigsh: {name} must be a number, got {type(value).__name__}")
        if not 0 < float(value) < math.inf:
            raise ValueError(f"eigsh: {name} must be a positive number, got {value}")
    if settings.get("max_iter") is not None:
        count("eigsh", "max_iter", settings["max_iter"], 1)
    count("eigsh", "seed", settings.get("seed", 0), 0)
    for name in ("progress", "certify"):
        if not isinstance(settings.get(name, False), bool):
            got = type(settings[name]).__name__
            raise TypeError(f"eigsh: {name} must be True or False, got {got}")
    sigma = settings.get("sigma")
    if sigma is not None:
        number("eigsh", "sigma", sigma)
        if settings["which"] != "LM":
            raise ValueError(
                "eigsh: which must be 'LM' or None with sigma (the nearest to it), got "
                f"{settings['which']!r}"
            )
    _check_preconditioner(settings)
    callback = settings.get("callback")
    if callback is not None and not callable(callback):
        raise TypeError(f"eigsh: callback must be callable, got {type(callback).__name__}")


def _check_preconditioner(settings: Mapping[str, Any]) -> None:
    given = settings.get("preconditioner")
    if given is None:
        return
    if not (callable(given) or hasattr(given, "__matmul__")):
        raise TypeError(
            f"eigsh: preconditioner must be callable or multiply by @, got {type(given).__name__}"
        )
    method, which = settings["method"], settings["which"]
    if method not in ("auto", "lobpcg") or which not in _ONE_END:
        raise ValueError(
            "eigsh: preconditioner must go with method 'auto' or 'lobpcg' and which 'LA' or 'SA', "
            f"got method={method!r}, which={which!r}"
        )


def check_count(k: Any, n: int) -> int:
    k = count("eigsh", "k", k)
    if not 1 <= k <= n:
        raise ValueError(f"eigsh: k must be between 1 and n = {n}, got {k}")
    return k

"""What the methods of `eigsh` call after each step: progress on stderr, and the user's callback."""

from __future__ import annotations

import sys
import time
from typing import Any

from .._checks import Settings
from .over_ranks import of_first_rank

__all__ = ["Watch"]

_SECONDS = 10.0  # between two lines of a log


class Watch:
    """Called with the entry of each step; a true answer asks the method to stop.

    scale: of the problem that the methods solve, whose values are those of the user's divided by
    it.
    """

    def __init__(self, settings: Settings, scale: float | None) -> None:
        self._callback = of_first_rank(settings.callback)
        self._largest, self._scale = settings.which != "SA", scale
        self._progress = _Progress() if settings.progress else None

    @classmethod
    def of(cls, settings: Settings, scale: float | None) -> Watch | None:
        """None where there is nothing to call."""
        return cls(settings, scale) if settings.progress or settings.callback is not None else None

    def __call__(self, entry: dict[str, Any]) -> Any:
        if self._progress is not None:
            self._progress.show(entry)
        if self._callback is None:
            return None
        # the methods compute the largest eigenvalues of -A
        values = entry["values"] if self._largest else 0.0 - entry["values"]
        return self._callback(
            {**entry, "values": values if self._scale is None else values * self._scale}
        )

    def close(self) -> None:
        """The run has ended."""
        if self._progress is not None:
            self._progress.close()


class _Progress:
    """Converged pairs of a run: a bar of tqdm on a terminal, in a log a line now and then.

    A log would keep every state of a bar, which returns to the start of its line.
    """

    def __init__(self) -> None:
        self._bar: Any = None
        self._entry: dict[str, Any] | None = None
        self._due = time.monotonic() + _SECONDS
        if sys.stderr.isatty():
            try:
                from tqdm import tqdm
            except ImportError:  # lines then
                return
            self._bar = tqdm(desc="eigsh", unit="pair", file=sys.stderr)

    def show(self, entry: dict[str, Any]) -> None:
        self._entry = entry
        if self._bar is not None:
            self._bar.total = entry["k"]
            self._bar.n = entry["converged"]
            self._bar.set_postfix_str(_facts(entry))
        elif time.monotonic() >= self._due:
            self._line()

    def _line(self) -> None:
        self._due = time.monotonic() + _SECONDS
        entry = self._entry
        if entry is not None:
            print(
                f"eigsh: {entry['converged']}/{entry['k']} pairs, {_facts(entry)}", file=sys.stderr
            )

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        else:
            self._line()


def _facts(entry: dict[str, Any]) -> str:
    return (
        f"step {entry['iteration']}, {entry['n_matvec']} columns, residual {entry['residual']:.1e}"
    )

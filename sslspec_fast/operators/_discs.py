"""Bounds of the spectrum from the entries of a matrix, found when they are first asked for."""

from __future__ import annotations

from .base import SymmetricOperator


class EntryBounds(SymmetricOperator):
    """An operator with entries. Subclasses set `_bounds`, a pair or None, and define `_gershgorin`,
    an interval that is sure to contain the spectrum, and `_perron`, which may `_narrow` it.
    """

    _bounds: tuple[float, float] | None
    _attained = False  # whether the upper bound is an eigenvalue

    def _gershgorin(self) -> tuple[float, float]:
        raise NotImplementedError

    def _perron(self) -> None:
        raise NotImplementedError

    def bounds(self) -> tuple[float, float]:
        if self._bounds is None:
            self._bounds = self._gershgorin()
            self._perron()
        return self._bounds

    def top_attained(self) -> bool:
        self.bounds()
        return self._attained or super().top_attained()

    def _narrow(self, low: float, high: float) -> None:
        """Entries >= 0: the top lies in [low, high], and the bottom is at least -top."""
        assert self._bounds is not None
        if high < self._bounds[1]:
            self._bounds = (max(self._bounds[0], -high), high)
        if high - low <= 1e-13 * high and high >= self._bounds[1]:
            # the row sums round: leave room for the eigenvalue itself
            self._bounds = (self._bounds[0], high * (1 + 1e-14))
            self._attained = True

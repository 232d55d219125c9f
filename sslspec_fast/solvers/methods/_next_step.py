"""What a Davidson run does after a Rayleigh-Ritz step, decided from a few facts about it.

A run ends well only where nothing can be missing: its basis spans the whole space, its start block
and values leave no room for missed pairs, or a search for them has left the wanted values alone.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["State", "Step", "next_step"]


class Step(enum.Enum):
    """The next step. All but the first two end the run, and their text is the reason it gives."""

    EXPAND = "expand the basis"
    SEARCH_MISSED = "search for missed pairs"
    ACCEPT = "tolerance met"
    WHOLE_SPACE = "the basis spans the whole space"
    STOPPED = "stopped by the callback"
    MAX_ITER = "max_iter reached"
    ROUNDING = "no new directions: rounding level reached"
    OVERFLOW = "the search for missed directions overflowed"

    @property
    def ends(self) -> bool:
        return self not in (Step.EXPAND, Step.SEARCH_MISSED)


@dataclass(frozen=True)
class State:
    """A run after Rayleigh-Ritz."""

    size: int  # columns of the basis
    k: int  # wanted pairs
    free: int  # columns that a basis of the whole space has
    converged: bool = False  # no Ritz pair is left to improve
    may_miss: bool = False  # the start block or the values leave room for missed pairs
    confirmed: bool = False  # the wanted values are those before the last search
    exhausted: bool = False  # random directions have brought nothing new
    stopped: bool = False  # the callback has asked to stop
    out_of_steps: bool = False  # max_iter is exceeded

    @property
    def enough(self) -> bool:
        """There are k pairs to return; a run that is cut short goes on until then."""
        return self.size >= min(self.k, self.free)

    @property
    def complete(self) -> bool:
        """No wanted pair can be missing."""
        if self.size >= self.free:
            return True
        return self.enough and (self.confirmed or not self.may_miss)

    @property
    def cut_short(self) -> bool:
        return (self.stopped and self.enough) or self.out_of_steps


def next_step(state: State) -> Step:
    """EXPAND, SEARCH_MISSED, or the reason to stop."""
    settled = state.converged or state.exhausted
    if settled and state.enough and not state.complete and not state.cut_short:
        return Step.SEARCH_MISSED
    if state.converged and state.complete:
        return Step.ACCEPT
    if state.size >= state.free:
        return Step.WHOLE_SPACE
    if state.stopped and state.enough:
        return Step.STOPPED
    if state.out_of_steps and state.enough:
        return Step.MAX_ITER
    return Step.EXPAND

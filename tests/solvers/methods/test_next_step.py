"""What a Davidson run does next, as a table of the facts that decide it."""

from __future__ import annotations

import itertools

import pytest

from sslspec_fast.solvers.methods._next_step import State, Step, next_step

HALF, FEW, ALL = 30, 2, 100  # columns: enough for 10 pairs, too few, the whole space


def state(size: int, *facts: str) -> State:
    return State(size, 10, 100, **dict.fromkeys(facts, True))


TABLE = [
    # not yet converged
    (state(HALF), Step.EXPAND),
    (state(FEW), Step.EXPAND),
    (state(HALF, "may_miss"), Step.EXPAND),
    # converged, and nothing can be missing
    (state(HALF, "converged"), Step.ACCEPT),
    (state(HALF, "converged", "may_miss", "confirmed"), Step.ACCEPT),
    (state(ALL, "converged", "may_miss"), Step.ACCEPT),
    # converged, and pairs may be missing
    (state(HALF, "converged", "may_miss"), Step.SEARCH_MISSED),
    # a stalled run is searched before it is given up
    (state(HALF, "exhausted", "may_miss"), Step.SEARCH_MISSED),
    (state(HALF, "exhausted"), Step.EXPAND),
    (state(FEW, "exhausted", "may_miss"), Step.EXPAND),
    # nothing is left outside the basis
    (state(ALL), Step.WHOLE_SPACE),
    (state(ALL, "stopped", "out_of_steps", "may_miss"), Step.WHOLE_SPACE),
    # cut short: k pairs are returned, without a search
    (state(HALF, "stopped"), Step.STOPPED),
    (state(HALF, "stopped", "out_of_steps"), Step.STOPPED),
    (state(HALF, "out_of_steps"), Step.MAX_ITER),
    (state(HALF, "converged", "may_miss", "stopped"), Step.STOPPED),
    (state(HALF, "converged", "may_miss", "out_of_steps"), Step.MAX_ITER),
    (state(FEW, "stopped"), Step.EXPAND),
    (state(FEW, "out_of_steps"), Step.EXPAND),
    # a good end comes before a short one
    (state(HALF, "converged", "stopped", "out_of_steps"), Step.ACCEPT),
]


@pytest.mark.parametrize(("given", "step"), TABLE)
def test_the_next_step(given: State, step: Step) -> None:
    assert next_step(given) is step


def every_state() -> list[State]:
    facts = ("converged", "may_miss", "confirmed", "exhausted", "stopped", "out_of_steps")
    return [
        state(size, *(name for name, on in zip(facts, chosen, strict=True) if on))
        for size in (FEW, HALF, ALL)
        for chosen in itertools.product((False, True), repeat=len(facts))
    ]


def test_no_run_ends_well_while_pairs_may_be_missing() -> None:
    for given in every_state():
        if next_step(given) in (Step.ACCEPT, Step.WHOLE_SPACE):
            assert given.size == ALL or not given.may_miss or given.confirmed


def test_every_end_has_k_pairs_to_return() -> None:
    for given in every_state():
        assert given.size >= 10 or not next_step(given).ends


def test_a_search_runs_only_for_what_is_left() -> None:
    for given in every_state():
        if next_step(given) is Step.SEARCH_MISSED:
            assert HALF <= given.size < ALL
            assert given.may_miss
            assert not given.confirmed
            assert not given.stopped
            assert not given.out_of_steps

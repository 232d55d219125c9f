"""Every loss over ranks is the loss of one process that holds all rows, in value and gradient."""

from __future__ import annotations

import pytest

from ..support.ranks.batch import SPLITS
from ..support.ranks.cases import CASES
from ..support.ranks.pool import Pool
from ..support.ranks.work import equal_to_one_process

SUMS = [(name, "sum") for name, case in CASES.items() if case.rows]
MEANS = [(name, "mean" if case.rows else None) for name, case in CASES.items()]
ROWS = [(name, "none") for name, case in CASES.items() if case.rows]


def worst(pool: Pool, name: str, reduction: str | None, impl: str, ranks: int) -> float:
    """The largest error on any rank for any split; the bits of a value are the same on all."""
    answers = pool.run(equal_to_one_process, name, SPLITS[ranks], reduction, impl, ranks=ranks)
    flat = [found for rank in answers for found in rank]
    assert all(found["bits"] and found["finite"] for found in flat)
    return max(max(found[k] for k in ("value", "terms", "gradient")) for found in flat)


@pytest.mark.parametrize("ranks", SPLITS)
@pytest.mark.parametrize(("name", "reduction"), MEANS)
def test_means_are_those_of_one_process(
    pool: Pool, name: str, reduction: str | None, ranks: int
) -> None:
    assert worst(pool, name, reduction, "fused", ranks) < 1e-12


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize(("name", "reduction"), ROWS)
def test_rows_take_any_gradient(pool: Pool, name: str, reduction: str, ranks: int) -> None:
    assert worst(pool, name, reduction, "fused", ranks) < 1e-12


@pytest.mark.parametrize(("name", "reduction"), SUMS)
def test_sums_are_those_of_one_process(pool: Pool, name: str, reduction: str) -> None:
    assert worst(pool, name, reduction, "fused", 2) < 1e-12


@pytest.mark.parametrize(("name", "reduction"), MEANS + ROWS)
def test_the_reference_over_ranks_is_the_same_loss(
    pool: Pool, name: str, reduction: str | None
) -> None:
    assert worst(pool, name, reduction, "torch", 3) < 1e-12

"""Closed forms of a graph whose rows are spread over ranks are those of one process."""

from __future__ import annotations

import pytest

from ..support.ranks.closed_forms import CALLS, compare, components, error, tensor
from ..support.ranks.pool import Pool

SPLITS = {"whole": (500, 300), "pieces": (300, 0, 260, 240), "signed": (700, 100)}
CASES = [(name, kind) for name in CALLS for kind in ("whole", "pieces")]
CASES += [(name, "signed") for name in CALLS if name.startswith("simclr")]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_ranks_are_one_process(pool: Pool, name: str, kind: str) -> None:
    answers = pool.run(compare, SPLITS[kind], name, kind, ranks=len(SPLITS[kind]))
    for found in answers:
        assert found["shape"]
        assert found["rank"]
        assert found["ours"] == found["one"]
        assert found["loss"] < 1e-12
        assert found["eigenvalues"] < 1e-11
        assert found["filter"] < 1e-10
        assert found["embedding"] < 1e-6
        assert found["bits"] == answers[0]["bits"]


@pytest.mark.parametrize("split", [(60, 40), (100, 0), (1, 30, 0, 69)])
def test_components(pool: Pool, split: tuple[int, ...]) -> None:
    assert all(pool.run(components, split, ranks=len(split)))


def test_tensors(pool: Pool) -> None:
    assert all(pool.run(tensor, ranks=2))


@pytest.mark.parametrize(
    ("name", "here", "elsewhere"),
    [
        ("option", "ValueError: vicreg: variance must be the same .* 0 has 1.0, rank 1 has 2.0", 0),
        ("k", "ValueError: simclr: k must be the same .* 0 has 5, rank 1 has 6", 0),
        ("features", "NotImplementedError: barlow_twins: features with a group", 0),
        ("graph", "TypeError: .* got ndarray", "rank 1 of 2 failed with TypeError: .* ndarray"),
        ("symmetric", "ValueError: simclr: A must be symmetric", 0),
        ("edges", "ValueError: graph must have at least one edge", 0),
        ("transform", "ValueError: transform: .* its rows are spread over ranks", 0),
    ],
)
def test_errors_are_raised_on_all_ranks(
    pool: Pool, name: str, here: str, elsewhere: str | int
) -> None:
    pool.check_errors(error, name, here=here, elsewhere=elsewhere)

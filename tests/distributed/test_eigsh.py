"""`eigsh` over ranks: the values, vectors, steps and products of one process."""

from __future__ import annotations

from typing import Any

import pytest

from ..support.ranks.eigsh import by_polynomial, error, operators, run, small, stopped
from ..support.ranks.pool import Pool

SPLITS = [(500, 400), (900, 0), (500, 0, 150, 250)]


def check(answers: list[dict[str, Any]], accuracy: float = 1e-13, vectors: float = 1e-7) -> None:
    for found in answers:
        assert found["rows"]
        assert found["type"]
        assert found["values"] <= accuracy
        assert found["vectors"] <= vectors
        assert found["ours"] == found["one"]
        assert found["bits"] == answers[0]["bits"]
        one, ours = found["gap"]
        assert ours == pytest.approx(one, abs=1e-2)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", ["chebyshev", "auto", "x0", "deflate", "groups", "known"])
def test_ranks_are_one_process(pool: Pool, name: str, split: tuple[int, ...]) -> None:
    check(pool.run(run, split, name, ranks=len(split)))


@pytest.mark.parametrize(
    "name", ["lanczos", "smallest", "mixed", "ones", "tiny", "angle", "one pair"]
)
def test_two_ranks_are_one_process(pool: Pool, name: str) -> None:
    check(pool.run(run, (300, 600), name, ranks=2))


def test_float32_of_torch(pool: Pool) -> None:
    check(pool.run(run, (300, 600), "float32 torch", ranks=2), accuracy=1e-6, vectors=1e-2)


@pytest.mark.parametrize("split", [(1500, 2500), (2000, 0, 600, 1400)])
def test_a_probe_by_a_polynomial(pool: Pool, split: tuple[int, ...]) -> None:
    check(pool.run(by_polynomial, split, ranks=len(split)), accuracy=1e-10)


@pytest.mark.parametrize("split", [(3, 0, 1, 0), (20, 7, 0, 13)])
@pytest.mark.parametrize("method", ["auto", "dense"])
def test_small_problems_are_gathered(pool: Pool, split: tuple[int, ...], method: str) -> None:
    check(pool.run(small, split, method, ranks=4))


def test_the_first_rank_decides_to_stop(pool: Pool) -> None:
    for calls, reason, right in pool.run(stopped, ranks=2):
        assert calls == 2
        assert right
        assert "stopped by the callback" in reason


@pytest.mark.parametrize("split", SPLITS)
def test_operators(pool: Pool, split: tuple[int, ...]) -> None:
    assert max(pool.run(operators, split, ranks=len(split))) < 1e-14


@pytest.mark.parametrize(
    ("name", "here", "elsewhere"),
    [
        ("tol", "ValueError: eigsh: tol must be the same .* 0 has 0.0001, rank 1 has 0.001", 0),
        ("negative", "ValueError: .* positive number, got -1.0", "rank 1 of 2 failed with .* -1.0"),
        ("columns", "ValueError: .* columns of A must be .* has 900, rank 1 has 899", 0),
        ("rows", r"ValueError: .* the ranks have rows, 899 = 400 \+ 499, got 900", 0),
        ("finite", "ValueError: .* A must be finite", "rank 1 of 2 failed .* must be finite"),
        ("symmetric", "ValueError: eigsh: A must be symmetric, got x'Ay", 0),
        ("dense", "TypeError: .* got ndarray", "rank 1 of 2 failed with TypeError.* ndarray"),
        ("method", "NotImplementedError: .* 'dense'.* with a group, got 'lobpcg'", 0),
        ("which", "NotImplementedError: eigsh: which must be .* with a group, got which='BE'", 0),
        ("certify", "NotImplementedError: eigsh: certify together with a group", 0),
        ("B", "NotImplementedError: eigsh: B together with a group", 0),
        ("k", "ValueError: eigsh: k must be between 1 and n = 900, got 901", 0),
        ("x0 rows", r"ValueError: .* x0 must be \(n = 500, .* \(499, 2\)", "rank 1 failed .* x0"),
        ("x0 columns", r"ValueError: .* x0 must be .* columns \(2,\), rank 1 .* \(3,\)", 0),
        ("dependent", "ValueError: eigsh: deflate must have linearly independent columns", 0),
        ("local groups", "ValueError: .* GroupVectors.*group=group.*", 0),
        ("callback", "ZeroDivisionError", "OtherRankError: eigsh: rank 1 failed with ZeroDivision"),
        ("decision", "OtherRankError: eigsh: ranks must come to the same decisions", 0),
    ],
)
def test_errors_are_raised_on_all_ranks(
    pool: Pool, name: str, here: str, elsewhere: str | int
) -> None:
    pool.check_errors(error, name, here=here, elsewhere=elsewhere)

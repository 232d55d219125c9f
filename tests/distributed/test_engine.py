"""The collectives with a gradient, the agreement, and what travels."""

from __future__ import annotations

import pytest

from ..support.ranks import engine
from ..support.ranks.pool import Pool


def test_ranks_learn_the_rows_of_each_other(pool: Pool) -> None:
    answers = pool.run(engine.agreed, (4, 0, 7), ranks=3)
    for rank, (counts, n, here, offsets, more, own) in enumerate(answers):
        assert counts == (4, 0, 7)
        assert n == 11
        assert offsets == [0, 4, 4]
        assert here == slice(offsets[rank], offsets[rank] + counts[rank])
        assert more == (0, 10, 20)
        assert own


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_a_collective_has_the_gradient_of_its_definition(pool: Pool, ranks: int) -> None:
    for errors in pool.run(engine.vector_jacobian, ranks=ranks):
        assert max(errors.values()) < 1e-12, errors


N, ROW = 64, 4  # rows of a rank, bytes of an element

# bytes per row of a rank, of columns; of the rest, statistics of rows and the agreement
ROWS = {
    "nt_xent": (2 * ROW, 32),  # both views
    "dcl": (2 * ROW, 32),
    "info_nce": (2 * ROW, 8),  # keys, and their gradient
    "clip": (2 * ROW, 24),
    "siglip": (2 * ROW, 8),
    "info_nce, target": (2 * ROW, 8),
    "gram_anchor": (0, 0),
    "graph_siglip": (2 * ROW, 64),  # and a row for an edge to another rank, see below
    "graph_info_nce, per positive": (2 * ROW, 64),
}
FETCHED = {"graph_siglip": 1, "graph_info_nce, per positive": 1}  # and its gradient goes back


@pytest.mark.parametrize("name", ROWS)
def test_bytes_of_rows_are_those_of_the_formula(pool: Pool, name: str) -> None:
    """To every other rank: rows, their gradient where it is made elsewhere, a few statistics."""
    small, large = (pool.run(engine.sent, name, d, ranks=3) for d in (16, 48))
    per_column, statistics = ROWS[name]
    for (few, quiet), (many, _) in zip(small, large, strict=True):
        assert quiet == 0
        rows = (2 * N + FETCHED.get(name, 0)) * per_column
        assert many - few == rows * (48 - 16)
        assert few <= 2 * (N * (per_column * 16 + statistics) + 400)


@pytest.mark.parametrize("name", ["vicreg", "barlow_twins", "spectral_contrastive"])
def test_the_side_that_sends_less_is_taken(pool: Pool, name: str) -> None:
    """192 rows of all ranks: 16 columns send (d, d) matrices, 512 columns rows."""
    for d, rows in ((16, False), (512, True)):
        for sent, quiet in pool.run(engine.sent, name, d, ranks=3):
            assert quiet == 0
            of_rows = 2 * 2 * N * d * ROW  # both views, to two ranks
            columns = 2 * 2 * 2 * d * d * ROW  # two matrices, by all_reduce
            statistics = 2 * 12 * d * 8 + 2000
            assert sent <= (of_rows if rows else columns) + statistics


def test_rows_send_their_gradients_in_backward(pool: Pool) -> None:
    assert all(pool.run(engine.none_sends_in_backward, ranks=3))

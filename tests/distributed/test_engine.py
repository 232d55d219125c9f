"""The collectives with a gradient, the agreement, and what travels."""

from __future__ import annotations

import pytest

from sslspec_fast.bench.memory import available

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

# bytes of columns, for each row of a rank and beside rows; of statistics, for each row and beside
PROTOTYPES = (0, engine.K * ROW, 0, 400)  # their gradient
BYTES = {
    "nt_xent": (2 * ROW, 0, 32, 400),  # both views
    "dcl": (2 * ROW, 0, 32, 400),
    "sup_con": (ROW, 2 * 5 * ROW, 32, 800),  # sums of 5 classes, and their gradient
    "info_nce": (2 * ROW, 0, 8, 400),  # keys, and their gradient
    "info_nce, target": (2 * ROW, 0, 8, 400),
    "clip": (2 * ROW, 0, 24, 400),
    "matryoshka": (2 * ROW, 0, 48, 800 + 8 * N * 2 * ROW),  # and a prefix of 8 columns
    "siglip": (2 * ROW, 0, 8, 400),
    "koleo": (2 * ROW, 0, 8, 400),
    "x_clr": (3 * ROW, 0, 8, 400),  # rows, their gradient and targets
    "graph_siglip": (2 * ROW, ROW, 64, 400),  # an edge to one of the others fetches a row
    "graph_info_nce, per positive": (2 * ROW, ROW, 64, 400),
    "dirichlet_energy": (0, 2 * ROW, 0, 400),  # for two edges, each to one of the other ranks
    "sigreg, pairs": (ROW, 0, 8, 400),
    "sigreg": (0, 0, 0, 16 * 2 * 17 * 24),  # 2 views, 17 knots, 24 directions
    **dict.fromkeys(("dino", "ibot", "swav", "msn", "proto_nce"), PROTOTYPES),
    "prototype_cross_entropy": PROTOTYPES,
    "column_mean": (0, ROW, 0, 400),
    **dict.fromkeys(("negative_cosine", "falcon", "moco", "ressl", "gram_anchor"), (0, 0, 0, 400)),
}


@pytest.mark.parametrize("name", BYTES)
def test_bytes_are_those_of_the_formula(pool: Pool, name: str) -> None:
    """To every other rank: rows, their gradient where it is made elsewhere, a few statistics."""
    small, large = (pool.run(engine.sent, name, d, ranks=3) for d in (16, 48))
    per_row, beside, per_statistic, statistics = BYTES[name]
    for (few, quiet), (many, _) in zip(small, large, strict=True):
        assert quiet == 0
        assert many - few == 2 * (N * per_row + beside) * (48 - 16)
        assert few <= 2 * (N * (per_row * 16 + per_statistic) + beside * 16 + statistics)


LINEAR = ["nt_xent", "dcl", "sup_con", "info_nce", "info_nce, target", "clip", "siglip"]
LINEAR += ["graph_siglip", "graph_info_nce, per positive", "x_clr", "vicreg", "barlow_twins"]
LINEAR += ["spectral_contrastive", "sigreg, pairs"]


@pytest.mark.skipif(not available(), reason="no peak memory of a process")
@pytest.mark.parametrize("name", LINEAR)
def test_no_rank_holds_its_pairs(pool: Pool, name: str) -> None:
    """Of 2048 rows by 8192 a matrix of float32 would be 64 MiB; rows and gradients are 8 MiB."""
    assert max(pool.run(engine.peak, name, 2048, 32)) < 32


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

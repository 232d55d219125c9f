"""Our classes beside lightly's and open_clip's over four ranks with equal batches."""

from __future__ import annotations

import pytest

from ..support.ranks import peers
from ..support.ranks.pool import Pool


@pytest.mark.parametrize("name", ["nt_xent", "dcl", "vicreg", "clip", "siglip", "swav", "msn"])
def test_value_is_their_mean_and_the_gradient_theirs(pool: Pool, name: str) -> None:
    for found in pool.run(peers.compared, name):
        assert found["value"] < 1e-12, found
        assert found["gradient"] < 1e-12, found


def test_directions_of_the_first_rank_serve_all(pool: Pool) -> None:
    """lightly broadcasts its directions; its sums over ranks have the gradient of W losses, too."""
    for found in pool.run(peers.compared, "sigreg"):
        assert found["value"] < 1e-6, found  # float32 directions
        assert found["gradient"] < 1e-6, found


def test_open_clip_without_gradients_of_gathered_rows(pool: Pool) -> None:
    """Its default has 1 / W of the gradient; local_loss alone has another direction."""
    for found in pool.run(peers.compared, "clip without gradient"):
        assert found["value"] < 1e-12, found
        assert found["ratio"] == pytest.approx(4)
        assert found["direction"] < 1e-12, found
    for found in pool.run(peers.compared, "clip local"):
        assert found["value"] < 1e-12, found
        assert found["direction"] > 0.01, found


@pytest.mark.parametrize("name", ["dclw", "barlow_twins", "msn, mean code"])
def test_statistics_of_a_rank_make_another_loss(pool: Pool, name: str) -> None:
    """lightly's weights of DCLW, moments of Barlow Twins and mean code of MSN are those of the rows
    of a rank.
    """
    assert all(found["value"] > 1e-4 for found in pool.run(peers.compared, name))


@pytest.mark.parametrize("split", [(2, 2, 2, 2), (3, 0, 4, 1)])
@pytest.mark.parametrize("name", peers.TRAINED)
def test_training_ends_where_their_test_of_two_processes_does(
    pool: Pool, name: str, split: tuple[int, ...]
) -> None:
    assert max(pool.run(peers.trained, name, split)) < 1e-7

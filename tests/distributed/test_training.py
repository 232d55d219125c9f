"""Training steps over ranks: factors, accumulation, sharded weights, pieces, dtypes, compile."""

from __future__ import annotations

import pytest
import torch
import torch.distributed.fsdp

from sslspec_fast.losses.over_ranks._form import FORMS, SCALE

from ..support.ranks import training
from ..support.ranks.pool import Pool

SOFTMAX = ["nt_xent", "dcl", "info_nce", "clip", "siglip", "sup_con", "info_nce, threshold"]
SOFTMAX += ["graph_info_nce", "graph_info_nce, non_positive", "graph_info_nce, per_positive"]
SOFTMAX += ["graph_siglip", "info_nce, target", "info_nce, weights"]
SOFTMAX += ["info_nce, negatives of each query"]


def test_every_loss_with_a_scale_is_here() -> None:
    # The mean of DDP hides a scale whose gradient is not that of all ranks on each of them.
    scaled = {name for name, form in FORMS.items() if SCALE in form.tensors.values()}
    assert scaled - {name.split(",")[0] for name in training.LOSSES} == set()


@pytest.mark.parametrize("name", training.LOSSES)
def test_gradients_of_a_rank_and_factors_from_above(pool: Pool, name: str) -> None:
    for errors in pool.run(training.factors, name, ranks=3):
        assert max(errors.values()) < 1e-12, errors


@pytest.mark.parametrize("name", ["nt_xent", "clip", "siglip", "barlow_twins", "sigreg", "koleo"])
def test_the_reference_has_second_derivatives(pool: Pool, name: str) -> None:
    assert max(pool.run(training.second_derivative, name, ranks=3)) < 1e-11


@pytest.mark.parametrize("name", SOFTMAX)
def test_rows_in_pieces_give_the_same_loss(pool: Pool, name: str) -> None:
    for error, more in pool.run(training.pieces, name, 300, ranks=3):
        assert error < 1e-13
        assert more or "siglip" in name  # gathered again for the gradient, of what has rows


@pytest.mark.parametrize("name", training.LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_errors_are_those_of_one_process(pool: Pool, name: str, dtype: torch.dtype) -> None:
    """At most twice the error of the fused loss of one process, and the rounding of its result."""
    unit = torch.finfo(dtype).eps
    for found in pool.run(training.rounding, name, dtype, ranks=3):
        assert found["over"] <= 2 * found["one"] + unit, found
        assert found["dtype"] == 1.0


def test_a_rank_may_skip_its_backward(pool: Pool) -> None:
    assert all(pool.run(training.skipped_backward, ranks=3))


def test_accumulation_under_no_sync(pool: Pool) -> None:
    assert max(pool.run(training.accumulated, ranks=3)) < 1e-12


@pytest.mark.parametrize("ranks", [2, 3])  # one of three has no rows
@pytest.mark.parametrize("order", ["around", "inside"])
def test_cached_gradients_are_reduced_once(pool: Pool, order: str, ranks: int) -> None:
    for found in pool.run(training.cached, order, ranks=ranks):
        assert found["error"] < 1e-12
        assert found["reductions"] == 1  # of two steps, in one bucket


@pytest.mark.skipif(not hasattr(torch.distributed.fsdp, "fully_shard"), reason="torch < 2.6")
def test_cached_gradients_of_sharded_weights(pool: Pool) -> None:
    for found in pool.run(training.cached, "sharded"):
        assert found["error"] < 1e-12


def test_a_mesh_is_a_group(pool: Pool) -> None:
    for error, refused in pool.run(training.meshes):
        assert error < 1e-12
        assert "group must be a process group or a mesh of 1 dimension, got a mesh of 2" in refused


@pytest.mark.skipif(not hasattr(torch.distributed.fsdp, "fully_shard"), reason="torch < 2.6")
def test_sharded_weights_and_scale(pool: Pool) -> None:
    for errors in pool.run(training.sharded):
        assert max(errors.values()) < 1e-12, errors


@pytest.mark.parametrize(
    "name",
    [
        *("nt_xent", "clip", "siglip", "vicreg", "sigreg", "lejepa", "dino", "swav", "x_clr"),
        *("info_nce, target", "info_nce, weights", "info_nce, negatives of each query"),
        "gram_anchor",
    ],
)
def test_one_compiled_graph(pool: Pool, name: str) -> None:
    for errors in pool.run(training.compiled, name, ranks=2):
        assert max(errors.values()) < 1e-12, errors


def test_the_order_of_collectives_is_kept_in_a_compiled_graph(pool: Pool) -> None:
    assert max(pool.run(training.beside_other_collectives, ranks=3)) < 1e-12


def test_a_group_is_smaller_than_that_of_data_parallelism(pool: Pool) -> None:
    assert max(pool.run(training.groups_of_a_step)) < 1e-12


@pytest.mark.parametrize("name", ["nt_xent", "clip", "siglip", "vicreg", "sup_con", "dino"])
def test_autocast_changes_no_bit_of_a_loss(pool: Pool, name: str) -> None:
    for moved, error in pool.run(training.under_autocast, name, ranks=3):
        assert moved == 0
        assert error < 2e-2

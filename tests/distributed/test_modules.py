"""Modules over ranks: `group`, lightly's gather_distributed, open_clip's rank and world_size."""

from __future__ import annotations

import pytest

from ..support.ranks import objects
from ..support.ranks.pool import Pool

CASES = [
    *((name, "group") for name in objects.PAIRS),
    *((name, "gather_distributed") for name in objects.GATHERED),
    ("CLIPLoss", "open_clip"),
    ("SigLIPLoss", "open_clip"),
]


@pytest.mark.parametrize(("name", "how"), CASES)
def test_a_module_over_ranks_is_the_module_of_one_process(pool: Pool, name: str, how: str) -> None:
    ranks = 3 if how == "group" else None  # the others stand for all processes
    for errors in pool.run(objects.module, name, how, ranks=ranks):
        assert max(errors.values()) < 1e-12, errors


@pytest.mark.parametrize("name", objects.SENTENCES)
def test_losses_of_sentences_across_devices(pool: Pool, name: str) -> None:
    for errors in pool.run(objects.of_sentences, name):
        assert max(errors.values()) < 1e-12, errors


def test_memory_bank_has_the_rows_of_all_ranks(pool: Pool) -> None:
    assert max(pool.run(objects.bank, ranks=3)) < 1e-6  # the bank is in float32


def test_moco_with_the_keys_of_all_ranks(pool: Pool) -> None:
    assert max(pool.run(objects.queue, ranks=3)) < 1e-12


def test_directions_over_ranks(pool: Pool) -> None:
    for found in pool.run(objects.drawn, ranks=3):
        assert found.pop("differ")
        assert max(found.values()) < 1e-12, found


@pytest.mark.parametrize("labels", ["none", "integers", "floats"])
@pytest.mark.parametrize("mode", ["all", "one"])
def test_sup_con_takes_the_labels_of_own_samples(pool: Pool, labels: str, mode: str) -> None:
    assert max(pool.run(objects.sup_con, labels, mode, mode == "all", ranks=3)) < 1e-12


def test_a_module_keeps_its_group(pool: Pool) -> None:
    for found in pool.run(objects.held, ranks=3):
        assert found["repr"] == "CLIPLoss(group of 3)"
        assert found["state"] == 0
        assert found["copy"]
        assert "CLIPLoss: a module with a process group cannot be pickled" in found["pickle"]
        assert "RuntimeError" in found.get("mask", "") or "mask must be None" in found["mask"]
        assert "CLIPLoss: rank and world_size must be those of the group" in found["rank"]
        assert "SigLIPLoss: rank and world_size must be those of the group" in found["size"]

"""What the losses over prototypes have over ranks beside their values: biases, modules, centers."""

from __future__ import annotations

import pytest

from ..support.ranks import failures, prototypes
from ..support.ranks.batch import SPLITS
from ..support.ranks.pool import Pool


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("impl", ["fused", "torch"])
@pytest.mark.parametrize("ranks", SPLITS)
def test_column_values_are_those_of_one_process(
    pool: Pool, ranks: int, impl: str, kept: bool
) -> None:
    found = pool.run(prototypes.column_values, SPLITS[ranks], impl, kept, ranks=ranks)
    assert max(found) < 1e-12


@pytest.mark.parametrize("name", prototypes.MODULES)
def test_a_module_over_ranks_is_the_module_of_one_process(pool: Pool, name: str) -> None:
    # by all processes, since a center without a group is that of all of them
    assert max(pool.run(prototypes.module, name, False)) < 1e-12


@pytest.mark.parametrize("name", prototypes.GATHERED)
def test_gathered_modules_have_the_rows_of_all_processes(pool: Pool, name: str) -> None:
    assert max(pool.run(prototypes.module, name, True)) < 1e-12


def test_a_center_of_all_processes_tells_them_of_an_error(pool: Pool) -> None:
    odd, *others = pool.run(failures.told, "an error beside a center")[1::-1]
    assert odd[:2] == ("ValueError", "dino: student_temperature must be finite and > 0, got -1.0")
    for kind, text, _ in others:
        assert kind == "RuntimeError"
        assert text.startswith("column_mean: rank 1 of 4 failed with ValueError: dino: student_tem")
    for kind, text, _ in pool.run(failures.told, "logits of a center"):
        assert kind == "ValueError"
        assert text.startswith("column_mean: the number of features must be the same on all ranks")


def test_centers_are_those_of_all_ranks(pool: Pool) -> None:
    for found in pool.run(prototypes.centers):
        assert max(found.values()) < 1e-15, found

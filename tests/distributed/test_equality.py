"""Every loss over ranks is the loss of one process that holds all rows, in value and gradient."""

from __future__ import annotations

import inspect
import re

import pytest

import sslspec_fast.functional as F
from sslspec_fast.losses._catalogue import CATALOGUE
from sslspec_fast.losses.over_ranks._form import FORMS

from ..support.ranks.batch import SPLITS
from ..support.ranks.cases import CASES
from ..support.ranks.pool import Pool
from ..support.ranks.work import equal_to_one_process

SUMS = [(name, "sum") for name, case in CASES.items() if case.rows]
MEANS = [(name, "mean" if case.rows else None) for name, case in CASES.items()]
# names of cases of a loss, where they are not its own; the others are in test_graphs.py
SHORT = {"graph_spectral_contrastive": "graph_spectral", "dirichlet_energy": "dirichlet"}
MATRICES = ("graph_covariance",)
ROWS = [(name, "none") for name, case in CASES.items() if case.rows]


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_loss_and_option_has_a_case(name: str) -> None:
    named = [re.split("[, ]", case)[0] for case in CASES]
    assert name in MATRICES or SHORT.get(name, name) in named
    if name != "matryoshka":  # which takes the form of its loss
        checked = inspect.signature(FORMS[name].check).parameters
        keywords = set(inspect.signature(getattr(F, name)).parameters)
        assert keywords - set(checked) <= {"impl", "group", "return_terms"}


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


@pytest.mark.parametrize("ranks", SPLITS)
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

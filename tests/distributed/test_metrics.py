"""Metrics over ranks are those of one process that holds all rows, with the same bits on each."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ..support.ranks.metrics import (
    accumulated,
    batch_metrics,
    error,
    gradients,
    second_derivative,
    torchmetrics_collection,
)
from ..support.ranks.pool import Pool

SPLITS = [(14, 12), (26, 0), (4, 0, 22), (8, 6, 0, 12)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("split", SPLITS)
def test_batch_metrics(pool: Pool, split: tuple[int, ...], dtype: torch.dtype) -> None:
    answers = pool.run(batch_metrics, split, dtype, ranks=len(split))
    for got, want in answers:
        for name, value in want.items():
            tolerance = 1e-12 if dtype == torch.float64 else 1e-5
            np.testing.assert_allclose(got[name], value, rtol=tolerance, err_msg=name)
            assert got[name] == answers[0][0][name], f"other bits: {name}"
            assert got[name].dtype == value.dtype


@pytest.mark.parametrize("split", SPLITS)
def test_gradients(pool: Pool, split: tuple[int, ...]) -> None:
    for got, want in pool.run(gradients, split, ranks=len(split)):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14)


def test_second_derivatives_are_refused(pool: Pool) -> None:
    with pytest.raises(AssertionError, match="NotImplementedError"):
        pool.run(second_derivative, ranks=2)


@pytest.mark.parametrize("split", SPLITS)
def test_accumulators(pool: Pool, split: tuple[int, ...]) -> None:
    answers = pool.run(accumulated, split, ranks=len(split))
    for got, want in answers:
        assert got == answers[0][0]
        assert got == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("split", SPLITS)
def test_torchmetrics_classes(pool: Pool, split: tuple[int, ...]) -> None:
    pytest.importorskip("torchmetrics")
    answers = pool.run(torchmetrics_collection, split, ranks=len(split))
    for got, want in answers:
        assert got == answers[0][0]
        assert got == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "here", "elsewhere"),
    [
        (
            "features",
            "ValueError: uniformity: features must be the same .* has 5, rank 1 has 4",
            0,
        ),
        ("option", "ValueError: alignment: alpha must be the same .* 0 has 2.0, rank 1 has 3.0", 0),
        ("dtype", "ValueError: effective_rank: dtype must be the same .*float64.*float32", 0),
        (
            "own",
            "ValueError: neighborhood_accuracy: labels must be >= 0, got -2",
            "RuntimeError: neighborhood_accuracy: rank 1 of 2 failed with ValueError: .* got -2",
        ),
        (
            "isolated",
            "ValueError: lidar: graph.n must match the 6 rows of z, got 5",
            "RuntimeError: lidar: rank 1 of 2 failed with ValueError: .* got 5",
        ),
        ("too few", "ValueError: uniformity: the ranks must hold at least 2 rows, got 1", 0),
        ("no classes", "ValueError: lidar: the ranks must hold at least 2 rows, got 0", 0),
        ("k", r"ValueError: .*k must be in 1 ... 11, the neighbours there are, got 12", 0),
        ("features on ranks", "ValueError: .* same features .* rank 0 has 5, rank 1 has 4", 0),
        ("no update", r"RuntimeError: Alignment: compute\(\) before the first update\(\)", 0),
        ("group", "TypeError: alignment: group must be a torch.*ProcessGroup.* got str", 0),
    ],
)
def test_errors_are_raised_on_all_ranks(
    pool: Pool, name: str, here: str, elsewhere: str | int
) -> None:
    pool.check_errors(error, name, here=here, elsewhere=elsewhere)

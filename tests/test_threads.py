"""How many CPU threads a step gets, and that a pass shared out to them is the same pass."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import sslspec_fast as sf
import sslspec_fast.functional as F
from sslspec_fast import _C, _seam
from sslspec_fast.primitives import pairwise

from .support.row_cases import leaves, rows


@pytest.fixture(autouse=True)
def _threads_are_restored() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_further_thread_needs_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """One below 5e7 operations, torch's setting from enough on, and never more."""
    monkeypatch.setattr(_seam, "WORK_OF_THREAD", 2.5e7)
    torch.set_num_threads(4)
    counts = [_seam.threads(work) for work in (0.0, 4.9e7, 5.1e7, 7.6e7, 1e8, 1e15)]
    assert counts == [1, 1, 2, 3, 4, 4]
    assert _seam.threads() == 4
    torch.set_num_threads(1)
    assert _seam.threads(1e15) == 1


def test_short_work_is_for_one_thread_where_others_are_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_seam, "WORK_OF_THREAD", 2.5e7)
    monkeypatch.setattr(_seam, "SHORT_WORK", 1e9)
    torch.set_num_threads(4)
    for late, count in ((True, 1), (False, 4)):
        monkeypatch.setattr(_C, "next_runs_alone", lambda late=late: late)
        assert (_seam.threads(9e8), _seam.threads(1.1e9)) == (count, 4)


def made(a: Tensor, b: Tensor) -> list[Tensor]:
    c = torch.tensor(5.0, dtype=a.dtype)
    row, col = pairwise.lse(a, b, c, cols=True)
    value = F.nt_xent(a, b) + F.siglip(a, b, 3.0, -1.0) + F.info_nce(a, b) + row.sum() + col.sum()
    return [value.detach(), *torch.autograd.grad(value, (a, b))]


def test_tasks_for_many_cores() -> None:
    """A batch of 4,096 rows has work for 64 threads at once; fewer threads take pairs of blocks,
    which make each product once.
    """
    for symmetric in (True, False):
        at_once = [_C.pairwise_tasks(4096, 4096, symmetric, True, t) for t in (1, 2, 12, 64)]
        assert at_once[:3] == [12 if symmetric else 24] * 3
        assert at_once[3] >= 64
    assert _C.pairwise_tasks(4096, 65_536, False, False, 64) >= 64
    assert _C.pairwise_tasks(256, 256, True, False, 2) == 3  # of 48 rows: no thread waits for long


@pytest.mark.parametrize("limit", [0, 100_000, 64 << 20])
@pytest.mark.parametrize("n", [30, 200, 433])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_same_bits_from_pairs_of_blocks_and_units_of_rows(
    dtype: torch.dtype, n: int, limit: int
) -> None:
    """With none, some or all of the products kept; sharp logits take another path."""
    a, b, c = leaves(*(rows(n + m, 40, dtype, m) for m in (0, 0, 77)))

    def step() -> list[Tensor]:
        value = F.nt_xent(a, b) + F.nt_xent(a, b, temperature=0.02) + F.clip(a, b, 3.0)
        value = value + F.siglip(a, b, 3.0, -1.0) + F.info_nce(a, b, negatives=c)
        row, col = pairwise.lse(
            *(x.to(value.dtype) for x in (a, c)), value.new_tensor(2.0), cols=True
        )
        value = value + F.siglip(a, b, 2.0, -1.0, reduction="none").sum() + row.sum() + col.sum()
        return [value.detach(), *torch.autograd.grad(value, (a, b, c))]

    before = sf.set_kept_limit(limit)
    try:
        torch.set_num_threads(1)
        expected = step()
        for count in (2, 7, 64):
            torch.set_num_threads(count)
            assert all(map(torch.equal, step(), expected)), count
    finally:
        sf.set_kept_limit(before)


def test_same_bits_of_groups_of_blocks() -> None:
    """From 32 blocks on they meet by groups, and a unit keeps the order of its block."""
    x, y, a, c = leaves(*(rows(n, 4, torch.float32, n) for n in (3110, 3110, 6200, 7000)))

    def step() -> list[Tensor]:
        scale = torch.tensor(1.5)
        lse = *pairwise.lse(a, c, scale, cols=True), *pairwise.lse(c, a, scale, cols=True)
        value = F.nt_xent(x, y) + sum(each.square().sum() for each in lse)
        return [value.detach(), *torch.autograd.grad(value, (x, y, a, c))]

    torch.set_num_threads(1)
    expected = step()
    for count in (2, 100):
        torch.set_num_threads(count)
        assert all(map(torch.equal, step(), expected)), count


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_same_bits_for_more_threads_than_cores(dtype: torch.dtype) -> None:
    """Threads of a team come late, sleep and are woken: each task is done once all the same."""
    a, b = leaves(*(rows(700, 20, dtype, seed) for seed in (0, 1)))
    torch.set_num_threads(1)
    expected = made(a, b)
    for count in (2, 3, 9):
        torch.set_num_threads(count)
        for _ in range(3):
            assert all(map(torch.equal, made(a, b), expected))


def test_passes_at_the_same_time() -> None:
    """Each caller has a team of its own, and one of them the buffer of kept products."""
    torch.set_num_threads(2)
    inputs = [
        leaves(rows(300, 40, torch.float32, 2 * k), rows(300, 40, torch.float32, 2 * k + 1))
        for k in range(3)
    ]
    expected = [made(*x) for x in inputs]
    results: list[list[list[Tensor]]] = [[] for _ in inputs]

    def work(k: int) -> None:
        for _ in range(5):
            results[k].append(made(*inputs[k]))

    callers = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    for k, own in enumerate(results):
        assert len(own) == 5
        for result in own:
            assert all(map(torch.equal, result, expected[k]))

"""The buffer for workspaces: which calls get it, when it is free again, equal results without."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import sslspec_fast as sf
import sslspec_fast.functional as F
from sslspec_fast import _seam
from sslspec_fast._seam import SMALLEST, workspace

pytestmark = pytest.mark.usefixtures("default_kept_limit")

SIZE = SMALLEST // 4  # float32 values of the smallest workspace in the buffer
LIKE = torch.empty(0)


@pytest.fixture(autouse=True)
def no_buffer() -> None:
    sf.release_kept()


def in_buffer(work: Tensor) -> bool:
    buffer = _seam._buffer
    return buffer is not None and work.untyped_storage().data_ptr() == buffer.data_ptr()


def test_the_next_call_gets_the_same_memory() -> None:
    first = workspace(LIKE, 2 * SIZE)
    assert in_buffer(first)
    at = first.data_ptr()
    del first
    second = workspace(LIKE, SIZE, torch.float64)
    assert second.data_ptr() == at
    assert second.shape == (SIZE,)
    assert second.dtype == torch.float64


def test_a_call_that_needs_more_gets_a_larger_buffer() -> None:
    assert in_buffer(workspace(LIKE, SIZE))
    assert in_buffer(workspace(LIKE, 3 * SIZE))
    buffer = _seam._buffer
    assert buffer is not None
    assert buffer.numel() == 3 * SMALLEST


def test_memory_in_use_is_lent_to_no_other_call() -> None:
    first = workspace(LIKE, SIZE)
    second = workspace(LIKE, SIZE)
    assert in_buffer(first)
    assert not in_buffer(second)
    del first
    assert in_buffer(workspace(LIKE, SIZE))


def test_memory_is_free_again_after_an_error() -> None:
    def fails() -> None:
        work = workspace(LIKE, SIZE)
        raise ValueError(work.shape)

    with pytest.raises(ValueError, match=r"torch\.Size"):
        fails()
    assert in_buffer(workspace(LIKE, SIZE))


def test_what_is_small_or_above_the_limit_is_not_in_the_buffer() -> None:
    sf.set_kept_limit(2 * SMALLEST)
    assert not in_buffer(workspace(LIKE, SIZE - 1))
    assert not in_buffer(workspace(LIKE, 2 * SIZE + 1))
    assert _seam._buffer is None
    assert in_buffer(workspace(LIKE, 2 * SIZE))


def test_a_smaller_limit_and_release_free_the_buffer() -> None:
    workspace(LIKE, 2 * SIZE)
    sf.set_kept_limit(2 * SMALLEST)
    assert _seam._buffer is not None
    sf.set_kept_limit(SMALLEST)
    assert _seam._buffer is None
    workspace(LIKE, SIZE)
    sf.release_kept()
    assert _seam._buffer is None


def test_a_buffer_that_is_freed_while_in_use_stays_with_its_call() -> None:
    work = workspace(LIKE, SIZE)
    sf.release_kept()
    other = workspace(LIKE, SIZE)
    assert work.data_ptr() != other.data_ptr()
    assert bool(work.fill_(1.0).eq(1.0).all())


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "info_nce": lambda a, b: F.info_nce(a, b, temperature=0.1),
    "clip": lambda a, b: F.clip(a, b, torch.tensor(10.0)),
    "siglip": lambda a, b: F.siglip(a, b, 10.0, -5.0),
    "nt_xent": F.nt_xent,
    "vicreg": F.vicreg,
}


def made(name: str, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(700, 300, generator=generator, requires_grad=True) for _ in range(2))
    value = LOSSES[name](a, b)
    return [value.detach(), *torch.autograd.grad(value, (a, b))]


@pytest.mark.parametrize("name", list(LOSSES))
def test_the_same_bits_in_fresh_memory_and_in_what_other_losses_left(name: str) -> None:
    made("siglip" if name != "siglip" else "clip", 1)
    assert _seam._buffer is not None
    got = made(name, 0)
    sf.set_kept_limit(0)
    assert all(map(torch.equal, got, made(name, 0)))


def test_threads_that_call_at_the_same_time_do_not_share_memory() -> None:
    names = list(LOSSES)
    expected = {name: made(name, 0) for name in names}
    wrong: list[str] = []

    def call(name: str) -> None:
        same = [all(map(torch.equal, made(name, 0), expected[name])) for _ in range(5)]
        if not all(same):
            wrong.append(name)

    callers = [threading.Thread(target=call, args=(name,)) for name in names]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=300)
    assert wrong == []
    assert not any(caller.is_alive() for caller in callers)
    assert in_buffer(workspace(LIKE, SIZE))

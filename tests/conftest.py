"""Every test starts from the same random numbers, whatever ran before it in the same process."""

from __future__ import annotations

import os
from collections.abc import Iterator

# torch and hypothesis are stricter where CI is set (aliased outputs of an operator are an error).
os.environ.setdefault("CI", "1")
# Scratch memory of the kernels holds NaN where nothing was written.
os.environ.setdefault("SSLSPEC_SCRATCH", "nan")

import numpy as np
import pytest
import torch

import sslspec_fast as sf
from sslspec_fast import _seam

# torch warns, once a process, where its default for the checks of sparse tensors is used.
torch.sparse.check_sparse_tensor_invariants.disable()


@pytest.fixture(autouse=True)
def threads_at_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small cases run on as many threads as a test sets, on a busy machine too; a user's would run
    on one.
    """
    monkeypatch.setattr(_seam, "WORK_OF_THREAD", 1.0)
    monkeypatch.setattr(_seam, "SHORT_WORK", 0.0)


@pytest.fixture
def default_kept_limit() -> Iterator[None]:
    """The default memory for kept products; that and the threads are as before behind the test."""
    before, threads = sf.set_kept_limit(64 << 20), torch.get_num_threads()
    yield
    sf.set_kept_limit(before)
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - scikit-learn's own checks draw from it

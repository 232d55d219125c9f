"""One sign for each eigenvector, whatever pieces its entries are looked through in."""

from __future__ import annotations

import pytest
import torch

from sslspec_fast.solvers.linalg import signs
from sslspec_fast.solvers.linalg.signs import canonical_signs


@pytest.mark.parametrize("piece", [1, 1000, 1 << 17])
@pytest.mark.parametrize("n", [1, 63, 64, 65, 1000, 5000])
def test_the_largest_entry_is_positive(n: int, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signs, "_PIECE", piece)
    x = torch.randn(n, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    largest = x.abs().argmax(0)
    expected = x * torch.sign(x.gather(0, largest[None]))[0]
    assert torch.equal(canonical_signs(x.clone()), expected)


def test_the_lowest_row_of_a_tie_decides() -> None:
    x = torch.zeros(200, 2)
    x[150], x[199] = torch.tensor([-3.0, 3.0]), torch.tensor([3.0, -3.0])
    x[20, 0] = 1.0
    assert torch.equal(canonical_signs(x.clone()), x * torch.tensor([-1.0, 1.0]))

"""The Krylov space of a filter: its relation, its restart, and what it leaves out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sslspec_fast.operators import as_operator
from sslspec_fast.operators.known import DenseVectors
from sslspec_fast.solvers.linalg.krylov import FilteredKrylov

N, B, DEGREE = 200, 4, 3
LO, CUT = -1.0, 0.6


@pytest.fixture(scope="module")
def dense() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A with eigenvalues in [-1, 1], p(A), and the vectors of A, largest value first."""
    g = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(N, N, generator=g, dtype=torch.float64))[0]
    values = torch.linspace(1.0, -1.0, N, dtype=torch.float64)
    t = (2.0 * values - CUT - LO) / (CUT - LO)
    return (q * values) @ q.T, (q * (4.0 * t**3 - 3.0 * t)) @ q.T, q


def _space(
    matrix: torch.Tensor, b: int = B, deflated: DenseVectors | None = None
) -> FilteredKrylov:
    op = as_operator(matrix)
    start = op.random_block(b, 1, torch.float64)
    return FilteredKrylov(op, start, (LO, CUT, CUT), DEGREE, deflated)


def _check(space: FilteredKrylov, filtered: torch.Tensor) -> None:
    """V orthonormal, H = V^T p(A) V, and the residuals that `ritz` tells are those of p(A)."""
    v = torch.cat(space.v, 1)
    eye = torch.eye(space.size, dtype=torch.float64)
    torch.testing.assert_close(v.T @ v, eye, rtol=0, atol=1e-11)
    torch.testing.assert_close(
        torch.from_numpy(space.projected), v.T @ filtered @ v, rtol=0, atol=1e-10
    )
    values, q, slack = space.ritz()
    x = space.vectors(q)
    residuals = (filtered @ x - x * values).norm(dim=0)
    torch.testing.assert_close(residuals, slack, rtol=0, atol=1e-9)


def test_relation(dense: tuple) -> None:
    matrix, filtered, _ = dense
    space = _space(matrix)
    for steps in range(1, 9):
        space.extend()
        assert space.size == steps * B
        assert space.columns == steps * B * DEGREE
    _check(space, filtered)


def test_a_restart_keeps_ritz_pairs_and_the_relation(dense: tuple) -> None:
    matrix, filtered, _ = dense
    space = _space(matrix)
    for _ in range(8):
        space.extend()
    values, q, _ = space.ritz()
    space.restart(values[:10], q[:, :10])
    for _ in range(4):
        space.extend()
    assert space.size == 10 + 4 * B
    _check(space, filtered)
    assert (space.ritz()[0][:10] >= values[:10] - 1e-12).all()


def test_the_first_vectors_are_those_of_the_matrix(dense: tuple) -> None:
    matrix, _, vectors = dense
    space = _space(matrix)
    for _ in range(30):
        space.extend()
    x = space.vectors(space.ritz()[1][:, :5])
    cosines = torch.linalg.svdvals(vectors[:, :5].T @ x)
    assert float(cosines.min()) > 1.0 - 1e-10


def test_deflated_vectors_stay_out(dense: tuple) -> None:
    matrix, _, vectors = dense
    for count in (2, 20):  # few ride along with other products, many are projected out
        known = vectors[:, :count].contiguous()
        space = _space(matrix, deflated=DenseVectors(known))
        for _ in range(8):
            space.extend()
        assert float((known.T @ torch.cat(space.v, 1)).abs().max()) < 1e-11


def test_an_invariant_space_ends_it() -> None:
    values = torch.cat([torch.linspace(0.7, 1.0, 6), torch.zeros(N - 6)]).double()
    space = _space(torch.diag(values), b=8)
    for _ in range(3):
        if not space.ended:
            space.extend()
    assert space.ended
    t = (2.0 * values - CUT - LO) / (CUT - LO)
    top = np.sort((4.0 * t**3 - 3.0 * t).numpy())[::-1][:6]
    np.testing.assert_allclose(space.ritz()[0][:6].numpy(), top, atol=1e-10)

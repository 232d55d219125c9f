"""What eigsh refuses, and what `auto` picks."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as sla
import torch

from sslspec_fast.graph import PairGraph
from sslspec_fast.operators import as_operator
from sslspec_fast.solvers import eigsh

EYE = np.eye(5)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"A": np.ones((3, 4))}, ValueError, r"A must be square .*\(3, 4\)"),
        ({"A": np.triu(np.ones((4, 4)))}, ValueError, "A must be symmetric"),
        ({"A": sp.csr_array(np.triu(np.ones((4, 4))))}, ValueError, "A must be symmetric"),
        ({"A": np.full((3, 3), np.nan)}, ValueError, "A must be finite, got 9"),
        ({"A": sp.csr_array(np.full((3, 3), np.inf))}, ValueError, "A must be finite, got 9"),
        ({"A": EYE.astype(complex)}, TypeError, r"A must be real, got .* \[\[R, -S\], \[S, R\]\]"),
        ({"A": EYE.astype(object)}, TypeError, "A must be real, got dtype object"),
        ({"A": EYE.astype(str)}, TypeError, "A must be real, got dtype <U32"),
        ({"A": "text"}, TypeError, "A must be an operator.* got str"),
        ({"A": EYE.tolist()}, TypeError, "A must be one matrix .* got a list; np.asarray"),
        ({"A": [as_operator(EYE)] * 2}, TypeError, "A must be one .* operators.SumOperator"),
        ({"A": sla.aslinearoperator(np.triu(np.ones((9, 9))))}, ValueError, "A must be symmetric"),
        ({"A": sla.aslinearoperator(np.full((9, 9), np.nan))}, ValueError, "A must be finite, got"),
        ({"seed": "a"}, TypeError, "seed must be an integer, got str"),
        ({"seed": 1.5}, TypeError, "seed must be an integer, got float"),
        ({"seed": True}, TypeError, "seed must be an integer, got bool"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"k": 0}, ValueError, "k must be between 1 and n = 5, got 0"),
        ({"k": 6}, ValueError, "k must be between 1 and n = 5, got 6"),
        ({"k": 2.0}, TypeError, "k must be an integer, got float"),
        ({"which": "XX"}, ValueError, r"which must be one of \('LA', 'SA', .*\), got 'XX'"),
        ({"sigma": "a"}, TypeError, "sigma must be a number, got str"),
        ({"sigma": np.nan}, ValueError, "sigma must be finite, got nan"),
        ({"sigma": 1.0, "which": "LA"}, ValueError, "which must be 'LM' or None with sigma .*'LA'"),
        ({"preconditioner": 3}, TypeError, "preconditioner must be callable or .*@, got int"),
        ({"preconditioner": EYE, "which": "BE"}, ValueError, "which='BE'"),
        ({"preconditioner": EYE, "method": "dense"}, ValueError, "method='dense'"),
        ({"return_eigenvectors": 0}, TypeError, "return_eigenvectors must be True or False, got"),
        ({"method": "magic"}, ValueError, "method must be one of .* got 'magic'"),
        ({"precision": "half"}, ValueError, "precision must be one of .* got 'half'"),
        ({"tol": 0.0}, ValueError, "tol must be a positive number, got 0.0"),
        ({"tol": "a"}, TypeError, "tol must be a number, got str"),
        ({"tol": None}, TypeError, "tol must be a number, got NoneType"),
        ({"callback": 3}, TypeError, "callback must be callable, got int"),
        ({"angle_tol": -1.0}, ValueError, "angle_tol must be a positive number, got -1.0"),
        ({"max_iter": 2.5}, TypeError, "max_iter must be an integer, got float"),
        ({"max_iter": 0}, ValueError, "max_iter must be at least 1, got 0"),
        ({"x0": np.ones((4, 1))}, ValueError, r"x0 must be \(n = 5, m >= 1\), got \(4, 1\)"),
        ({"x0": np.full((5, 1), np.nan)}, ValueError, "x0 must be finite, got 5 bad values"),
        ({"x0": "text"}, TypeError, "x0 must be real, got dtype <U4"),
        ({"deflate": np.ones((4, 1))}, ValueError, r"deflate must be \(n = 5, c\), got \(4, 1\)"),
        ({"deflate": np.ones((5, 2))}, ValueError, "linearly independent"),
        ({"deflate": "text"}, TypeError, "deflate must be real, got dtype <U4"),
        ({"deflate": np.full((5, 1), np.nan)}, ValueError, "deflate must be finite, got 5 bad"),
        ({"deflate": EYE[:, :2], "k": 4}, ValueError, "minus the deflated vectors = 3, got k = 4"),
        ({"B": np.ones(4)}, ValueError, r"B must be \(5,\) or \(5, 5\), got \(4,\)"),
        ({"B": -np.ones(5)}, ValueError, "B must be positive, got smallest entry -1"),
        ({"B": -EYE}, ValueError, "B must be positive definite"),
        ({"B": np.triu(np.ones((5, 5)))}, ValueError, "B must be symmetric"),
        ({"B": sp.csr_array(np.ones((5, 5)))}, ValueError, "B must be positive definite"),
        ({"B": sp.csr_array(np.triu(np.ones((5, 5))))}, ValueError, "B must be symmetric"),
        ({"B": sp.csr_array(np.eye(5)[::-1])}, ValueError, "B must be positive definite"),
        ({"B": "text"}, TypeError, "B must be an array"),
    ],
)
def test_bad_arguments(kwargs: dict, error: type, message: str) -> None:
    arguments = {"A": EYE, "k": 1, **kwargs}
    with pytest.raises(error, match=message):
        eigsh(arguments.pop("A"), arguments.pop("k"), **arguments)


def test_directed_graphs_and_shift_invert_without_entries() -> None:
    directed = PairGraph.from_edges([0, 1], [1, 2], n=3)
    with pytest.raises(ValueError, match="graph must be symmetric, got a directed graph"):
        eigsh(directed, 1)
    with pytest.raises(ValueError, match="A must have stored entries"):
        eigsh(sla.aslinearoperator(np.eye(50)), 2, method="shift_invert")


@pytest.mark.parametrize("layout", ["bsr", "bsc"])
@pytest.mark.filterwarnings("ignore:Sparse BS. tensor support")
def test_blocked_layouts(layout: str) -> None:
    blocked = getattr(torch.eye(4), f"to_sparse_{layout}")((2, 2))
    for a in (blocked, blocked.requires_grad_()):
        with pytest.raises(TypeError, match=f"A must be sparse .* got layout .*_{layout}"):
            eigsh(a, 1)


def test_numbers_of_other_kinds_are_converted() -> None:
    for dtype in (">f8", np.longdouble, np.float16, np.uint16, bool):
        assert eigsh(np.diag([1, 0, 0]).astype(dtype), 1).values == 1.0


def test_a_linear_operator_in_float32_is_symmetric_enough() -> None:
    a = np.random.default_rng(0).standard_normal((700, 700)).astype(np.float32)
    assert eigsh(sla.aslinearoperator(a + a.T), 2, tol=1e-4).info.converged


def test_as_operator_passes_operators_through() -> None:
    op = as_operator(torch.eye(4, dtype=torch.float64))
    assert as_operator(op) is op


def test_auto_says_what_it_picked() -> None:
    rng = np.random.default_rng(0)
    small = eigsh(np.diag(np.arange(50.0)), 3)
    assert (small.info.method, small.info.reason) == ("dense", "n = 50 <= 400")
    many = eigsh(sp.diags_array(np.arange(1000.0)), 300)
    assert many.info.method == "dense"
    # a long strip of a grid: low fill and a tiny gap
    strip = sp.kronsum(
        sp.diags_array([np.ones(2999), np.ones(2999)], offsets=[-1, 1]),
        sp.diags_array([np.ones(3), np.ones(3)], offsets=[-1, 1]),
    )
    grid = eigsh(strip, 6)
    assert grid.info.method == "shift_invert"
    assert "predicted fill" in grid.info.reason
    assert grid.info.n_solve > 0
    # a random regular-like graph: a factor would be dense
    rows, cols = rng.integers(0, 8000, (2, 80_000))
    keep = rows != cols
    a = sp.coo_array((np.ones(keep.sum()), (rows[keep], cols[keep])), shape=(8000, 8000)).tocsr()
    expander = eigsh(a + a.T, 4)
    assert expander.info.method == "chebyshev"
    for result in (small, many, grid, expander):
        assert result.info.converged

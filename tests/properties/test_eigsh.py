"""eigsh against LAPACK, on drawn matrices, spectra, scales and options.

A run that says it converged is right: its residuals are at most tol ||A|| and its values are those
of LAPACK up to that, none missed. A run that is not sure says so.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp
import torch

pytest.importorskip("hypothesis")

from hypothesis import given
from hypothesis import strategies as st

from sslspec_fast import PairGraph, eigsh
from sslspec_fast.solvers import ConvergenceWarning

from ..support.budget import budget

pytestmark = pytest.mark.filterwarnings(
    "ignore:Sparse CSR tensor support is in beta", "ignore:Sparse invariant checks"
)
METHODS = ["auto", "auto", "auto", "lanczos", "chebyshev", "lobpcg", "shift_invert", "dense"]


class Problem(NamedTuple):
    given: Any
    dense: np.ndarray  # float64, of the numbers that were given


def rotated(rng: np.random.Generator, values: np.ndarray) -> np.ndarray:
    q = np.linalg.qr(rng.standard_normal((len(values),) * 2))[0]
    a = (q * values) @ q.T
    return (a + a.T) / 2


def entries(rng: np.random.Generator, n: int, degree: int) -> np.ndarray:
    i, j = rng.integers(0, n, (2, n * degree))
    a = np.zeros((n, n))
    a[i, j] = rng.choice([1.0, 1.0, 0.5, 3.0], n * degree)
    return np.triu(a, 1) + np.triu(a, 1).T


@st.composite
def problems(draw: Any) -> Problem:
    kind = draw(
        st.sampled_from(
            [
                "dense",
                "sparse",
                "clustered",
                "graded",
                "disconnected",
                "low rank",
                "diagonal",
                "signed",
            ]
        ),
        "kind",
    )
    large = draw(st.integers(0, 9), "large") == 0  # beyond what LAPACK does as well
    n = draw(st.integers(601, 640) if large else st.integers(1, 90), "n")
    rng = np.random.default_rng(draw(st.integers(0, 999), "seed"))
    if kind == "dense":
        a = rng.standard_normal((n, n))
        a = (a + a.T) / 2
    elif kind == "sparse":
        a = entries(rng, n, 2)
    elif kind == "signed":
        a = entries(rng, n, 2)
        a = a * np.where(rng.random((n, n)) < 0.5, -1, 1)
        a = np.triu(a) + np.triu(a, 1).T + np.diag(rng.standard_normal(n))
    elif kind == "clustered":  # a few values, some of them 1e-9 apart
        few = rng.integers(-2, 3, n).astype(float)
        a = rotated(rng, few + 1e-9 * rng.integers(0, 2, n))
    elif kind == "graded":
        values = 10.0 ** rng.uniform(-12, 12, n) * rng.choice([-1, 1], n)
        a = np.diag(values) if draw(st.booleans(), "diagonal") else rotated(rng, values)
    elif kind == "disconnected":
        a = scipy.linalg.block_diag(
            *(entries(rng, m, 2) for m in (n // 3, n // 3, n - 2 * (n // 3)))
        )
    elif kind == "low rank":
        factor = rng.standard_normal((n, max(1, n // 8)))
        a = factor @ factor.T
        a = (a + a.T) / 2
    else:
        a = np.diag(rng.integers(-3, 4, n).astype(float))
    a = a * draw(st.sampled_from([1.0, 1.0, 1e-12, 1e12, 1e-30, 1e30]), "scale")
    dtype = draw(st.sampled_from([np.float64, np.float64, np.float32]), "dtype")
    with np.errstate(over="ignore"):
        a = a.astype(dtype)
    if not np.isfinite(a).all():
        a = np.zeros_like(a)
    form = draw(st.sampled_from(["numpy", "torch", "csr", "coo", "torch csr", "graph"]), "form")
    if form == "torch":
        given = torch.from_numpy(a)
    elif form in ("csr", "coo"):
        given = sp.csr_array(a) if form == "csr" else sp.coo_array(a)
    elif form == "torch csr":
        given = torch.from_numpy(a).to_sparse_csr()
    elif form == "graph":
        given = PairGraph.from_sparse(sp.csr_array(a))
    else:
        given = a
    return Problem(given, a.astype(np.float64))


def host(x: Any) -> np.ndarray:
    return np.asarray(x.detach() if isinstance(x, torch.Tensor) else x, dtype=np.float64)


def run(given: Any, k: int, options: dict[str, Any]) -> Any:
    """The result, or None where the options do not fit the problem and the error says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        try:
            return eigsh(given, k, **options)
        except (ValueError, NotImplementedError) as problem:
            refusal = str(problem)
    assert refusal.startswith(("eigsh: ", "shift_invert: ")), refusal
    return None


def check(
    result: Any, a: np.ndarray, b: np.ndarray | None, exact: np.ndarray, options: dict[str, Any]
) -> None:
    """exact: all eigenvalues, wanted first."""
    if result is None:
        return
    values, vectors, info = host(result.values), host(result.vectors), result.info
    k = len(values)
    assert vectors.shape == (len(a), k)
    sign = 1 if options["which"] == "LA" else -1
    assert (np.diff(sign * values) <= 0).all()
    if not info.converged:
        return
    norm = abs(exact).max() if b is not None else abs(np.linalg.eigvalsh(a)).max()
    unit = 2.0**-23 if options["precision"] == "float32" else 2.0**-52
    reach = max(options["tol"], 64 * unit * len(a) ** 0.5)
    metric = np.eye(len(a)) if b is None else b
    gram = vectors.T @ metric @ vectors
    assert abs(gram - np.eye(k)).max() <= max(1e-8, 100 * unit * len(a)), "orthonormal"
    spread = 1.0 if b is None else np.linalg.cond(b) ** 0.5
    root = 1.0 if b is None else np.linalg.norm(b, 2) ** 0.5
    residual = np.linalg.norm(a @ vectors - metric @ vectors * values, axis=0)
    assert residual.max() <= 2 * reach * norm * spread * root, ("residual", residual.max() / norm)
    assert abs(values - exact[:k]).max() <= 2 * reach * norm, ("values", values, exact[: k + 1])
    if np.isfinite(info.gap) and k < len(exact):
        assert info.gap <= abs(exact[k - 1] - exact[k]) + 4 * reach * norm, ("gap", info.gap)


def drawn_options(data: st.DataObject) -> dict[str, Any]:
    options: dict[str, Any] = {
        "which": data.draw(st.sampled_from(["LA", "SA"]), "which"),
        "method": data.draw(st.sampled_from(METHODS), "method"),
        "tol": data.draw(st.sampled_from([1e-6, 1e-6, 1e-3, 1e-10]), "tol"),
        "precision": data.draw(st.sampled_from(["mixed", "mixed", "float64", "float32"]), "p"),
        "seed": data.draw(st.integers(0, 3), "solver seed"),
        "certify": data.draw(st.integers(0, 3), "certify") == 0,
    }
    if data.draw(st.integers(0, 4), "stop") == 0:
        options["max_iter"] = data.draw(st.integers(1, 5), "max_iter")
    return options


def wanted_first(values: np.ndarray, which: str) -> np.ndarray:
    return np.sort(values)[::-1] if which == "LA" else np.sort(values)


@budget(80)
@given(problem=problems(), data=st.data())
def test_converged_pairs_are_those_of_lapack(problem: Problem, data: st.DataObject) -> None:
    a, n = problem.dense, len(problem.dense)
    k = data.draw(st.integers(1, min(n, 12)), "k")
    options = drawn_options(data)
    if data.draw(st.integers(0, 3), "start") == 0:
        rng = np.random.default_rng(0)
        options["x0"] = rng.standard_normal((n, data.draw(st.integers(1, k + 2), "m")))
    if data.draw(st.integers(0, 3), "deflate") == 0 and n > 1:
        count = data.draw(st.integers(1, min(3, n - 1)), "deflated")
        values, vectors = np.linalg.eigh(a)
        first = values.argsort()[::-1] if options["which"] == "LA" else values.argsort()
        block = vectors[:, first[:count]]
        if np.linalg.norm(a @ block - block * values[first[:count]]) > 1e-13 * abs(values).max():
            return
        exact = wanted_first(np.delete(values, first[:count]), options["which"])
        options.pop("x0", None)
        result = run(problem.given, min(k, n - count), {**options, "deflate": block})
        if result is not None:
            overlap = abs(block.T @ host(result.vectors)).max(initial=0)
            assert not result.info.converged or overlap <= 1e-5
        check(result, a, None, exact, options)
        return
    exact = wanted_first(np.linalg.eigvalsh(a), options["which"])
    check(run(problem.given, k, options), a, None, exact, options)


@budget(30)
@given(problem=problems(), data=st.data())
def test_converged_pencils_are_those_of_lapack(problem: Problem, data: st.DataObject) -> None:
    a, n = problem.dense, len(problem.dense)
    k = data.draw(st.integers(1, min(n, 8)), "k")
    options = drawn_options(data)
    rng = np.random.default_rng(data.draw(st.integers(0, 99), "seed of B"))
    scale = data.draw(st.sampled_from([1.0, 1e-8, 1e8]), "scale of B")
    if data.draw(st.booleans(), "diagonal"):
        diagonal = scale * rng.uniform(0.1, 10.0, n)
        b, given = np.diag(diagonal), diagonal
    else:
        b = scale * rotated(rng, rng.uniform(0.1, 10.0, n))
        given = b
    exact = wanted_first(scipy.linalg.eigh(a, b, eigvals_only=True), options["which"])
    check(run(problem.given, k, {**options, "B": given}), a, b, exact, options)

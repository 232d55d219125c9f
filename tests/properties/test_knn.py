"""PairGraph.from_knn against exact distances: of whole numbers, and of float64 rows with outliers.

Distances of integers are exact in Python, so that ties are ties. Elsewhere a neighbour may be
another only where float64 does not tell the two distances apart.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("hypothesis")

from hypothesis import assume, given
from hypothesis import strategies as st

from sslspec_fast.graph import PairGraph

from ..support.budget import budget

SPREAD = [0.0, 1.0, 1.0, 1e-8, 1e-3, 1e3, 1e8, -1e8, 1e150, 1e-150]
CLOSE = Fraction(1, 10**24)


@st.composite
def rows(draw: Any) -> np.ndarray:
    """Clusters of different size and place, copies, and rows far from all others."""
    n, d = draw(st.integers(2, 40), "n"), draw(st.integers(1, 5), "d")
    rng = np.random.default_rng(draw(st.integers(0, 999), "seed"))
    kind = draw(st.sampled_from(["whole", "normal", "clusters", "outliers"]), "kind")
    x = rng.integers(-3, 4, (n, d)).astype(float) if kind == "whole" else rng.normal(size=(n, d))
    x = x * draw(st.sampled_from([1.0, 1e-30, 1e30]), "unit")
    if kind == "clusters":
        size = np.array(draw(st.lists(st.sampled_from(SPREAD), min_size=2, max_size=2), "sizes"))
        place = np.array(draw(st.lists(st.sampled_from(SPREAD), min_size=2, max_size=2), "places"))
        which = rng.integers(0, 2, n)
        x = x * size[which, None] + place[which, None]
    if kind == "outliers":
        count = draw(st.integers(1, 3), "outliers")
        x[:count] *= draw(st.sampled_from(SPREAD), "factor")
    if draw(st.booleans(), "copies"):
        x[rng.integers(0, n, n // 3)] = x[0]
    return x


def exact_squares(x: np.ndarray) -> list[list[Fraction]]:
    whole = [[Fraction(v) for v in row] for row in x.tolist()]
    return [
        [sum(((a - b) ** 2 for a, b in zip(p, q, strict=True)), Fraction(0)) for q in whole]
        for p in whole
    ]


def root(square: Fraction) -> float:
    """Of a number of any size."""
    size = (square.numerator.bit_length() - square.denominator.bit_length()) // 2
    return math.ldexp(math.sqrt(square / Fraction(4) ** size), size)


def neighbours(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, n) bool, twice: the rows that must and those that may be among the k nearest of each.

    Both are the nearest by exact squares, ties to the lowest index, unless squares are so close to
    that of the k-th that `from_knn` does not promise to tell them apart.
    """
    must, may = np.zeros((2, len(x), len(x)), dtype=bool)
    for i, row in enumerate(exact_squares(x)):
        order = sorted((j for j in range(len(x)) if j != i), key=lambda j: (row[j], j))
        last = row[order[k - 1]]
        close = [j for j in order if row[j] != last and abs(row[j] - last) < CLOSE * last]
        same = [j for j in order if row[j] == last]
        must[i, order[:k]] = may[i, order[:k]] = True
        if close:
            must[i, close + same], may[i, close + same] = False, True
    return must, may


@budget(60)
@given(x=rows(), data=st.data())
def test_neighbours_are_the_nearest_by_exact_distances(x: np.ndarray, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(x) - 1), "k")
    mutual = data.draw(st.booleans(), "mutual")
    if data.draw(st.booleans(), "float32"):
        with np.errstate(over="ignore"):
            narrow = x.astype(np.float32)
        x = narrow.astype(float) if np.isfinite(narrow).all() else x
    form = data.draw(st.sampled_from([np.asarray, torch.from_numpy, np.ndarray.tolist]))
    g = PairGraph.from_knn(form(x), k, mutual=mutual, backend="exact")
    found = g.to_scipy().toarray()
    assert g.is_symmetric
    must, may = (
        (chosen & chosen.T) + 0.0 if mutual else (chosen + 0.0 + chosen.T) / 2
        for chosen in neighbours(x, k)
    )
    assert (must <= found).all()
    assert (found <= may).all()


@budget(30)
@given(x=rows(), data=st.data())
def test_heat_weights(x: np.ndarray, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(x) - 1), "k")
    g = PairGraph.from_knn(x, k, weight="heat", backend="exact")
    chosen, may = neighbours(x, k)
    assume((chosen == may).all())
    length = np.array([[root(v) for v in row] for row in exact_squares(x)])
    sigma = np.array([length[i][chosen[i]].max() for i in range(len(x))])
    usual = sigma[sigma > 0].mean() if (sigma > 0).any() else 1.0
    sigma = np.where(sigma > 0, sigma, usual)
    with np.errstate(over="ignore", under="ignore"):
        weight = np.exp(-(length / sigma[:, None]) * (length / sigma[None]))
    weight = np.maximum(weight, np.finfo(float).tiny)
    directed = np.where(chosen, weight, 0.0)
    np.testing.assert_allclose(
        g.to_scipy().toarray(), (directed + directed.T) / 2, rtol=1e-9, atol=1e-300
    )


@budget(30)
@given(x=rows(), data=st.data())
def test_cosine_neighbours(x: np.ndarray, data: st.DataObject) -> None:
    """Rows at unit length, each in its own unit: the sizes of rows do not matter."""
    if (x == 0).all(1).any():
        with pytest.raises(ValueError, match="rows that are not zero"):
            PairGraph.from_knn(x, 1, metric="cosine")
        return
    k = data.draw(st.integers(1, len(x) - 1), "k")
    found = PairGraph.from_knn(x, k, metric="cosine", backend="exact").to_scipy().toarray()
    size = abs(x).max(1, keepdims=True)
    unit = x / size
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    length = np.sqrt(((unit[:, None] - unit[None]) ** 2).sum(2))
    np.fill_diagonal(length, np.inf)
    farthest = np.sort(length, axis=1)[:, k - 1]
    slack = 1e-14
    sure, possible = length < farthest[:, None] - slack, length <= farthest[:, None] + slack
    assert (found >= (sure + 0.0 + sure.T) / 2).all()
    assert (found <= (possible + 0.0 + possible.T) / 2).all()
    assert (np.count_nonzero(found, axis=1) >= k).all()

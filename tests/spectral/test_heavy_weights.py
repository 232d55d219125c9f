"""Closed forms on graphs with one huge weight: resolved at the scale of the wanted modes."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import sslspec_fast.functional as F
from sslspec_fast import PairGraph, spectral


@pytest.mark.parametrize("weight", [1e6, 1e10])
def test_the_optimum_beside_a_heavy_edge(weight: float) -> None:
    n, k, gamma = 300, 3, 1e-3
    dense = PairGraph.from_knn(np.random.default_rng(0).standard_normal((n, 3)), 8).to_scipy()
    dense = dense.toarray()
    dense[3, 200] = dense[200, 3] = weight
    graph = PairGraph.from_sparse(sp.csr_array(dense))
    values, vectors = np.linalg.eigh(np.diag(dense.sum(1)) - dense)
    filters = np.clip(1 - gamma * (n - 1) / n * values[1 : k + 1], 0, None)
    z = torch.from_numpy(np.sqrt((n - 1) * filters) * vectors[:, 1 : k + 1])
    reached = float(F.graph_vicreg(z, graph, penalty="ls_var", invariance=gamma))
    form = spectral.vicreg(graph, k, invariance=gamma)
    assert form.info.converged
    assert form.loss <= reached * (1 + 1e-6)
    assert (
        spectral.optimality_gap("vicreg", z, graph, invariance=gamma, penalty="ls_var").relative_gap
        >= -1e-6
    )

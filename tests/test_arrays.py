"""Arrays of other libraries: graphs and solvers take them, losses say that they want tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sslspec_fast as sf
import sslspec_fast.functional as F


class Foreign:
    """An array of a library that offers DLPack and no NumPy interface."""

    def __init__(self, x: np.ndarray) -> None:
        self._x, self.shape, self.dtype = x, x.shape, x.dtype

    def __dlpack__(self, **options: object) -> object:
        return torch.from_numpy(self._x).__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


X = np.random.default_rng(0).standard_normal((40, 3))
A = X @ X.T
ROWS, COLS = np.array([0, 1, 2]), np.array([1, 2, 0])


@pytest.mark.parametrize("array", [Foreign, torch.from_numpy, lambda x: x])
def test_graphs_take_arrays_of_every_library(array) -> None:
    labels = sf.PairGraph.from_labels(array(np.arange(6) % 2))
    assert labels.nnz == 12
    knn = sf.PairGraph.from_knn(array(X), 4)
    assert np.array_equal(
        knn.to_scipy().toarray(), sf.PairGraph.from_knn(X, 4).to_scipy().toarray()
    )
    edges = sf.PairGraph.from_edges(array(ROWS), array(COLS), array(np.ones(3)), n=3)
    assert edges.nnz == 3


@pytest.mark.parametrize("array", [Foreign, torch.from_numpy, lambda x: x])
def test_solvers_take_arrays_of_every_library(array) -> None:
    expected = np.linalg.eigvalsh(A)[::-1][:3]
    found = sf.eigsh(array(A), 3)
    assert np.allclose(found.values, expected)
    assert isinstance(found.values, torch.Tensor) == isinstance(array(A), torch.Tensor)
    warm = sf.eigsh(A, 3, x0=array(np.ascontiguousarray(X)))
    assert np.allclose(warm.values, expected)
    form = sf.spectral.simclr(sf.PairGraph.from_knn(X, 4), 2, features=array(X))
    assert np.allclose(form.embedding, X @ np.asarray(form.weights))


@pytest.mark.parametrize("array", [Foreign, lambda x: x])
def test_losses_refuse_arrays_and_say_what_to_do(array) -> None:
    z = array(X)
    name = type(z).__name__
    message = f"z1 must be a torch.Tensor, got {name}; torch.from_dlpack makes one of it"
    with pytest.raises(TypeError, match=f"nt_xent: {message}"):
        F.nt_xent(z, z)
    with pytest.raises(TypeError, match=f"nt_xent: {message.replace('z1', 'z2')}"):
        F.nt_xent(torch.from_numpy(X), z)
    with pytest.raises(TypeError, match=r"koleo: z must be a torch.Tensor, got list$"):
        F.koleo([[1.0, 2.0]])

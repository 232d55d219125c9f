"""The graph of k nearest neighbours: who they are (`nearest`, or faiss and then `nearest`), and the
weights of the edges. A row is never its own neighbour, which is decided by index and not by
distance: duplicates of a row are its neighbours at distance 0.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import scipy  # its submodules load on first use
import torch
from torch import Tensor

from ... import _checks as check
from ..._arrays import host_array
from ...primitives.sparse.csr import Csr
from ..build import csr_from_scipy, native
from .distances import times_power
from .nearest import SPARE, centred, neighbours

_FLAT_ROWS = 200_000  # exact search is affordable up to here; beyond, faiss partitions the rows


def knn_csr(X: Any, k: Any, *, metric: str, weight: str, mutual: bool, backend: str) -> Csr:
    """Arguments as in PairGraph.from_knn."""
    k = check_options(k, metric, weight, mutual, backend)
    x, dtype = rows_of(X, metric)
    x = fitting(x)
    n = x.shape[0]
    check_neighbours(k, n)
    has_faiss = importlib.util.find_spec("faiss") is not None
    if backend == "faiss" and not has_faiss:
        raise ImportError("from_knn: backend='faiss' needs the package faiss-cpu")
    by_faiss = has_faiss and x.device.type == "cpu" if backend == "auto" else backend == "faiss"
    proposed = _faiss_candidates(x, min(k + SPARE, n - 1)) if by_faiss else None
    indices, lengths = neighbours(x, k, dtype=dtype, proposed=proposed)
    weights = weights_of(indices, lengths, lengths[:, -1], slice(None), weight)
    directed = directed_rows(indices, weights, n)
    merged = symmetric_part(directed, directed.T.tocsr(), mutual)
    return csr_from_scipy(merged, symmetric=True).to(x.device)


def check_options(k: Any, metric: str, weight: str, mutual: bool, backend: str) -> int:
    """k as a number."""
    k = check.count("from_knn", "n_neighbors", k, 1)
    for name, value, options in (
        ("metric", metric, ("euclidean", "cosine")),
        ("weight", weight, ("connectivity", "heat")),
        ("backend", backend, ("auto", "exact", "faiss")),
    ):
        if value not in options:
            raise ValueError(f"from_knn: {name} must be one of {options}, got {value!r}")
    if not isinstance(mutual, (bool, np.bool_)):
        raise TypeError(f"from_knn: mutual must be True or False, got {type(mutual).__name__}")
    return k


def check_neighbours(k: int, n: int) -> None:
    if not 1 <= k <= n - 1:
        raise ValueError(f"from_knn: n_neighbors must lie in [1, {n - 1}] for {n} rows, got {k}")


def _faiss_candidates(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(n, count) candidates other than the row itself, and the square of the farthest, (n,), in
    units of the rows `centred`.
    """
    import faiss

    data = np.ascontiguousarray(centred(x.double(), torch.float32)[0].cpu().numpy())
    n, d = data.shape
    index: Any = faiss.IndexFlatL2(d)
    if n > _FLAT_ROWS:
        cells = int(4 * n**0.5)
        index = faiss.IndexIVFFlat(index, d, cells)
        index.train(data[np.random.default_rng(0).permutation(n)[: 64 * cells]])
        index.nprobe = 32
    index.add(data)
    squares, found = index.search(data, count + 1)
    # drop the row itself; where its duplicates pushed it out of the list, drop the farthest
    own = found == np.arange(n)[:, None]
    own[~own.any(1), -1] = True
    found, squares = found[~own].reshape(n, count), squares[~own].reshape(n, count)
    short = int((found < 0).any(1).sum())
    if short:
        raise ValueError(
            f"from_knn: faiss found fewer than {count} neighbours for {short} rows; "
            "use backend='exact'"
        )
    return torch.from_numpy(found), torch.from_numpy(squares.max(1)).double()


def weights_of(indices: Tensor, lengths: Tensor, sigma: Tensor, own: slice, weight: str) -> Tensor:
    """(r, k): ones, or exp(−‖x_i − x_j‖²/(σ_i σ_j)) with σ_i the distance to the k-th neighbour.

    indices, lengths: of the rows `own`; sigma: (n,) of all.
    """
    if weight == "connectivity":
        return torch.ones(indices.shape, dtype=torch.float32, device=indices.device)
    positive = sigma[sigma > 0]
    # a row with k duplicates has no scale of its own: give it the average one
    usual = positive.mean() if positive.numel() else torch.ones_like(sigma[0])
    sigma = torch.where(sigma > 0, sigma, usual)
    # no unit: neither factor can overflow where the other vanishes
    exponent = (lengths / sigma[own, None]) * (lengths / sigma[indices])
    # far ends of very uneven scales underflow: keep the edge, so that the pattern is the kNN graph
    return torch.exp(-exponent).clamp_min(torch.finfo(torch.float64).tiny)


def directed_rows(indices: Tensor, weights: Tensor, n: int) -> scipy.sparse.csr_array:
    """(r, n) of r rows with k neighbours each."""
    rows, k = indices.shape
    arrays = weights.cpu().numpy().ravel(), indices.cpu().numpy().ravel()
    return scipy.sparse.csr_array((*arrays, np.arange(0, rows * k + 1, k)), shape=(rows, n))


def symmetric_part(directed: Any, flipped: Any, mutual: bool) -> Any:
    """(A + Aᵀ) / 2, or the pairs that are in both."""
    # heat weights are symmetric in i and j, so the smaller of w_ij and w_ji is w_ij or nothing
    return directed.minimum(flipped) if mutual else (directed + flipped) * directed.dtype.type(0.5)


def rows_of(X: Any, metric: str) -> tuple[Tensor, torch.dtype]:
    """(n, d) rows whose Euclidean distances count, once `fitting`, and the dtype of products that
    propose.
    """
    if isinstance(X, Tensor):
        x = X.detach()
        if x.layout != torch.strided or x.is_complex():
            raise TypeError(f"from_knn: X must be dense and real, got {x.layout} of {x.dtype}")
    else:
        array = host_array(X)  # of objects when X is sparse
        if array.dtype.kind not in "fiub":
            kind = type(X).__name__
            raise TypeError(f"from_knn: X must be dense and real, got {kind} of {array.dtype}")
        x = torch.from_numpy(native(array).copy())
    if x.dim() != 2:
        raise ValueError(f"from_knn: X must have shape (n, d), got {tuple(x.shape)}")
    if x.dtype not in (torch.float32, torch.float64):
        x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x.double()
    finite = torch.isfinite(x).all(1)
    if not bool(finite.all()):
        bad = int(torch.nonzero(~finite)[0, 0])
        raise ValueError(f"from_knn: X must be finite, got NaN or infinity in row {bad}")
    if x.shape[1] == 0:
        raise ValueError(f"from_knn: X must have at least one column, got {tuple(x.shape)}")
    if metric == "cosine":
        return _unit_rows(x.double()), x.dtype
    return x, x.dtype


def fitting(x: Tensor) -> Tensor:
    """Rows whose distances fit in float64; below that size, nothing is lost."""
    return x * 2.0**-30 if bool((x.abs() > 2.0**1000).any()) else x


def _unit_rows(x: Tensor) -> Tensor:
    """x / |x| by rows, whatever their sizes."""
    size = x.abs().amax(1, keepdim=True)
    if bool((size == 0).any()):
        bad = int(torch.nonzero(size[:, 0] == 0)[0, 0])
        raise ValueError(f"from_knn: metric='cosine' needs rows that are not zero, got row {bad}")
    x = times_power(x, -torch.frexp(size).exponent)
    return x / x.norm(dim=1, keepdim=True)

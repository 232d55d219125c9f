"""k nearest neighbours: candidates by matrix products (or faiss), then exact distances decide.

|x|² + |y|² − 2 x·y is fast but loses the digits of small distances, so it only proposes
k + a few candidates per row; their distances are then taken from differences and sorted, ties by
index. Where a row has more ties than candidates, those of lowest index are candidates too (faiss:
only what it finds). A row is never its own neighbour, which is decided by index and not by
distance: duplicates of a row are its neighbours at distance 0.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from ..primitives.csr import Csr
from .build import csr_from_scipy

_SPARE = 8  # candidates beyond k, so that rounding in the products cannot lose a neighbour
_BLOCK_BYTES = 64 << 20
_CACHE_BYTES = 1 << 20
_GROUP = 32
_FLAT_ROWS = 200_000  # exact search is affordable up to here; beyond, faiss partitions the rows


def knn_csr(
    X: Any, k: int, *, metric: str, weight: str, mutual: bool, backend: str
) -> Csr:  # arguments as in PairGraph.from_knn
    for name, value, options in (
        ("metric", metric, ("euclidean", "cosine")),
        ("weight", weight, ("connectivity", "heat")),
        ("backend", backend, ("auto", "exact", "faiss")),
    ):
        if value not in options:
            raise ValueError(f"from_knn: {name} must be one of {options}, got {value!r}")
    if not isinstance(mutual, (bool, np.bool_)):
        raise TypeError(f"from_knn: mutual must be True or False, got {type(mutual).__name__}")
    x = _rows(X, metric)
    n = x.shape[0]
    if not 1 <= k <= n - 1:
        raise ValueError(f"from_knn: n_neighbors must lie in [1, {n - 1}] for {n} rows, got {k}")
    has_faiss = importlib.util.find_spec("faiss") is not None
    if backend == "faiss" and not has_faiss:
        raise ImportError("from_knn: backend='faiss' needs the package faiss-cpu")
    by_faiss = has_faiss and x.device.type == "cpu" if backend == "auto" else backend == "faiss"
    indices, sq_distances = neighbours(x, k, by_faiss=by_faiss)
    weights = _weights(indices, sq_distances, weight)
    return _symmetric(indices.cpu().numpy(), weights.cpu().numpy(), mutual).to(x.device)


def neighbours(x: Tensor, k: int, *, by_faiss: bool = False) -> tuple[Tensor, Tensor]:
    """(indices (n, k) int64, squared distances (n, k) float64), nearest first, ties by index."""
    n = x.shape[0]
    count = min(k + _SPARE, n - 1)
    propose = _faiss_candidates(x, count) if by_faiss else None
    # Products in the precision of x propose, differences in float64 decide: of coordinates that
    # are large against the distances, float32 would keep neither.
    exact = x.double()
    exact = exact - exact.mean(0)  # smaller norms: less cancellation in the products
    x = exact.to(x.dtype)
    norms = x.square().sum(1)
    block = max(1, min(n, _BLOCK_BYTES // (n * x.element_size())))
    groups = -(-n // _GROUP)
    scores = x.new_full((0 if by_faiss else block, groups * _GROUP), torch.inf)
    indices = torch.empty(n, k, dtype=torch.int64, device=x.device)
    distances = torch.empty(n, k, dtype=torch.float64, device=x.device)
    lengths = exact.square().sum(1)
    error, least = (_product_error(lengths, x.shape[1], t) for t in (x.dtype, torch.float64))
    check = propose is None and count < n - 1
    for start in range(0, n, block):
        rows = torch.arange(start, min(start + block, n), device=x.device)
        if propose is None:
            found = _propose(x, norms, rows, scores[: len(rows)], count)
        else:
            found = propose[rows].to(x.device)
        near, sq = _nearest(exact, rows, found, k)
        indices[rows], distances[rows] = near, sq[:, :k]
        if check:
            # what was not proposed may be nearer than it looked by the error of two products
            doubt = rows[sq[:, k - 1] >= sq[:, -1] - 2 * error[rows]]
            for part in doubt.split(max(1, block // 2)) if len(doubt) else ():
                inside = exact.new_full((len(part), groups * _GROUP), torch.inf)
                found = _propose(exact, lengths, part, inside, count)
                near, sq = _nearest(exact, part, found, k)
                # as near as the k-th, for all that float64 can tell: too many to be candidates
                reach = sq[:, k - 1] + 2 * least[part]
                if bool((reach >= sq[:, -1]).any()):
                    found = _with_ties(found, inside, reach - lengths[part], min(2 * count, n - 1))
                    near, sq = _nearest(exact, part, found, k)
                indices[part], distances[part] = near, sq[:, :k]
    return indices, distances


def _product_error(lengths: Tensor, d: int, dtype: torch.dtype) -> Tensor:
    """(n,) bound of the error of |x_i|^2 + |x_j|^2 - 2 x_i.x_j in `dtype`, over all j."""
    norm = lengths.sqrt()
    return torch.finfo(dtype).eps * (d / 8 + 4) * (norm + norm.max()).square()


def _propose(x: Tensor, norms: Tensor, rows: Tensor, inside: Tensor, count: int) -> Tensor:
    """(len(rows), count) columns with the smallest |x_j|^2 - 2 x_i.x_j; `inside` is scratch."""
    n = x.shape[0]
    torch.addmm(norms[None], x[rows], x.T, alpha=-2.0, out=inside[:, :n])
    inside[torch.arange(len(rows), device=x.device), rows] = torch.inf
    return _smallest(inside, count)


def _with_ties(found: Tensor, scores: Tensor, reach: Tensor, count: int) -> Tensor:
    """(rows, count) columns: `found`, and the lowest other ones whose scores are within reach."""
    width = scores.shape[1]
    index = torch.arange(width, dtype=scores.dtype, device=scores.device)
    rank = torch.where(scores > reach[:, None], width + index, index)
    rank.masked_fill_(scores.isinf(), torch.inf).scatter_(1, found, -1.0)
    return _smallest(rank, count)


def _nearest(x: Tensor, rows: Tensor, found: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest of the candidates (by distance, then index) and all distances, sorted."""
    found = found.sort(dim=1).values  # a stable sort by distance then breaks ties by index
    order = _sq_distances(x, rows, found).sort(dim=1, stable=True)
    return found.gather(1, order.indices[:, :k]), order.values


def _smallest(scores: Tensor, count: int) -> Tensor:
    """(rows, count) columns of the smallest scores of each row.

    They lie in the `count` groups of columns with the smallest minima, so one pass for the minima
    and two short selections replace a long one.
    """
    minima = scores.view(scores.shape[0], -1, _GROUP).amin(2)
    best = minima.topk(min(count, minima.shape[1]), dim=1, largest=False, sorted=False).indices
    offsets = torch.arange(_GROUP, device=scores.device)
    cols = (best[:, :, None] * _GROUP + offsets).flatten(1)
    pick = scores.gather(1, cols).topk(count, dim=1, largest=False, sorted=False).indices
    return cols.gather(1, pick)


def _sq_distances(x: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """(len(rows), c) squared distances from differences, summed in float64, in pieces that fit a
    cache.
    """
    piece = max(1, _CACHE_BYTES // (x.element_size() * max(1, x.shape[1]) * cols.shape[1]))
    norms = [
        torch.linalg.vector_norm(x[c].sub_(x[r][:, None]), dim=2, dtype=torch.float64)
        for r, c in zip(rows.split(piece), cols.split(piece), strict=True)
    ]
    return torch.cat(norms).square_()


def _faiss_candidates(x: Tensor, count: int) -> Tensor:
    """(n, count) candidates other than the row itself."""
    import faiss

    data = np.ascontiguousarray(x.cpu().float().numpy())
    n, d = data.shape
    index: Any = faiss.IndexFlatL2(d)
    if n > _FLAT_ROWS:
        cells = int(4 * n**0.5)
        index = faiss.IndexIVFFlat(index, d, cells)
        index.train(data[np.random.default_rng(0).permutation(n)[: 64 * cells]])
        index.nprobe = 32
    index.add(data)
    _, found = index.search(data, count + 1)
    # drop the row itself; where its duplicates pushed it out of the list, drop the farthest
    own = found == np.arange(n)[:, None]
    own[~own.any(1), -1] = True
    found = found[~own].reshape(n, count)
    short = int((found < 0).any(1).sum())
    if short:
        raise ValueError(
            f"from_knn: faiss found fewer than {count} neighbours for {short} rows; "
            "use backend='exact'"
        )
    return torch.from_numpy(found)


def _weights(indices: Tensor, sq_distances: Tensor, weight: str) -> Tensor:
    """(n, k): ones, or exp(−‖x_i − x_j‖²/(σ_i σ_j)) with σ_i the distance to the k-th neighbour."""
    if weight == "connectivity":
        return torch.ones(indices.shape, dtype=torch.float32, device=indices.device)
    sigma = sq_distances[:, -1].sqrt()
    positive = sigma[sigma > 0]
    # a row with k duplicates has no scale of its own: give it the average one
    usual = float(positive.mean()) if positive.numel() else 1.0
    sigma = torch.where(sigma > 0, sigma, usual)
    scale = sigma[:, None] * sigma[indices]
    # far ends of very uneven scales underflow: keep the edge, so that the pattern is the kNN graph
    return torch.exp(-sq_distances / scale).clamp_min(torch.finfo(torch.float64).tiny)


def _symmetric(indices: np.ndarray, weights: np.ndarray, mutual: bool) -> Csr:
    n, k = indices.shape
    indptr = np.arange(0, n * k + 1, k)
    directed = scipy.sparse.csr_array((weights.ravel(), indices.ravel(), indptr), shape=(n, n))
    flipped = directed.T.tocsr()
    # heat weights are symmetric in i and j, so the smaller of w_ij and w_ji is w_ij or nothing
    merged = directed.minimum(flipped) if mutual else (directed + flipped) * weights.dtype.type(0.5)
    return csr_from_scipy(merged, symmetric=True)


def _rows(X: Any, metric: str) -> Tensor:
    if isinstance(X, Tensor):
        x = X.detach()
        if x.layout != torch.strided or x.is_complex():
            raise TypeError(f"from_knn: X must be dense and real, got {x.layout} of {x.dtype}")
    else:
        array = np.array(X)  # of objects when X is sparse
        if array.dtype.kind not in "fiub":
            kind = type(X).__name__
            raise TypeError(f"from_knn: X must be dense and real, got {kind} of {array.dtype}")
        x = torch.from_numpy(array)
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
    x = _near_one(x, by_row=metric == "cosine")
    if metric == "cosine":
        norms = x.norm(dim=1, keepdim=True)
        if bool((norms == 0).any()):
            bad = int(torch.nonzero(norms[:, 0] == 0)[0, 0])
            raise ValueError(
                f"from_knn: metric='cosine' needs rows that are not zero, got row {bad}"
            )
        x = x / norms
    return x


def _near_one(x: Tensor, *, by_row: bool) -> Tensor:
    """x times a power of two, so that squared distances neither overflow nor vanish.

    Nothing else changes: the factor is exact, and the order of distances and the heat weights have
    no unit. by_row: a factor for each row, where only directions count.
    """
    size = x.abs().amax(1, keepdim=True)
    if not by_row and len(x):
        size = size.amax()
    size = size.clamp_min(torch.finfo(x.dtype).smallest_normal)
    return x * (4 * torch.frexp(size).mantissa / size)  # mantissa / size = 2^-exponent

"""The graph of k nearest neighbours of rows that are spread over ranks.

Every rank gathers all rows, N d numbers, and looks for the neighbours of its own. An edge is told
to the rank of its other end.
"""

from __future__ import annotations

from typing import Any

import scipy  # its submodules load on first use
import torch

from ...ranks import agree, gather_rows, several, told_to_all
from ..build import csr_from_scipy
from ..partitioned import exchanged, partitioned
from ..relation import Relation
from ..stored import CsrRelation
from .knn import (
    check_neighbours,
    check_options,
    directed_rows,
    fitting,
    knn_csr,
    rows_of,
    symmetric_part,
    weights_of,
)
from .nearest import neighbours

OP = "from_knn"


def knn(X: Any, k: Any, *, group: Any, **options: Any) -> Relation:
    """Arguments as in PairGraph.from_knn."""
    group = several(OP, group)
    if group is None:
        return CsrRelation(knn_csr(X, k, **options))
    with told_to_all(OP, group):
        k = check_options(k, **options)
        if options["backend"] == "faiss":
            raise ValueError(f"{OP}: backend must be 'auto' or 'exact' with a group, got 'faiss'")
        x, dtype = rows_of(X, options["metric"])
    facts = {"columns of X": x.shape[1], "dtype of X": x.dtype, "dtype of products": dtype}
    facts |= {"n_neighbors": k, **options}
    ranks, _ = agree(OP, group, facts, x.shape[0])
    check_neighbours(k, ranks.n)
    here, n = ranks.here, ranks.n
    indices, lengths = neighbours(fitting(gather_rows(x, ranks)), k, dtype=dtype, of=here)
    sigma = gather_rows(lengths[:, -1], ranks)
    weights = weights_of(indices, lengths, sigma, here, options["weight"])
    directed = directed_rows(indices, weights, n)
    rows = torch.arange(here.start, here.stop, device=x.device).repeat_interleave(k)
    to, of, values = exchanged(rows, indices.flatten(), weights.double().flatten(), ranks)
    at = (of - here.start).cpu().numpy(), to.cpu().numpy()
    told = values.cpu().numpy().astype(directed.dtype), at
    flipped = scipy.sparse.coo_array(told, shape=directed.shape).tocsr()
    merged = scipy.sparse.csr_array(symmetric_part(directed, flipped, options["mutual"]))
    return partitioned(csr_from_scipy(merged, symmetric=False).to(x.device), ranks, True)

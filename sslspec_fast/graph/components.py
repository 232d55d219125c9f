"""Connected components of a relation, in one process or with its rows over ranks.

Nodes are joined with hubs: an entry (i, j) joins i with the hub of j, which is joined with j, and a
clique is one hub. Over ranks every rank keeps a spanning forest of its own joins, with at most a
join for each of its rows and the hubs they meet, and those of all ranks are gathered.
"""

from __future__ import annotations

import numpy as np
import scipy  # its submodules load on first use
import torch
from torch import Tensor

from ..ranks import Ranks, agree
from ..ranks.differentiable import start_gather
from ..ranks.traffic import host_device
from .relation import Relation

__all__ = ["components", "joined_over_ranks"]


def components(relation: Relation) -> tuple[int, Tensor]:
    """(count, labels (n,) int64), numbered by their first row; over ranks of this rank's rows."""
    nodes, hubs, n_hubs = relation.hub_edges()
    ranks = relation.ranks
    if ranks is None:
        joins = np.stack([nodes, hubs + relation.n])
        labels = _labels(joins, relation.n + n_hubs)[: relation.n]
    else:
        joins = np.stack([nodes + ranks.here.start, hubs + ranks.n])
        labels = joined_over_ranks(joins, ranks.n + n_hubs, ranks)[: ranks.n]
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(first.shape[0], dtype=np.int64)
    rank[np.argsort(first)] = np.arange(first.shape[0])
    numbered = rank[inverse]
    own = numbered if ranks is None else numbered[ranks.here]
    return first.shape[0], torch.from_numpy(own).to(relation.device)


def joined_over_ranks(joins: np.ndarray, size: int, ranks: Ranks) -> np.ndarray:
    """(size,) the components of so many nodes; joins (2, e) int64: those that this rank knows."""
    nodes, place = np.unique(joins, return_inverse=True)
    i, j = place.astype(np.int32).reshape(2, -1)  # as SciPy 1.12 has its graphs
    local = scipy.sparse.coo_array((np.ones(len(i)), (i, j)), shape=(len(nodes),) * 2)
    forest = scipy.sparse.csgraph.minimum_spanning_tree(local.tocsr()).tocoo()
    kept = torch.from_numpy(np.stack([nodes[forest.row], nodes[forest.col]], 1).astype(np.int64))
    edges, _ = agree("components", ranks.group, {}, len(kept))
    every = start_gather(kept.to(host_device(ranks.group)), edges)()
    return _labels(every.cpu().numpy().T, size)


def _labels(joins: np.ndarray, size: int) -> np.ndarray:
    ones = np.ones(joins.shape[1], dtype=np.int8)
    star = scipy.sparse.coo_array((ones, (joins[0], joins[1])), shape=(size, size))
    labels: np.ndarray = scipy.sparse.csgraph.connected_components(star, directed=False)[1]
    return labels

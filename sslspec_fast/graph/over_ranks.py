"""Relations whose rows are spread over the ranks of a process group, from what each rank has.

Every rank gives its own rows, in rank order those of the whole, and columns by their global
numbers. All constructors are to be called on all ranks, and an error on one is raised on all.
"""

from __future__ import annotations

import itertools
import weakref
from typing import Any

import numpy as np
import scipy  # its submodules load on first use
import torch
from torch import Tensor

from .. import _checks as check
from ..primitives.sparse.csr import Csr
from ..ranks import Ranks, agree, gather_rows, told_to_all
from . import build
from .cliques import labels_relation, views_relation
from .partitioned import Partitioned, exchanged, partitioned
from .relation import Relation
from .stored import CsrRelation

_numbers = itertools.count(1)
_graphs: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()


def register(graph: object, relation: Relation) -> tuple[str, int]:
    """A name by which operators of this process find the PairGraph, and a number of it on which all
    ranks agree: what ranks build in different orders has different numbers.
    """
    assert relation.ranks is not None
    number = next(_numbers)
    name = f"graph {number}"
    _graphs[name] = graph
    facts = {"kind": relation.kind}
    _, (numbers,) = agree("PairGraph", relation.ranks.group, facts, relation.n, number)
    return name, numbers[0]


def by_name(name: str) -> Any:
    """The PairGraph that `register` gave this name to."""
    return _graphs[name]


def views(n_samples: Any, n_views: Any, device: torch.device, group: Any) -> Relation:
    op = "from_views"
    with told_to_all(op, group):
        n_samples = check.count(op, "n_samples", n_samples, 0)
        n_views = check.count(op, "n_views", n_views, 1)
    ranks, _ = agree(op, group, {"n_views": n_views}, n_samples * n_views)
    return views_relation(n_samples, n_views, device, _filled(op, ranks, "samples"))


def labels(values: Any, weight: str, self_loops: bool, group: Any) -> Relation:
    op = "from_labels"
    with told_to_all(op, group):
        size = build.weighs_by_class_size(weight)
        ids = build.label_tensor(values, names=False)
    facts = {"weight": weight, "self_loops": self_loops}
    ranks = _filled(op, agree(op, group, facts, ids.shape[0])[0], "labels")
    return labels_relation(ids, class_size_weight=size, self_loops=self_loops, ranks=ranks)


def edges(rows: Any, cols: Any, weights: Any, n: Any, symmetrize: bool, group: Any) -> Relation:
    op = "from_edges"
    with told_to_all(op, group):
        n = check.count(op, "n", n, 0)
        i, j, w = build.checked_edges(rows, cols, weights, n)
        device = rows.device if isinstance(rows, Tensor) else torch.device("cpu")
    ranks, _ = agree(op, group, {"symmetrize": symmetrize}, n)
    with told_to_all(op, group):
        build.check_columns(j, ranks.n)
        matrix = scipy.sparse.coo_array((w, (i, j)), shape=(n, ranks.n))
        matrix = build.summed(matrix, build.check_weights)
    agree(op, group, {}, n)  # no rank has failed
    if symmetrize:
        a = matrix.tocoo()
        here = ranks.here.start
        at = [torch.from_numpy(x.astype(np.int64)) for x in (a.row, a.col)]
        given = torch.from_numpy(a.data.astype(np.float64))
        to, of, weight = exchanged(at[0] + here, at[1], given, ranks)
        other = (weight.numpy(), ((of - here).numpy(), to.numpy()))
        matrix = (matrix + scipy.sparse.coo_array(other, shape=matrix.shape)) * 0.5
    rows_of = build.csr_from_scipy(scipy.sparse.csr_array(matrix), symmetric=False)
    return _stored(rows_of.to(device), ranks, True if symmetrize else None)


def sparse(matrix: Any, group: Any) -> Relation:
    op = "from_sparse"
    with told_to_all(op, group):
        host, device = build.sparse_on_host(matrix)
        if len(host.shape) != 2:
            raise ValueError(f"{op}: A must be (rows of this rank, rows of all), got {host.shape}")
        rows = build.csr_from_scipy(host, symmetric=False).to(device)
    ranks, _ = agree(op, group, {"columns of A": rows.n_cols}, rows.n_rows)
    if ranks.n != rows.n_cols:
        raise ValueError(
            f"{op}: A must have as many columns as the ranks have rows, {ranks.n} = "
            f"{' + '.join(map(str, ranks.counts))}, got {rows.n_cols}"
        )
    return _stored(rows, ranks, None)


def _stored(rows: Csr, ranks: Ranks, symmetric: bool | None) -> Partitioned:
    return partitioned(rows, _filled("PairGraph", ranks, "rows"), symmetric)


def _filled(op: str, ranks: Ranks, what: str) -> Ranks:
    if ranks.n == 0:
        raise ValueError(f"{op}: the ranks must have at least 1 row together, got no {what}")
    return ranks


def partition(graph: Any) -> Partitioned:
    """This rank's rows of a PairGraph over ranks as stored entries, cliques too."""
    relation: Relation = graph._relation
    if isinstance(relation, Partitioned):
        return relation
    assert relation.ranks is not None
    return partitioned(graph.stored(), relation.ranks, relation.symmetric)


def whole(ranks: Ranks, a: Csr, symmetric: bool) -> Relation:
    """The relation of all rows on every rank, of what `Relation.csr` is there."""
    values = torch.ones(a.nnz, dtype=torch.float64, device=a.device)
    values = values if a.values is None else a.values.double()
    counts = a.indptr.diff()
    of_entries, _ = agree("PairGraph", ranks.group, {}, a.nnz)
    counts = gather_rows(counts, ranks)
    indptr = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    indices = gather_rows(a.indices.to(torch.int64), of_entries)
    csr = Csr(indptr, indices, gather_rows(values, of_entries), ranks.n, symmetric or None)
    return CsrRelation(csr)

"""How graphs are pickled: as tensors and numbers, checked again when they are read.

So `torch.load` reads them with its default, weights_only=True, and a damaged or forged file ends in
an error, never in a product that leaves the matrix. `copy.deepcopy` takes the same way.
"""

from __future__ import annotations

import copyreg
from typing import Any

import torch
from torch import Tensor

from .. import _checks as check
from ..primitives.sparse.csr import Csr
from .cliques import Cliques
from .pair_graph import PairGraph
from .relation import Relation
from .stored import CsrRelation
from .total import SumRelation

__all__ = ["restored"]


def restored(state: tuple[Any, ...]) -> PairGraph:
    """The graph of `_state_of`.

    Raises:
        ValueError or TypeError: no graph has this state.
    """
    return PairGraph(_relation(state))


def _state_of(relation: Relation) -> tuple[Any, ...]:
    if isinstance(relation, Cliques):
        facts = relation.kind, relation._n_cliques, relation._self_loops
        return "cliques", *facts, relation._ids, relation._weights
    if isinstance(relation, SumRelation):
        return "sum", *map(_state_of, relation.parts)
    assert isinstance(relation, CsrRelation)
    a = relation._a
    return "csr", a.n_cols, relation._scale, a.indptr, a.indices, a.values


def _relation(state: tuple[Any, ...]) -> Relation:
    _require(isinstance(state, tuple) and len(state) > 1, "a state", state)
    kind, *rest = state
    if kind == "sum":
        parts = tuple(map(_relation, rest))
        same = all(p.n == parts[0].n and p.device == parts[0].device for p in parts)
        _require(
            same and not any(isinstance(p, SumRelation) for p in parts), "parts of one size", parts
        )
        return SumRelation(parts)
    if kind == "cliques" and len(rest) == 5:
        return _cliques(*rest)
    _require(kind == "csr" and len(rest) == 5, "a kind of graph", kind)
    return _stored(*rest)


def _cliques(name: Any, n_cliques: Any, self_loops: Any, ids: Any, weights: Any) -> Cliques:
    _require(name in ("views", "labels") and isinstance(self_loops, bool), "cliques", name)
    n_cliques = check.count("PairGraph", "the number of cliques", n_cliques, 0)
    _vector("ids", ids, (torch.int64,))
    _vector("weights", weights, (torch.float64,), n_cliques)
    low, high = (int(ids.min()), int(ids.max())) if len(ids) else (-1, -1)
    _require(low >= -1 and high < n_cliques, f"ids in [-1, {n_cliques})", (low, high))
    _require(bool(weights.isfinite().all()), "finite weights", weights)
    return Cliques(name, ids, n_cliques, weights, self_loops)


def _stored(n: Any, scale: Any, indptr: Any, indices: Any, values: Any) -> CsrRelation:
    n = check.count("PairGraph", "n", n, 0)
    scale = check.number("PairGraph", "the scale", scale)
    _vector("indptr", indptr, (torch.int64,), n + 1)
    _vector("indices", indices, (torch.int32, torch.int64))
    check.compressed("PairGraph", "the file", indptr, indices, n, n)
    _require(int(indptr[-1]) == len(indices), f"{int(indptr[-1])} entries", len(indices))
    if values is not None:
        _vector("values", values, (torch.float32, torch.float64), len(indices))
        _require(bool(values.isfinite().all()), "finite weights", values)
    a = Csr(indptr, indices, values, n)
    rows = a.rows()
    rising = (rows[1:] > rows[:-1]) | (indices[1:] > indices[:-1])
    _require(bool(rising.all()), "indices that rise in each row", indices)
    return CsrRelation(a, scale)


def _vector(name: str, x: Any, dtypes: tuple[torch.dtype, ...], size: int | None = None) -> None:
    good = isinstance(x, Tensor) and x.dim() == 1 and x.dtype in dtypes
    _require(good and size in (None, len(x)), f"a vector of {name}", x)


def _require(holds: bool, rule: str, found: Any) -> None:
    if not holds:
        shown = " ".join(str(found).split())[:60]
        raise ValueError(f"PairGraph: what is read must have {rule}, got {shown}")


def _reduce(graph: PairGraph) -> tuple[Any, ...]:
    return restored, (_state_of(graph._relation),)


copyreg.pickle(PairGraph, _reduce)
torch.serialization.add_safe_globals([restored])

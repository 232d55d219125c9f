"""Graphs through torch.save, pickle and deepcopy; what is damaged is refused when it is read."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
import torch

from sslspec_fast import PairGraph
from sslspec_fast.graph import saved

STORED = PairGraph.from_edges([0, 1, 3], [1, 0, 2], [2.0, 2.0, 5.0], n=5)
GRAPHS = {
    "views": PairGraph.from_views(4, 2),
    "three views": 0.5 * PairGraph.from_views(3, 3),
    "labels": PairGraph.from_labels([0, 1, -1, 1, 0, 0], weight="class_size", self_loops=True),
    "stored": STORED,
    "scaled": -3 * STORED,
    "without weights": PairGraph.from_edges([0, 1], [1, 0], n=3),
    "empty": PairGraph.from_edges([], [], n=4),
    "sum": PairGraph.from_labels([0, 0, 1, 1, -1]) + 2 * STORED,
}


def through_torch(graph):
    stream = io.BytesIO()
    torch.save({"graph": graph, "step": 3}, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=True)["graph"]


@pytest.mark.parametrize(
    "way", [through_torch, lambda g: pickle.loads(pickle.dumps(g)), copy.deepcopy, copy.copy]
)
@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_comes_back_as_it_was(name, way):
    graph = GRAPHS[name]
    again = way(graph)
    assert repr(again) == repr(graph)
    assert np.array_equal(again.to_scipy().toarray(), graph.to_scipy().toarray())
    assert again.is_symmetric == graph.is_symmetric
    x = torch.randn(graph.n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.matmul(x), graph.matmul(x))
    ids = graph.clique_ids
    assert ids is None or torch.equal(again.clique_ids, ids)


@pytest.mark.parametrize("name", ["labels", "stored", "sum"])
def test_a_forged_state_is_refused(name):
    """Each number and tensor in turn is replaced by one that no graph has."""
    whole = saved._state_of(GRAPHS[name]._relation)
    bad = (None, -1, 7.5, "x", torch.full((4,), 99), torch.tensor([[0]]), torch.ones(2))

    def forged(state):
        for i, entry in enumerate(state):
            if isinstance(entry, tuple):
                yield from ((*state[:i], part, *state[i + 1 :]) for part in forged(entry))
                continue
            for other in bad:
                same = isinstance(other, type(entry)) and not isinstance(entry, torch.Tensor)
                scale = isinstance(entry, float) and isinstance(other, (int, float))
                all_ones = state[0] == "csr" and i == 5 and other is None  # a graph of weights 1
                if not (same or scale or all_ones or entry is other):
                    yield (*state[:i], other, *state[i + 1 :])

    states = list(forged(whole))
    assert len(states) > 20
    for state in states:
        with pytest.raises((ValueError, TypeError), match="PairGraph: "):
            saved.restored(state)


@pytest.mark.parametrize(
    ("indptr", "indices"),
    [
        ([0, 1, 2, 2], [5, 0]),
        ([0, 1, 2, 2], [-1, 0]),
        ([0, 2, 1, 2], [1, 0]),
        ([0, 1, 2, 9], [1, 0]),
        ([0, 1, 2], [1, 0]),
        ([0, 2, 2, 2], [1, 0]),
        ([0, 2, 2, 2], [1, 1]),
        ([0, 1, 1, 1], [1, 0]),
    ],
)
def test_rows_that_leave_the_matrix_are_refused(indptr, indices):
    state = ("csr", 3, 1.0, torch.tensor(indptr), torch.tensor(indices), None)
    with pytest.raises(ValueError, match="PairGraph: "):
        saved.restored(state)

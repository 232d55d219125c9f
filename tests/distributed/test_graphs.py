"""Graphs whose rows are spread over ranks: their facts, products, losses and errors."""

from __future__ import annotations

import pytest

from ..support.ranks import graphs
from ..support.ranks.batch import SPLITS
from ..support.ranks.pool import Pool
from ..support.versions import traces_graphs

SOME = [split for splits in SPLITS.values() for split in splits[1:]]


@pytest.mark.parametrize("kind", graphs.KINDS)
def test_facts_are_those_of_the_whole_graph(pool: Pool, kind: str) -> None:
    for split in SOME:
        for wrong in pool.run(graphs.facts, kind, split, ranks=len(split)):
            assert not wrong


def test_norms_of_sums_of_views_and_what_crosses_ranks(pool: Pool) -> None:
    for split in SOME:
        assert max(pool.run(graphs.norms_of_sums, split, ranks=len(split))) < 1e-14


@pytest.mark.parametrize("kind", graphs.KINDS)
def test_products_and_their_gradients(pool: Pool, kind: str) -> None:
    for split in SOME:
        for errors in pool.run(graphs.products, kind, split, ranks=len(split)):
            assert max(errors.values()) < 1e-12, errors


@pytest.mark.parametrize("impl", ["fused", "torch"])
@pytest.mark.parametrize("split", SOME)
def test_covariance_is_on_every_rank(pool: Pool, split: tuple[int, ...], impl: str) -> None:
    for errors in pool.run(graphs.covariance, split, impl, ranks=len(split)):
        assert max(errors.values()) < 1e-12, errors


@pytest.mark.parametrize("scale", [1.0, 1e305])
def test_nearest_neighbours_are_those_of_all_rows(pool: Pool, scale: float) -> None:
    for split in SOME:
        assert pool.run(graphs.neighbours, split, scale, ranks=len(split)) == [0] * len(split)


@pytest.mark.parametrize("kind", ["labels", "weights"])
def test_spectra_are_those_of_the_whole_graph(pool: Pool, kind: str) -> None:
    for errors in pool.run(graphs.spectra, kind, (2, 9, 1, 1), ranks=4):
        assert max(errors.values()) < 1e-9, errors


@pytest.mark.parametrize("kind", ["labels", "loops", "weights", "sum"])
def test_operators_are_those_of_the_whole_graph(pool: Pool, kind: str) -> None:
    for split in SOME:
        for errors in pool.run(graphs.operators, kind, split, ranks=len(split)):
            assert max(errors.values()) < 1e-12, errors


@traces_graphs
@pytest.mark.parametrize("name", ["graph_info_nce", "graph_barlow_twins", "graph_siglip"])
def test_one_compiled_graph(pool: Pool, name: str) -> None:
    for errors in pool.run(graphs.compiled, name, ranks=2):
        assert max(errors.values()) < 1e-12, errors


def test_the_module_takes_the_group_of_its_graph(pool: Pool) -> None:
    assert max(pool.run(graphs.module, ranks=3)) < 1e-12


@pytest.mark.parametrize(
    ("name", "here", "elsewhere"),
    [
        (
            "columns",
            r"ValueError: from_edges: cols must lie in \[0, 6\), got 6",
            r"RuntimeError: from_edges: rank 1 of 2 failed with ValueError: .* got 6",
        ),
        (
            "rows",
            r"ValueError: from_edges: rows must lie in \[0, 3\), got 3",
            "RuntimeError: from_edges: rank 1 of 2 failed",
        ),
        (
            "weights",
            "ValueError: PairGraph: weights must be finite, got nan",
            "RuntimeError: from_edges: rank 1 of 2 failed",
        ),
        ("shape", r"ValueError: from_sparse: A must have as many columns .* 4 = 2 \+ 2, got 6", 0),
        ("columns of A", "ValueError: from_sparse: columns of A must be the same .* 6, .* 5", 0),
        (
            "labels",
            "TypeError: from_labels: labels must be integers",
            "RuntimeError: from_labels: rank 1 of 2 failed with TypeError",
        ),
        ("weight", "ValueError: from_labels: weight must be the same .*class_size.*uniform", 0),
        ("no rows", "ValueError: from_labels: the ranks must have at least 1 row together", 0),
        ("views", "ValueError: from_views: n_views must be the same .* has 2, rank 1 has 3", 0),
        ("another graph", "ValueError: dirichlet_energy: graph must be the same .*number", 0),
        (
            "rows of z",
            "ValueError: ls_simclr: graph.n must match the 2 rows of z, got 3",
            "RuntimeError: ls_simclr: rank 1 of 2 failed with ValueError: .* got 3",
        ),
        ("penalty", "ValueError: graph_vicreg: penalty must be the same .* ls_std, .* ls_var", 0),
        ("directed", "ValueError: ls_simclr: graph must be symmetric, got a directed one", 0),
        ("one process", "ValueError: ls_simclr: graph must have its rows on the ranks", 0),
        ("order", "ValueError: PairGraph: reorder needs all rows in one process", 0),
        (
            "weights of targets",
            r"ValueError: graph_siglip: .* weights in \[0, 1\], got 0.5 to 2",
            0,
        ),
        ("images", "ValueError: graph_siglip: graph.n must match the 2", "rank 1 of 2 failed"),
        ("no negative", "ValueError: graph_info_nce: every row with a positive .* 6 of the 6", 0),
        ("operator", "ValueError: laplacian: graph must be symmetric, got a directed", 0),
        ("signed", "ValueError: adjacency: normalized=True needs non-negative .* -1", 0),
        (
            "neighbours",
            r"ValueError: from_knn: n_neighbors must lie in \[1, 5\] for 6 rows, .*6",
            0,
        ),
        (
            "number of neighbours",
            "ValueError: from_knn: n_neighbors must be the same .* 2, .* 3",
            0,
        ),
        ("no neighbours", "ValueError: .* n_neighbors must be .* got 0", "rank 1 of 2 failed"),
        ("approximate", "ValueError: from_knn: backend must be 'auto' or 'exact' with a group", 0),
    ],
)
def test_errors_are_raised_on_all_ranks(
    pool: Pool, name: str, here: str, elsewhere: str | int
) -> None:
    pool.check_errors(graphs.refused, name, here=here, elsewhere=elsewhere)

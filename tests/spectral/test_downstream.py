"""Downstream error, alignment and the guidelines: rows P2, X and M1 of docs/closed_forms.md."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from sslspec_fast import spectral
from sslspec_fast.graph import PairGraph


def test_error_is_the_best_affine_readout():
    rng = np.random.default_rng(0)
    z, y = rng.standard_normal((30, 4)) + 3, rng.standard_normal((30, 2))
    design = np.c_[z, np.ones(30)]
    fit = np.linalg.lstsq(design, y, rcond=None)[0]
    expected = ((y - design @ fit) ** 2).sum()
    assert spectral.downstream_error(z, y) == pytest.approx(expected, rel=1e-12)
    assert spectral.downstream_error(torch.from_numpy(z), torch.from_numpy(y)) == pytest.approx(
        expected, rel=1e-12
    )
    collinear = np.c_[z, z[:, :1]]
    assert spectral.downstream_error(collinear, y) == pytest.approx(expected, rel=1e-9)


def test_labels_are_one_hot():
    y = np.array([0, 0, 1, 1, 2, 2])
    z = np.eye(3)[y]
    assert spectral.downstream_error(z, y) == pytest.approx(0, abs=1e-20)
    assert spectral.downstream_error(np.zeros((6, 2)), y) == pytest.approx(6 - 3 * 4 / 6)
    with pytest.raises(ValueError, match=r"Y must be \(6,\) labels .* got shape \(5,\)"):
        spectral.downstream_error(z, y[:5])


def test_p2_misaligned_graph():
    """Small gamma keeps full rank and reaches every task; large gamma and LS-SimCLR cannot."""
    n = 32
    graph = PairGraph.from_labels(np.arange(n) % 4, self_loops=True)
    task = np.random.default_rng(0).standard_normal((n, 2))
    small = spectral.vicreg(graph, n - 1, invariance=0.01)
    large = spectral.vicreg(graph, n - 1, invariance=1.0)
    simclr = spectral.simclr(graph, n - 1, center=True)
    assert (small.rank, large.rank, simclr.rank) == (n - 1, 3, 3)
    errors = [spectral.downstream_error(form, task) for form in (small, large, simclr)]
    assert errors[0] < 1e-16
    assert errors[1] == pytest.approx(errors[2], rel=1e-9)
    assert errors[1] > 0.1


def test_error_grows_with_the_invariance_weight(lab):
    """Smaller gamma keeps a larger span: the error never increases when gamma decreases."""
    graph = lab.graph(lab.random_weights(24, 0.25))
    task = np.random.default_rng(0).standard_normal((24, 1))
    errors = [
        spectral.downstream_error(spectral.vicreg(graph, 23, invariance=g), task)
        for g in (0.01, 0.1, 0.3, 1.0)
    ]
    assert all(a <= b + 1e-9 for a, b in itertools.pairwise(errors))


def test_aligned_graph_collapses_to_the_classes():
    """Label graph, gamma c n_c >= alpha: rank C - 1 and rows constant within a class."""
    labels = np.repeat([0, 1, 2], [10, 8, 6])
    form = spectral.vicreg(PairGraph.from_labels(labels), 10, invariance=1.0)
    assert form.rank == 2
    assert spectral.downstream_error(form, labels) < 1e-16
    for c in range(3):
        rows = form.embedding[labels == c]
        assert torch.allclose(rows, rows[:1].expand_as(rows), atol=1e-12)


def block_model(rng, labels):
    p = np.where(labels[:, None] == labels[None], 0.25, 0.05)
    a = np.triu(rng.random(p.shape) < p, 1).astype(float)
    return a + a.T


def test_x1_x2_guidelines(lab):
    """(i) aligned graph, few labels: large gamma; (ii) other task, many labels: small gamma."""
    rng = np.random.default_rng(11)
    classes, size, k = 4, 30, 50
    y = np.repeat(np.arange(classes), size)
    n = classes * size
    accuracy: dict[float, list[float]] = {0.01: [], 1.0: []}
    error: dict[float, list[float]] = {0.01: [], 1.0: []}
    for _ in range(4):
        w = block_model(rng, y)
        lam, q = lab.laplacian_modes(w)
        task = q[:, 20:45] @ (q[:, 20:45].T @ rng.standard_normal((n, 1)))
        few = np.concatenate([rng.choice(np.flatnonzero(y == c), 2, False) for c in range(classes)])
        many = rng.permutation(n)[:105]
        rest = np.setdiff1d(np.arange(n), many)
        for share, hits in accuracy.items():
            gamma = share * n / ((n - 1) * lam[classes - 1])  # 1: only C - 1 modes survive
            z = spectral.vicreg(lab.graph(w), k, invariance=gamma).embedding.numpy()
            readout = np.linalg.pinv(z[few]) @ (np.eye(classes)[y[few]] - 1 / classes)
            unseen = np.setdiff1d(np.arange(n), few)
            hits.append((np.argmax(z @ readout, axis=1) == y)[unseen].mean())
            fit = np.linalg.lstsq(z[many], task[many], rcond=1e-10)[0]
            error[share].append(((task[rest] - z[rest] @ fit) ** 2).sum() / (task[rest] ** 2).sum())
    assert np.mean(accuracy[1.0]) > np.mean(accuracy[0.01]) + 0.05
    assert np.mean(error[0.01]) < np.mean(error[1.0])


def test_alignment():
    """1 on the label graph, Newman's assortativity in general, negative on the opposite."""
    y = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    assert spectral.alignment(PairGraph.from_labels(y), y) == pytest.approx(1)
    rng = np.random.default_rng(0)
    w = np.triu(rng.random((8, 8)) < 0.5, 1)
    rows, cols = np.nonzero(w + w.T)
    graph = PairGraph.from_edges(rows, cols, n=8)
    e = np.zeros((3, 3))
    np.add.at(e, (y[rows], y[cols]), 1 / len(rows))
    a = e.sum(0)
    newman = (np.trace(e) - (a**2).sum()) / (1 - (a**2).sum())
    assert spectral.alignment(graph, y) == pytest.approx(newman, rel=1e-12)
    assert spectral.alignment(PairGraph.from_views(2), np.array([0, 0, 1, 1])) == pytest.approx(-1)
    with pytest.raises(ValueError, match=r"Y must vary between nodes with edges"):
        spectral.alignment(graph, np.zeros(8, dtype=int))


@pytest.mark.parametrize("method", ["auto", "lanczos"])
def test_m1_components_are_exact_modes(lab, method):
    """Four components, one of them an isolated node: three exact zeros, then the solved values.

    With "lanczos" no matrix is formed: the components are known, the rest is found behind them.
    """
    sizes = (12, 10, 8)
    w = np.zeros((31, 31))
    start = 0
    for seed, size in enumerate(sizes):
        w[start : start + size, start : start + size] = lab.random_weights(size, 0.5, seed=seed)
        start += size
    order = np.random.default_rng(0).permutation(31)
    w = w[np.ix_(order, order)]
    form = spectral.vicreg(lab.graph(w), 6, invariance=1e-3, method=method)
    assert method in ("auto", form.info.method)
    values = np.linalg.eigvalsh(np.diag(w.sum(1)) - w)
    assert torch.all(form.eigenvalues[:3] == 0)
    assert np.allclose(form.eigenvalues[3:].numpy(), values[4:7])
    assert form.info.components == 4
    assert form.info.isolated == 1
    lone = int(np.flatnonzero(w.sum(1) == 0)[0])
    blind = spectral.barlow_twins(lab.graph(w), 3)
    assert torch.all(blind.embedding[lone] == 0)
    assert blind.info.isolated == 1


def test_error_does_not_depend_on_the_scale_of_a_column():
    z = np.random.default_rng(0).standard_normal((100, 2))
    for scale in (1.0, 1e7, 1e-9):
        error = spectral.downstream_error(z * [scale, 1.0], z[:, 1:])
        assert error == pytest.approx(0, abs=1e-12)
    constant = np.c_[z, np.full(100, 3.7)]  # centring leaves rounding, not a direction
    other = np.random.default_rng(1).standard_normal((100, 1))
    assert spectral.downstream_error(constant, other) == pytest.approx(
        spectral.downstream_error(z, other)
    )

"""Optima of free embeddings: VICReg's filter, the rank of the three methods, InfoNCE."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

import sslspec_fast.functional as F
from benchmarks.paper.common import COLORS, PAIR, Images, descend, normal, panels, save
from sslspec_fast import PairGraph, spectral


def singular_values(sets: list[Images], out: Path) -> dict[str, str]:
    """Singular values of VICReg's optimum against gamma: closed form as lines, descent as dots."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    facts = {"sv_k": "12"}
    for data, axis in zip(sets, figure.subplots(1, 2), strict=True):
        facts |= _filter(data, 12, axis)
    figure.suptitle("VICReg: closed form (lines), L-BFGS (dots)")
    save(figure, out, "singular_values")
    return facts


def _filter(data: Images, k: int, axis: Axes) -> dict[str, str]:
    graph, n = data.knn, data.knn.n
    c = (n - 1) / n
    lam = spectral.vicreg(graph, k, invariance=0.0).eigenvalues.numpy()
    grid = np.geomspace(0.02, 3.0, 300) / (c * lam[-1])
    lines = np.sqrt((n - 1) * np.maximum(0, 1 - np.outer(grid, c * lam)))
    axis.semilogx(grid, lines, color="#666666", linewidth=0.9)
    worst = worst_loss = 0.0
    for gamma in tqdm(np.array([0.1, 0.5, 1.3]) / (c * lam[-1]), desc=f"filter, {data.title}"):
        form = spectral.vicreg(graph, k, invariance=float(gamma))

        def loss(z: Tensor, gamma: float = float(gamma)) -> Tensor:
            return F.graph_vicreg(z, graph, invariance=gamma, penalty="ls_var")

        z, value, _ = descend(loss, normal(n, k), 400)
        found = torch.linalg.svdvals(z - z.mean(0)).numpy()
        expected = np.sqrt((n - 1) * form.filter.numpy())
        worst = max(worst, float(np.abs(found - expected).max() / expected.max()))
        worst_loss = max(worst_loss, abs(value - form.loss) / form.loss)
        axis.plot(np.full(k, gamma), found, "o", color=COLORS["small"], markersize=4)
    axis.set(xlabel="γ/α", ylabel="singular values of Z", title=f"{data.title}, N = {n:,}")
    return {f"{data.key}_sv_error": f"{worst:.0e}", f"{data.key}_sv_loss": f"{worst_loss:.0e}"}


def ranks(sets: list[Images], out: Path) -> dict[str, str]:
    """Rank of the optimum against gamma, K and method."""
    return panels(sets, out, "ranks", _ranks)


def _ranks(data: Images, left: Axes, right: Axes) -> dict[str, str]:
    graph, n = data.knn, data.knn.n
    sizes = (4, 16, 64, 256, 1024, n - 1)
    lam = spectral.vicreg(graph, n - 1, invariance=0.0).eigenvalues.numpy() * (n - 1) / n
    gammas = np.geomspace(1e-3, 10, 100)
    shades = [str(0.8 - 0.16 * i) for i in range(len(sizes))]
    for k, shade in zip(sizes, shades, strict=True):
        rank = [(g * lam[:k] < 1).sum() or np.nan for g in gammas]
        left.loglog(gammas, rank, color=shade, label=f"K = {k}")
    check = spectral.vicreg(graph, 64, invariance=0.05)
    assert check.rank == int((0.05 * lam[:64] < 1).sum())
    left.set(xlabel="γ/α", ylabel="rank of Z", title=f"{data.title}: VICReg")
    left.legend(fontsize=8, loc="upper right")
    methods = {
        "small": ("VICReg, γ = 0.001 α", lambda k: spectral.vicreg(graph, k, invariance=1e-3)),
        "simclr": ("LS-SimCLR", lambda k: spectral.simclr(graph, k, center=True)),
        "barlow": ("Barlow Twins, α = 1", lambda k: spectral.barlow_twins(graph, k)),
    }
    facts = {f"{data.key}_n": f"{n:,}", f"{data.key}_wide": f"{n - 1:,}"}
    for (name, (title, solve)), marker in zip(methods.items(), "os^", strict=True):
        found = [solve(k).rank for k in tqdm(sizes, desc=f"rank, {data.title}, {name}")]
        right.loglog(sizes, found, f"{marker}-", color=COLORS[name], label=title, markersize=5)
        facts[f"{data.key}_rank_{name}"] = f"{found[-1]:,}"
    right.set(xlabel="K", ylabel="rank of Z", title=f"{data.title}: the three methods")
    right.legend(fontsize=8)
    g = graph.to_scipy().toarray()
    values = np.abs(np.linalg.eigvalsh(g))
    facts[f"{data.key}_rank_graph"] = f"{int((values > 1e-10 * values.max()).sum()):,}"
    g -= g.mean(0)
    g -= g.mean(1, keepdims=True)
    facts[f"{data.key}_rank_positive"] = f"{int((np.linalg.eigvalsh(g) > 1e-9).sum()):,}"
    return facts


TAU = 0.5


def infonce(sets: list[Images], out: Path) -> dict[str, str]:
    """Cliques: descent reaches the simplex value. kNN graphs: MDS of G is not the optimum."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    facts = _pairs(left)
    for data, color in zip(sets, PAIR, strict=True):
        facts |= _classes(data, right, color)
        facts |= _mds(data)
    right.set(
        xlabel="L-BFGS steps",
        ylabel="InfoNCE, excess over the simplex",
        title=f"label cliques, K = 9, τ = {TAU}",
    )
    right.legend(fontsize=8)
    save(figure, out, "infonce")
    return facts


def _pairs(axis: Axes) -> dict[str, str]:
    samples = 24
    views = PairGraph.from_views(samples)
    optimum = spectral.info_nce(views, samples, temperature=TAU).loss
    final = {}
    for k, color in ((samples - 1, PAIR[0]), (8, PAIR[1])):
        _, final[k], trace = descend(
            lambda z: F.nt_xent(z[:samples], z[samples:], temperature=TAU),
            normal(2 * samples, k),
            150,
        )
        values = [float(F.nt_xent(z[:samples], z[samples:], temperature=TAU)) for z in trace]
        axis.plot(values, color=color, label=f"K = {k}")
    axis.axhline(optimum, color="black", linestyle="--", linewidth=0.8, label="simplex")
    axis.set(xlabel="L-BFGS steps", ylabel="NT-Xent", title=f"{samples} pairs, τ = {TAU}")
    axis.legend(fontsize=8)
    return {
        "etf": f"{optimum:.6f}",
        "etf_gap": f"{abs(final[samples - 1] - optimum) / optimum:.0e}",
        "etf_small_k": f"{final[8]:.4f}",
    }


def _classes(data: Images, axis: Axes, color: str) -> dict[str, str]:
    """Ten cliques of equal size: free rows of Z, and a linear encoder of the pixels."""
    size = int(torch.bincount(data.y).min())
    rows = torch.cat([(data.y == label).nonzero().flatten()[:size] for label in range(10)])
    graph, x = PairGraph.from_labels(data.y[rows]), data.x[rows]
    x = (x - x.mean(0))[:, x.std(0) > 0]
    x = x / x.std()
    optimum = spectral.info_nce(graph, 9, temperature=TAU).loss

    def loss(z: Tensor) -> Tensor:
        return F.graph_info_nce(z, graph, temperature=TAU)

    facts = {f"{data.key}_clique": f"{optimum:.6f}", f"{data.key}_clique_n": f"{len(rows):,}"}
    for key, title, style, start, of in (
        ("free", "free Z", "-", normal(len(rows), 9), loss),
        ("linear", "linear encoder", ":", normal(x.shape[1], 9), lambda w: loss(x @ w)),
    ):
        _, _, trace = descend(of, start, 150)
        excess = [float(of(z)) / optimum - 1 for z in tqdm(trace, desc=f"{data.title}, {title}")]
        axis.semilogy(
            [max(e, 1e-16) for e in excess], style, color=color, label=f"{data.title}, {title}"
        )
        facts[f"{data.key}_clique_{key}"] = (
            f"{abs(excess[-1]):.0e}" if excess[-1] < 1e-3 else f"{100 * excess[-1]:.1f}"
        )
    return facts


def _mds(data: Images) -> dict[str, str]:
    """Percent by which the MDS embedding of the kNN graph exceeds what descent from it reaches."""

    def loss(z: Tensor) -> Tensor:
        return F.graph_info_nce(z, data.knn, temperature=TAU)

    mds = spectral.simclr(data.knn, 8).embedding
    z, best, _ = descend(loss, mds.clone(), 100)
    angle = np.linalg.svd(np.linalg.qr(mds.numpy())[0].T @ np.linalg.qr(z.numpy())[0])[1].min()
    return {
        f"{data.key}_mds_excess": f"{100 * (float(loss(mds)) / best - 1):.0f}",
        f"{data.key}_mds_angle": f"{np.degrees(np.arccos(min(angle, 1.0))):.0f}",
    }

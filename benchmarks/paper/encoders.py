"""Linear encoders against their closed form, and what a corrupted label graph does downstream."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

import sslspec_fast.functional as F
from benchmarks.paper.common import COLORS, NAMES, Images, components, descend, normal, panels, save
from sslspec_fast import PairGraph, spectral

WIDTH = 40  # principal components that a linear encoder sees
CLASSES, SHOTS, REPEATS = 10, 3, 5
NOISE = 1e-6  # singular values below this share of the largest are no directions of Z
SHARES = (0.0, 0.3, 0.6, 0.8, 0.9, 0.95, 1.0)


def linear_weights(sets: list[Images], out: Path) -> dict[str, str]:
    """Loss gap and principal angle of a linear encoder on its way to the closed form."""
    return panels(sets, out, "linear", _linear)


def _linear(data: Images, left: Axes, right: Axes) -> dict[str, str]:
    mean, axes = components(data.x, WIDTH)
    x, graph, k = (data.x - mean) @ axes, data.knn, 8
    span = torch.linalg.inv(torch.linalg.cholesky(x.T @ x / len(x))).T
    lam = spectral.vicreg(graph, k, features=x, invariance=1.0).eigenvalues
    gamma = 0.5 / float(lam[-1])
    problems = {
        "VICReg": ("vicreg", F.graph_vicreg, {"invariance": gamma, "penalty": "ls_var"}),
        "LS-SimCLR": ("simclr", F.ls_simclr, {}),
        "Barlow Twins": ("barlow_twins", F.graph_barlow_twins, {"off_diagonal": 1.0}),
    }
    facts: dict[str, str] = {}
    for (title, (name, function, hyper)), color in zip(
        problems.items(), (COLORS["small"], COLORS["simclr"], COLORS["barlow"]), strict=True
    ):

        def loss(v: Tensor, function: Callable = function, hyper: dict = hyper) -> Tensor:
            return function(x @ (span @ v), graph, **hyper)

        _, _, trace = descend(loss, 0.1 * normal(WIDTH, k, seed=1), 400)
        trace = [*list(enumerate(trace))[:: max(len(trace) // 25, 1)], (len(trace) - 1, trace[-1])]
        gaps = [
            spectral.optimality_gap(name, x @ (span @ v), graph, features=x, **hyper)
            for _, v in tqdm(trace, desc=f"linear, {data.title}, {title}")
        ]
        steps = [step for step, _ in trace]
        left.semilogy(steps, [max(g.relative_gap, 1e-16) for g in gaps], color=color, label=title)
        right.semilogy(steps, [max(g.angle, 1e-9) for g in gaps], color=color, label=title)
        key = f"{data.key}_{name.split('_')[0]}"
        facts[f"{key}_gap"] = f"{abs(gaps[-1].relative_gap):.0e}"
        facts[f"{key}_angle"] = f"{gaps[-1].angle:.0e}"
    left.set(
        xlabel="L-BFGS steps",
        ylabel="relative gap to the closed form",
        title=f"{data.title}, linear encoder",
    )
    right.set(
        xlabel="L-BFGS steps",
        ylabel="largest principal angle (rad)",
        title=f"{data.title}, linear encoder",
    )
    left.legend(fontsize=8)
    return facts


# ------------------------------------------------------------------ corrupted label graphs
def corrupt(y: np.ndarray, share: float, rng: np.random.Generator) -> PairGraph:
    """Label graph with a share of its edges sent to random nodes."""
    rows, cols = np.nonzero(np.triu(y[:, None] == y[None], 1))
    moved = rng.random(len(rows)) < share
    cols = np.where(moved, rng.integers(0, len(y), len(rows)), cols)
    keep = rows != cols
    return PairGraph.from_edges(rows[keep], cols[keep], n=len(y), symmetrize=True)


def optima(graph: PairGraph, k: int, features: Tensor | None = None) -> dict:
    """The four methods at the same K; gamma is measured against the spectrum."""
    flat = spectral.vicreg(graph, k, invariance=0.0, features=features)
    scale = (graph.n - 1) / graph.n if features is None else 1.0
    lam = flat.eigenvalues.numpy() * scale
    return {
        "small": spectral.vicreg(graph, k, invariance=0.5 / lam[-1], features=features),
        "large": spectral.vicreg(graph, k, invariance=1.0 / lam[CLASSES - 1], features=features),
        "simclr": spectral.simclr(graph, k, center=True, features=features),
        "barlow": spectral.barlow_twins(graph, k, features=features),
    }


def few_labels(z: np.ndarray, y: np.ndarray, few: np.ndarray, test: np.ndarray) -> float:
    """Accuracy on `test` of the minimum-norm least-squares readout of the rows `few`."""
    target = np.eye(CLASSES)[y[few]] - 1 / CLASSES
    readout = np.linalg.pinv(z[few], rcond=NOISE) @ target
    return float((np.argmax(z[test] @ readout, axis=1) == y[test]).mean())


def pick(y: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """SHOTS of the rows of every class."""
    return np.concatenate(
        [rng.choice(rows[y[rows] == c], SHOTS, replace=False) for c in range(CLASSES)]
    )


def corruption(sets: list[Images], out: Path) -> dict[str, str]:
    """Linear encoders, judged on new images: the graph's own task and another one (the slant)."""
    figure = Figure(figsize=(9, 7), layout="constrained")
    facts: dict[str, str] = {}
    for data, (left, right) in zip(sets, figure.subplots(2, 2), strict=True):
        y, n = data.y.numpy(), len(data.y)
        accuracy, other, rank = Curves(), Curves(), Curves()
        for repeat in tqdm(range(REPEATS), desc=f"corruption, {data.title}"):
            rng = np.random.default_rng(repeat)
            train, test = np.split(rng.permutation(n), [4 * n // 5])
            mean, axes = components(data.x[train], WIDTH)
            x = (data.x - mean) @ axes
            few = pick(y, train, rng)
            slant = data.slant - data.slant[train].mean()
            for i, share in enumerate(SHARES):
                for name, form in optima(corrupt(y[train], share, rng), WIDTH, x[train]).items():
                    z = form.transform(x).numpy()
                    accuracy.add(name, i, 100 * few_labels(z, y, few, test))
                    fit = z[test] @ np.linalg.lstsq(z[train], slant[train], rcond=NOISE)[0]
                    left_over = ((slant[test] - fit) ** 2).sum() / (slant[test] ** 2).sum()
                    other.add(name, i, left_over)
                    rank.add(name, i, form.rank)
        accuracy.plot(
            left, f"accuracy, {SHOTS} labels a class (%)", f"{data.title} (i): the graph's own task"
        )
        other.plot(right, "unexplained share of the slant", f"{data.title} (ii): another task")
        left.legend(fontsize=8, loc="lower left")
        facts |= accuracy.facts(f"{data.key}_acc", ".0f") | other.facts(f"{data.key}_other", ".2f")
        facts |= rank.facts(f"{data.key}_active", ".0f")
    save(figure, out, "corruption")
    return facts


def corruption_free(data: Images, out: Path) -> dict[str, str]:
    """Free embeddings, judged on the rows of the graph themselves; pixels play no part."""
    n = 400
    y = data.y.numpy()[:n]
    accuracy, other, rank = Curves(), Curves(), Curves()
    for repeat in tqdm(range(REPEATS), desc="corruption, free Z"):
        rng = np.random.default_rng(repeat)
        task = rng.standard_normal((n, 1))
        few = pick(y, np.arange(n), rng)
        rest = np.setdiff1d(np.arange(n), few)
        for i, share in enumerate(SHARES):
            for name, form in optima(corrupt(y, share, rng), n - 1).items():
                z = form.embedding.numpy()
                accuracy.add(name, i, 100 * few_labels(z - z.mean(0), y, few, rest))
                unexplained = spectral.downstream_error(form, task)
                other.add(name, i, unexplained / ((task - task.mean()) ** 2).sum())
                rank.add(name, i, form.rank)
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    accuracy.plot(left, f"accuracy, {SHOTS} labels a class (%)", "(i) the graph's own task")
    other.plot(right, "unexplained share of the target", "(ii) another task")
    left.legend(fontsize=8, loc="lower left")
    save(figure, out, "corruption_free")
    facts = accuracy.facts("free_acc", ".0f") | other.facts("free_other", ".2f")
    return facts | rank.facts("free_active", ".0f")


class Curves:
    """Means over the repeats, a value for each method and share."""

    def __init__(self) -> None:
        self.mean = {name: np.zeros(len(SHARES)) for name in NAMES}

    def add(self, name: str, i: int, value: float) -> None:
        self.mean[name][i] += value / REPEATS

    def plot(self, axis: Axes, label: str, title: str) -> None:
        for (name, values), marker in zip(self.mean.items(), "oDs^", strict=True):
            axis.plot(
                SHARES, values, f"{marker}-", color=COLORS[name], label=NAMES[name], markersize=5
            )
        axis.set(xlabel="share of corrupted edges", ylabel=label, title=title)

    def facts(self, key: str, form: str) -> dict[str, str]:
        """Numbers for the page at 0, 60 and 90 % corruption."""
        return {
            f"{key}{round(100 * share)}_{name}": format(values[SHARES.index(share)], form)
            for name, values in self.mean.items()
            for share in (0.0, 0.6, 0.9)
        }

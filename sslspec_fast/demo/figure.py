"""The demo's one figure: training curves, time per step, closed form, and a 2-D view."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from .linear import Fit
    from .train import Run

_COLOURS = ("#1b6ca8", "#d1495b", "#2e933c")
_GREY = "#8a8a8a"


def draw(
    path: Path,
    runs: Sequence[Run],
    fits: Sequence[Fit],
    raw_knn: float,
    views: Sequence[tuple[str, Tensor]],
    labels: Tensor,
) -> None:
    """Write the figure. views: (title, (n, 2) points) pairs, coloured by labels (n,)."""
    import matplotlib as mpl

    mpl.use("Agg")  # writes a file; needs no screen
    import matplotlib.pyplot as plt

    style: Any = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
    with plt.rc_context(style):
        figure, axes = plt.subplots(2, 3, figsize=(16, 9.2), layout="constrained")
        _accuracy(axes[0, 0], runs, raw_knn)
        _seconds(axes[1, 0], runs)
        _gaps(axes[0, 1], fits)
        _spectra(axes[1, 1], fits)
        for axis, (title, points) in zip(axes[:, 2], views, strict=True):
            _scatter(axis, title, points, labels)
        figure.savefig(path, dpi=110)
        plt.close(figure)


def _accuracy(axis: Any, runs: Sequence[Run], raw_knn: float) -> None:
    """Held-out accuracy, with the training loss (scaled to its first value) faintly behind it."""
    behind = axis.twinx()
    for run, colour in zip(runs, _COLOURS, strict=False):
        losses = np.asarray(run.losses)
        behind.plot(losses / losses[0], color=colour, alpha=0.35, linewidth=1)
        steps, accuracy = zip(*run.knn, strict=True)
        axis.plot(steps, [100 * a for a in accuracy], "o-", color=colour, label=run.recipe.name)
    axis.axhline(100 * raw_knn, color=_GREY, linestyle="--", label="raw pixels")
    axis.set(
        title="Training: held-out k-NN accuracy (thin: loss / first loss)",
        xlabel="step",
        ylabel="accuracy, %",
    )
    axis.set_zorder(behind.get_zorder() + 1)
    axis.patch.set_visible(False)
    axis.legend(loc="lower right", frameon=False)
    behind.set_ylim(bottom=0)
    behind.tick_params(axis="y", colors=_GREY)


def _seconds(axis: Any, runs: Sequence[Run]) -> None:
    """One training step in milliseconds: the network's part and the loss's part."""
    for row, (run, colour) in enumerate(zip(runs, _COLOURS, strict=False)):
        for offset, label, seconds in (
            (-0.19, "fused", run.fused_seconds),
            (0.19, "plain PyTorch", run.plain_seconds),
        ):
            network, loss = 1e3 * run.network_seconds, 1e3 * seconds
            axis.barh(row + offset, network, 0.34, color="#d9d9d9")
            axis.barh(row + offset, loss, 0.34, left=network, color=colour)
            note = f" {label}: {loss:.1f} ms in the loss"
            axis.text(network + loss, row + offset, note, va="center", fontsize=9)
    axis.set_yticks(range(len(runs)), [run.recipe.name for run in runs])
    axis.invert_yaxis()
    longest = max(run.network_seconds + run.plain_seconds for run in runs)
    axis.set_xlim(0, 1.8e3 * longest)
    axis.set(title="One training step (grey: network, colour: loss)", xlabel="milliseconds")


def _gaps(axis: Any, fits: Sequence[Fit]) -> None:
    for fit, colour in zip(fits, _COLOURS, strict=False):
        gap = np.maximum(np.asarray(fit.curve), 1e-16)
        axis.semilogy(gap, color=colour, label=fit.problem.name)
    axis.set(
        title="Linear encoder: gradient descent reaches the closed form",
        xlabel="gradient step",
        ylabel="(loss - closed form) / (loss at 0 - closed form)",
        ylim=(1e-15, 2),
    )
    axis.legend(frameon=False)


def _spectra(axis: Any, fits: Sequence[Fit]) -> None:
    for fit, colour in zip(fits, _COLOURS, strict=False):
        closed, trained = fit.closed_spectrum.numpy(), fit.spectrum.numpy()
        modes, top = np.arange(1, len(closed) + 1), max(closed.max(), 1e-300)
        axis.plot(modes, closed / top, color=colour, linewidth=2, label=fit.problem.name)
        axis.plot(modes, trained / top, "o", color=colour, markersize=9, fillstyle="none")
    axis.set(
        title="Singular values of Z (line: closed form, circles: trained)",
        xlabel="mode",
        ylabel="relative to the largest",
        ylim=(-0.03, 1.08),
    )
    axis.legend(frameon=False, loc="lower left")


def _scatter(axis: Any, title: str, points: Tensor, labels: Tensor) -> None:
    xy, classes = points.numpy(), labels.numpy()
    axis.scatter(*xy.T, c=classes, cmap="tab10", s=10, alpha=0.75, linewidths=0)
    for label in np.unique(classes):
        x, y = np.median(xy[classes == label], axis=0)
        box = {"boxstyle": "circle,pad=0.15", "facecolor": "white", "alpha": 0.8, "linewidth": 0}
        axis.text(x, y, str(label), ha="center", va="center", weight="bold", bbox=box)
    axis.set(title=title, xticks=[], yticks=[])
    for side in ("left", "bottom"):
        axis.spines[side].set_visible(False)

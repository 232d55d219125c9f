"""The demo's results as text tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .linear import Fit
    from .train import Run


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        pairs = zip(cells, widths, strict=True)
        padded = [c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(pairs)]
        return "  ".join(padded).rstrip()

    return "\n".join([line(header), line(["-" * w for w in widths]), *map(line, rows)])


def training_table(
    runs: Sequence[Run], accuracies: Sequence[tuple[float, float]], raw: tuple[float, float]
) -> str:
    """accuracies: (kNN, linear probe) of each run; raw: the same two of raw pixels."""
    header = (
        "loss", "first", "last", "steps/s", "plain", "loss ms", "plain", "faster",
        "share", "plain", "grad diff", "kNN %", "probe %",
    )
    rows: list[Sequence[str]] = [
        (
            f"{run.recipe.name} ({run.recipe.width})",
            f"{run.losses[0]:.4g}",
            f"{run.losses[-1]:.4g}",
            f"{run.steps_per_second():.2f}",
            f"{run.steps_per_second('torch'):.2f}",
            f"{1e3 * run.fused_seconds:.1f}",
            f"{1e3 * run.plain_seconds:.1f}",
            f"{run.plain_seconds / run.fused_seconds:.1f}x",
            f"{100 * run.loss_share():.1f}%",
            f"{100 * run.loss_share('torch'):.1f}%",
            f"{run.gradient_difference:.0e}",
            f"{100 * knn:.1f}",
            f"{100 * probe:.1f}",
        )
        for run, (knn, probe) in zip(runs, accuracies, strict=True)
    ]
    blank = [""] * 10
    rows.append(("raw pixels", *blank, f"{100 * raw[0]:.1f}", f"{100 * raw[1]:.1f}"))
    return table(header, rows)


def linear_table(fits: Sequence[Fit]) -> str:
    header = (
        "linear encoder", "loss reached", "closed form", "relative gap", "angle, deg",
        "gap to best Z: before", "after",
    )
    rows = [
        (
            fit.problem.name,
            f"{fit.loss:.8g}",
            f"{fit.optimum:.8g}",
            f"{fit.curve[-1]:.1e}",
            f"{fit.angle_degrees:.1e}",
            f"{fit.gap_before:.3g}",
            f"{fit.gap_after:.3g}",
        )
        for fit in fits
    ]
    return table(header, rows)

"""What ``embed`` writes besides the embedding: the report, the spectrum and the picture."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from ...graph import PairGraph
from .._eigen import SpectrumInfo
from ..closed_form import ClosedForm
from ..downstream import alignment, downstream_error
from .files import Input

__all__ = ["describe", "plot", "write_spectrum"]

Array = np.ndarray


def describe(
    options: argparse.Namespace,
    found: Input,
    graph: PairGraph,
    form: ClosedForm,
    labels: Array | None,
) -> list[str]:
    """The lines of the report. labels: class codes, -1 where a row has none."""
    info = form.info
    short = options.method == "vicreg" and form.rank < options.k
    lines = [
        f"{options.method} on {options.input.name} ({found.kind}), k = {options.k}"
        + (", linear" if options.linear else ""),
        f"graph: {graph.n} nodes, {graph.nnz} entries, {info.components} component(s), "
        f"{info.isolated} isolated",
        *found.notes,
        f"optimum: loss {form.loss:.10g}, rank {form.rank}, {info.regime}"
        + ("" if info.certified else " (best found, not proven)")
        + (f"; less --invariance keeps more than {form.rank} of {options.k}" if short else ""),
        f"solver: {info}",
        *([f"completeness: {_completeness(info)}"] if options.certify else []),
        "",
        f"{'mode':>4} {'eigenvalue':>14} {'filter':>14} {'residual':>10}",
    ]
    for i, (value, kept, residual) in enumerate(_spectrum(form)):
        lines.append(f"{i + 1:>4} {value:>14.8g} {kept:>14.8g} {residual:>10.1e}")
    if labels is not None:
        lines += ["", *_about_labels(graph, form, labels)]
    return lines


def _about_labels(graph: PairGraph, form: ClosedForm, labels: Array) -> list[str]:
    labelled = labels >= 0
    classes = len(np.unique(labels[labelled]))
    if classes < 2:
        return [f"labels: {classes} class(es), so there is nothing to align or to explain"]
    z, y = form.embedding.numpy()[labelled], labels[labelled]
    share = downstream_error(z, y) / downstream_error(np.zeros((len(y), 1)), y)
    rest = f" (of the {len(y)} labelled rows)" if len(y) < len(labels) else ""
    try:
        aligned = f"{alignment(_among(graph, labelled), y):.4f}"
    except ValueError as problem:  # no edge, or one class, among the labelled rows
        aligned = f"undefined, {problem}"
    return [
        f"alignment of graph and labels: {aligned}{rest}",
        f"unexplained share of the labels: {share:.4f}{rest}",
    ]


def _among(graph: PairGraph, rows: Array) -> PairGraph:
    if rows.all():
        return graph
    return PairGraph.from_sparse(graph.to_scipy()[rows][:, rows])


def _completeness(info: SpectrumInfo) -> str:
    if info.complete is None:  # nothing was iterated
        return f"no proof needed, every eigenvalue is computed or known ({info.reason})"
    if info.complete:
        return "proven complete, no eigenvalue was missed (Sylvester's law of inertia)"
    return f"not proven ({info.reason})"


def _spectrum(form: ClosedForm) -> list[tuple[float, float, float]]:
    k = len(form.eigenvalues)
    residuals = np.full(k, np.nan)
    residuals[: len(form.info.residuals)] = form.info.residuals
    return list(
        zip(form.eigenvalues.tolist(), form.filter.tolist(), residuals.tolist(), strict=True)
    )


def write_spectrum(path: Path, form: ClosedForm) -> None:
    rows = ["mode,eigenvalue,filter,residual"]
    rows += [f"{i + 1},{v!r},{s!r},{r!r}" for i, (v, s, r) in enumerate(_spectrum(form))]
    path.write_text("\n".join(rows) + "\n")


def plot(path: Path, form: ClosedForm, labels: Array | None) -> str:
    """2-D view and spectrum; says so when matplotlib is not there."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "plot: skipped, needs matplotlib (pip install 'sslspec-fast[plot]')"
    z = form.embedding.numpy()
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    second = z[:, 1] if z.shape[1] > 1 else np.zeros(len(z))
    color: dict[str, Any] = {}
    if labels is not None:
        color = {"c": labels, "cmap": "tab10"}
    left.scatter(z[:, 0], second, s=4, linewidths=0, **color)
    left.set(xlabel="dimension 1", ylabel="dimension 2", title="embedding")
    right.stem(np.arange(1, len(form.filter) + 1), form.filter.numpy())
    right.set(xlabel="mode", ylabel="filter s_k", title=f"rank {form.rank}")
    figure.savefig(path, dpi=120)
    return f"plot: {path.name}"

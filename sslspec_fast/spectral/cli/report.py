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

__all__ = ["describe", "facts", "label_facts", "plot", "write_spectrum"]

Array = np.ndarray


def label_facts(graph: PairGraph, form: ClosedForm, codes: Array) -> dict[str, Any]:
    """How graph and embedding fit the labels. codes: classes, -1 where a row has none.

    alignment and unexplained are None where they are undefined, and reason says why.
    """
    labelled = codes >= 0
    classes = len(np.unique(codes[labelled]))
    known = {"labelled": int(labelled.sum()), "classes": classes}
    told: dict[str, Any] = {**known, "alignment": None, "unexplained": None, "reason": None}
    if classes < 2:
        told["reason"] = f"{classes} class(es), so there is nothing to align or to explain"
        return told
    z, y = form.embedding.numpy()[labelled], codes[labelled]
    told["unexplained"] = downstream_error(z, y) / downstream_error(np.zeros((len(y), 1)), y)
    try:
        told["alignment"] = alignment(_among(graph, labelled), y)
    except ValueError as problem:  # no edge, or one class, among the labelled rows
        told["reason"] = str(problem)
    return told


def facts(
    options: argparse.Namespace,
    found: Input,
    graph: PairGraph,
    form: ClosedForm,
    about_labels: dict[str, Any] | None,
) -> dict[str, Any]:
    """The report as one object for JSON."""
    info = form.info
    return {
        "method": options.method,
        "input": str(options.input),
        "kind": found.kind,
        "k": options.k,
        "linear": options.linear,
        "nodes": graph.n,
        "entries": graph.nnz,
        "components": info.components,
        "isolated": info.isolated,
        "notes": found.notes,
        "loss": form.loss,
        "rank": form.rank,
        "regime": info.regime,
        "certified": info.certified,
        "converged": info.converged,
        "complete": info.complete,
        "solver": str(info),
        "eigenvalues": form.eigenvalues.tolist(),
        "filter": form.filter.tolist(),
        "residuals": [residual for _, _, residual in _spectrum(form)],
        "labels": about_labels,
        "out": str(options.out),
    }


def describe(
    options: argparse.Namespace,
    found: Input,
    graph: PairGraph,
    form: ClosedForm,
    about_labels: dict[str, Any] | None,
) -> list[str]:
    """The lines of the report. about_labels: `label_facts`."""
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
    if about_labels is not None:
        lines += ["", *_about_labels(about_labels, graph.n)]
    return lines


def _about_labels(told: dict[str, Any], rows: int) -> list[str]:
    if told["classes"] < 2:
        return [f"labels: {told['reason']}"]
    some = told["labelled"] < rows
    rest = f" (of the {told['labelled']} labelled rows)" if some else ""
    aligned = told["alignment"]
    shown = f"undefined, {told['reason']}" if aligned is None else f"{aligned:.4f}"
    return [
        f"alignment of graph and labels: {shown}{rest}",
        f"unexplained share of the labels: {told['unexplained']:.4f}{rest}",
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


_LEGEND = 20  # classes at most that a legend lists, as many as the colours of tab20


def plot(
    path: Path, form: ClosedForm, title: str, labels: Array | None, codes: Array | None
) -> str:
    """Two dimensions and the spectrum; says so when matplotlib is not there. labels: as written,
    codes: their classes, -1 where a row has none.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "plot: skipped, needs matplotlib (pip install 'sslspec-fast[plot]')"
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    _scatter(figure, left, form, labels, codes)
    modes = np.arange(1, len(form.filter) + 1)
    right.stem(modes, form.filter.numpy(), basefmt="C7-")
    right.xaxis.get_major_locator().set_params(integer=True)
    right.set(
        xlabel="mode, in the order of the eigenvalues",
        ylabel="filter s_k: how much of mode k is kept",
        title=f"spectrum: {form.rank} of {len(modes)} modes kept",
    )
    figure.savefig(path, dpi=120)
    return f"plot: {path.name}"


def _scatter(
    figure: Any, axes: Any, form: ClosedForm, labels: Array | None, codes: Array | None
) -> None:
    z = form.embedding.numpy()
    n, k = z.shape
    x, y = (z[:, 0], z[:, 1]) if k > 1 else (np.arange(1, n + 1), z[:, 0])
    size = float(np.clip(4000 / n, 4, 24))  # in square points
    if labels is None or codes is None:
        axes.scatter(x, y, s=size, linewidths=0)
    elif (classes := int(codes.max(initial=-1)) + 1) > _LEGEND:
        drawn = axes.scatter(x, y, s=size, linewidths=0, c=codes, cmap="viridis")
        figure.colorbar(drawn, ax=axes, label=f"class, of {classes} in sorted order")
    else:
        from matplotlib import colormaps

        colors = colormaps["tab10" if classes <= 10 else "tab20"].colors  # type: ignore[attr-defined]
        for code in range(-1, classes):
            rows = codes == code
            if rows.any():
                name = "no label" if code < 0 else str(labels[int(np.argmax(rows))])
                color = "0.7" if code < 0 else colors[code]
                axes.scatter(x[rows], y[rows], s=size, linewidths=0, color=color, label=name[:24])
        axes.legend(
            title="label", fontsize="small", markerscale=1.5, ncols=1 + classes // 11, frameon=False
        )
    pieces = form.info.components
    axes.set(
        xlabel="dimension 1" if k > 1 else "row",
        ylabel="dimension 2" if k > 1 else "dimension 1",
        title="embedding"
        + (f", dimensions 1 and 2 of {k}" if k > 2 else "")
        + (f"; the graph is in {pieces} pieces" if pieces > 1 else ""),
    )

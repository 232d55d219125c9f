"""Lines, CSV, picture and one self-contained HTML page out of benchmark results."""

from __future__ import annotations

import base64
import csv
import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .accuracy import Errors
from .case import Case
from .measure import Timing


@dataclass
class Result:
    """Everything measured for one case."""

    case: Case
    timings: dict[str, Timing]
    memory: dict[str, float | None] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)  # variant -> why it did not run

    def gflops(self) -> float:
        return self.case.flops / self.timings["fused"].p50 / 1e9

    def ratio(self, variant: str) -> float:
        """How many times the time of the fused form the variant takes."""
        return self.timings[variant].p50 / self.timings["fused"].p50


HEADER = (
    f"{'case':<30} {'p50 (p20-p80) ms':>24} {'GFLOP/s':>8} {'% GEMM':>7} {'MiB':>7}  "
    "times slower than fused (peak extra MiB)"
)


def line(result: Result, gemm: float) -> str:
    """The one comparable line of a case."""
    t = result.timings["fused"]
    rate = result.gflops()
    spread = f"{1e3 * t.p50:.3g} ({1e3 * t.p20:.3g}-{1e3 * t.p80:.3g})"
    others = []
    for name in result.timings:
        if name != "fused":
            mib = result.memory.get(name)
            extra = "" if mib is None else f" ({mib:.0f})"
            others.append(f"{name} x{result.ratio(name):.2f}{extra}")
    others += [f"{name} n/a ({why})" for name, why in result.missing.items()]
    mib = result.memory.get("fused")
    return (
        f"{result.case.name:<30} {spread:>24} {rate:8.1f} {100 * rate / gemm:6.0f}% "
        f"{'-' if mib is None else f'{mib:.1f}':>7}  {', '.join(others)}"
    )


def accuracy_lines(errors: Sequence[Errors]) -> list[str]:
    lines = [
        f"{'error against fp64':<30} {'loss: fused':>12} {'torch':>9} {'gradient: fused':>16} "
        f"{'torch':>9} {'fused / torch':>14}"
    ]
    lines += [
        f"{e.case:<30} {e.fused_loss:12.1e} {e.torch_loss:9.1e} {e.fused_gradient:16.1e} "
        f"{e.torch_gradient:9.1e} {e.fused_gradient / max(e.torch_gradient, 1e-300):14.2f}"
        for e in errors
    ]
    return lines


def write_csv(path: Path, results: Sequence[Result], facts: dict[str, str]) -> None:
    """One row per case and variant; the facts about the machine are leading comment lines."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        for key, value in facts.items():
            stream.write(f"# {key}: {value}\n")
        writer = csv.writer(stream)
        writer.writerow(
            [
                "case",
                "family",
                "rows",
                "width",
                "dtype",
                "variant",
                "p20_s",
                "p50_s",
                "p80_s",
                "samples",
                "peak_extra_mib",
                "times_fused",
                "gflops_of_fused_algorithm",
            ]
        )
        for result in results:
            case = result.case
            for name, t in result.timings.items():
                mib = result.memory.get(name)
                writer.writerow(
                    [
                        case.name,
                        case.family,
                        case.rows,
                        case.width,
                        case.dtype,
                        name,
                        f"{t.p20:.6g}",
                        f"{t.p50:.6g}",
                        f"{t.p80:.6g}",
                        t.samples,
                        "" if mib is None else f"{mib:.2f}",
                        f"{result.ratio(name):.4g}",
                        f"{case.flops / t.p50 / 1e9:.4g}",
                    ]
                )


def write_markdown(path: Path, results: Sequence[Result], facts: dict[str, str]) -> None:
    """The short table that benchmarks/results/cpu.md holds."""
    lines = [
        "| case | ms | extra MiB | eager | compiled | best other |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for r in results:
        others = {n: r.ratio(n) for n in r.timings if n not in ("fused", "eager", "compiled")}
        best = min(others, key=lambda name: others[name], default="")
        cells = [f"{r.ratio(n):.1f}x" if n in r.timings else "" for n in ("eager", "compiled")]
        cells.append(f"{others[best]:.1f}x ({best})" if best else "")
        mib = r.memory.get("fused")
        eager = r.memory.get("eager")
        memory = "" if mib is None else f"{mib:.0f}" + ("" if eager is None else f" / {eager:.0f}")
        lines.append(
            f"| {r.case.name} | {1e3 * r.timings['fused'].p50:.3g} | {memory} | "
            + " | ".join(cells)
            + " |"
        )
    lines += ["", *(f"{key}: {value}  " for key, value in facts.items())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def draw(path: Path, results: Sequence[Result]) -> bool:
    """Time and peak memory against N for families measured at several sizes; False without any, or
    without matplotlib.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        return False
    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib import ticker

    families: dict[tuple[str, int, object], list[Result]] = {}
    for result in results:
        case = result.case
        families.setdefault((case.family, case.width, case.dtype), []).append(result)
    curves = {key: group for key, group in families.items() if len(group) >= 2}
    if not curves:
        return False
    memory = any(value for group in curves.values() for r in group for value in r.memory.values())
    panels = 2 if memory else 1
    figure, axes = plt.subplots(
        len(curves),
        panels,
        figsize=(5.5 * panels, 4.2 * len(curves)),
        squeeze=False,
        layout="constrained",
    )
    for row, ((family, width, _), group) in zip(axes, curves.items(), strict=True):
        group.sort(key=lambda result: result.case.rows)
        sizes = [result.case.rows for result in group]
        for name in group[0].timings:
            have = [r for r in group if name in r.timings]
            times = [1e3 * r.timings[name].p50 for r in have]
            row[0].loglog([r.case.rows for r in have], times, "o-", label=name)
            stored = [(r.case.rows, r.memory[name]) for r in have if r.memory.get(name)]
            if stored:
                row[-1].loglog(*zip(*stored, strict=True), "o-", label=name)
        row[-1].set(title=f"{family}, {width} columns: peak extra memory", ylabel="MiB")
        row[0].set(title=f"{family}, {width} columns: forward + backward", ylabel="ms")
        for axis in row:
            axis.set_xlabel("rows N")
            axis.set_xticks(sizes, labels=[str(size) for size in sizes])
            axis.xaxis.set_minor_locator(ticker.NullLocator())
            axis.grid(alpha=0.3, which="both")
            if axis.lines:
                axis.legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True


_STYLE = (
    "body{font:15px system-ui,sans-serif;margin:2rem auto;max-width:75rem;color:#222}"
    "table{border-collapse:collapse}td,th{padding:.3rem .7rem;text-align:right;"
    "border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}"
    "dt{font-weight:600;float:left;clear:left;width:9rem}dd{margin-left:9.5rem}img{max-width:100%}"
)


def write_html(
    path: Path,
    results: Sequence[Result],
    errors: Sequence[Errors],
    facts: dict[str, str],
    gemm: float,
    picture: Path | None,
) -> None:
    """One file with everything in it: facts, tables and the picture."""
    parts = ["<!doctype html><meta charset=utf-8><title>sslspec_fast benchmark</title>"]
    parts.append(f"<style>{_STYLE}</style><h1>sslspec_fast benchmark</h1><dl>")
    parts += [f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in facts.items()]
    parts.append("</dl><h2>Forward + backward, medians of one interleaved run</h2>")
    names = list(dict.fromkeys(name for r in results for name in r.timings if name != "fused"))
    header = ["case", "p50 ms", "p20-p80", "GFLOP/s", "% GEMM", "MiB", *(f"x {n}" for n in names)]
    rows = []
    for r in results:
        t, mib = r.timings["fused"], r.memory.get("fused")
        rows.append(
            [
                r.case.name,
                f"{1e3 * t.p50:.3g}",
                f"{1e3 * t.p20:.3g}-{1e3 * t.p80:.3g}",
                f"{r.gflops():.1f}",
                f"{100 * r.gflops() / gemm:.0f}",
                "" if mib is None else f"{mib:.1f}",
                *(f"{r.ratio(n):.2f}" if n in r.timings else "" for n in names),
            ]
        )
    parts.append(_html_table(header, rows))
    if picture is not None:
        data = base64.b64encode(picture.read_bytes()).decode("ascii")
        parts.append(f'<h2>Time and memory against N</h2><img src="data:image/png;base64,{data}">')
    if errors:
        parts.append("<h2>Relative error against fp64</h2>")
        header = ["case", "loss: fused", "loss: torch", "gradient: fused", "gradient: torch"]
        body = [
            [
                e.case,
                *(
                    f"{x:.1e}"
                    for x in (e.fused_loss, e.torch_loss, e.fused_gradient, e.torch_gradient)
                ),
            ]
            for e in errors
        ]
        parts.append(_html_table(header, body))
    path.write_text("\n".join(parts), encoding="utf-8")


def _html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def cells(tag: str, row: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in row) + "</tr>"

    return "<table>" + cells("th", header) + "".join(cells("td", r) for r in rows) + "</table>"

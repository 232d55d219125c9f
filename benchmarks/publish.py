"""``python benchmarks/publish.py``: put the table of losses and new results into their pages.

Writes the catalogue of losses into ``README.md``. Reads ``bench_results/bench.md``,
``demo/report.txt`` and ``demo/demo.png`` where they exist, and writes them between the markers of
``benchmarks/results/cpu.md`` and ``docs/demo.md``, and ``docs/demo.png``. Results are never typed
by hand.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from sslspec_fast.losses._catalogue import markdown

ROOT = Path(__file__).resolve().parent.parent


def splice(page: Path, marker: str, body: str) -> None:
    """Replace what stands between ``<!-- marker -->`` and ``<!-- /marker -->`` in a page."""
    pattern = re.compile(rf"(<!-- {marker} -->\n).*?(<!-- /{marker} -->)", re.S)
    text, count = pattern.subn(
        lambda match: match[1] + body.strip() + "\n" + match[2], page.read_text(encoding="utf-8")
    )
    if count != 1:
        raise ValueError(f"publish: {page} must have the marker {marker!r} once, got {count}")
    page.write_text(text, encoding="utf-8")


def main() -> None:
    splice(ROOT / "README.md", "losses", markdown())
    table = ROOT / "bench_results" / "bench.md"
    if table.exists():
        splice(ROOT / "benchmarks" / "results" / "cpu.md", "bench", table.read_text("utf-8"))
    report = ROOT / "demo" / "report.txt"
    if report.exists():
        shutil.copyfile(ROOT / "demo" / "demo.png", ROOT / "docs" / "demo.png")
        picture = "![Training, time per step, closed form, and a 2-D view](demo.png)"
        body = report.read_text(encoding="utf-8").strip()
        splice(ROOT / "docs" / "demo.md", "demo", f"{picture}\n\n```\n{body}\n```")


if __name__ == "__main__":
    main()

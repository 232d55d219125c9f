"""``python benchmarks/readme.py``: put the newest measured table and the demo into README.md.

Reads ``bench_results/bench.md``, ``demo/report.txt`` and ``demo/demo.png`` where they exist, writes
README.md between its markers and ``docs/demo.png``. Results are never typed by hand.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def splice(text: str, marker: str, body: str) -> str:
    """Replace what stands between ``<!-- marker -->`` and ``<!-- /marker -->``."""
    pattern = re.compile(rf"(<!-- {marker} -->\n).*?(<!-- /{marker} -->)", re.S)
    text, count = pattern.subn(lambda match: match[1] + body.strip() + "\n" + match[2], text)
    if count != 1:
        raise ValueError(f"readme: README.md must have the marker {marker!r} once, got {count}")
    return text


def main() -> None:
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    table = ROOT / "bench_results" / "bench.md"
    if table.exists():
        text = splice(text, "bench", table.read_text(encoding="utf-8"))
    report = ROOT / "demo" / "report.txt"
    if report.exists():
        shutil.copyfile(ROOT / "demo" / "demo.png", ROOT / "docs" / "demo.png")
        picture = "![Training, time per step, closed form, and a 2-D view](docs/demo.png)"
        body = report.read_text(encoding="utf-8").strip()
        text = splice(text, "demo", f"{picture}\n\n```\n{body}\n```")
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

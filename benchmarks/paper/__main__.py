"""Writes docs/paper.md and its figures: the words of template.md with the measured numbers."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import benchmarks.paper
from benchmarks.paper.common import load
from benchmarks.paper.encoders import corruption, corruption_free, linear_weights
from benchmarks.paper.lejepa import lejepa
from benchmarks.paper.optima import infonce, ranks, singular_values

TEMPLATE = Path(__file__).with_name("template.md")
LEJEPA = "## 6. "  # where its section begins, the last one


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper", description=benchmarks.paper.__doc__
    )
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of paper.md")
    parser.add_argument(
        "--lejepa", action="store_true", help="measure and replace the section on LeJEPA only"
    )
    options = parser.parse_args(argv)
    figures = options.out / "paper"
    figures.mkdir(parents=True, exist_ok=True)
    page, text = options.out / "paper.md", TEMPLATE.read_text("utf-8")
    if options.lejepa:
        before = page.read_text("utf-8").partition(LEJEPA)[0]
        last = "".join(text.partition(LEJEPA)[1:])
        page.write_text(before.rstrip() + "\n\n" + last.format(**lejepa(figures)), "utf-8")
        print(f"wrote the section on LeJEPA of {page} and {figures}/lejepa.png")
        return 0
    start = time.perf_counter()
    sets = load()
    facts = singular_values(sets, figures) | ranks(sets, figures) | linear_weights(sets, figures)
    facts |= corruption(sets, figures) | corruption_free(sets[0], figures)
    facts |= infonce(sets, figures) | lejepa(figures)
    facts["minutes"] = f"{(time.perf_counter() - start) / 60:.0f}"
    page.write_text(text.format(**facts), "utf-8")
    print(f"wrote {page} and {figures}/")
    return 0


if __name__ == "__main__":
    sys.exit(main())

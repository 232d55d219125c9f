"""Writes docs/paper.md and its figures: the words of template.md with the measured numbers."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import benchmarks.paper
from benchmarks.paper.common import load
from benchmarks.paper.encoders import corruption, corruption_free, linear_weights
from benchmarks.paper.optima import infonce, ranks, singular_values

TEMPLATE = Path(__file__).with_name("template.md")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper", description=benchmarks.paper.__doc__
    )
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of paper.md")
    options = parser.parse_args(argv)
    figures = options.out / "paper"
    figures.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    sets = load()
    facts = singular_values(sets, figures) | ranks(sets, figures) | linear_weights(sets, figures)
    facts |= corruption(sets, figures) | corruption_free(sets[0], figures)
    facts |= infonce(sets, figures)
    facts["minutes"] = f"{(time.perf_counter() - start) / 60:.0f}"
    (options.out / "paper.md").write_text(TEMPLATE.read_text("utf-8").format(**facts))
    print(f"wrote {options.out / 'paper.md'} and {figures}/")
    return 0


if __name__ == "__main__":
    sys.exit(main())

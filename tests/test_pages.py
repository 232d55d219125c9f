"""The code of the pages that teach runs as it stands, and the site is checked for dead links."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
TAUGHT = (
    "README.md",
    "docs/swap_a_loss.md",
    "docs/first_optimum.md",
    "docs/large_batches.md",
    "docs/precision.md",
    "docs/logging.md",
    "docs/graphs.md",
    "docs/large_eigenproblems.md",
)


def blocks(page: str) -> list[tuple[int, str]]:
    """First line and text of the Python blocks."""
    text = (ROOT / page).read_text("utf-8")
    found = re.finditer(r"^```python\n(.*?)^```", text, flags=re.S | re.M)
    return [(text.count("\n", 0, match.start(1)), match.group(1)) for match in found]


@pytest.mark.parametrize("page", TAUGHT)
def test_the_blocks_of_a_page_run_one_after_another(page: str) -> None:
    if page == "docs/precision.md":
        pytest.importorskip("torch", minversion="2.6")  # 2.4 cannot trace a step with its backward
    torch.manual_seed(0)
    names: dict[str, object] = {}
    assert blocks(page)
    for line, code in blocks(page):
        exec(compile("\n" * line + code, str(ROOT / page), "exec"), names)


def test_dead_links_and_foreign_scripts_are_found(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("check", ROOT / "docs" / "site" / "check.py")
    assert spec is not None
    assert spec.loader is not None
    check = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check)
    (tmp_path / "b.html").write_text('<h1 id="there">b</h1><a href="https://example.org">c</a>')
    page = tmp_path / "a.html"
    page.write_text('<a href="b.html#there">b</a><a href="#">top</a><script src="b.html"></script>')
    assert check.faults(tmp_path) == []
    page.write_text(
        '<a href="c.html">c</a><a href="b.html#here">b</a>'
        '<script src="https://example.org/x.js"></script>'
    )
    assert check.faults(tmp_path) == [
        "a.html links to c.html: no such file",
        "a.html links to b.html#here: no such place",
        "a.html loads https://example.org/x.js",
    ]
    assert check.faults(tmp_path / "nothing") != []

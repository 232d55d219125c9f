"""The site: the Markdown of the repository as it is, with a tree of pages and the API added.

``make docs`` writes build/site. The source folder is the root of the repository, so that the links
between README.md, docs/ and benchmarks/ are those that a reader of the repository follows.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
from pathlib import Path
from typing import Any

import sslspec_fast as sf
from sslspec_fast import functional as F
from sslspec_fast.losses._catalogue import CATALOGUE

project = "sslspec_fast"
author = "the sslspec_fast authors"
copyright = f"2026, {author}"
release = version = sf.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
]
root_doc = "docs/index"
include_patterns = [
    "*.md",
    "docs/**.md",
    "docs/gallery/*.rst",
    "benchmarks/*.md",
    "benchmarks/results/*.md",
]

# ---- Markdown and docstrings
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # pages of one formula begin their sections where they like
default_role = "literal"  # `name` in a docstring is code
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {
    "exclude-members": "extra_repr, forward, get_extra_state, set_extra_state"
}
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_maximum_signature_line_length = 88
highlight_language = "none"  # blocks that name no language are tables and commands

# ---- HTML that asks nothing of a network
html_theme = "furo"
html_title = f"sslspec_fast {release}"
html_copy_source = html_show_sourcelink = False
html_extra_path = ["site/index.html"]
html_static_path = ["site/site.css"]
html_css_files = ["site.css"]
mathjax_path = "tex-svg.js"
_mathjax = importlib.util.find_spec("sphinx-mathjax-offline")
assert _mathjax is not None, "make docs installs sphinx-mathjax-offline"
assert _mathjax.origin is not None
html_static_path.append(str(Path(_mathjax.origin).parent / "static" / "mathjax" / mathjax_path))

# ---- examples: pages made of the scripts, which run for their output and pictures
sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "docs/gallery",
    "filename_pattern": r"/(?!distributed_)\w+\.py$",  # torchrun starts that one, as a test does
    "within_subsection_order": "FileNameSortKey",
    "default_thumb_file": str(Path(__file__).parent / "demo.png"),
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
}

# ---- the tree of pages: caption -> pages
TREE = {
    "Get started": ["install", "swap_a_loss", "first_optimum"],
    "Examples": ["gallery/index"],
    "How to": [
        "migration",
        "distributed",
        "large_batches",
        "small_batches",
        "precision",
        "logging",
        "metrics",
        "integrations",
        "graphs",
        "column_bias",
        "large_eigenproblems",
        "command_line",
    ],
    "Losses": [],  # all of docs/math, in the order of README.md
    "Optima and eigenvectors": [
        "closed_forms",
        "eigensolver",
        "distributed_eigensolver",
        "paper",
        "demo",
        "c3_dino",
        "notation",
    ],
    "API": [
        "api/functional",
        "api/modules",
        "api/pair_graph",
        "api/spectral",
        "api/estimators",
        "api/eigsh",
        "api/operators",
        "api/metrics",
        "api/ranks",
        "api/tools",
    ],
    "Benchmarks": [
        "/benchmarks/README",
        "/benchmarks/results/cpu",
        "/benchmarks/results/h200",
        "/benchmarks/results/h100",
        "/benchmarks/results/distributed",
        "/benchmarks/results/kernels",
        "/benchmarks/results/eigsh",
    ],
    "Internals": ["architecture", "kernels", "numerics", "adding_a_loss", "/CONTRIBUTING"],
    "Project": ["/README", "versions", "/SECURITY", "/THIRD_PARTY_NOTICES", "/CHANGELOG"],
}


PAGE = r"(?<![\w/.])docs/([\w/]+)\.md\b"  # as texts name one


def loss_pages() -> list[str]:
    """docs/math in the order of the table of README.md."""
    text = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    return [part.split(".md)")[0] for part in text.split("](docs/")[1:] if part[:5] == "math/"]


def tree() -> str:
    """The hidden tables of contents below the front page."""
    blocks = []
    for caption, pages in (TREE | {"Losses": loss_pages()}).items():
        lines = [p if p.startswith("/") else f"/docs/{p}" for p in pages]
        blocks.append("\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *lines]))
    return "".join(f"\n\n{block}\n```\n" for block in blocks)


def defined_in(module: str) -> str:
    """The public functions and classes of one module, in full."""
    found = []
    for prefix, home in (("sslspec_fast.functional", F), ("sslspec_fast", sf)):
        for name in home.__all__:
            public = getattr(home, name)
            if getattr(public, "__module__", None) == module:
                directive = "autoclass" if inspect.isclass(public) else "autofunction"
                found.append(f".. {directive}:: {prefix}.{name}\n")
    return "\n\n## API\n\n```{eval-rst}\n" + "\n".join(found) + "```\n"


def all_losses(modules: bool) -> str:
    """The losses of the catalogue as lines of an autosummary."""
    rows = CATALOGUE.values()
    names = [name for row in rows for name in (row.modules if modules else (row.name,))]
    return "\n".join(f"   {name}" for name in dict.fromkeys(names))


def complete(app: Any, page: str, source: list[str]) -> None:
    """What a page has on the site beside its Markdown: titles in place of file names, and parts."""
    source[0] = source[0].replace("   (all losses)", all_losses(page.endswith("modules")))
    source[0] = re.sub(r"\[[\w./]+\.md\]\(", "[](", source[0])
    source[0] = re.sub(r"\]\([./]*examples/README\.rst\)", "](/docs/gallery/index.rst)", source[0])
    source[0] = re.sub(r"\]\([./]*examples/(\w+)\.py\)", r"](/docs/gallery/\1.rst)", source[0])
    source[0] = re.sub(rf"(?<!\]\()(?<![`\[])(?<!# ){PAGE}(?![`\]])", r"[](/\g<0>)", source[0])
    if page == root_doc:
        source[0] += tree()
    elif page.startswith("docs/math/"):
        source[0] += defined_in(f"sslspec_fast.losses.{page.removeprefix('docs/math/')}")


def link_pages(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """A page that a docstring names is a link, under its title."""
    lines[:] = [re.sub(PAGE, r":doc:`/docs/\1`", line) for line in lines]


def setup(app: Any) -> None:
    app.connect("source-read", complete)
    app.connect("autodoc-process-docstring", link_pages)

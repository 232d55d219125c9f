"""What documents, comments and docstrings say about the code exists, and pages stay readable."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import sslspec_fast as sf
import sslspec_fast.cupy
import sslspec_fast.spectral.estimators
from sslspec_fast import functional as F
from sslspec_fast.losses.over_ranks._form import FORMS

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = (
    "sslspec_fast",
    "csrc",
    "benchmarks",
    "docs",
    "tests",
    "examples",
    "_build_backend",
    "packaging",
)
CPP = (".cpp", ".h", ".cu", ".cuh")
HERE = Path(__file__).resolve()


def files(*suffixes: str) -> list[Path]:
    inside = [p for f in FOLDERS for p in sorted((ROOT / f).rglob("*")) if p.suffix in suffixes]
    return [p for p in (*inside, *ROOT.glob("*.md")) if p.suffix in suffixes and p != HERE]


def pages() -> list[Path]:
    """What people read: the changelog keeps names of its day, results those of their commit."""
    results = ROOT / "benchmarks" / "results"
    return [p for p in files(".md") if p.name != "CHANGELOG.md" and p.parent != results]


def without_blocks(text: str) -> str:
    """Markdown without fenced code and displayed formulas, with the same lines."""

    def blank(match: re.Match[str]) -> str:
        return "\n" * match.group().count("\n")

    text = re.sub(r"^\s*(```|~~~).*?^\s*\1", blank, text, flags=re.S | re.M)
    return re.sub(r"\$\$.*?\$\$", blank, text, flags=re.S)


# ---- pages stay readable -------------------------------------------------------------


def paragraphs(text: str) -> Iterator[tuple[int, int]]:
    """First line and length of every paragraph and list item; tables and headings are neither."""
    start = length = 0
    for number, line in enumerate([*without_blocks(text).splitlines(), ""], 1):
        if not line.strip() or re.match(r"\s*([|#>]|[-*+] |\d+\. )", line):
            if length:
                yield start, length
            length = 0
        if line.strip() and not re.match(r"\s*[|#]", line):
            start, length = start if length else number, length + 1


def test_paragraphs_are_counted() -> None:
    text = "# a\n\nb\nc\n- d\n  e\n- f\n\n| g |\n| h |\n\n```\ni\n\nj\n```\n"
    assert list(paragraphs(text)) == [(3, 2), (5, 2), (7, 1)]


def test_no_paragraph_is_longer_than_8_lines() -> None:
    long = {
        f"{page.relative_to(ROOT)}:{start}": lines
        for page in pages()
        for start, lines in paragraphs(page.read_text("utf-8"))
        if lines > 8
    }
    assert long == {}


def test_the_readme_is_short_and_quotes_no_commit() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    written = re.sub("<!-- losses -->.*<!-- /losses -->", "", text, flags=re.S)  # not the catalogue
    assert len(written.splitlines()) <= 80
    words = re.findall(r"\b[0-9a-f]{7,40}\b", text)
    assert [w for w in words if re.search("[a-f]", w) and re.search("[0-9]", w)] == []


# ---- names and paths exist -----------------------------------------------------------

WRITTEN = {  # by commands
    *("bench.md", "bench.png", "eigsh.md", "gpu.md", "gpu.json", "demo/demo.png"),
    *("embedding.png", "options.json"),
}
OF_OTHERS = {  # in other packages
    *("loss.py", "cutlass/cutlass.h", "vector_types.h", "torch.py", "json.py", "argparse.py"),
}
PLACEHOLDER = re.compile(r"(.*/)?(test_)?[xpf](/.*)?\.\w+")  # of any loss x, primitive f/p
PATH = re.compile(
    r"(?<![\w/*<{.$-])((?:[\w.-]+/)*[\w-]+\.(?:md|h|pyi?|cuh|cu|cpp|json|png))\b(?![\w(*/])"
)


def test_paths_that_texts_mention_exist() -> None:
    everything = [*ROOT.iterdir(), *(p for f in FOLDERS for p in (ROOT / f).rglob("*"))]
    there = [p.relative_to(ROOT).as_posix() for p in everything if p.is_file()]
    ends = {"/".join(p.split("/")[i:]) for p in there for i in range(p.count("/") + 1)}
    missing = set()
    for page in files(".md", ".py", ".pyi", *CPP):
        for name in PATH.findall(page.read_text("utf-8")):
            known = name in ends or name in WRITTEN | OF_OTHERS or name.startswith("bench_results/")
            if not (known or PLACEHOLDER.fullmatch(name) or (page.parent / name).exists()):
                missing.add(f"{page.relative_to(ROOT)}: {name}")
    assert {m for m in missing if not re.search(r": (self\.h|sample\.cpp)$", m)} == set()


FOREIGN = {  # words in backticks that are not of this code
    *("medium", "declaration", "odds", "x_bar", "MoCoLoss", "mocov2plus_loss_func"),
    *("CHANGELOG", "df", "to_csv", "custom_op", "register_autograd", "PairwiseDistance"),
    *(
        "CachedMultipleNegativesRankingLoss",
        "hardness_mode",
        "CachedGISTEmbedLoss",
        "GramLoss",
        "set_requires_gradient_sync",
        "DDP",
    ),
}
NAME = re.compile(r"(?<!:math:)`+((?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*)(?:\([^`]*)?`+")


def code_and_comments() -> tuple[set[str], dict[Path, str]]:
    """All identifiers of the code, and the comments, docstrings and pages, by file."""
    code: set[str] = set()
    said: dict[Path, str] = {}
    for path in files(*CPP):
        text = path.read_text("utf-8")
        said[path] = "\n".join(re.findall(r"//.*|/\*.*?\*/", text, flags=re.S))
        code |= set(re.findall(r"\w+", re.sub(r"//.*", "", text)))
    for path in files(".py", ".pyi"):
        words = []
        for token in tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline):
            docstring = token.string.lstrip("rbfRBF").startswith('"""')
            if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and docstring):
                words.append(token.string)
            else:
                code |= set(re.findall(r"\w+", token.string))
        said[path] = "\n".join(words)
    for page in pages():
        if page.name != "migration.md":  # that names what other libraries have
            said[page] = without_blocks(page.read_text("utf-8"))
    everything = [p for f in FOLDERS for p in (ROOT / f).rglob("*")]
    return code | {p.name for p in everything if p.is_dir()} | {p.stem for p in everything}, said


def test_names_in_backticks_exist() -> None:
    code, said = code_and_comments()
    missing = {
        f"{path.relative_to(ROOT)}: {name}"
        for path, text in said.items()
        for name in re.findall(
            r"(?<!:math:)`+((?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*)(?:\([^`]*)?`+", text
        )
        if any(part not in code | FOREIGN for part in name.split("."))
    }
    assert missing == set()


def test_public_names_in_pages_exist() -> None:
    roots = {"F": F, "sf": sf, "sslspec_fast": sf}
    of_torch = {"F.cross_entropy", "F.linear_cross_entropy"}
    missing = set()
    for page in pages():
        text = page.read_text("utf-8")
        for name in re.findall(r"\b((?:F|sf|sslspec_fast)(?:\.[A-Za-z_]\w*)+)(?![\w*])", text):
            first, *rest = name.split(".")
            found = roots[first]
            for part in rest:
                found = getattr(found, part, None)
            file = ROOT.joinpath(*name.split("."))  # a module that may need another package
            if file.is_dir() or file.with_suffix(".py").exists():
                continue
            if found is None and name not in of_torch:
                missing.add(f"{page.relative_to(ROOT)}: {name}")
    assert missing == set()


def test_page_on_ranks_has_a_row_for_every_loss_over_ranks() -> None:
    table = (ROOT / "docs" / "distributed.md").read_text("utf-8").split("| loss |")[1]
    rows = set(re.findall(r"`(\w+)`", table.split("\n\n")[0]))
    assert {name for name in FORMS if not name.startswith("graph_")} - rows == set()


def test_the_tests_of_the_closed_forms_are_where_the_table_says() -> None:
    text = (ROOT / "docs" / "closed_forms.md").read_text("utf-8")
    listed, file = set(), None
    for name in re.findall(r"`(tests/(?:spectral|losses)/\w+\.py|test_\w+)`", text):
        if name.endswith(".py"):
            file = name
        else:
            listed.add((file, name))
    written = {
        (str(path.relative_to(ROOT)), name)
        for folder in ("spectral", "losses")
        for path in (ROOT / "tests" / folder).rglob("*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text("utf-8"), flags=re.M)
    }
    assert listed - written == set()
    of_a_row = {
        (path, name)
        for path, name in written
        if path.startswith("tests/spectral/") and re.match(r"test_([a-z]\d|ns_)", name)
    }
    assert of_a_row - listed == set()

"""The rules of the code base that a script can check. CONTRIBUTING.md says why each one exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import sslspec_fast

from .support.source_files import (
    CPP,
    CSRC,
    PACKAGE,
    ROOT,
    SEAM_FILES,
    code_lines,
    core,
    offences,
    sources,
)


def test_the_rules_can_fail(tmp_path: Path) -> None:
    # The searches below must find what they look for, or an empty list proves nothing.
    bad = ROOT / "tests" / "test_codebase.py"
    assert any("import ast" in line for _, line in code_lines(bad))
    sample = tmp_path / "sample.cpp"
    sample.write_text("/* exit(1)\n exit(2) */ int a; // exit(3)\nexit(4);\n")
    assert [n for n, line in code_lines(sample) if "exit(" in line] == [3]


# ---- size and direction --------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "suffixes", "limit"),
    [
        ("csrc", CPP, 400),
        ("sslspec_fast", (".py",), 400),
        ("sslspec_fast", (".pyi",), 700),  # a stub is a list
        ("benchmarks", (".py",), 400),
        ("packaging", (".py",), 400),
        ("tests", (".py",), 600),
    ],
)
def test_files_stay_short(folder: str, suffixes: tuple[str, ...], limit: int) -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in sources(ROOT / folder, *suffixes)
        if (lines := len(path.read_text("utf-8").splitlines())) > limit
    }
    assert long == {}


def test_only_the_seam_knows_python_and_nothing_knows_torch() -> None:
    below = [p for p in core() if p.name not in SEAM_FILES]
    assert offences(below, r"pybind11|Python\.h|\bpy::") == []
    assert offences(core(), r"#\s*include\s*[<\"](torch|ATen|c10)/") == []


# package or module -> what it may import from inside sslspec_fast (besides itself)
ALLOWED = {
    "_C": set(),
    "_seam": {"_C"},
    "_torch_private": set(),
    "_register": {"_seam", "_torch_private"},
    "_config": {"_C", "_dtypes", "_seam"},
    "_dtypes": set(),
    "_arrays": set(),
    "_checks": {"_dtypes"},
    "_outputs": set(),
    "_prefixes": set(),
    "reference": {"_torch_private"},
    "ranks": {"_torch_private"},
    "primitives": {"_seam", "_register", "_torch_private", "_checks", "_dtypes"},
    "fused": {"primitives", "_seam", "_register", "_torch_private", "_checks", "_dtypes"},
    "graph": {"primitives", "ranks", "_arrays", "_checks", "_dtypes", "_seam", "_torch_private"},
    "losses": {
        "primitives",
        "fused",
        "graph",
        "reference",
        "ranks",
        "_checks",
        "_dtypes",
        "_prefixes",
        "_register",
    },
    "functional": {"losses"},
    "grad_cache": {"_checks", "_torch_private"},
    "cuda_graphs": {"primitives", "ranks", "_checks", "_torch_private"},
    "metrics": {
        "primitives",
        "fused",
        "graph",
        "losses",
        "functional",
        "_checks",
        "_dtypes",
        "ranks",
    },
    "integrations": {
        "functional",
        "grad_cache",
        "graph",
        "losses",
        "metrics",
        "ranks",
        "spectral",
        "_checks",
        "_dtypes",
    },
    "operators": {"graph", "primitives", "_arrays", "_checks", "_dtypes", "ranks"},
    "solvers": {"operators", "graph", "primitives", "_arrays", "_checks", "_dtypes", "ranks"},
    "spectral": {
        "graph",
        "operators",
        "solvers",
        "primitives",
        "ranks",
        "_arrays",
        "_checks",
        "_dtypes",
        "losses",
        "_outputs",
        "_prefixes",
    },
    "cupy": {"_seam", "_C", "_checks", "_dtypes", "primitives", "functional", "losses"},
}


def imports(path: Path) -> set[str]:
    """First component below sslspec_fast of everything that a module of the package imports."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            found |= {n[1] for n in names if n[0] == "sslspec_fast" and len(n) > 1}
        elif isinstance(node, ast.ImportFrom):
            module = node.module.split(".") if node.module else []
            if node.level:
                base = list(parts[: len(parts) - node.level])
                target = base + module
            elif module[:1] == ["sslspec_fast"]:
                target = module[1:]
            else:
                continue
            found |= {target[0]} if target else {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("layer", sorted(ALLOWED))
def test_imports_go_one_way(layer: str) -> None:
    files = sources(PACKAGE / layer, ".py") or [PACKAGE / f"{layer}.py"]
    for path in files:
        if path.exists():
            beyond = imports(path) - ALLOWED[layer] - {layer}
            assert beyond == set(), f"{path.relative_to(ROOT)} imports {beyond}"


def test_the_formatter_lays_out_the_code() -> None:
    here = Path(__file__).name
    python = [
        p
        for folder in ("sslspec_fast", "tests", "benchmarks", "examples")
        for p in sources(ROOT / folder, ".py")
        if p.name != here
    ]
    assert offences(python, r"fmt: (skip|off)|\\$") == []


def test_the_package_imports_itself_relatively() -> None:
    # The demo and the benchmarks use the package as its users do.
    users = ("bench", "demo", "__main__.py")
    inside = [p for p in sources(PACKAGE, ".py") if p.relative_to(PACKAGE).parts[0] not in users]
    assert offences(inside, r"^\s*(from|import) sslspec_fast[. ](?!.*as sfc?$)") == []


def test_losses_and_closed_forms_meet_in_one_module() -> None:
    meeting = {p.name for p in sources(PACKAGE / "spectral", ".py") if "losses" in imports(p)}
    assert meeting == {"gap.py"}


def test_the_device_is_chosen_below_the_losses() -> None:
    # One switch for all operators (_register.py); primitives and fused losses know their devices.
    above = [
        path
        for path in sources(PACKAGE, ".py")
        if path.relative_to(PACKAGE).parts[0]
        not in ("_register.py", "_seam.py", "_dtypes.py", "primitives", "fused")
    ]
    assert offences(above, r"\bis_cuda\b") == []


def test_one_operator_per_concept() -> None:
    # A schema is the same on every device, and belongs to one module.
    import sslspec_fast  # noqa: F401

    schemas = [s for s in torch._C._jit_get_all_schemas() if s.name.startswith("sslspec_fast::")]
    assert len(schemas) > 20
    assert [s.name for s in schemas if re.search("cuda|cpu", str(s))] == []
    names = [s.name for s in schemas]
    assert len(names) == len(set(names))


# ---- siblings ------------------------------------------------------------------------


def loss_names() -> list[str]:
    modules = sorted((PACKAGE / "losses").glob("*.py"))
    return [p.stem for p in modules if not p.stem.startswith("_") and p.stem != "modules"]


@pytest.mark.parametrize("name", loss_names())
def test_every_loss_has_its_siblings(name: str) -> None:
    expected = [
        PACKAGE / "reference" / f"{name}.py",
        ROOT / "tests" / "losses" / f"test_{name}.py",
        ROOT / "docs" / "math" / f"{name}.md",
    ]
    assert [str(p.relative_to(ROOT)) for p in expected if not p.exists()] == []


@pytest.mark.parametrize("name", loss_names())
def test_every_loss_names_its_source_and_shows_an_example(name: str) -> None:
    text = (PACKAGE / "losses" / f"{name}.py").read_text("utf-8")
    assert re.search(r"arXiv|doi", text), "a loss names the paper it comes from"
    assert ">>>" in text, "a loss shows a runnable example"


FAMILIES = ("basis", "fused", "gram", "normality", "pairwise", "rows", "sparse")
OTHER_NAMES = {  # of the Python side of an entry point of the core
    "pairwise/pairwise": "pairwise/softmax",
    "pairwise/soft": "pairwise/soft/cross_entropy",
    "pairwise/soft_self": "pairwise/soft/cross_entropy_self",
    "basis/basis": "basis/blocks",
}


@pytest.mark.parametrize(
    "name",
    [str(p.relative_to(CSRC).with_suffix("")) for f in FAMILIES for p in (CSRC / f).glob("*.cpp")],
)
def test_every_primitive_has_its_siblings(name: str) -> None:
    path = CSRC / name
    assert path.with_suffix(".h").exists()
    assert (path.parent / "cpu" / f"{path.name}.h").exists(), f"no CPU kernel for csrc/{name}.cpp"
    above = "" if name.startswith("fused/") else "primitives/"
    python = Path(above + OTHER_NAMES.get(name, name))
    assert (PACKAGE / f"{python}.py").exists()
    assert (ROOT / "tests" / python.parent / f"test_{python.name}.py").exists()


def test_folders_of_the_package_show_their_design() -> None:
    # More files than a reader sees at once are folders by concept, except for lists of like things.
    lists = {PACKAGE / "losses", PACKAGE / "reference", PACKAGE / "spectral"}
    folders = [PACKAGE, *(p for p in PACKAGE.rglob("*") if p.is_dir())]
    crowded = {
        str(folder.relative_to(ROOT)): files
        for folder in folders
        if folder not in lists and (files := len(list(folder.glob("*.py")))) > 14
    }
    assert crowded == {}


def misplaced(tests: Path, package: Path) -> list[str]:
    """Tests that do not lie as the folder or the module that they are named after."""
    apart = ("support", "core", "gpu", "distributed", "properties", "benchmarks")
    found = []
    for path in sources(tests, ".py"):
        here, parts = path.relative_to(tests), path.relative_to(tests).parts
        if path.name == "conftest.py" or parts[0] in apart:
            continue
        name = path.stem.removeprefix("test_")
        named = [m for m in package.joinpath(*parts[:1]).rglob("*") if m.stem.strip("_") == name]
        beside = {m.parent.relative_to(package) for m in named if m.suffix == ".py" or m.is_dir()}
        if not (package / here.parent).is_dir() or (beside and here.parent not in beside):
            found.append(str(here))
    return found


def test_the_tests_lie_as_what_they_test(tmp_path: Path) -> None:
    # Apart are what tests share, the program of the core, and tests of another machine or of ranks,
    # of drawn examples and of the benchmarks.
    for path in sources(ROOT / "tests", ".py"):
        parts = path.relative_to(ROOT / "tests").parts
        if parts[0] != "support":
            assert path.name.startswith("test_") or path.name == "conftest.py", path
    assert misplaced(ROOT / "tests", PACKAGE) == []
    for name in ("tests/a/test_x.py", "tests/a/b/test_p.py", "tests/c/test_f.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("package/a/b/x.py", "package/a/b/p.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert misplaced(tmp_path / "tests", tmp_path / "package") == ["a/test_x.py", "c/test_f.py"]


def all_imports(path: Path) -> set[Path]:
    """Files of the package that a file imports, inside functions and for types too."""
    found = set()
    base = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        module = node.module.split(".") if node.module else []
        if node.level:
            module = [*base[: len(base) - node.level], *module]
        if module[:1] != ["sslspec_fast"]:
            continue
        here = ROOT.joinpath(*module)
        for name in [alias.name for alias in node.names]:
            places = (here / f"{name}.py", here / name / "__init__.py", here.with_suffix(".py"))
            found |= {next((p for p in places if p.exists()), here / "__init__.py")}
    return found


def test_no_two_modules_import_each_other() -> None:
    graph = {p: all_imports(p) for p in sources(PACKAGE, ".py") if p.name != "__init__.py"}
    order = list(graph)
    while order:  # remove what imports nothing that is left; what stays behind is a circle
        free = [p for p in order if not (graph[p] - {p}) & set(order)]
        assert free, [str(p.relative_to(ROOT)) for p in order]
        order = [p for p in order if p not in free]


def test_folders_of_the_core_show_their_design() -> None:
    # What more than one family needs has a home of its own, and a reader can see a folder at once.
    for family in FAMILIES:
        others = {"gram": {"rows"}, "normality": {"pairwise"}}.get(family, set())
        allowed = {"common", "simd", "gpu", family} | others
        if family == "fused":
            allowed |= set(FAMILIES)
        for path in sources(CSRC / family, *CPP):
            included = re.findall(r'#include "([^"]+)"', path.read_text("utf-8"))
            beyond = {name for name in included if name.split("/")[0] not in allowed}
            assert beyond == set(), f"{path.relative_to(ROOT)} includes {beyond}"
    for folder in ("common", "simd", "gpu"):
        for path in sources(CSRC / folder, *CPP):
            included = re.findall(r'#include "([^"]+)"', path.read_text("utf-8"))
            assert {n for n in included if n.split("/")[0] in FAMILIES} == set(), path
    crowded = {
        str(folder.relative_to(ROOT)): files
        for folder in (CSRC, *(p for p in CSRC.rglob("*") if p.is_dir()))
        if (files := sum(p.is_file() for p in folder.iterdir())) > 20
    }
    assert crowded == {}


def test_references_import_nothing_from_the_package() -> None:
    for path in sources(PACKAGE / "reference", ".py"):
        assert imports(path) <= {"reference", "_torch_private"}, path.name


def test_fresh_interpreters_are_started_in_one_file() -> None:
    # `python -c` in a checkout imports the package without its core; `fresh_python` does not.
    tests = [path for path in sources(ROOT / "tests", ".py") if path != Path(__file__).resolve()]
    found = offences(tests, r'sys\.executable, ("-c"|\*arguments)')
    assert [line.split(":")[0] for line in found] == ["tests/support/process.py"]


# ---- words ---------------------------------------------------------------------------


def test_no_file_of_this_package_is_left_unfinished() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    found = [
        str(path.relative_to(ROOT))
        for folder in (PACKAGE, CSRC, ROOT / "benchmarks")
        for path in sources(folder, ".py", *CPP)
        if marks.search(path.read_text("utf-8"))
    ]
    assert found == []


# ---- the eigensolver and the closed forms --------------------------------------------

SPECTRAL = ("solvers", "operators", "spectral")
LOSSES = ("losses", "fused", "primitives", "graph")


def parsed(*folders: str) -> Iterator[tuple[Path, ast.Module]]:
    for folder in folders:
        for path in sources(PACKAGE / folder, ".py"):
            yield path, ast.parse(path.read_text("utf-8"))


def test_every_method_of_eigsh_has_its_file() -> None:
    from sslspec_fast.solvers._checks import _CHOICES
    from sslspec_fast.solvers.methods import METHODS

    assert set(METHODS) == set(_CHOICES["method"]) - {"auto"}
    folder = PACKAGE / "solvers" / "methods"
    assert {p.stem for p in folder.glob("[!_]*.py")} == set(METHODS)


@pytest.mark.parametrize("name", ["first_filter", "probe", "reorder"])
def test_thresholds_of_a_choice_are_in_plan_or_cost(name: str) -> None:
    # What decides before the first step of a method has its numbers in solvers/plan.py or cost.py.
    path = PACKAGE / "solvers" / "problem" / f"{name}.py"
    numbers = [
        ast.unparse(node)
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.Assign) and re.search(r"\d", ast.unparse(node.value))
    ]
    assert [n for n in numbers if not n.startswith("_SAMPLE")] == []


def words(name: str) -> set[str]:
    """The words of a snake_case or CamelCase name."""
    return {w.lower() for w in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def test_names_are_terms_of_the_field() -> None:
    gone = {"look", "sight", "witness", "pull", "made", "owed"}
    assert words("FilteredLook") & gone == {"look"}
    fields = {ast.Name: "id", ast.Attribute: "attr", ast.arg: "arg", ast.keyword: "arg"}
    fields |= {ast.FunctionDef: "name", ast.ClassDef: "name", ast.alias: "asname"}
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path, tree in parsed(".")
        for node in ast.walk(tree)
        if (name := getattr(node, fields.get(type(node), ""), None)) and words(name) & gone
    }
    assert found == set()
    spoken = re.compile(r"\b(nobody|anybody|somebody|believe[sd]?|doubt\w*|owe[sd]?)\b")
    texts = [*sources(PACKAGE, ".py"), *sources(CSRC, *CPP), *(ROOT / "docs").rglob("*.md")]
    assert offences(texts, spoken.pattern) == []


def test_class_names_are_unique() -> None:
    # Those of the integrations are the names that the other package uses.
    homes: dict[str, list[Path]] = {}
    for path, tree in parsed("."):
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and path.parent.name != "integrations":
                homes.setdefault(node.name, []).append(path.relative_to(PACKAGE))
    assert {name: paths for name, paths in homes.items() if len(paths) > 1} == {}


def test_functions_fit_on_a_page() -> None:
    public = set(sslspec_fast.functional.__all__)  # whose arguments are a list of checks
    long = {
        f"{path.relative_to(ROOT)}: {node.name}": length
        for path, tree in parsed(*SPECTRAL, *LOSSES)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name not in public
        if (
            length := node.end_lineno
            - (node.body[0].end_lineno if ast.get_docstring(node) else node.lineno)
        )
        > 60
    }
    assert long == {}

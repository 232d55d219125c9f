"""The catalogue of losses: complete, and the one place where what it says is said."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

import sslspec_fast as sf
import sslspec_fast.functional as F
from sslspec_fast import losses, spectral
from sslspec_fast.losses import matryoshka, modules
from sslspec_fast.losses._catalogue import CATALOGUE, GRAPH, TWO_VIEWS, markdown
from sslspec_fast.losses._prefixes import SCALES
from sslspec_fast.spectral.gap import CLOSED_FORMS

from ..support.cases import CASES

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGE = ROOT / "sslspec_fast"
OTHERS = {  # in functional, but no loss
    "center_bias",
    "column_mean",
    "concentration",
    "negative_mises_fisher_weights",
    "sinkhorn_bias",
}

every_loss = pytest.mark.parametrize("name", CATALOGUE)


def trees(folder: Path) -> dict[Path, ast.Module]:
    return {p: ast.parse(p.read_text("utf-8")) for p in sorted(folder.rglob("*.py"))}


# ---- every loss has what a loss has --------------------------------------------------


def test_the_catalogue_lists_the_files() -> None:
    files = {p.stem for p in (PACKAGE / "losses").glob("*.py") if not p.stem.startswith("_")}
    assert files - {"modules"} == set(CATALOGUE)
    assert {p.stem for p in (PACKAGE / "reference").glob("[!_]*.py")} == set(CATALOGUE)
    assert {p.stem for p in (ROOT / "docs" / "math").glob("*.md")} == set(CATALOGUE)


@every_loss
def test_every_loss_has_its_page_reference_and_test(name: str) -> None:
    page = (ROOT / "docs" / "math" / f"{name}.md").read_text("utf-8")
    assert page.startswith(f"# {CATALOGUE[name].title}\n")
    assert f"F.{name}(" in page
    assert (ROOT / "tests" / "losses" / f"test_{name}.py").exists()


@every_loss
def test_every_loss_passes_the_tests_that_losses_share(name: str) -> None:
    # Matryoshka has no formula of its own: it calls other losses, which are there.
    if name != "matryoshka":
        assert any(case == name or case.startswith(f"{name}_") for case in CASES)


def test_public_names() -> None:
    assert set(F.__all__) == set(CATALOGUE) | OTHERS
    assert all(getattr(F, name) is row.function for name, row in CATALOGUE.items())
    listed = {module for row in CATALOGUE.values() for module in row.modules}
    assert set(losses.__all__) == listed
    assert listed <= set(sf.__all__)


def test_the_table_of_the_readme() -> None:
    # python benchmarks/publish.py writes it.
    text = (ROOT / "README.md").read_text("utf-8")
    found = re.search(r"<!-- losses -->\n(.*?)\n<!-- /losses -->", text, flags=re.S)
    assert found is not None
    assert found.group(1).strip() == markdown()


# ---- what is read from it ------------------------------------------------------------


def test_graph_loss_takes_every_loss_of_a_graph_and_its_closed_form() -> None:
    rows = [row for row in CATALOGUE.values() if row.inputs == GRAPH]
    assert set(modules.LOSSES) == {row.name for row in rows} - {"graph_covariance"}
    assert {r.closed_form: r.name for r in rows if r.closed_form is not None} == modules.ALIASES
    assert all(name in (inspect.getdoc(sf.GraphLoss) or "") for name in modules.LOSSES)


def test_matryoshka_takes_every_loss_of_two_views() -> None:
    rows = {row.name for row in CATALOGUE.values() if row.inputs == TWO_VIEWS}
    assert set(matryoshka.LOSSES) == rows
    text = inspect.getdoc(F.matryoshka) or ""
    unnamed = {name for name in rows if f'"{name}"' not in text}
    assert unnamed == set()


def test_every_closed_form_knows_its_loss() -> None:
    named = {row.closed_form for row in CATALOGUE.values()} - {None}
    # The loss of `spectral.lejepa` is that of a Gaussian law.
    assert named == set(CLOSED_FORMS) - {"lejepa"}
    assert all(getattr(spectral, name) is form for name, form in CLOSED_FORMS.items())


def test_a_closed_form_has_the_defaults_of_its_loss() -> None:
    # But for VICReg's penalty: ls_var has a closed form, and hinge_std is what people train with.
    apart = set()
    for row in CATALOGUE.values():
        if row.closed_form is not None:
            solve = inspect.signature(CLOSED_FORMS[row.closed_form]).parameters
            for p in inspect.signature(row.function).parameters.values():
                if p.name in solve and p.default != solve[p.name].default:
                    apart.add((row.name, p.name))
    assert apart == {("graph_vicreg", "penalty")}


@every_loss
def test_scales(name: str) -> None:
    # No other name is a scale, so that callers need not ask which it is.
    row, parameters = CATALOGUE[name], inspect.signature(CATALOGUE[name].function).parameters
    scales = [key for key in ("temperature", "logit_scale") if key in parameters]
    assert scales == [row.scale] * bool(row.scale)
    if name in SCALES:
        assert SCALES[name] == (row.scale, row.scale_default)


# ---- said once -----------------------------------------------------------------------


def test_a_default_temperature_is_written_once() -> None:
    # A module takes the constant of its loss; SupConLoss has SupContrast's own.
    for path, tree in trees(PACKAGE / "losses").items():
        written = []
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef):
                a = function.args
                pairs = [
                    *zip([*a.posonlyargs, *a.args][::-1], a.defaults[::-1], strict=False),
                    *zip(a.kwonlyargs, a.kw_defaults, strict=True),
                ]
                written += [
                    default.value
                    for argument, default in pairs
                    if argument.arg == "temperature" and isinstance(default, ast.Constant)
                ]
        assert len(written) == len(set(written)), path.name


def choices(tree: ast.Module) -> list[frozenset[str]]:
    """The lists of strings that an argument is compared with, and those with a name."""
    found: list[ast.expr] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
            found += node.comparators
        elif isinstance(node, ast.Call):
            found += [keyword.value for keyword in node.keywords if keyword.arg == "choices"]
            called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func
            if (called.id if isinstance(called, ast.Name) else called) == "choice":
                found += node.args[-1:]
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found += [node.value] if node.targets[0].id.isupper() else []
    lists = [node.elts for node in found if isinstance(node, ast.Tuple | ast.List | ast.Set)]
    texts = [[e.value for e in elements if isinstance(e, ast.Constant)] for elements in lists]
    return [frozenset(t) for t in texts if len(t) > 1 and all(isinstance(x, str) for x in t)]


def test_a_list_of_choices_is_written_once() -> None:
    sample = ast.parse('check(x in ("a", "b")); choice("op", "y", y, ("c", "d"))')
    assert set(choices(sample)) == {frozenset("ab"), frozenset("cd")}
    places: dict[frozenset[str], list[str]] = {}
    for path, tree in trees(PACKAGE).items():
        for options in choices(tree):
            places.setdefault(options, []).append(str(path.relative_to(PACKAGE)))
    assert {tuple(sorted(k)): v for k, v in places.items() if len(v) > 1} == {}

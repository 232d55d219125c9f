"""The rules of the code base that a script can check. CONTRIBUTING.md says why each one exists."""

from __future__ import annotations

import ast
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
PACKAGE = ROOT / "sslspec_fast"
CPP = (".cpp", ".h", ".cu", ".cuh")
SEAM_FILES = {"bindings.cpp", "tensor_caster.h"}


def sources(folder: Path, *suffixes: str) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix in suffixes and p.is_file())


def core() -> list[Path]:
    return sources(CSRC, *CPP)


def code_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines without // comments and without block comments, as close as a script needs."""
    text = re.sub(
        r"/\*.*?\*/", lambda m: "\n" * m.group().count("\n"), path.read_text("utf-8"), flags=re.S
    )
    for number, line in enumerate(text.splitlines(), 1):
        yield number, line.split("//", 1)[0]


def offences(paths: list[Path], pattern: str) -> list[str]:
    found = re.compile(pattern)
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in paths
        for number, line in code_lines(path)
        if found.search(line)
    ]


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
        ("sslspec_fast", (".py", ".pyi"), 400),
        ("benchmarks", (".py",), 400),
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
    "_config": {"_C", "_seam"},
    "_dtypes": set(),
    "_arrays": set(),
    "_checks": {"_dtypes"},
    "_outputs": set(),
    "reference": set(),
    "ranks": set(),
    "primitives": {"_seam", "_register", "_torch_private", "_checks", "_dtypes"},
    "fused": {"primitives", "_seam", "_register", "_torch_private", "_checks", "_dtypes"},
    "graph": {"primitives", "_arrays", "_checks", "_dtypes", "_seam"},
    "losses": {
        "primitives",
        "fused",
        "graph",
        "reference",
        "ranks",
        "_checks",
        "_dtypes",
        "_register",
    },
    "functional": {"losses"},
    "grad_cache": {"_checks", "_torch_private"},
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
        "functional",
        "_outputs",
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
    meeting = {p.name for p in sources(PACKAGE / "spectral", ".py") if "functional" in imports(p)}
    assert meeting <= {"gap.py"}


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


def test_the_tests_lie_as_what_they_test() -> None:
    # Only tests, conftest.py, support/ (what tests share) and sanitize/ (what a sanitizer runs).
    for path in sources(ROOT / "tests", ".py"):
        parts = path.relative_to(ROOT / "tests").parts
        if parts[0] not in ("support", "sanitize"):
            assert path.name.startswith("test_") or path.name == "conftest.py", path


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
        assert imports(path) <= {"reference"}, path.name


# ---- parameters ----------------------------------------------------------------------

MOST_PARAMETERS = (
    8  # what always travels together is one struct in C++ and one NamedTuple in Python
)


def parameters_of_python(text: str) -> Iterator[tuple[str, int]]:
    """Names of functions and how many parameters they have, self and cls aside."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            a = node.args
            names = [
                x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg) if x
            ]
            yield node.name, len(names) - (names[:1] in (["self"], ["cls"]))


def parameters_of_cpp(text: str) -> Iterator[tuple[str, int]]:
    """The same of what a header declares or defines: a type, a name and a list in parentheses."""
    comments, strings = r"//[^\n]*|/\*.*?\*/", r"\"(?:\\.|[^\"\\])*\""
    directives = r"^[ \t]*#(?:\\\n|[^\n])*"
    text = re.sub(f"{comments}|{strings}|{directives}", "", text, flags=re.S | re.M)
    for match in re.finditer(r"(\w+)[&*>\s]+(\w+)\(", text):
        if match.group(1) in ("return", "else", "new", "asm", "constexpr", "if"):
            continue
        depth, parameters, empty = 1, 1, True
        for at in range(match.end(), len(text)):
            depth += (text[at] in "([{<") - (text[at] in ")]}>")
            if depth == 0:
                yield match.group(2), 0 if empty else parameters
                break
            empty = empty and text[at].isspace()
            parameters += text[at] == "," and depth == 1


def test_parameters_are_counted() -> None:
    python = "class A:\n    def f(self, a, /, b=1, *c, d, **e): ...\ndef g(): ...\n"
    assert list(parameters_of_python(python)) == [("g", 0), ("f", 5)]
    cpp = (
        "#define M(a, b) f(a, b)\nint f();  // void g(int a)\n"
        "template <typename T, int N>\nvoid h(const A<T, N>& a, int b = f(1, 2), T (&c)[3]) {\n"
        '  return k(1, 2, 3, ", ");\n}\n'
    )
    assert list(parameters_of_cpp(cpp)) == [("f", 0), ("h", 3)]


def test_functions_of_the_seam_have_few_parameters() -> None:
    python = [
        PACKAGE / "_C.pyi",
        PACKAGE / "_seam.py",
        *sources(PACKAGE / "primitives", ".py"),
        *sources(PACKAGE / "fused", ".py"),
    ]
    headers = sources(CSRC, ".h", ".cuh")
    found = {p: list(parameters_of_python(p.read_text("utf-8"))) for p in python}
    found |= {p: list(parameters_of_cpp(p.read_text("utf-8"))) for p in headers}
    assert all(found[p] for p in (PACKAGE / "_C.pyi", CSRC / "pairwise" / "pairwise.h"))
    many = {
        f"{path.relative_to(ROOT)}: {name}": count
        for path, functions in found.items()
        for name, count in functions
        if count > MOST_PARAMETERS
    }
    assert many == {}


# ---- the compiled core ---------------------------------------------------------------


def test_the_core_neither_prints_nor_exits() -> None:
    assert offences(core(), r"\b(exit|abort|f?printf|puts)\s*\(|std::(cout|cerr)") == []
    # A message stream is what crashed beside a second libstdc++; strings are enough.
    assert offences(core(), r"#\s*include\s*<(sstream|iostream|fstream|iomanip)>") == []


def test_device_memory_belongs_to_the_caller() -> None:
    assert (
        offences(core(), r"\bcuda(Malloc|Free|DeviceSynchronize|StreamSynchronize)\w*\s*\(") == []
    )


def test_one_header_dispatches() -> None:
    assert offences(core(), r"#\s*define\s+\w*DISPATCH") == []
    defining = r"^struct Type\b|^void dispatch_\w+\("
    homes = {line.split(":")[0] for line in offences(core(), defining)}
    assert homes == {"csrc/common/dispatch.h", "csrc/gpu/types.cuh"}
    assert len(offences(core(), r"^struct Type\b")) == 1


def test_one_list_names_the_cuda_entry_points() -> None:
    # Read by the bindings, by the stand-ins of a build without CUDA, and by the emulator.
    face = [*core(), *sources(ROOT / "tests" / "cuda_emulator", ".cpp")]
    assert offences(face, r'"cuda_(?!archs|entry_points)\w') == []


def test_one_file_chooses_hopper() -> None:
    readers = [p.name for p in core() if "getenv" in p.read_text("utf-8")]
    assert sorted(readers) == ["choose.cu", "isa.cpp"]
    portable = sorted(CSRC.rglob("*_sm80*"))
    assert len(portable) >= 3
    assert [p.name for p in portable if re.search("sm90a|hopper", p.read_text("utf-8"), re.I)] == []


def test_only_one_file_says_openmp() -> None:
    others = [p for p in core() if p.name != "parallel.h"]
    assert offences(others, r"#\s*pragma\s+omp\s+(parallel|for|task)|omp\.h") == []


def test_every_launch_names_its_stream() -> None:
    for path in sources(CSRC, ".cu", ".cuh"):
        for match in re.finditer(r"<<<(.*?)>>>", path.read_text("utf-8"), flags=re.S):
            depth, commas = 0, 0
            for character in match.group(1):
                depth += (character in "([{<") - (character in ")]}>")
                commas += character == "," and depth == 0
            line = path.read_text("utf-8")[: match.start()].count("\n") + 1
            assert commas == 3, f"{path.name}:{line}: a launch has grid, block, bytes and stream"


def test_architecture_specific_code_says_so_in_its_name() -> None:
    allowed = re.compile(r"sm90|sm80|sm100|copy\.cuh")
    portable = [p for p in sources(CSRC, ".cu", ".cuh") if not allowed.search(p.name)]
    assert offences(portable, r"\basm\b|wgmma|cp\.async\.bulk|CUtensorMap") == []


def test_kernels_compiled_per_instruction_set_use_no_containers() -> None:
    kernels = sorted([*CSRC.rglob("*.kernel.cpp"), *CSRC.rglob("*.bf16.cpp")])
    assert kernels
    pattern = r"std::(vector|string|map|unordered_map|function|shared_ptr)\b"
    assert offences(kernels, pattern) == []


def kernel_objects() -> list[Path]:
    build = ROOT / "build"
    return sorted([*build.rglob("*.kernel.cpp.o"), *build.rglob("*.bf16.cpp.o")])


def test_kernel_objects_export_no_weak_symbols() -> None:
    # A weak symbol compiled for AVX-512 may be the copy that the linker keeps for everybody.
    objects = kernel_objects()
    if not objects or shutil.which("nm") is None:
        pytest.skip("no object files of a local build, or no nm")
    for path in objects:
        run = subprocess.run(["nm", "-C", str(path)], capture_output=True, text=True, check=True)
        weak = [line for line in run.stdout.splitlines() if re.match(r"[0-9a-f]+ [WV] ", line)]
        # The entry points are explicit instantiations in the namespace of their level: nobody
        # shares those names. DW.ref is a pointer of the exception tables, no code.
        own = r"sslspec::cpu::(baseline|avx2|avx512|avx512bf16)::|DW\.ref\."
        weak = [line for line in weak if not re.search(rf" [WV] ([\w ]+ )?({own})", line)]
        assert weak == [], path.name


def test_the_extension_links_only_the_c_and_cpp_runtime() -> None:
    spec = importlib.util.find_spec("sslspec_fast._C")
    if spec is None or spec.origin is None or shutil.which("readelf") is None:
        pytest.skip("no built extension, or no readelf")
    run = subprocess.run(["readelf", "-d", spec.origin], capture_output=True, text=True, check=True)
    needed = set(re.findall(r"NEEDED.*\[(.+?)\]", run.stdout))
    assert needed, "readelf reported nothing"
    allowed = r"(libstdc\+\+|libgcc_s|libc|libm|libgomp|libpthread|libdl|librt|ld-linux.*)\.so.*"
    assert {name for name in needed if not re.fullmatch(allowed, name)} == set()


def test_the_stub_lists_what_the_extension_has() -> None:
    from sslspec_fast import _C

    stub = ast.parse((ROOT / "sslspec_fast" / "_C.pyi").read_text("utf-8"))
    listed = {f.name: len(f.args.posonlyargs) for f in stub.body if isinstance(f, ast.FunctionDef)}
    functions = {n: f for n, f in vars(_C).items() if callable(f) and not isinstance(f, type)}
    assert set(listed) == set(functions)
    for name, function in functions.items():
        signature = function.__doc__.splitlines()[0]
        if "*args" not in signature:  # a build without CUDA
            assert listed[name] == len(re.findall(r"\barg\d+:", signature)), name


def test_bindings_release_the_gil() -> None:
    text = "\n".join(p.read_text("utf-8") for p in CSRC.glob("bindings*.cpp"))
    assert "gil_scoped_release" in text


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
    # Other folders are not held to it yet.
    gone = {"look", "sight", "witness", "pull", "made", "owed"}
    assert words("FilteredLook") & gone == {"look"}
    fields = {ast.Name: "id", ast.Attribute: "attr", ast.arg: "arg", ast.keyword: "arg"}
    fields |= {ast.FunctionDef: "name", ast.ClassDef: "name", ast.alias: "asname"}
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path, tree in parsed(*SPECTRAL)
        for node in ast.walk(tree)
        if (name := getattr(node, fields.get(type(node), ""), None)) and words(name) & gone
    }
    assert found == set()
    spoken = re.compile(r"\b(nobody|anybody|somebody|believe[sd]?|doubt\w*|owe[sd]?)\b")
    text = [p for folder in SPECTRAL for p in sources(PACKAGE / folder, ".py")]
    assert offences([*text, ROOT / "docs" / "eigensolver.md"], spoken.pattern) == []


def test_class_names_are_unique() -> None:
    homes: dict[str, list[Path]] = {}
    for path, tree in parsed("."):
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(path.relative_to(PACKAGE))
    twice = {
        name: paths
        for name, paths in homes.items()
        if len(paths) > 1 and any(path.parts[0] in SPECTRAL for path in paths)
    }
    assert twice == {}


def test_functions_fit_on_a_page() -> None:
    long = {
        f"{path.relative_to(ROOT)}: {node.name}": length
        for path, tree in parsed(*SPECTRAL)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        if (
            length := node.end_lineno
            - (node.body[0].end_lineno if ast.get_docstring(node) else node.lineno)
        )
        > 60
    }
    assert long == {}

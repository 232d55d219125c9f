"""The rules of the compiled core and of the seam, as far as a script can check them."""

from __future__ import annotations

import ast
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .support.source_files import (
    CSRC,
    PACKAGE,
    ROOT,
    core,
    offences,
    sources,
)

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


def test_each_variable_of_the_environment_is_read_in_one_file() -> None:
    readers = {
        name: [p.name for p in core() if f'getenv("{name}")' in p.read_text("utf-8")]
        for path in core()
        for name in re.findall(r'getenv\("(\w+)"\)', path.read_text("utf-8"))
    }
    assert readers == {
        "SSLSPEC_HOPPER": ["hopper.h"],
        "SSLSPEC_ISA": ["isa.cpp"],
        "SSLSPEC_SCRATCH": ["scratch.cpp"],
    }


def test_portable_gpu_files_know_nothing_of_hopper() -> None:
    portable = sorted(CSRC.rglob("*_sm80*"))
    assert len(portable) >= 3
    assert [p.name for p in portable if re.search("sm90a|hopper", p.read_text("utf-8"), re.I)] == []


def test_only_one_file_says_openmp() -> None:
    others = [p for p in core() if p.name != "team.cpp"]
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
    # A weak symbol compiled for AVX-512 may be the copy that the linker keeps for all levels.
    objects = kernel_objects()
    if not objects or shutil.which("nm") is None:
        pytest.skip("no object files of a local build, or no nm")
    for path in objects:
        run = subprocess.run(["nm", "-C", str(path)], capture_output=True, text=True, check=True)
        weak = [line for line in run.stdout.splitlines() if re.match(r"[0-9a-f]+ [WV] ", line)]
        # The entry points are explicit instantiations in the namespace of their level,
        # which is in no other object. DW.ref is a pointer of the exception tables, no code.
        own = r"sslspec::cpu::(baseline|avx2|avx512|avx512bf16|amx)::|DW\.ref\."
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

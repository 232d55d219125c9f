"""Stand-ins for glibc that a wheel is linked with, so that it asks for old symbol versions only.

    python packaging/old_glibc.py DIR [2.28]

A linker takes the newest version of every symbol that the machine's glibc has: a module that is
linked on glibc 2.36 needs ``pthread_once@GLIBC_2.34`` although ``pthread_once@GLIBC_2.2.5`` is the
same function. The stand-ins in DIR have the sonames and symbols of libc, libm and their former
companions, each symbol in its newest version up to the limit, and no code. What glibc has gained
since is missing in them, so that a module that needs it does not link.

The symbols of libpthread, libdl and librt moved into libc in glibc 2.34. Older systems find them in
libraries of these names, which the module therefore names too.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

FORMER = ("libpthread.so.0", "libdl.so.2", "librt.so.1")  # parts of libc since glibc 2.34
SYMBOL = re.compile(
    r"^\s*\d+: \w+\s+(?:(?P<size>\d+)|0x\w+)\s+(?P<type>FUNC|IFUNC|OBJECT|TLS)\s+"
    r"(?P<bind>GLOBAL|WEAK|UNIQUE)\s+DEFAULT\s+\w+ (?P<name>\w+)@@?GLIBC_(?P<version>[\d.]+)$",
    re.M,
)


def number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def exported(library: str) -> dict[str, dict[str, tuple[str, int]]]:
    """name -> version -> (type, size) of the defined symbols of a library of the compiler's."""
    path = run("gcc", f"-print-file-name={library}").strip()
    if not Path(path).is_absolute():
        raise FileNotFoundError(f"{library} is not where gcc looks for libraries")
    found: dict[str, dict[str, tuple[str, int]]] = defaultdict(dict)
    for symbol in SYMBOL.finditer(run("readelf", "--dyn-syms", "-W", path)):
        kind = "object" if symbol["type"] in ("OBJECT", "TLS") else "function"
        found[symbol["name"]][symbol["version"]] = kind, int(symbol["size"] or 8)
    if not found:
        raise RuntimeError(f"no symbol versions found in {path}")
    return found


def run(*command: str, text: str | None = None) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    return done.stdout


def newest(versions: dict[str, tuple[str, int]], limit: str) -> str | None:
    old = [version for version in versions if number(version) <= number(limit)]
    return max(old, key=number, default=None)


def source(symbols: dict[str, dict[str, tuple[str, int]]], limit: str) -> tuple[str, str]:
    """Assembler text with every symbol in one version, and the linker's list of the versions."""
    lines, versions = [".text"], set()
    for index, (name, known) in enumerate(sorted(symbols.items())):
        version = newest(known, limit)
        if version is None:
            continue
        kind, size = known[version]
        versions.add(version)
        label = f"stand_in_{index}"
        lines += [
            f".globl {label}",
            f".type {label}, %{kind}",
            f".size {label}, {size}",
            f"{label}: .skip {max(size, 8) if kind == 'object' else 8}",
            f".symver {label}, {name}@@GLIBC_{version}",
        ]
    ordered = sorted(versions, key=number)
    script, before = [], ""
    for version in ordered:
        script.append(f"GLIBC_{version} {{ }}{before};")
        before = f" GLIBC_{version}"
    return "\n".join([*lines, '.section .note.GNU-stack,"",%progbits', ""]), "\n".join(script)


def make(folder: Path, limit: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for soname in ("libc.so.6", "libm.so.6"):
        text, script = source(exported(soname), limit)
        (folder / "versions.map").write_text(script, encoding="utf-8")
        assembler = folder / "stand_in.s"
        assembler.write_text(text, encoding="utf-8")
        link(folder / soname, [str(assembler), f"-Wl,--version-script={folder / 'versions.map'}"])
    for soname in FORMER:
        link(folder / soname, ["-x", "c", "/dev/null"])
    for soname in ("libm.so.6", *FORMER):
        short = folder / f"{soname.split('.')[0]}.so"
        short.unlink(missing_ok=True)
        short.symlink_to(soname)
    # What libc.so is: the library, its static rest, and the loader for what it defines.
    rest = run("gcc", "-print-file-name=libc_nonshared.a").strip()
    loader = run("gcc", "-print-file-name=libc.so").strip()
    found = re.search(r"AS_NEEDED \( (\S+) \)", Path(loader).read_text("utf-8"))
    assert found is not None, f"{loader} is not the linker script that it is on Linux"
    group = f"GROUP ( {folder.resolve() / 'libc.so.6'} {rest} AS_NEEDED ( {found[1]} ) )\n"
    (folder / "libc.so").write_text(group, encoding="utf-8")


def link(target: Path, what: list[str]) -> None:
    run("gcc", "-shared", "-nostdlib", f"-Wl,-soname,{target.name}", "-o", str(target), *what)


if __name__ == "__main__":
    make(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "2.28")

"""``python -m benchmarks gpu --out DIR``: one command that checks and measures the CUDA part.

Builds nothing and needs no network. First facts about the machine. Then, side by side, since only
their answers count: every loss on small shapes against plain torch, the CUDA tests,
compute-sanitizer (memcheck, racecheck, synccheck), and torch.compile of the plain forms, whose code
later processes find on disk. Then what is timed, one at a time: the losses against compiled torch
and the installed peers, the Hopper kernels against the portable ones, whole training steps,
eigenproblems against CuPy. Losses are timed by turns after one conditioner, by events and by wall
(gpu_turns.py).

Every step is a process of its own with a time limit, so that a crash or a hang takes nothing else
with it; ``gpu.json`` and ``gpu.md`` are written anew after each. Ends within ``--minutes`` (9).
This process never touches the GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from . import gpu_turns

ROOT = Path(__file__).resolve().parent.parent
STAGE = (sys.executable, "-m", "benchmarks.gpu_stage")
SANITIZERS = ("memcheck", "racecheck", "synccheck")
# seconds at most
FACTS, SMALL, TESTS, HOPPER, CASE, TRAINING, EIGSH, SANITIZER = 90, 90, 160, 45, 75, 60, 60, 120
FIRST = 8  # cases that come before everything else that is timed
EIGSH_WARM_UP = 40
PASSES = ("chained", "weights", "sums", "statistics", "softplus", "sigmoid")
PASSES += ("strips", "triangle", "gradient", "kept")  # that no GPU has run so far


class Record:
    """What is known so far, and the two files that say it."""

    def __init__(self, out: Path, minutes: float) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.end = out, time.monotonic() + 60 * minutes - 10
        self.data: dict[str, Any] = {"facts": {}, "steps": {}, "cases": [], "training": []}
        self.data |= {"eigsh": [], "notes": [], "states": []}
        self.failed = False
        self.lock = threading.Lock()

    def left(self) -> float:
        return self.end - time.monotonic()

    def step(self, name: str, outcome: str, good: bool = True) -> None:
        with self.lock:  # checks run side by side
            self.data["steps"][name] = outcome
            self.failed |= not good
            print(f"{name}: {outcome}", flush=True)
            self.write()

    def note(self, text: str) -> None:
        if text not in self.data["notes"]:
            self.data["notes"].append(text)

    def write(self) -> None:
        text = json.dumps(self.data, indent=1)
        (self.out / "gpu.json").write_text(text + "\n", encoding="utf-8")
        parts = ["# sslspec_fast on a GPU", ""]
        parts += [f"- {key}: {value}" for key, value in self.data["facts"].items()]
        parts += ["", *(f"- {key}: {value}" for key, value in self.data["steps"].items())]
        if self.data["cases"]:
            parts += ["", *table(self.data["cases"]), "", *gpu_turns.table(self.data["cases"])]
        if self.data["states"]:
            parts += ["", *gpu_turns.table(self.data["states"])]
        if self.data["training"]:
            parts += ["", *training_table(self.data["training"])]
        if self.data["eigsh"]:
            parts += ["", *eigsh_table(self.data["eigsh"])]
        parts += ["", *(f"- {note}" for note in self.data["notes"])]
        (self.out / "gpu.md").write_text("\n".join(parts) + "\n", encoding="utf-8")


def table(cases: Sequence[dict[str, Any]]) -> list[str]:
    """Milliseconds of forward + backward (peak extra MiB); the ratio is the best other's time."""
    lines = [
        "| case | fused | fused fp32 | best other | × | all others |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for case in cases:
        times, memory = case["milliseconds"], case.get("peak extra MiB", {})

        def cell(name: str, times: Any = times, memory: Any = memory) -> str:
            if name not in times:
                return ""
            extra = memory.get(name)
            return f"{times[name]:.3g}" + ("" if extra is None else f" ({extra:.0f})")

        others = {n: t for n, t in times.items() if not n.startswith("fused")}
        best = min(others, key=lambda n: others[n], default="")
        ratio = f"{others[best] / times['fused']:.2f}" if best else ""
        rest = [f"{n} {cell(n)}" for n in others if n != best]
        rest += [f"{n}: {why}" for n, why in case.get("missing", {}).items()]
        lines.append(
            f"| {case['case']} | {cell('fused')} | {cell('fused fp32')} | "
            f"{f'{best} {cell(best)}' if best else ''} | {ratio} | {'; '.join(rest)} |"
        )
    return lines


def training_table(steps: Sequence[dict[str, Any]]) -> list[str]:
    """Milliseconds of a whole training step (peak MiB); the ratio is compiled torch's time."""
    forms = list(dict.fromkeys(form for step in steps for form in step["milliseconds"]))
    lines = [
        f"| training step | {' | '.join(forms)} | compiled / fused | |",
        f"|---|{'--:|' * len(forms)}--:|---|",
    ]
    for step in steps:
        times, memory = step["milliseconds"], step.get("peak MiB", {})
        cells = [f"{times[form]:.4g}" if form in times else "" for form in forms]
        cells = [
            f"{cell} ({memory[form]:.0f})" if form in memory else cell
            for form, cell in zip(forms, cells, strict=True)
        ]
        ratio = f"{times['compiled'] / times['fused']:.2f}" if "compiled" in times else ""
        missing = "; ".join(f"{form}: {why}" for form, why in step.get("missing", {}).items())
        lines.append(f"| {step['case']} | {' | '.join(cells)} | {ratio} | {missing} |")
    return lines


def eigsh_table(graphs: Sequence[dict[str, Any]]) -> list[str]:
    """Milliseconds (residual) of `eigsh`; the ratios are those of the peer in that precision."""
    names = ("mixed", "peer float64", "float32", "peer float32", "float64", "torch.lobpcg")
    lines = [
        f"| eigsh | {' | '.join(names)} | peer float64 / mixed | peer float32 / float32 | |",
        f"|---|{'--:|' * (len(names) + 2)}---|",
    ]
    for graph in graphs:
        seen = graph["solvers"]
        cells = [
            f"{1e3 * seen[n]['seconds']:.4g} ({seen[n]['residual']:.0e})" if n in seen else ""
            for n in names
        ]
        for ours in ("mixed", "float32"):
            peer = "peer float64" if ours == "mixed" else "peer float32"
            both = ours in seen and peer in seen
            cells.append(f"{seen[peer]['seconds'] / seen[ours]['seconds']:.2f}" if both else "")
        missing = "; ".join(f"{name}: {why}" for name, why in graph["missing"].items())
        lines.append(f"| {graph['graph']} | {' | '.join(cells)} | {missing} |")
    return lines


def run(
    command: Sequence[str], seconds: float, log: Path | None = None, **variables: str
) -> tuple[int | None, str]:
    """(exit status or None when it ran out of time, output) of a command and all it started.

    The output goes to a file, not a pipe: compiler processes that outlive a killed command would
    keep a pipe open, and reading it would never end.
    """
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **variables}
    with tempfile.TemporaryFile() as stream:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            status: int | None = process.wait(timeout=max(1.0, seconds))
        except subprocess.TimeoutExpired:
            status = None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # the session that was started above
        process.wait()
        stream.seek(0)
        output = stream.read().decode("utf-8", errors="replace")
    if log is not None:
        log.write_text(output, encoding="utf-8")
    return status, output


def result_of(output: str) -> Any:
    """The last line that is a JSON object: a stage prints one whenever it knows more."""
    for line in reversed(output.splitlines()):
        if line.startswith("{"):
            with contextlib.suppress(json.JSONDecodeError):
                return json.loads(line)
    return None


def ending(status: int | None, output: str, seconds: float) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    last = lines[-1][:300] if lines else "no output"
    return f"stopped after {seconds:.0f} s: {last}" if status is None else last


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--seconds", type=float, default=2.0, help="timing budget per case")
    parser.add_argument("--only", nargs="*", default=[], help="cases whose name contains one")
    parser.add_argument("--skip-tests", action="store_true", help="no tests, no sanitizers")
    options = parser.parse_args(argv)
    record = Record(options.out.resolve(), options.minutes)
    status, output = run((*STAGE, "facts"), min(FACTS, record.left()), record.out / "facts.txt")
    facts = result_of(output)
    if facts is None or not facts.get("cases"):
        why = facts["problem"] if facts else ending(status, output, FACTS)
        record.step("device", f"{why}: nothing was checked", good=False)
        return 1

    def wanted(names: list[str], prefix: str = "") -> list[str]:
        only = options.only
        return [n for n in names if not only or any(part in prefix + n for part in only)]

    names, training = wanted(facts.pop("cases")), wanted(facts.pop("training"), "training ")
    eigsh = wanted(facts.pop("eigsh"), "eigsh ")
    record.data["facts"] = {**facts, "driver": _driver()}
    record.step("device", facts.get("gpu", "found"))
    # each process has threads of its own, hence half of the cores
    with ThreadPoolExecutor(max(2, (os.cpu_count() or 1) // 2)) as pool:
        checks = () if options.skip_tests else (_tests, _small, *map(_sanitizer, SANITIZERS))
        done = [pool.submit(check, record) for check in checks]
        done += [pool.submit(_warm_up, record)] if eigsh else []
        done += [pool.submit(_compile, record, name) for name in names]
    for future in done:
        future.result()
    for name in names[:FIRST]:
        _case(record, name, options.seconds)
    for name in names[:1]:
        _states(record, name)
    for name in eigsh:
        _eigsh(record, name)
    for name in training:
        _training(record, name, options.seconds)
    for name in names[FIRST:]:
        _case(record, name, options.seconds)
    for name in PASSES:
        _hopper(record, name)
    record.write()
    return 1 if record.failed else 0


def _driver() -> str:
    if shutil.which("nvidia-smi") is None:
        return "unknown (no nvidia-smi)"
    query = ("--query-gpu=name,driver_version,memory.total,clocks.sm", "--format=csv,noheader")
    return run(("nvidia-smi", *query), 20)[1].strip()


def _small(record: Record) -> None:
    limit = min(SMALL, record.left())
    status, output = run((*STAGE, "small"), limit, record.out / "small.txt")
    record.step("small shapes", ending(status, output, limit), good=status == 0)


def _tests(record: Record) -> None:
    # An installed package must not be hidden by a source folder without the compiled core.
    built_in_place = any((ROOT / "sslspec_fast").glob("_C*.so"))
    safe = [] if built_in_place else ["-P" if sys.version_info >= (3, 11) else "-I"]
    command = [sys.executable, *safe, "-m", "pytest", "-q", "-m", "cuda", "-W", "default"]
    command += ["-p", "no:cacheprovider", "--maxfail=25", "--tb=short", "tests/gpu"]
    if importlib.util.find_spec("xdist") is not None:
        command += ["-n", str(max(1, min(8, (os.cpu_count() or 1) // 2)))]
    limit = min(TESTS, record.left())
    status, output = run(command, limit, record.out / "tests.txt", OMP_NUM_THREADS="1")
    record.data["failed tests"] = [
        line[:300] for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))
    ]
    record.step("CUDA tests", ending(status, output, limit), good=status == 0)


def _hopper(record: Record, name: str) -> None:
    """The Hopper kernel against the portable one, which SSLSPEC_HOPPER chooses."""
    limit, asked = min(HOPPER, record.left()), f"SSLSPEC_HOPPER={name}"
    status, output = run((*STAGE, "hopper", name), limit, record.out / f"hopper_{name}.txt")
    found = result_of(output) or {}
    record.data[asked] = found
    if "skipped" in found:
        record.step(asked, found["skipped"])
        return
    for shape, seen in found.get("shapes", {}).items():
        times = seen["ms"]
        record.note(
            f"{asked}, {found['what']} of {shape}: {times[name]:.3g} ms, by default "
            f"{times['default']:.3g} ms, portable {times['portable']:.3g} ms, "
            f"relative difference {seen['difference']:.1e}"
        )
    agree = status == 0 and found.get("agree", False)
    outcome = "agrees with the portable kernels" if agree else ending(status, output, limit)
    record.step(asked, outcome, good=agree)


def _sanitizer(name: str) -> Callable[[Record], None]:
    def check(record: Record) -> None:
        tool = shutil.which("compute-sanitizer")
        if tool is None:
            record.step(f"compute-sanitizer {name}", "not installed: skipped")
            return
        limit, log = min(SANITIZER, record.left()), record.out / f"{name}.txt"
        head = (tool, "--tool", name, "--error-exitcode", "9")
        # Only our kernels: torch's own would take minutes. An older tool knows another name for it.
        for chosen in (("--kernel-regex", "kns=sslspec"), ("--filter", "kns=sslspec"), ()):
            command = (*head, *chosen, *STAGE, "small", "--few")
            status, output = run(command, limit, log, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
            if "nrecogni" not in output and "nvalid option" not in output:
                break
        found = [line for line in output.splitlines() if "SUMMARY" in line]
        outcome = found[-1].strip(" =") if found else ending(status, output, limit)
        record.step(f"compute-sanitizer {name}", outcome, good=status == 0 or status is None)

    return check


def _compile(record: Record, name: str) -> None:
    """Fills torch.compile's cache on disk; a form that fails here says so when it is timed."""
    run((*STAGE, "compile", name), min(CASE, record.left()))


def _case(record: Record, name: str, seconds: float) -> None:
    result = _measured(record, "case", name, CASE, seconds)
    if result is not None:
        for note in result.pop("notes", []):
            record.note(note)
        record.data["cases"].append(result)
        print(table([result])[-1], flush=True)
    record.write()


def _states(record: Record, name: str) -> None:
    """How much of a time is owed to what ran before."""
    result = _measured(record, "states", name, CASE, 0.0)
    if result is not None:
        record.data["states"].append(result)
        print("\n".join(gpu_turns.table([result])), flush=True)
    record.write()


def _training(record: Record, name: str, seconds: float) -> None:
    result = _measured(record, "training", name, TRAINING, seconds)
    if result is not None:
        record.data["training"].append(result)
        print("\n".join(training_table([result])), flush=True)
    record.write()


def _warm_up(record: Record) -> None:
    """What peers compile at their first call; a failure shows in the measurements."""
    limit = min(EIGSH_WARM_UP, record.left())
    status, output = run((*STAGE, "eigsh", "warm-up"), limit, record.out / "eigsh_warm_up.txt")
    record.step("eigsh warm-up", ending(status, output, limit))


def _eigsh(record: Record, name: str) -> None:
    result = _measured(record, "eigsh", name, EIGSH, 0.0)
    if result is not None:
        record.data["eigsh"].append(result)
        print("\n".join(eigsh_table([result])), flush=True)
    record.write()


def _measured(record: Record, what: str, name: str, most: float, seconds: float) -> Any:
    """What a stage found out, as far as it came; None when it found nothing."""
    limit, title = min(most, record.left()), name if what == "case" else f"{what} {name}"
    if limit < 15:
        record.note(f"{title}: the time was over")
        return None
    command = (*STAGE, what, name, "--seconds", str(seconds))
    log = record.out / "cases" / f"{title.replace(' ', '_')}.txt"
    log.parent.mkdir(exist_ok=True)
    status, output = run(command, limit, log)
    result = result_of(output)
    if status != 0:
        record.note(f"{title}: {ending(status, output, limit)}")
        record.failed |= result is None
    return result


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

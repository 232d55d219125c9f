"""The protocol of ``python -m benchmarks gpu``: a conditioner before each sample, two clocks."""

from __future__ import annotations

import json
from collections.abc import Callable

import torch

from benchmarks import gpu, gpu_turns


class Host:
    """Logs what a GPU would be asked for; a kernel takes as many milliseconds as its name says."""

    def __init__(self) -> None:
        self.a, self.log, self.queued = torch.zeros(4), [], 0.0

    def condition(self) -> None:
        self.log.append("condition")

    def synchronize(self) -> None:
        self.log.append("synchronize")

    def timed(self, call: Callable[[], object]) -> tuple[float, float]:
        self.queued = 0.0
        call()
        return 1e-3 * self.queued, 1400.0

    def form(self, milliseconds: float) -> Callable[[], None]:
        def call() -> None:
            self.queued += milliseconds
            self.log.append(f"{milliseconds:g}")

        return call


def test_every_sample_comes_after_the_conditioner() -> None:
    host = Host()
    turns = gpu_turns.by_turns({"a": host.form(3), "b": host.form(5)}, host, seconds=0.0, least=2)
    assert host.log[:3] == ["3", "5", "synchronize"]  # untimed
    once = ["condition", "{0}", "condition", "synchronize", "{0}", "synchronize"]
    assert host.log[3:] == [step.format(form) for form in (3, 5) * 2 for step in once]
    assert {name: t.gpu for name, t in turns.items()} == {"a": 3e-3, "b": 5e-3}
    assert all(t.samples == 2 and t.mhz == 1400 and t.wall >= 0 for t in turns.values())


def test_states_are_what_ran_before() -> None:
    host = Host()
    turns = gpu_turns.after_states(host.form(3), host.form(7), host, samples=1)
    assert tuple(turns) == gpu_turns.STATES
    assert host.log.count("condition") == 2
    assert host.log.count("7") == 3  # once to warm up


def test_the_record_has_both_clocks() -> None:
    turn = gpu_turns.Turn(0.002, 0.001, 0.0015, 0.003, 1350.0, 5)
    case = json.loads(json.dumps({"case": "x 8x4", **gpu_turns.as_columns({"fused": turn})}))
    assert gpu_turns.table([case])[2:] == ["| x 8x4 | fused | 2 | 1 | 1350 |"]
    assert "| x 8x4 | 2 |" in gpu.table([case])[-1]

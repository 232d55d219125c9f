"""The eigenproblems of ``python -m benchmarks gpu``, at a size that a CPU can do."""

from __future__ import annotations

import json

import pytest

from benchmarks import gpu, gpu_eigsh


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_every_solver_is_timed_with_its_residual(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu_eigsh.warm_up("cpu")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines][:2] == ["mixed", "peer float64"]
    assert all(line.endswith(" s") for line in lines), lines
    name = next(iter(gpu_eigsh.SIZES))
    gpu_eigsh.measure(name, "cpu", n=1600)
    found = gpu.result_of(capsys.readouterr().out)
    assert found["missing"] == {}
    assert 0.9 * 20 * 1600 < found["entries"] <= 20 * 1600
    for solver in ("mixed", "float32", "float64", "peer float64", "peer float32", "torch.lobpcg"):
        row = found["solvers"][solver]
        assert row["seconds"] > 0
        assert row["residual"] <= 2e-4, solver
    table = gpu.eigsh_table([found])
    assert len({line.count("|") for line in table}) == 1
    # a solver that fails costs its own entry
    monkeypatch.setattr(gpu_eigsh, "torch_lobpcg", None)
    gpu_eigsh.measure(name, "cpu", n=640)
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])
    assert list(found["missing"]) == ["torch.lobpcg"]
    assert len(lines) == 6
    assert "TypeError" in gpu.eigsh_table([found])[-1]

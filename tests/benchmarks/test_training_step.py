"""The training step of ``python -m benchmarks gpu``, at a size that a CPU can do."""

from __future__ import annotations

import json
from types import ModuleType

import pytest
import torch
from torch import Tensor

from benchmarks import gpu_training
from benchmarks.gpu import training_table

FAMILIES = ("vicreg", "barlow", "nt_xent")


@pytest.fixture
def training() -> ModuleType:
    return gpu_training


@pytest.fixture
def size(training: ModuleType) -> object:
    return training.Size(batch=6, image=16, width=4, blocks=(1, 1), projector=24, embedding=8)


def gradients(training: ModuleType, size: object, case: object, form: str) -> list[Tensor]:
    run = training.Training(size, case.width, "cpu", torch.float64, autocast=False)
    run.optimizer = torch.optim.SGD(run.model.parameters(), lr=0.0)
    run.step(case.variants[form])
    return [p.grad for p in run.model.parameters()]


@pytest.mark.parametrize("family", FAMILIES)
def test_our_step_has_the_gradients_of_the_plain_one(
    training: ModuleType, size: object, family: str
) -> None:
    (case,) = (case for case in training.all_cases(size) if case.family == family)
    ours, plain = (gradients(training, size, case, form) for form in ("fused", "eager"))
    largest = max(float(g.abs().max()) for g in plain)
    for got, want in zip(ours, plain, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-9 * largest)


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_under_autocast_lower_the_loss(
    training: ModuleType, size: object, family: str
) -> None:
    (case,) = (case for case in training.all_cases(size) if case.family == family)
    run = training.Training(size, case.width, "cpu")
    values = [float(run.step(training.form(case, "fused"))) for _ in range(12)]
    assert values[-1] < values[0]


def test_the_encoder_is_a_resnet_50(training: ModuleType) -> None:
    with torch.device("meta"):
        model = training.encoder(training.Size())
        assert model(torch.empty(2, 3, 96, 96)).shape == (2, 2048)
    # 25 557 032 parameters (torchvision's count) less the classifier's 2049 x 1000
    assert sum(p.numel() for p in model.parameters()) == 25_557_032 - 2_049_000


@pytest.mark.parametrize("family", FAMILIES)
def test_every_form_is_measured_and_reported(
    training: ModuleType, size: object, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(case: object) -> dict[str, object]:
        raise ImportError("not installed here")

    monkeypatch.setitem(training.PEERS, "lightly", broken)
    lines: list[str] = []
    names = ("fused", "eager", "lightly", "no loss")
    training.measure(family, 0.0, "cpu", size, names, lines.append)
    first, *_, last = (json.loads(line) for line in lines)
    assert set(first["milliseconds"]) == {"fused"}
    assert set(last["milliseconds"]) == {"fused", "eager", "no loss"}
    assert last["missing"] == {"lightly": "not installed here"}


def test_the_table_of_steps(training: ModuleType) -> None:
    step = {
        "case": "vicreg",
        "milliseconds": {"fused": 100.0, "compiled": 150.0},
        "peak MiB": {"fused": 2048.0},
        "missing": {"lightly": "absent"},
    }
    assert training_table([step])[-1] == "| vicreg | 100 (2048) | 150 | 1.50 | lightly: absent |"

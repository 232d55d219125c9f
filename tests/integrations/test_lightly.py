"""What docs/migration.md and docs/integrations.md say of lightly, with the real package."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sslspec_fast as sf
import sslspec_fast.functional as F

pytest.importorskip("torchvision")
theirs = pytest.importorskip("lightly.loss")

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
DOCS = Path(__file__).resolve().parents[2] / "docs"


def section(page: str, title: str) -> str:
    """The text under one heading of a page."""
    text = (DOCS / page).read_text("utf-8")
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(n: int = 24, d: int = 8) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, requires_grad=True)


def two_views(module: nn.Module) -> Tensor:
    return module(rows(), rows())


def twice(module: nn.Module) -> Tensor:
    """Two steps: the second sees what the first left in the queue or the center."""
    two_views(module)
    return two_views(module)


def of_heads(module: nn.Module) -> Tensor:
    teacher, student = ([rows() for _ in range(k)] for k in (2, 3))
    module(teacher, student, epoch=1)
    return module(teacher, student, epoch=2)


def of_patches(module: nn.Module) -> Tensor:
    mask = torch.zeros(3, 4, 4, dtype=torch.bool)
    mask[:, 1, :3] = True
    if "PlusPlus" in type(module).__name__:
        return module(rows(3 * 16, 8).view(3, 16, 8), rows(3 * 16, 8).view(3, 16, 8), mask)
    return module(rows(9, 8), rows(9, 8), mask)


def of_tokens(module: nn.Module) -> Tensor:
    teacher, student = rows(24, 8).view(4, 6, 8).detach(), rows(8, 8).view(4, 2, 8)
    return module(teacher, student, torch.tensor([[0, 5], [1, 4], [2, 3], [5, 5]]))


def of_prototypes(module: nn.Module) -> Tensor:
    anchors, targets = rows(24, 8), rows(12, 8)
    return module(anchors, targets, torch.randn(6, 8, dtype=torch.float64))


def of_scores(module: nn.Module) -> Tensor:
    high, low = ([rows(24, 6) for _ in range(k)] for k in (2, 2))
    return module(high, low, [torch.randn(30, 6, dtype=torch.float64) for _ in range(2)])


# name -> (what builds it in either package, a step with it)
CASES: dict[str, tuple[str, Callable[[Any], Tensor]]] = {
    "NTXentLoss": ("NTXentLoss(temperature=0.5)", two_views),
    "NTXentLoss, a queue": ("NTXentLoss(memory_bank_size=(64, 8))", twice),
    "DCLLoss": ("DCLLoss(temperature=0.1)", two_views),
    "DCLWLoss": ("DCLWLoss(temperature=0.1, sigma=0.5)", two_views),
    "VICRegLoss": ("VICRegLoss(25, 25, 1)", two_views),
    "BarlowTwinsLoss": ("BarlowTwinsLoss(5e-3)", two_views),
    "NegativeCosineSimilarity": ("NegativeCosineSimilarity()", two_views),
    "KoLeoLoss": ("KoLeoLoss()", lambda module: module(rows())),
    "DINOLoss": ("DINOLoss(8)", of_heads),
    "IBOTPatchLoss": ("IBOTPatchLoss(8)", of_patches),
    "IBOTPlusPlusPatchLoss": ("IBOTPlusPlusPatchLoss(8)", of_patches),
    "MSNLoss": ("MSNLoss()", of_prototypes),
    "PMSNLoss": ("PMSNLoss()", of_prototypes),
    "SwaVLoss": ("SwaVLoss()", of_scores),
    "CAPILoss": ("CAPILoss()", of_tokens),
}
# their weights of patches and prior are float32; CAPI's sums have 1e-8 added
RTOL = {"IBOTPatchLoss": 1e-6, "PMSNLoss": 1e-7, "CAPILoss": 1e-5}
RANDOM = {"SIGReg", "LeJEPALoss"}  # directions of their own: tests/losses hold them to golden ones


def named(page: str) -> set[str]:
    """lightly's modules in the first column of the table."""
    table = [line for line in section(page, "lightly").splitlines() if line.startswith("| `")]
    found = set(re.findall(r"\b[A-Z]\w+", " ".join(line.split("|")[1] for line in table)))
    return {name for name in found if hasattr(theirs, name)}


def test_every_row_of_the_table_has_a_case() -> None:
    assert named("migration.md") == {name.split(",")[0] for name in CASES} | RANDOM


@pytest.mark.parametrize("name", CASES)
def test_a_module_is_lightlys(name: str) -> None:
    build, step = CASES[name]
    results = []
    for home in (theirs, sf):
        torch.manual_seed(0)
        module = eval(build, vars(home)).double()
        torch.manual_seed(1)
        loss = step(module).sum()
        loss.backward()
        results.append(loss.detach())
    torch.testing.assert_close(results[1], results[0], rtol=RTOL.get(name, 1e-9), atol=0)


@pytest.mark.parametrize("name", sorted(RANDOM))
def test_a_module_with_random_directions_has_lightlys_arguments(name: str) -> None:
    for method in ("__init__", "forward"):
        there, here = (
            inspect.signature(getattr(getattr(home, name), method)).parameters
            for home in (theirs, sf)
        )
        assert set(there) <= set(here)


def test_the_recipe_trains_as_with_lightlys_loss(tmp_path: Path) -> None:
    """The module of the page, on views of lightly's transform, beside the same with their loss."""
    pl = pytest.importorskip("lightning.pytorch")
    from lightly.transforms import SimCLRTransform
    from torchvision.datasets import FakeData

    (code,) = re.findall(r"```python\n(.*?)```", section("integrations.md", "lightly"), flags=re.S)
    losses = []
    for home in (sf, types.SimpleNamespace(NTXentLoss=theirs.NTXentLoss)):
        names: dict[str, Any] = {"LightningModule": pl.LightningModule, "nn": nn, "torch": torch}
        exec(code, names)
        names["sf"] = home

        class Model(names["SimCLR"]):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 512)))
                self.seen: list[float] = []

            def training_step(self, batch: Any, index: int) -> Tensor:
                loss: Tensor = super().training_step(batch, index)
                self.seen.append(loss.item())
                return loss

            def configure_optimizers(self) -> torch.optim.Optimizer:
                return torch.optim.SGD(self.parameters(), lr=0.05)

        pl.seed_everything(0)
        images = FakeData(24, (3, 32, 32), transform=SimCLRTransform(input_size=32))
        loader = torch.utils.data.DataLoader(images, batch_size=8)
        model = Model()
        trainer = pl.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(model, loader)
        losses.append(model.seen)
    assert len(losses[0]) == 3
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_other_recipes_run() -> None:
    """The code in the second table, as it is written."""
    table = [x for x in section("integrations.md", "lightly").splitlines() if x.startswith("| ")]
    network = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)).double()
    names: dict[str, Any] = {
        "sf": sf,
        "F": F,
        "torch": torch,
        "nn": nn,
        "self": nn.Module(),
        "network": network,
        "w": torch.rand(24),
        "labels": torch.arange(24) % 5 - 1,
        "q": rows(),
        "k": rows(),
        "z1": rows(),
        "z2": rows(),
        "bank": sf.MemoryBank(32, 8, dtype=torch.float64),
    }
    names["self"].loss = sf.NTXentLoss()
    names["bank"].update(torch.randn(20, 8, dtype=torch.float64))
    names["k"] = names["k"].detach()
    results = []
    for line in table[1:]:
        code = max(re.findall(r"`([^`]+)`", line), key=len).replace("nn.Sequential(…)", "network")
        results.append(eval(code.removeprefix("self.encoder = "), names))
    cached, vicreg, weighted, queued, supervised = results
    z1, z2 = cached(torch.cat([rows(), rows()])).chunk(2)
    loss, terms = vicreg(z1, z2)
    assert set(terms) == {"invariance", "variance", "covariance"}
    (loss + weighted + queued + supervised).backward()
    assert all(p.grad is not None for p in network.parameters())

"""The Lightning callback logs what the metrics say of all embeddings of an epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sslspec_fast as sf
import sslspec_fast.functional as F
from sslspec_fast import PairGraph, metrics

pytest.importorskip("torchmetrics")
pl = pytest.importorskip("lightning.pytorch")

from sslspec_fast.integrations.lightning import EmbeddingMonitor

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
]


class Model(pl.LightningModule):
    """Remembers what it returned."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(8, 4)
        self.returned: dict[str, list[dict[str, Any]]] = {"train": [], "val": []}

    def step(self, batch: list[Tensor], stage: str) -> dict[str, Any]:
        z1, z2 = self.net(batch[0]), self.net(batch[1])
        loss, terms = F.vicreg(z1, z2, return_terms=True)
        out = {"loss": loss, "z1": z1, "z2": z2, "terms": terms, "labels": batch[2]}
        if not self.trainer.sanity_checking:
            self.returned[stage].append(out)
        return out

    def training_step(self, batch: list[Tensor], index: int) -> dict[str, Any]:
        return self.step(batch, "train")

    def validation_step(self, batch: list[Tensor], index: int) -> dict[str, Any]:
        return self.step(batch, "val")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-3)


def loader(n: int, batch: int = 10) -> torch.utils.data.DataLoader:
    x = torch.randn(n, 8)
    data = torch.utils.data.TensorDataset(x, x + 0.1 * torch.randn(n, 8), torch.arange(n) % 3)
    return torch.utils.data.DataLoader(data, batch_size=batch)


def trained(folder: Path, monitor: EmbeddingMonitor, **options: Any) -> tuple[Model, Any]:
    model = Model()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=[monitor],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,
    )
    trainer.fit(model, loader(34), loader(24))
    return model, trainer


def test_what_is_logged(tmp_path: Path) -> None:
    monitor = EmbeddingMonitor(terms="terms", gap="vicreg", labels="labels")
    model, trainer = trained(tmp_path, monitor)
    for stage, count in (("train", 34), ("val", 24)):
        steps = model.returned[stage]
        views = [(s["z1"].detach(), s["z2"].detach()) for s in steps]
        assert sum(len(z1) for z1, _ in views) == count
        rank, lidar = metrics.EffectiveRank(), metrics.Lidar()
        align, uniform = metrics.Alignment(), metrics.Uniformity()
        for z1, z2 in views:
            rank.update(torch.cat([z1, z2]))
            align.update(z1, z2)
            lidar.update(torch.cat([z1, z2]), PairGraph.from_views(len(z1)))
            uniform.update(z1)
            uniform.update(z2)
        want = {
            "effective_rank": rank.compute(),
            "lidar": lidar.compute(),
            "alignment": align.compute(),
            "uniformity": uniform.compute(),
        }
        for name in ("invariance", "variance", "covariance"):
            each = [float(s["terms"][name]) * len(s["z1"]) for s in steps]
            want[name] = sum(each) / count
        got = {name: float(trainer.callback_metrics[f"{stage}/{name}"]) for name in want}
        assert got == pytest.approx(want, rel=1e-5)
    z = torch.cat([s["z1"].detach() for s in model.returned["val"]])
    labels = torch.cat([s["labels"] for s in model.returned["val"]])
    gap = sf.spectral.optimality_gap("vicreg", z, PairGraph.from_labels(labels)).relative_gap
    assert float(trainer.callback_metrics["val/vicreg_gap"]) == pytest.approx(gap, rel=1e-6)
    assert "train/vicreg_gap" not in trainer.callback_metrics


def test_one_view_and_one_stage(tmp_path: Path) -> None:
    monitor = EmbeddingMonitor(["z2"], stages=["val"])
    assert monitor.metrics == ("effective_rank", "uniformity")
    _, trainer = trained(tmp_path, monitor)
    assert set(trainer.callback_metrics) == {"val/effective_rank", "val/uniformity"}


def test_a_metric_of_the_module_is_logged_by_lightning(tmp_path: Path) -> None:
    from sslspec_fast.integrations.torchmetrics import EffectiveRank

    class Logs(Model):
        def __init__(self) -> None:
            super().__init__()
            self.rank = EffectiveRank(4)

        def validation_step(self, batch: list[Tensor], index: int) -> None:
            self.rank.update(self.net(batch[0]))
            self.log("rank", self.rank)

    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    model, data = Logs(), loader(24)
    (found,) = trainer.validate(model, data, verbose=False)
    every = torch.cat([model.net(x) for x, _, _ in data])
    assert found["rank"] == pytest.approx(float(metrics.effective_rank(every)), rel=1e-5)


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match=r"training_step must return 'z3' in a dict, got \['loss'"):
        trained(tmp_path, EmbeddingMonitor(["z3"], stages=["train"]))
    with pytest.raises(ValueError, match="must be a sequence of keys, got 'z1'"):
        EmbeddingMonitor("z1")
    with pytest.raises(ValueError, match=r"metrics \(of 1 views\) must be one of .* got 'lidar'"):
        EmbeddingMonitor(["z1"], metrics=["lidar"])
    with pytest.raises(ValueError, match="gap needs labels"):
        EmbeddingMonitor(gap="vicreg")
    with pytest.raises(ValueError, match="stages must be one of 'train', 'val', got 'test'"):
        EmbeddingMonitor(stages=["test"])

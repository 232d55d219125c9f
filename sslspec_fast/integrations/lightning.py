"""A Lightning callback that logs what the embeddings of an epoch are like.

    trainer = Trainer(callbacks=[EmbeddingMonitor(terms="terms", gap="vicreg", labels="labels")])

The module's steps return what is looked at, beside the loss:

    def training_step(self, batch, index):
        z1, z2 = self(batch[0]), self(batch[1])
        loss, terms = F.vicreg(z1, z2, return_terms=True)
        return {"loss": loss, "z1": z1, "z2": z2, "terms": terms, "labels": batch[2]}
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from .. import _checks as check
from ..graph import PairGraph
from ..ranks import agree, gather_rows, several, world
from ..spectral import optimality_gap
from .torchmetrics import Alignment, EffectiveRank, Lidar, Uniformity

if importlib.util.find_spec("lightning") is not None:
    from lightning.pytorch.callbacks import Callback
else:
    from pytorch_lightning.callbacks import Callback  # type: ignore[assignment, unused-ignore]

__all__ = ["EmbeddingMonitor"]

OP = "EmbeddingMonitor"
METRICS = {"effective_rank": 1, "uniformity": 1, "alignment": 2, "lidar": 2}  # views they need
STEPS = {"train": "training_step", "val": "validation_step"}


class EmbeddingMonitor(Callback):
    """Logs metrics of the embeddings of every epoch, as ``train/effective_rank`` and so on.

    Args:
        views: keys of the dicts that ``training_step`` and ``validation_step`` return; under each,
            (n, d) embeddings of one view of the batch.
        metrics: of "effective_rank", "uniformity", "alignment" (two views) and "lidar" (two or
            more); None: all that these views allow. Of all rows of all ranks.
        terms: key of a dict of 0-dim tensors, such as the terms of a loss with
            ``return_terms=True``; their means over the epoch are logged under their names.
        gap: a loss that `spectral.optimality_gap` knows, for example "vicreg": the relative gap of
            the first view of the validation set to the closed form on the graph of its labels is
            logged as ``val/vicreg_gap``. It needs (n, d) memory and eigenvectors of the graph.
        labels: key of the (n,) integer labels, for `gap`.
        gap_options: keywords of `spectral.optimality_gap`.
        stages: of "train" and "val", what is looked at.

    A step that does not return a key is a KeyError. The batches of a sanity check are left out.
    """

    def __init__(
        self,
        views: Sequence[str] = ("z1", "z2"),
        *,
        metrics: Sequence[str] | None = None,
        terms: str | None = None,
        gap: str | None = None,
        labels: str | None = None,
        gap_options: Mapping[str, Any] | None = None,
        stages: Sequence[str] = ("train", "val"),
    ) -> None:
        super().__init__()
        if isinstance(views, str) or not views:
            raise ValueError(f"{OP}: views must be a sequence of keys, got {views!r}")
        self.views, self.terms, self.gap, self.labels = tuple(views), terms, gap, labels
        count = len(self.views)
        allowed = [
            name
            for name, least in METRICS.items()
            if count >= least and (name != "alignment" or count == 2)
        ]
        self.metrics = tuple(allowed if metrics is None else metrics)
        for name in self.metrics:
            check.choice(OP, f"metrics (of {count} views)", name, allowed)
        for stage in stages:
            check.choice(OP, "stages", stage, tuple(STEPS))
        self.stages = tuple(stages)
        if gap is not None and labels is None:
            raise ValueError(f"{OP}: gap needs labels, the key of the labels, got None")
        self.gap_options = dict(gap_options or {})
        self._collections: dict[str, MetricCollection] = {}
        self._rows: list[tuple[Tensor, Tensor]] = []  # of the validation set, for the gap

    def _collection(self, stage: str, like: Tensor) -> MetricCollection:
        if stage not in self._collections:
            d = like.shape[1]
            every: dict[str, Any] = {
                "effective_rank": lambda: EffectiveRank(d),
                "uniformity": Uniformity,
                "alignment": Alignment,
                "lidar": lambda: Lidar(d),
            }
            chosen = {name: every[name]() for name in self.metrics}
            self._collections[stage] = MetricCollection(chosen).to(like.device)
        return self._collections[stage]

    def _update(self, stage: str, module: Any, outputs: Any) -> None:
        if stage not in self.stages:
            return

        def value(key: str) -> Any:
            if not isinstance(outputs, Mapping) or key not in outputs:
                held = list(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__
                raise KeyError(f"{OP}: {STEPS[stage]} must return {key!r} in a dict, got {held}")
            return outputs[key]

        views = [value(key).detach() for key in self.views]
        if self.metrics:
            self._collection(stage, views[0]).update(*views)
        if self.terms is not None:
            for name, term in value(self.terms).items():
                self._log(module, stage, name, term.detach(), len(views[0]), sync_dist=True)
        if self.gap is not None and stage == "val":
            labels = value(self.labels or "")
            self._rows.append((views[0].float().cpu(), labels.detach().cpu()))

    @staticmethod
    def _log(module: Any, stage: str, name: str, value: Any, rows: int, **options: Any) -> None:
        module.log(
            f"{stage}/{name}", value, on_step=False, on_epoch=True, batch_size=rows, **options
        )

    def _end(self, stage: str, module: Any) -> None:
        collection = self._collections.get(stage)
        if collection is not None:
            for name, value in collection.compute().items():
                self._log(module, stage, name, value, 1)
            collection.reset()
        if self._rows and stage == "val":
            z, labels = (torch.cat(part) for part in zip(*self._rows, strict=True))
            self._rows.clear()
            self._log(module, stage, f"{self.gap}_gap", self._relative_gap(z, labels), 1)

    def _relative_gap(self, z: Tensor, labels: Tensor) -> float:
        """That of the rows of all ranks."""
        group = several(OP, world())
        if group is not None:
            facts = {"gap": self.gap, "features": z.shape[1]}
            ranks, _ = agree(OP, group, facts, len(z))
            z, labels = gather_rows(z, ranks), gather_rows(labels, ranks)
        assert self.gap is not None
        graph = PairGraph.from_labels(labels)
        return optimality_gap(self.gap, z, graph, **self.gap_options).relative_gap

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._update("train", pl_module, outputs)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._end("train", pl_module)

    def on_validation_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not trainer.sanity_checking:
            self._update("val", pl_module, outputs)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self._end("val", pl_module)

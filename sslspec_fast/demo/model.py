"""A small convolutional encoder for 28 x 28 images and the projector that the losses see."""

from __future__ import annotations

from torch import nn

_WIDTH = 24
_HIDDEN = 256
FEATURES = 4 * _WIDTH * 4 * 4


def encoder() -> nn.Sequential:
    """(n, 1, 28, 28) -> (n, 1536): three stride-2 convolutions. Its features are what is kept."""
    return nn.Sequential(
        *_convolution(1, _WIDTH, 5),
        *_convolution(_WIDTH, 2 * _WIDTH, 3),
        *_convolution(2 * _WIDTH, 4 * _WIDTH, 3),
        nn.Flatten(),
    )


def projector(width: int) -> nn.Sequential:
    """(n, 1536) -> (n, width), two hidden layers: what the loss sees and the evaluation drops."""
    return nn.Sequential(
        *_dense(FEATURES, _HIDDEN), *_dense(_HIDDEN, _HIDDEN), nn.Linear(_HIDDEN, width)
    )


def _convolution(inputs: int, outputs: int, side: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, side, stride=2, padding=side // 2, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)


def _dense(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)

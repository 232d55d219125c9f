"""Random views of a batch of small grey images, as a handful of batched tensor operations.

Per image: rotation, anisotropic scale, shear and shift in one affine resampling, then stroke
contrast, pixel noise and one erased rectangle. A whole batch is one ``grid_sample``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor


@dataclass(frozen=True)
class Strength:
    """Half-widths of the uniform distributions; angles in radians, shifts as shares of the side."""

    rotate: float = 0.35
    scale: float = 0.22
    shear: float = 0.35
    shift: float = 0.14
    warp: float = 0.10
    contrast: float = 0.3
    noise: float = 0.10
    erase: float = 0.25


def random_view(
    images: Tensor, generator: torch.Generator, strength: Strength | None = None
) -> Tensor:
    """One random view of each image.

    images: (n, 1, side, side) in [0, 1]. Returns the same shape. Deterministic in ``generator``.
    """
    s = strength or Strength()
    n, _, side, _ = images.shape

    def uniform(*shape: int) -> Tensor:
        return torch.rand(n, *shape, generator=generator) * 2 - 1

    angle, shear = s.rotate * uniform(), s.shear * uniform()
    stretch_x, stretch_y = 1 + s.scale * uniform(), 1 + s.scale * uniform()
    cos, sin = angle.cos(), angle.sin()
    theta = torch.stack(
        [
            torch.stack([cos * stretch_x, (shear * cos - sin) * stretch_x], 1),
            torch.stack([sin * stretch_y, (shear * sin + cos) * stretch_y], 1),
        ],
        1,
    )
    theta = torch.cat([theta, 2 * s.shift * uniform(2).unsqueeze(2)], dim=2)
    grid = nnf.affine_grid(theta, [n, 1, side, side], align_corners=False)
    if s.warp > 0:
        # A coarse random displacement field, blown up smoothly: handwriting varies locally too.
        coarse = s.warp * uniform(2, 4, 4)
        field = nnf.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=True)
        grid = grid + field.permute(0, 2, 3, 1)
    view = nnf.grid_sample(images, grid, padding_mode="zeros", align_corners=False)
    view = view * (1 + s.contrast * uniform(1, 1, 1)) + s.noise * torch.randn(
        view.shape, generator=generator
    )
    return view * _keep_mask(n, side, s.erase, generator)


def _keep_mask(n: int, side: int, size: float, generator: torch.Generator) -> Tensor:
    """(n, 1, side, side): 0 inside one random rectangle of at most ``size`` of the side, else 1."""
    axis = torch.arange(side) / side
    centre = torch.rand(n, 2, 1, generator=generator)
    half = 0.5 * size * torch.rand(n, 2, 1, generator=generator)
    inside = (axis - centre).abs() < half
    return 1.0 - (inside[:, 0, :, None] & inside[:, 1, None, :]).unsqueeze(1).float()
